/**
 * FLUSH: makes durable what was acknowledged before. The order is the contract's: data objects first, then the map that names them, and
 * after a change it is looked whether the lock is still this node's: by the mapper, or here, where the lock is the one that the mapper has
 * vouched for, untouched. Flushes that arrive while one runs share the next one.
 */
import type { LockLook } from '../requests/lock-look.js';
import { Op } from '../requests/ops.js';
import { errnoOf, errnos, SystemError } from '../sys/errno.js';
import { MAX_ALLOCATION, type Port } from '../xseg/index.js';
import type { MapperClient } from './mapper-client.js';
import { isShortage, ObjectFlushes } from './object-flushes.js';
import { type Done, Rounds } from './rounds.js';
import type { Volume } from './volume.js';

/** More names than this are not listed: the blocker then flushes everything, which costs less than the list. */
const MAX_NAMES = 4096;

export class Flusher {
  readonly #port: Port;
  readonly #blocker: number;
  readonly #mapper: MapperClient;
  readonly #lockLook: LockLook | null;
  readonly #objects: ObjectFlushes;
  readonly #data = new Rounds((volume, done) => this.#flushDataNow(volume, done));
  readonly #maps = new Rounds((volume, done) => this.#flushMapNow(volume, done));
  /**
   * Nothing is known of what was written before this process, to whatever volume: the first flush covers everything. null: there was none, or
   * it failed.
   */
  #everything: Promise<void> | null = null;
  #isEverythingFlushed = false;
  /** Of the flush that begins now. */
  #isAlone = false;

  constructor(port: Port, blockerPort: number, mapper: MapperClient, lockLook: LockLook | null) {
    this.#port = port;
    this.#blocker = blockerPort;
    this.#mapper = mapper;
    this.#lockLook = lockLook;
    this.#objects = new ObjectFlushes(port, blockerPort);
  }

  /**
   * `done` is called when everything acknowledged on this volume before the call is durable, and the lock was still this node's after the
   * call; or with a SystemError: EIO when it was lost, and what blocker and mapper fail with.
   * @param alone nothing else is under way, for any volume
   */
  flush(volume: Volume, done: Done, alone = false): void {
    this.#isAlone = alone;
    this.#begin(volume, done);
    // What begins later, when another flush ends, is not alone.
    this.#isAlone = false;
  }

