/** Partial objects against a model: writes, trims, copies, flushes, kills and power cuts in any order. */
import { describe, expect, it, vi } from 'vitest';
import type { FileDriver } from '../../../src/blockers/file/index.js';
import { runIo } from '../../../src/blockers/object-io.js';
import { Mortal } from './mortal-system.js';
import {
  aloneWithTheKernel,
  changes,
  content,
  copy,
  direct,
  hintOf,
  isPartial,
  marks,
  mortalDriver,
  pattern,
  prepared,
  SETTINGS,
  SIZE,
  same,
  statesOf,
  tailOf,
  UNIT,
  writeInTime,
} from './partial-rig.js';
import { fileDriver, read } from './support.js';

aloneWithTheKernel();

/** What an object has: acknowledged, and as of its last flush; null: it was never flushed since it was copied. */
interface Model {
  now: Buffer;
  flushed: Buffer | null;
  /** Others have its file as their base: as a block that snapshots share, it is not changed in place any more. */
  isShared: boolean;
}

const NAMES = ['a', 'b', 'c', 'd'];
/** Of copies: a volume's last block may be short, and grow. */
const SIZES = [SIZE, SIZE, 10 * UNIT, SIZE - 5 * UNIT - 100];

class World {
  readonly root: string;
  readonly #random: (below: number) => number;
  readonly #models = new Map<string, Model>();
  #reader: FileDriver;
  #mortal = new Mortal();
  #driver!: FileDriver;
  #starts = 0;

