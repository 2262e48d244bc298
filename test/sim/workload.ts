/** Random operations on the volumes of a model, several at a time, and what each of them promises. */
import { Flag } from '../../src/requests/ops.js';
import { type Change, decode, encode, type Model, Violation, VolumeModel } from './model.js';
import type { Node } from './node.js';
import type { Random } from './random.js';

/** Most volumes and snapshots at a time. */
const MOST_VOLUMES = 7;
const MOST_UNITS_OF_WRITE = 12;

export interface WorkloadSettings {
  readonly blockSizes: readonly number[];
  /** Every acknowledged write is durable. */
  readonly writeThrough: boolean;
  /** Most operations at a time. */
  readonly parallel: number;
  /** Mostly writes to volumes of which snapshots are made all the time. */
  readonly shares: boolean;
  /** Mostly small writes to what is shared with a snapshot. */
  readonly pieces: boolean;
  /** Mostly small changes and flushes of what was changed last. */
  readonly flushes: boolean;
  /** Mostly whole blocks that are written and made zero in turn. */
  readonly trims: boolean;
  /** Client, composer and blocker are one process: reads and writes on the short way, flushes that are alone. */
  readonly direct: boolean;
  /** Called with each operation's name when it begins. */
  trace(line: string): void;
}

type Operation = () => Promise<void>;

export class Workload {
  readonly #node: Node;
  readonly #model: Model;
  readonly #random: Random;
  readonly #settings: WorkloadSettings;
  /** Where the last change of a volume was. */
  readonly #running = new Set<Promise<void>>();
  #flushesNext = false;
  readonly #last = new WeakMap<VolumeModel, { first: number; count: number }>();

  constructor(node: Node, model: Model, random: Random, settings: WorkloadSettings) {
    this.#node = node;
    this.#model = model;
    this.#random = random;
    this.#settings = settings;
  }