  #begin(volume: Volume, done: Done): void {
    const loss = lossOf(volume);
    if (loss !== null) {
      done(loss);
      return;
    }
    if (volume.changed && volume.owesFlush) volume.written = true;
    // An entry waits until its object is durable. Where the mapper has but to look at the lock, both go on at the same time.
    if (volume.mapDirty || volume.seal !== null) {
      this.flushData(volume, (error) => {
        if (error !== null) this.refused(volume, error, done);
        else this.flushMap(volume, (failure) => done(failure ?? lossOf(volume)));
      });
      return;
    }
    let left = 2;
    let failure: unknown = null;
    const ended: Done = (error) => {
      failure ??= error;
      if (--left === 0) done(failure ?? lossOf(volume));
    };
    this.flushData(volume, ended);
    this.flushMap(volume, ended);
  }

  /** Is anything of the volume being made durable? What of it fails is owed again. */
  isRunning(volume: Volume): boolean {
    return this.#data.isRunning(volume) || this.#maps.isRunning(volume);
  }

  /** `done` is called when what was written to the volume's objects before is durable, whatever of the map. */
  flushData(volume: Volume, done: Done): void {
    if (this.#data.isRunning(volume) || this.#owesData(volume)) this.#data.run(volume, done);
    else done(null);
  }

  /** `done` is called when all changes of the map so far are durable, and verified. */
  flushMap(volume: Volume, done: Done): void {
    if (this.#maps.isRunning(volume) || volume.mapDirty || volume.written) this.#maps.run(volume, done);
    else done(null);
  }

  /**
   * Somebody is to hear of this error. The mapper keeps what a bad disk did not take of first writes until somebody was told, so it is asked as if
   * nothing had failed; what of the map it makes durable then comes again, after the data.
   */
  refused(volume: Volume, error: unknown, done: Done): void {
    if (errnoOf(error) !== errnos.EIO) {
      done(error);
      return;
    }
    this.flushMap(volume, () => {
      volume.mapDirty = true;
      done(error);
    });
  }

  /** For FUA changes: the map that they may have changed is durable, and the lock was this node's when they had been made. */
  flushChange(volume: Volume, done: Done): void {
    volume.written = true;
    this.#maps.run(volume, (error) => {
      done(error ?? (volume.lost === null ? null : new SystemError(errnos.EIO, volume.lost)));
    });
  }

  #flushMapNow(volume: Volume, done: Done): void {
    const { mapDirty, written, lost } = volume;
    if ((!mapDirty && !written) || lost !== null) {
      done(null);
      return;
    }
    volume.mapDirty = false;
    volume.written = false;
    if (!mapDirty && this.#isSealed(volume)) done(null);
    else this.#askMapper(volume, written).then(() => done(null), done);
  }

  async #askMapper(volume: Volume, written: boolean): Promise<void> {
    try {
      const { lease } = volume;
      const exclusive = lease?.granted === 'exclusive';
      // Taken before the mapper looks: what it answers is true of the lock as it is in the seal, and of all the time under this lease.
      const seal = exclusive ? (this.#lockLook?.seal(volume.key.name) ?? null) : null;
      await this.#mapper.flush(volume.key, written || exclusive);
      if (volume.lease === lease && volume.lost === null) volume.seal = seal;
    } catch (error) {
      volume.mapDirty = true;
      volume.written ||= written && volume.lost === null;
      throw error;
    }
  }

  /** The lock is the one that the mapper has vouched for under this lease, untouched. */
  #isSealed({ seal }: Volume): boolean {
    return seal !== null && (this.#lockLook?.holds(seal) ?? false);
  }

  #owesData(volume: Volume): boolean {
    return !this.#isEverythingFlushed || volume.dirtyBlocks.size > 0 || volume.dirtyNames.size > 0;
  }

  #flushDataNow(volume: Volume, done: Done): void {
    const listed = (error: unknown): void => {
      // What the short way could not send goes the other.
      if (isShortage(error)) this.#flushNames(volume).then(() => done(null), done);
      else done(error);
    };
    if (volume.lost === null && this.#isEverythingFlushed && this.#objects.begin(volume, this.#isAlone, listed)) return;
    this.#flushNames(volume).then(() => done(null), done);
  }

  async #flushNames(volume: Volume): Promise<void> {
    const names = takeDirty(volume);
    if (volume.lost !== null) return;
    try {
      if (this.#isEverythingFlushed) await this.#flushObjects(names);
      else await this.#flushEverything(names);
    } catch (error) {
      if (volume.lost === null) for (const name of names) volume.dirtyNames.add(name);
      throw error;
    }
  }

  /** The first flush. What was written to these objects before the call is durable as well. */
  async #flushEverything(names: readonly string[]): Promise<void> {
    if (this.#everything !== null) {
      await this.#everything;
      await this.#flushObjects(names);
      return;
    }
    this.#everything = this.#sync([]);
    try {
      await this.#everything;
      this.#isEverythingFlushed = true;
    } catch (error) {
      this.#everything = null;
      throw error;
    }
  }

  async #flushObjects(names: readonly string[]): Promise<void> {
    if (names.length === 0) return;
    if (names.length <= MAX_NAMES) {
      await this.#sync(names);
      return;
    }
    try {
      await this.#sync([]);
    } catch (error) {
      if (errnoOf(error) !== errnos.EIO) throw error;
      // It may be about an object of another volume.
      for (let from = 0; from < names.length; from += MAX_NAMES) await this.#sync(names.slice(from, from + MAX_NAMES));
    }
  }

  /** @param names none: everything */
  async #sync(names: readonly string[]): Promise<void> {
    const data = Buffer.from(names.join('\n'), 'utf8');
    // A name with a line break in it would be taken for two.
    const fits = data.length <= MAX_ALLOCATION && !names.some((name) => name.includes('\n'));
    await this.#port.call(
      this.#blocker,
      { op: Op.FLUSH, data: fits ? data : Buffer.alloc(0), size: fits ? data.length : 0 },
      { wait: true },
    );
  }
}

/** What was acknowledged before the loss may be gone: no flush may say otherwise. null: there was none */
function lossOf(volume: Volume): SystemError | null {
  const { lost, lossUntold } = volume;
  if (lost === null && lossUntold === null) return null;
  volume.lossUntold = null;
  return new SystemError(errnos.EIO, lost ?? lossUntold ?? '');
}

/** Names of all objects written since the last flush; they count as clean from now on. */
function takeDirty({ map, dirtyNames, dirtyBlocks }: Volume): string[] {
  const names = new Set(dirtyNames);
  dirtyNames.clear();
  for (const block of dirtyBlocks) if (map?.has(block)) names.add(map.objectName(block));
  dirtyBlocks.clear();
  names.delete('');
  return [...names];
}
