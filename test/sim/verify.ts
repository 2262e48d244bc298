/** After a cut: is every volume there that must be, with bytes that it may have? What is there from then on is certain. */
import { errnoOf, errnos } from '../../src/sys/errno.js';
import { type Change, decode, type Model, Violation, VolumeModel } from './model.js';
import type { Node } from './node.js';

/**
 * Reads everything that survived.
 * @param before what may have survived
 * @returns the model of it
 * @throws Violation
 */
export async function verify(node: Node, before: Model): Promise<Model> {
  const after = before.empty();
  const survivors = new Survivors(node, before, after);
  for (const change of before.changes) await survivors.afterChange(change);
  await survivors.others();
  return after;
}

class Survivors {
  readonly #node: Node;
  readonly #before: Model;
  readonly #after: Model;
  readonly #seen = new Set<string>();

  constructor(node: Node, before: Model, after: Model) {
    this.#node = node;
    this.#before = before;
    this.#after = after;
  }

  async #values(name: string, size: number): Promise<number[]> {
    return decode(await this.#node.read(name, 0, size), this.#before.unit, name);
  }

  /** Units of a volume, null when it is not there. */
  async #units(name: string): Promise<number | null> {
    this.#seen.add(name);
    const size = await this.#node.sizeOf(name);
    return size === null ? null : size / this.#before.unit;
  }

  #keep(volume: VolumeModel, name: string, values: readonly number[]): void {
    const kept = new VolumeModel(name, volume.unit, values, volume.readOnly);
    kept.frozen = volume.frozen;
    this.#after.add(kept);
  }

  /** A volume that has one of its possible sizes and contents, under one of its possible names. */
  async #check(
    volume: VolumeModel,
    name: string,
    sizes: readonly number[],
    extra?: (i: number) => readonly number[],
  ): Promise<boolean> {
    const units = await this.#units(name);
    if (units === null) return false;
    if (!sizes.includes(units))
      throw new Violation(`${name} has ${units} units after the cut, not ${sizes.join(' or ')}`);
    const values = await this.#values(name, units * volume.unit);
    volume.checkSurvivor(values, extra);
    this.#keep(volume, name, values);
    return true;
  }

  async afterChange(change: Change): Promise<void> {
    const { volumes } = this.#before;
    switch (change.kind) {
      case 'make':
        await this.#check(change.volume, change.volume.name, [change.volume.cells.length]);
        break;
      case 'snapshot':
        await this.#snapshot(change);
        break;
      case 'remove':
        await this.#removed(change);
        break;
      case 'rename': {
        const volume = volumes.get(change.name) ?? volumes.get(change.target);
        if (!volume) break;
        const sizes = [volume.cells.length];
        const old = await this.#check(volume, change.name, sizes);
        const renamed = await this.#check(volume, change.target, sizes);
        if (!old && !renamed) throw new Violation(`${change.name} is gone after a cut renaming to ${change.target}`);
        break;
      }
      case 'resize': {
        const volume = volumes.get(change.name);
        if (!volume) break;
        const old = volume.cells.length;
        const sizes = [old, change.units];
        const extra = (i: number): readonly number[] => (i >= Math.min(old, change.units) ? [0] : []);
        if (!(await this.#check(volume, change.name, sizes, extra))) throw gone(change.name);
        break;
      }
      case 'upgrade': {
        // Whether it was done does not show; it may be done again.
        const volume = volumes.get(change.name);
        if (volume && !(await this.#check(volume, change.name, [volume.cells.length]))) throw gone(change.name);
        break;
      }
    }
  }

  async #snapshot(change: Extract<Change, { kind: 'snapshot' }>): Promise<void> {
    const units = await this.#units(change.name);
    if (units === null) return;
    if (units !== change.view.units) throw new Violation(`snapshot ${change.name} has ${units} units`);
    const values = await this.#values(change.name, units * this.#before.unit);
    change.view.check(values, `after the cut the snapshot ${change.name} of ${change.source}`);
    this.#after.add(new VolumeModel(change.name, this.#before.unit, values, true));
  }

  /** Not removed, removed, or something that says that it is being removed: then removing goes on. */
  async #removed(change: Extract<Change, { kind: 'remove' }>): Promise<void> {
    const units = await this.#units(change.name);
    if (units === null) return;
    this.#after.changes.add(change);
    try {
      const values = await this.#values(change.name, units * this.#before.unit);
      this.#before.volumes.get(change.name)?.checkSurvivor(values);
    } catch (error) {
      if (errnoOf(error) !== errnos.EIO || error instanceof Violation) throw error;
    }
  }

  async others(): Promise<void> {
    for (const volume of this.#before.volumes.values()) {
      if (this.#seen.has(volume.name)) continue;
      if (!(await this.#check(volume, volume.name, [volume.cells.length]))) throw gone(volume.name);
    }
    for (const name of this.#before.names) {
      if (this.#seen.has(name)) continue;
      if ((await this.#units(name)) !== null)
        throw new Violation(`${name} is there after the cut, though it was removed`);
    }
  }
}

const gone = (name: string): Violation => new Violation(`${name} is gone after the cut`);
