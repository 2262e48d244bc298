/** What the clients do: changes, reads and flushes of all volumes at once, and commands that make, change and remove volumes. */
import { errnos } from '../../src/sys/errno.js';
import type { Random } from '../fuzz/random.js';
import { SECTOR } from './content.js';
import { ACTORS, Fleet, Refused, type Snapshot, type Volume } from './fleet.js';
import { Disk, WrongData } from './model.js';
import { CONNECTIONS, type Control } from './protocol.js';

const BLOCK = (4 << 20) / SECTOR;
/** Requests in flight of each client process. */
const DEPTH = 10;
const MOST_VOLUMES = 5;
const MOST_SNAPSHOTS = 5;
/** Answers of data between two commands, at most. */
const COMMAND_EVERY = 120;

export class Workload {
  readonly #fleet: Fleet;
  readonly #random: Random;
  #lastTag: number;
  #lastName = 0;
  #stopping = false;
  #lanes: Promise<void>[] = [];
  #failed: Error | null = null;

  /** @param firstTag no operation before had a tag as large */
  constructor(fleet: Fleet, random: Random, firstTag = 1) {
    this.#fleet = fleet;
    this.#random = random;
    this.#lastTag = firstTag;
  }

  /** What went wrong first. */
  get failed(): Error | null {
    return this.#failed;
  }