  constructor(root: string, reader: FileDriver, seed: number) {
    this.root = root;
    this.#reader = reader;
    let state = seed * 7919;
    this.#random = (below) => {
      state = (Math.imul(state, 1103515245) + 12345) >>> 0;
      return (state >>> 8) % below;
    };
  }

  async begin(): Promise<void> {
    this.#mortal = new Mortal();
    this.#driver = await mortalDriver(this.root, this.#mortal);
    this.#driver.forget();
  }

  async step(step: number): Promise<void> {
    const name = NAMES[this.#random(NAMES.length)];
    const model = this.#models.get(name);
    const action = this.#random(20);
    if (model === undefined) await this.#copy(name);
    else if (model.isShared && action < 12) await this.#remove(name);
    else if (action < 8) await this.#write(name, model, step);
    else if (action < 10) await this.#trim(name, model);
    else if (action < 12) await this.#flushAndWrite(name, model, step);
    else if (action < 15) await this.#check(name, model);
    else if (action === 15) await this.#copy(name);
    else if (action === 16) await this.#remove(name);
    else if (action === 17) await this.#driver.truncate(name, model.now.length);
    else if (action === 18) await this.#kill();
    else await this.#powerCut();
  }

  async #copy(name: string): Promise<void> {
    const source = NAMES[this.#random(NAMES.length)];
    const from = source === name ? undefined : this.#models.get(source);
    const size = SIZES[this.#random(SIZES.length)];
    await copy(this.#driver, from === undefined ? 'source' : source, name, size);
    if (from) from.isShared = true;
    const now = Buffer.alloc(size);
    (from?.now ?? pattern(SIZE, 1)).copy(now);
    this.#models.set(name, { now, flushed: null, isShared: false });
  }

  #range(size: number): { offset: number; length: number } {
    const kind = this.#random(4);
    if (kind === 0) return { offset: 0, length: size };
    const offset = kind === 1 ? this.#random(Math.ceil(size / UNIT)) * UNIT : this.#random(size);
    const most = kind === 1 ? UNIT * (1 + this.#random(4)) : 1 + this.#random(3 * UNIT);
    return { offset, length: Math.min(most, size - offset) };
  }

  async #write(name: string, model: Model, step: number): Promise<void> {
    const { offset, length } = this.#range(model.now.length);
    const data = pattern(length + 4, step + 2).subarray(0, length);
    if (this.#random(3) > 0) await writeInTime(this.#driver, name, offset, data);
    else {
      const hint = await hintOf(this.#driver, name);
      if (direct(this.#driver, { name, hint, offset, data }) === null)
        await writeInTime(this.#driver, name, offset, data);
    }
    data.copy(model.now, offset);
  }

  async #trim(name: string, model: Model): Promise<void> {
    const { offset, length } = this.#range(model.now.length);
    await changes(this.#driver, this.#random(2) === 0 ? 'trim' : 'writeZeroes', name, offset, length);
    model.now.fill(0, offset, offset + length);
  }

  /** Two writes that do not overlap while it is flushed. */
  async #flushAndWrite(name: string, model: Model, step: number): Promise<void> {
    const before = [...this.#models].map(([each, { now }]) => [each, Buffer.from(now)] as const);
    const all = this.#random(2) === 0;
    const flushed = this.#driver.flush(all ? null : [name]);
    const half = model.now.length >> 1;
    const writes = [0, half].map((from) => {
      const offset = from + this.#random(half - 700);
      const data = pattern(700, step + from);
      data.copy(model.now, offset);
      return writeInTime(this.#driver, name, offset, data);
    });
    await Promise.all([flushed, ...writes]);
    for (const [each, now] of before) if (all || each === name) this.#models.get(each)!.flushed = now;
  }

  async #check(name: string, { now }: Model): Promise<void> {
    const offset = this.#random(SIZE);
    const whole = Buffer.alloc(SIZE);
    now.copy(whole);
    same(await read(this.#driver, name, offset, SIZE - offset), whole.subarray(offset));
    const apart = { name, offset: 0, length: SIZE, uncached: true };
    same((await runIo(this.#reader, 'read', apart)).data, whole);
    if (this.#random(3) === 0) await this.#reader.flush(null);
  }

  async #remove(name: string): Promise<void> {
    await this.#driver.delete(name);
    this.#models.delete(name);
  }

  async #kill(): Promise<void> {
    if (this.#random(2) === 0) void this.#driver.flush(null).catch(() => {});
    for (let turns = this.#random(8); turns > 0; turns--) await new Promise((resolve) => setImmediate(resolve));
    await this.#mortal.kill();
    await this.begin();
  }

  /** The next process flushes what the killed one left, or not. */
  async #powerCut(): Promise<void> {
    await this.#kill();
    if (this.#random(2) === 0) {
      await this.#driver.flush(null);
      for (const model of this.#models.values()) model.flushed = Buffer.from(model.now);
    }
    await this.#mortal.kill();
    vi.spyOn(marks, 'stamp').mockReturnValue(`start ${++this.#starts}`);
    // No process lives on.
    this.#reader = await fileDriver(this.root, SETTINGS);
    await this.begin();
    for (const [name, { now, flushed }] of this.#models) {
      // What was copied and not flushed may be of any state.
      if (flushed === null) {
        await this.#remove(name);
        continue;
      }
      const found = await read(this.#driver, name, 0, now.length);
      for (let at = 0; at < found.length; at += UNIT) {
        const unit = found.subarray(at, at + UNIT);
        if (!unit.equals(now.subarray(at, at + UNIT))) same(unit, flushed.subarray(at, at + UNIT));
      }
      Object.assign(this.#models.get(name)!, { now: found, flushed: Buffer.from(found) });
    }
  }

  async end(): Promise<void> {
    await this.#driver.flush(null);
    for (const [name, { now }] of this.#models) {
      same(await read(this.#driver, name, 0, now.length), now);
      // Of an earlier start there may be some that count for nothing.
      const isCurrent = isPartial(this.root, name) && tailOf(this.root, name).stamp === marks.stamp(this.root);
      if (isCurrent) expect(statesOf(this.root, name)).toMatch(/^[02]+$/);
      await this.#driver.truncate(name, now.length);
      expect(isPartial(this.root, name)).toBe(false);
      same(content(this.root, name), now);
    }
    await this.#driver.close();
  }
}

describe.each(['/tmp', '/dev/shm'])('on %s', (parent) => {
  it.each(Array.from({ length: 8 }, (_, i) => i + 1))(
    'what was written is read, and what was flushed is there for good (seed %i)',
    async (seed) => {
      const root = await prepared(undefined, parent);
      const world = new World(root, await fileDriver(root, SETTINGS), seed);
      await world.begin();
      for (let step = 0; step < 150; step++) await world.step(step);
      await world.end();
    },
  );
});