  /** Runs so many operations. @throws Violation, and whatever an operation fails with: none may */
  async run(count: number): Promise<void> {
    const running = this.#running;
    for (let begun = 0, tries = 0; begun < count && tries < count * 20; tries++) {
      const operation = this.#choose();
      if (!operation) {
        if (running.size > 0) await Promise.race(running);
        continue;
      }
      begun++;
      const run = operation().finally(() => running.delete(run));
      running.add(run);
      // What fails is thrown below; until then it is nobody's.
      run.catch(() => {});
      if (running.size >= this.#settings.parallel) await Promise.race(running);
    }
    await Promise.all(running);
  }

  /** Ends when all that is under way has ended, however. */
  async settled(): Promise<void> {
    await Promise.allSettled(this.#running);
  }

  /** Ends what a cut left half done, as an administrator would. */
  async finish(): Promise<void> {
    for (const change of [...this.#model.changes]) {
      if (change.kind !== 'remove') continue;
      await this.#node.remove(change.name);
      this.#model.changes.delete(change);
    }
  }

  async flushAll(): Promise<void> {
    for (const volume of this.#model.volumes.values()) if (!volume.changing) await this.#flush(volume);
  }

  /** Reads everything. @throws Violation */
  async readAll(): Promise<void> {
    for (const volume of this.#model.volumes.values()) await this.#read(volume);
  }

  #choose(): Operation | null {
    const random = this.#random;
    const volumes = [...this.#model.volumes.values()];
    const dice = random.below(100);
    if (volumes.length === 0) return this.#create();
    if (this.#settings.pieces && random.chance(0.95)) return this.#piece(volumes);
    if (this.#settings.shares && random.chance(0.6)) return this.#share(volumes);
    if (this.#settings.flushes && random.chance(0.85)) return this.#flushing(volumes);
    if (this.#settings.trims && random.chance(0.8)) return this.#trimming(volumes);
    const volume = random.pick(volumes);
    if (dice < 48) {
      // Those that can be written: old maps and snapshots take no part until they are upgraded or cloned.
      const writable = volumes.filter((one) => !one.readOnly && !one.changing);
      return writable.length > 0 ? this.#data(random.pick(writable), dice) : this.#create();
    }
    if (dice < 60) return this.#use(volume, 'flush', () => this.#flush(volume));
    if (dice < 62) return this.#whole(volume, 'read', () => this.#read(volume));
    if (dice < 70) return this.#snapshot(volume);
    if (dice < 76) return this.#clone(volume);
    if (dice < 80) return this.#remove(volume);
    if (dice < 85) return this.#rename(volume);
    if (dice < 93) return this.#resize(volume);
    if (dice < 95) return this.#upgrade(volume);
    if (dice < 97) return this.#alone(volume, 'close', () => this.#close(volume));
    return this.#create();
  }

  /** A write, mostly, or another snapshot: what is written next is shared again. */
  #share(volumes: readonly VolumeModel[]): Operation | null {
    const random = this.#random;
    const writable = volumes.filter((one) => !one.readOnly && !one.changing && one.cells.length > 0);
    if (writable.length === 0) return this.#create();
    const volume = random.pick(writable);
    if (!random.chance(0.2)) return this.#data(volume, random.below(random.chance(0.9) ? 26 : 48));
    const snapshots = volumes.filter((one) => one.readOnly && !one.frozen);
    if (snapshots.length > 0 && volumes.length >= MOST_VOLUMES) return this.#remove(random.pick(snapshots));
    return this.#snapshot(volume);
  }

  /** Small changes all over the blocks of a volume that shares them with a snapshot, and flushes: most blocks are partial for long. */
  #piece(volumes: readonly VolumeModel[]): Operation | null {
    const random = this.#random;
    const writable = volumes.filter((one) => !one.readOnly && !one.changing && one.cells.length > 0);
    const snapshots = volumes.filter((one) => one.readOnly && !one.frozen);
    if (writable.length === 0) return this.#create();
    const [volume] = writable;
    if (snapshots.length === 0 || random.chance(0.08)) {
      if (snapshots.length > 1 && random.chance(0.5)) return this.#remove(random.pick(snapshots));
      // Something for it to share.
      const all = { first: 0, count: volume.cells.length };
      return random.chance(0.5) ? this.#data(volume, 0, all) : this.#snapshot(volume);
    }
    if (random.chance(0.15)) return this.#use(volume, 'flush', () => this.#flush(volume));
    if (random.chance(0.1)) return this.#whole(volume, 'read', () => this.#read(volume));
    const first = random.below(volume.cells.length);
    const count = Math.min(1 + random.below(2), volume.cells.length - first);
    return this.#data(volume, random.below(random.chance(0.8) ? 26 : 48), { first, count });
  }

  /** One small change, mostly in the block of the last one, and a flush of it: only after some that were quick is one waited for in place. */
  #flushing(volumes: readonly VolumeModel[]): Operation | null {
    const random = this.#random;
    const writable = volumes.filter((one) => !one.readOnly && !one.changing && one.cells.length > 0);
    if (writable.length === 0) return this.#create();
    const [volume] = writable;
    this.#flushesNext = !this.#flushesNext;
    if (!this.#flushesNext) return this.#use(volume, 'flush', () => this.#flush(volume));
    const last = this.#last.get(volume);
    const block = this.#settings.blockSizes[0] / volume.unit;
    const near =
      last && last.first < volume.cells.length && random.chance(0.8) ? last.first : random.below(volume.cells.length);
    const first = Math.min(near - (near % block) + random.below(block), volume.cells.length - 1);
    return this.#data(volume, random.below(random.chance(0.6) ? 26 : 48), { first, count: 1 });
  }

  /** Whole blocks, of which there are few, and seldom a flush: their entries change again and again, and most of that is not durable yet. */
  #trimming(volumes: readonly VolumeModel[]): Operation | null {
    const random = this.#random;
    const writable = volumes.filter((one) => !one.readOnly && !one.changing && one.cells.length > 0);
    if (writable.length === 0) return this.#create();
    const volume = writable[random.below(Math.min(2, writable.length))];
    if (random.chance(0.15)) return this.#use(volume, 'flush', () => this.#flush(volume));
    const block = random.pick(this.#settings.blockSizes) / volume.unit;
    const first = block * random.below(Math.min(4, Math.ceil(volume.cells.length / block)));
    const count = Math.min(block * (random.chance(0.2) ? 2 : 1), volume.cells.length - first);
    return this.#data(volume, random.pick([0, 0, 30, 45]), { first, count });
  }

  #name(): string | null {
    const { volumes, names, changes } = this.#model;
    if (volumes.size + changes.size >= MOST_VOLUMES) return null;
    const taken = new Set<string>(volumes.keys());
    for (const change of changes) {
      if (change.kind === 'make') taken.add(change.volume.name);
      else taken.add(change.name);
      if (change.kind === 'rename') taken.add(change.target);
    }
    // Names are used again: what a volume of that name left must not come back.
    const old = [...names].filter((name) => !taken.has(name));
    return old.length > 0 && this.#random.chance(0.5) ? this.#random.pick(old) : `volume-${names.size}`;
  }

  /** An operation that others on the volume may run beside. */
  #use(volume: VolumeModel, what: string, work: Operation): Operation | null {
    if (volume.changing) return null;
    return async () => {
      const line = `> ${what} ${volume.name}`;
      this.#settings.trace(line);
      volume.users++;
      try {
        await work();
        this.#settings.trace(`done ${line}`);
      } finally {
        volume.users--;
      }
    };
  }

  #whole(volume: VolumeModel, what: string, work: Operation): Operation | null {
    return volume.cells.length === 0 ? null : this.#use(volume, what, work);
  }

  /** An operation that has the volume to itself. */
  #alone(volume: VolumeModel, what: string, work: Operation): Operation | null {
    if (volume.changing || volume.users > 0) return null;
    return async () => {
      const line = `> ${what} ${volume.name}`;
      this.#settings.trace(line);
      volume.changing = true;
      try {
        await work();
        this.#settings.trace(`done ${line}`);
      } finally {
        volume.changing = false;
      }
    };
  }

  /** Makes a change of the list of volumes, which a cut may find done or not. */
  async #during(change: Change, work: Operation): Promise<void> {
    this.#model.changes.add(change);
    if (change.kind === 'make') this.#model.names.add(change.volume.name);
    if (change.kind === 'snapshot') this.#model.names.add(change.name);
    if (change.kind === 'rename') this.#model.names.add(change.target);
    await work();
    // In one turn: a name that were neither's would be given to the next.
    if (change.kind === 'make') this.#model.add(change.volume);
    this.#model.changes.delete(change);
  }

  #data(volume: VolumeModel, dice: number, range?: { first: number; count: number }): Operation | null {
    if (volume.readOnly || volume.changing) return null;
    const random = this.#random;
    const { first, count } = range ?? this.#range(volume);
    if (!volume.isFree(first, first + count)) return null;
    if (range) this.#last.set(volume, range);
    const fua = random.chance(range ? 0.05 : 0.2);
    const durable = fua || this.#settings.writeThrough;
    const [at, length, flags] = [first * volume.unit, count * volume.unit, fua ? Flag.FUA : 0];
    const what = (kind: string): string => `${kind}${fua ? ' fua' : ''} ${first}+${count}`;
    if (dice < 26) {
      const values = this.#model.fresh(count);
      return this.#use(volume, what('write'), async () => {
        volume.begin(first, values);
        const data = encode(values, volume.unit);
        const short = !fua && this.#direct(0.7) && this.#node.shortWay.write(volume.name, at, data);
        if (short) this.#settings.trace('on the short way');
        else await this.#node.write(volume.name, at, data, flags);
        volume.end(first, count, durable);
      });
    }
    const zeros = new Array<number>(count).fill(0);
    if (dice < 37) {
      return this.#use(volume, what('zero'), async () => {
        volume.begin(first, zeros);
        await this.#node.writeZeroes(volume.name, at, length, flags | (random.chance(0.5) ? Flag.NO_HOLE : 0));
        volume.end(first, count, durable);
      });
    }
    return this.#use(volume, what('trim'), async () => {
      volume.begin(first, zeros);
      await this.#node.trim(volume.name, at, length, flags);
      volume.answerTrim(first, count);
      const read = await this.#node.read(volume.name, at, length);
      volume.endTrim(first, decode(read, volume.unit, volume.name), durable);
    });
  }

  /**
   * Units for a change. Many changes are of whole blocks, since only those change maps, and many are of the same place as the last one:
   * most of what can go wrong takes several changes of one block.
   */
  #range(volume: VolumeModel): { first: number; count: number } {
    const random = this.#random;
    const units = volume.cells.length;
    const last = this.#last.get(volume);
    if (last && last.first < units && random.chance(0.4)) {
      return { first: last.first, count: Math.min(last.count, units - last.first) };
    }
    let first = random.below(units);
    let count = 1 + random.below(random.chance(0.3) ? MOST_UNITS_OF_WRITE : 3);
    if (random.chance(0.4)) {
      const block = random.pick(this.#settings.blockSizes) / volume.unit;
      first -= first % block;
      count = block * (random.chance(0.3) ? 2 : 1);
    } else if (random.chance(0.05)) [first, count] = [0, units];
    const range = { first, count: Math.min(units - first, count) };
    this.#last.set(volume, range);
    return range;
  }

  async #flush(volume: VolumeModel): Promise<void> {
    const capture = volume.capture();
    await this.#node.flush(volume.name, this.#direct(0.9));
    volume.flushed(capture);
  }

  async #close(volume: VolumeModel): Promise<void> {
    const capture = volume.capture();
    await this.#node.close(volume.name);
    volume.flushed(capture);
  }

  /** Whether the way of one process is taken, with this chance. */
  #direct(chance: number): boolean {
    return this.#settings.direct && this.#random.chance(chance);
  }

  async #read(volume: VolumeModel): Promise<void> {
    const view = volume.view();
    const bytes = await this.#bytes(volume);
    volume.check(view, decode(bytes, volume.unit, volume.name), 'a read of');
  }

  /** All of a volume, each unit by itself on the short way where that can be. */
  async #bytes({ name, size, unit }: VolumeModel): Promise<Buffer> {
    if (!this.#direct(0.5)) return await this.#node.read(name, 0, size);
    const parts: Buffer[] = [];
    for (let at = 0; at < size; at += unit) {
      const length = Math.min(unit, size - at);
      parts.push(this.#node.shortWay.read(name, at, length) ?? (await this.#node.read(name, at, length)));
    }
    return Buffer.concat(parts);
  }

  #create(): Operation | null {
    const name = this.#name();
    if (name === null) return null;
    const { unit } = this.#model;
    const units = Math.ceil(16384 / unit) - this.#random.below(Math.min(8, 16384 / unit - 1));
    const volume = new VolumeModel(name, unit, new Array<number>(units).fill(0));
    const usual = this.#random.chance(0.2);
    const blockSize = this.#random.pick(this.#settings.blockSizes);
    const change: Change = { kind: 'make', volume };
    return async () => {
      this.#settings.trace(`> create ${name}`);
      await this.#during(change, () =>
        usual ? this.#node.createBlank(name, volume.size) : this.#node.create(name, volume.size, blockSize),
      );
    };
  }

  /** A snapshot may be taken under writes: each is in it or not, but what was acknowledged before is. */
  #snapshot(volume: VolumeModel): Operation | null {
    const name = this.#name();
    if (name === null || volume.changing || volume.frozen) return null;
    return this.#use(volume, `snapshot ${name} of`, async () => {
      const from = volume.capture();
      const view = volume.view();
      await this.#during({ kind: 'snapshot', source: volume.name, name, view }, async () => {
        await this.#node.snapshot(volume.name, name);
        view.close();
        // Not before it was read is it known which of the writes under way it has.
        const bytes = await this.#node.read(name, 0, volume.size);
        const values = decode(bytes, volume.unit, name);
        volume.check(view, values, `the snapshot ${name} of`);
        volume.flushed(from);
        this.#model.add(new VolumeModel(name, volume.unit, values, true));
      });
    });
  }

  #clone(parent: VolumeModel): Operation | null {
    const name = this.#name();
    if (name === null || !parent.readOnly || parent.frozen || parent.changing) return null;
    const more = this.#random.chance(0.3) ? this.#random.below(8) : 0;
    const values = [...parent.cells.map(({ values }) => values[0]), ...new Array<number>(more).fill(0)];
    const volume = new VolumeModel(name, parent.unit, values);
    return this.#use(parent, `clone ${name} of`, () =>
      this.#during({ kind: 'make', volume }, () => this.#node.clone(name, parent.name, volume.size)),
    );
  }

  #remove(volume: VolumeModel): Operation | null {
    if (this.#model.volumes.size < 3 || volume.frozen) return null;
    return this.#alone(volume, 'remove', async () => {
      await this.#during({ kind: 'remove', name: volume.name }, async () => {
        await this.#node.remove(volume.name);
        this.#model.volumes.delete(volume.name);
      });
    });
  }

  #rename(volume: VolumeModel): Operation | null {
    const target = this.#name();
    if (target === null || volume.frozen) return null;
    return this.#alone(volume, `rename to ${target}`, async () => {
      const { name } = volume;
      await this.#during({ kind: 'rename', name, target }, async () => {
        await this.#node.rename(name, target);
        this.#model.volumes.delete(name);
        volume.name = target;
        this.#model.add(volume);
      });
    });
  }

  #resize(volume: VolumeModel): Operation | null {
    if (volume.readOnly) return null;
    const units = 1 + this.#random.below(Math.ceil(24576 / volume.unit));
    if (units === volume.cells.length) return null;
    return this.#alone(volume, `resize to ${units}`, async () => {
      await this.#during({ kind: 'resize', name: volume.name, units }, async () => {
        await this.#node.resize(volume.name, units * volume.unit);
        volume.resize(units);
      });
    });
  }

  #upgrade(volume: VolumeModel): Operation | null {
    if (!volume.frozen) return null;
    return this.#alone(volume, 'upgrade', async () => {
      await this.#during({ kind: 'upgrade', name: volume.name }, async () => {
        await this.#node.upgrade(volume.name);
        volume.frozen = false;
        volume.readOnly = false;
      });
    });
  }
}

/** For messages: what an operation that fails must not do. */
export const unexpected = (error: unknown): Violation =>
  error instanceof Violation
    ? error
    : new Violation(error instanceof Error ? (error.stack ?? error.message) : String(error));