  start(): void {
    this.#stopping = false;
    this.#fleet.startClock();
    const lanes = [this.#commands()];
    for (let actor = 0; actor < ACTORS; actor++) for (let i = 0; i < DEPTH; i++) lanes.push(this.#data(actor));
    this.#lanes = lanes.map((lane) =>
      lane.catch((error: Error) => {
        this.#failed ??= error;
        this.#stopping = true;
      }),
    );
  }

  /** Nothing new begins; resolves when all that was asked has an outcome. @throws what went wrong */
  async stop(): Promise<void> {
    this.#stopping = true;
    await Promise.all(this.#lanes);
    if (this.#failed) throw this.#failed;
  }

  /** Resolves after so many more answers, or when the lanes are to stop. */
  async answers(more: number): Promise<void> {
    const { counts } = this.#fleet;
    const until = counts.requests + more;
    while (counts.requests < until && !this.#stopping) await new Promise((resolve) => setTimeout(resolve, 5));
  }

  async #data(actor: number): Promise<void> {
    const fleet = this.#fleet;
    while (!this.#stopping) {
      const open = [...fleet.volumes.values()].filter((volume) => volume.wanted && !volume.exclusive);
      if (open.length === 0) {
        await new Promise((resolve) => setTimeout(resolve, 5));
        continue;
      }
      const volume = this.#random.pick(open);
      const { name } = volume.disk;
      const connection = this.#random.below(CONNECTIONS);
      const dice = this.#random.below(100);
      if (dice < 4) {
        await fleet.flush(actor, volume, connection);
        continue;
      }
      const span = { volume: name, connection, ...this.#span(volume.disk.size, dice >= 85) };
      if (dice < 30) {
        await fleet.read(actor, volume, { do: 'read', ...span });
        continue;
      }
      const fua = this.#random.oneIn(8);
      const change = dice < 88 ? 'write' : dice < 94 ? 'zero' : 'trim';
      const tag = change === 'write' ? ++this.#lastTag : 0;
      await fleet.change(actor, volume, { do: change, tag, fua, ...span });
    }
  }

  /** Mostly small, mostly where others are, sometimes whole blocks. */
  #span(size: number, large: boolean): { first: number; count: number } {
    const random = this.#random;
    if (large && random.oneIn(3)) {
      const first = BLOCK * random.below(Math.floor(size / BLOCK));
      return { first, count: Math.min(size - first, BLOCK * (1 + random.below(2))) };
    }
    const most = large ? 2048 : random.oneIn(4) ? 256 : 16;
    const count = Math.min(size, 1 + random.below(most));
    // The parts around the borders of blocks are where it gets difficult.
    const near = BLOCK * random.below(Math.ceil(size / BLOCK) + 1) - 64 + random.below(128);
    const first = random.oneIn(2) ? near : random.below(size);
    return { first: Math.max(0, Math.min(size - count, first)), count };
  }

  async #commands(): Promise<void> {
    while (this.#fleet.volumes.size < 2 && !this.#stopping) await this.#create();
    while (!this.#stopping) {
      await this.answers(this.#random.below(COMMAND_EVERY));
      if (this.#stopping) return;
      await this.#command();
    }
  }

  async #command(): Promise<void> {
    const { volumes, snapshots } = this.#fleet;
    const free = [...volumes.values()].filter((volume) => volume.wanted && !volume.exclusive);
    const settled = [...snapshots.values()].filter(({ disk }) => disk !== null);
    const volume = free.length > 0 ? this.#random.pick(free) : null;
    const dice = this.#random.below(100);
    if (dice < 40 && volume && snapshots.size < MOST_SNAPSHOTS) await this.#snapshot(volume);
    else if (dice < 55 && volumes.size < MOST_VOLUMES) await this.#create();
    else if (dice < 75 && volume) await this.#resize(volume);
    else if (dice < 80 && volume) await this.#rename(volume);
    else if (dice < 90 && volume && volumes.size > 2) await this.#remove(volume);
    else if (settled.length > 1) await this.#removeSnapshot(this.#random.pick(settled));
  }

  /** @returns whether it was done, or null: not known */
  async #control(control: Control): Promise<boolean | null> {
    const fleet = this.#fleet;
    fleet.counts.commands++;
    const outcome = await fleet.ask(this.#random.below(ACTORS), { do: 'control', control });
    if (outcome.state === 'done') return true;
    if (outcome.state === 'failed') {
      // What was done, and is done again by the successor of who died, finds its own result.
      const repeated = [errnos.EEXIST, errnos.ENOENT].includes(outcome.errno);
      if (!repeated) throw new Refused(`${JSON.stringify(control)}: ${outcome.errno} ${outcome.message}`);
      fleet.counts.repeated++;
    }
    fleet.unknown.push(control);
    return null;
  }

  #size(): number {
    const blocks = 2 + this.#random.below(4);
    return blocks * BLOCK - (this.#random.oneIn(3) ? 8 * this.#random.below(BLOCK / 8) : 0);
  }

  async #create(): Promise<void> {
    const fleet = this.#fleet;
    const settled = [...fleet.snapshots.values()].flatMap(({ disk }) => (disk ? [disk] : []));
    const parent = settled.length > 0 && this.#random.oneIn(2) ? this.#random.pick(settled) : null;
    const name = `volume-${++this.#lastName}`;
    const size = parent ? Math.max(parent.size, this.#size()) : this.#size();
    const volume = Fleet.volume(parent ? parent.copy(name, size) : new Disk(name, size));
    volume.exclusive = true;
    fleet.volumes.set(name, volume);
    const control = { kind: 'create', name, size: size * SECTOR, ...(parent ? { parent: parent.name } : {}) } as const;
    if (await this.#control(control)) await fleet.open(volume);
  }

  async #snapshot(volume: Volume): Promise<void> {
    const name = `snapshot-${++this.#lastName}`;
    const reading = volume.disk.startReading(0, volume.disk.size);
    const snapshot: Snapshot = { name, source: volume, reading, disk: null };
    this.#fleet.snapshots.set(name, snapshot);
    // Its size must stay what it is until the answer: commands come one after another.
    if (await this.#control({ kind: 'snapshot', name: volume.disk.name, snapshot: name })) volume.disk.forget(reading);
  }

  async #resize(volume: Volume): Promise<void> {
    const { disk } = volume;
    const size = this.#size();
    await this.#fleet.takeAlone(volume);
    disk.beginResize(size);
    const done = await this.#control({ kind: 'resize', name: disk.name, size: size * SECTOR });
    // What is not known yet stays alone until all is quiet.
    if (!done) return;
    disk.resized(size);
    volume.exclusive = false;
  }

  async #rename(volume: Volume): Promise<void> {
    const { disk } = volume;
    const to = `volume-${++this.#lastName}`;
    await this.#fleet.takeAlone(volume);
    await this.#fleet.close(volume);
    if (!(await this.#control({ kind: 'rename', name: disk.name, to }))) return;
    this.#renamed(volume, to);
    await this.#fleet.open(volume);
  }

  #renamed(volume: Volume, to: string): void {
    const { volumes } = this.#fleet;
    volumes.delete(volume.disk.name);
    volume.disk.name = to;
    volumes.set(to, volume);
  }

  async #remove(volume: Volume): Promise<void> {
    await this.#fleet.takeAlone(volume);
    await this.#fleet.close(volume);
    if (await this.#control({ kind: 'remove', name: volume.disk.name })) this.#fleet.volumes.delete(volume.disk.name);
  }

  async #removeSnapshot(snapshot: Snapshot): Promise<void> {
    snapshot.disk = null;
    if (await this.#control({ kind: 'remove', name: snapshot.name })) this.#fleet.snapshots.delete(snapshot.name);
  }

  /**
   * All is quiet: what became of the commands without an answer.
   * @param sizes of all volumes and snapshots there are, in bytes
   * @throws WrongData when neither what was before nor what was asked for is there
   */
  async resolve(sizes: ReadonlyMap<string, number>): Promise<void> {
    const fleet = this.#fleet;
    for (const { disk } of fleet.volumes.values()) disk.quiet();
    for (const control of fleet.unknown.splice(0)) await this.#resolveOne(control, sizes);
    const known = [...fleet.volumes.keys(), ...fleet.snapshots.keys()].toSorted();
    const there = [...sizes.keys()].toSorted();
    if (known.join() !== there.join()) {
      throw new WrongData(`there are ${there.join(', ')}, and must be ${known.join(', ')}`);
    }
  }

  async #resolveOne(control: Control, sizes: ReadonlyMap<string, number>): Promise<void> {
    const fleet = this.#fleet;
    const volume = fleet.volumes.get(control.name);
    if (control.kind === 'snapshot') {
      const reading = fleet.snapshots.get(control.snapshot)?.reading;
      if (reading) volume?.disk.forget(reading);
      if (!sizes.has(control.snapshot)) fleet.snapshots.delete(control.snapshot);
    } else if (control.kind === 'remove') {
      await this.#removeAgain(control.name, sizes.has(control.name));
      (sizes as Map<string, number>).delete(control.name);
    } else if (!volume) {
      throw new Error(`${control.name} is not in the books`);
    } else if (control.kind === 'create') {
      if (sizes.has(control.name)) await fleet.open(volume);
      else fleet.volumes.delete(control.name);
    } else if (control.kind === 'resize') {
      volume.disk.resized((sizes.get(control.name) ?? 0) / SECTOR);
      volume.exclusive = false;
    } else {
      // When the command died with the whole node, there may be both, which share all they have: the old one goes, as `vlmc check` advises.
      if (sizes.has(control.to) && sizes.has(control.name)) {
        await this.#removeAgain(control.name, true);
        (sizes as Map<string, number>).delete(control.name);
        fleet.volumes.set(control.name, volume);
      }
      if (sizes.has(control.to)) this.#renamed(volume, control.to);
      await fleet.open(volume);
    }
  }

  /** A removal that did not get to its end is done again, as an administrator would. */
  async #removeAgain(name: string, there: boolean): Promise<void> {
    const fleet = this.#fleet;
    if (there) {
      const outcome = await fleet.ask(0, { do: 'control', control: { kind: 'remove', name } });
      if (outcome.state !== 'done') throw new WrongData(`${name} cannot be removed again: ${JSON.stringify(outcome)}`);
    }
    fleet.volumes.delete(name);
    fleet.snapshots.delete(name);
  }
}
