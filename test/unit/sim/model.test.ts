/** What the simulator's model lets a snapshot or a read hold of changes before, beside and after it. */
import { describe, expect, it } from 'vitest';
import { Model, Violation, VolumeModel } from '../../sim/model.js';

const TEN = 10;
const NEXT = 11;

const volume = (): VolumeModel => new VolumeModel('v', 512, [TEN, TEN]);

/** A durable trim of unit 0 from its request to what a read finds. */
function trim(of: VolumeModel, found = 0): void {
  of.begin(0, [0]);
  of.answerTrim(0, 1);
  of.endTrim(0, [found], true);
}

function write(of: VolumeModel, value: number): void {
  of.begin(0, [value]);
  of.end(0, 1, true);
}

describe('a snapshot', () => {
  it.each([
    ['trim', trim, 0],
    ['write', (of: VolumeModel) => write(of, NEXT), NEXT],
  ])(
    'may be without a durable %s that is asked for and acknowledged while it is taken, or with it',
    (_, change, after) => {
      for (const value of [TEN, after]) {
        const one = volume();
        const view = one.view();
        change(one);
        one.check(view, [value, TEN], 'the snapshot of');
      }
    },
  );

  it('may be without a durable change that was under way when it was asked for', () => {
    const one = volume();
    one.begin(0, [NEXT]);
    const view = one.view();
    one.end(0, 1, true);
    one.check(view, [TEN, TEN], 'the snapshot of');
  });

  it.each([
    ['trim', trim],
    ['write', (of: VolumeModel) => write(of, NEXT)],
  ])('has a %s that was acknowledged before it was asked for', (_, change) => {
    const one = volume();
    change(one);
    const view = one.view();
    expect(() => one.check(view, [TEN, TEN], 'the snapshot of')).toThrow(Violation);
  });

  it('has what a trim left that was acknowledged before, though it is found out later', () => {
    for (const [left, other] of [
      [0, TEN],
      [TEN, 0],
    ]) {
      const one = volume();
      one.begin(0, [0]);
      one.answerTrim(0, 1);
      const [right, wrong] = [one.view(), one.view()];
      one.endTrim(0, [left], true);
      one.check(right, [left, TEN], 'the snapshot of');
      expect(() => one.check(wrong, [other, TEN], 'the snapshot of')).toThrow(Violation);
    }
  });

  it('may have either of a trim that was not acknowledged when it was asked for', () => {
    for (const value of [0, TEN]) {
      const one = volume();
      one.begin(0, [0]);
      const view = one.view();
      one.answerTrim(0, 1);
      one.endTrim(0, [0], true);
      one.check(view, [value, TEN], 'the snapshot of');
    }
  });

  it('is without what is asked for after its answer', () => {
    const one = volume();
    const view = one.view();
    view.close();
    write(one, NEXT);
    expect(() => one.check(view, [NEXT, TEN], 'the snapshot of')).toThrow(Violation);
  });

  it('that a cut finds half done is without what was asked for after the cut', () => {
    const model = new Model(512);
    const one = volume();
    model.add(one);
    const view = one.view();
    model.changes.add({ kind: 'snapshot', source: 'v', name: 's', view });
    const cut = model.freeze();
    write(one, NEXT);
    const [change] = cut.changes;
    if (change.kind !== 'snapshot') throw new Error(`a ${change.kind}`);
    change.view.check([TEN, TEN], 'after the cut');
    expect(() => change.view.check([NEXT, TEN], 'after the cut')).toThrow(Violation);
    one.check(view, [NEXT, TEN], 'the snapshot of');
  });
});
