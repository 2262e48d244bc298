/**
 * FLUSH: makes durable what was acknowledged before. The order is the contract's: data objects first, then the map that names them, and
 * after a change the mapper says that the lock is still this node's. Flushes that arrive while one runs share the next one.
 */
import { Op } from '../requests/ops.js';
import { errnos, SystemError } from '../sys/errno.js';
import { MAX_ALLOCATION, type Port } from '../xseg/index.js';
import type { MapperClient } from './mapper-client.js';
import { Rounds } from './rounds.js';
import type { Volume } from './volume.js';

/** More names than this are not listed: the blocker then flushes everything, which costs less than the list. */
const MAX_NAMES = 4096;

export class Flusher {
  readonly #port: Port;
  readonly #blocker: number;
  readonly #mapper: MapperClient;
  readonly #data = new Rounds((volume) => this.#flushDataNow(volume));
  readonly #maps = new Rounds((volume) => this.#flushMapNow(volume));
  /**
   * Nothing is known of what was written before this process, to whatever volume: the first flush covers everything. null: there was none, or
   * it failed.
   */
  #everything: Promise<void> | null = null;
  #isEverythingFlushed = false;

  constructor(port: Port, blockerPort: number, mapper: MapperClient) {
    this.#port = port;
    this.#blocker = blockerPort;
    this.#mapper = mapper;
  }

  /**
   * Resolves when everything acknowledged on this volume before the call is durable, and the lock was still this node's after that.
   * @throws SystemError EIO when it was lost, and what blocker and mapper fail with
   */
  async flush(volume: Volume): Promise<void> {
    refuseLost(volume);
    if (volume.changed && volume.owesFlush) volume.written = true;
    // No entry waits for its object to be durable first: then both go on at the same time.
    if (!volume.mapDirty) {
      const results = await Promise.allSettled([this.flushData(volume), this.flushMap(volume)]);
      for (const result of results) if (result.status === 'rejected') throw result.reason;
    } else {
      await this.flushData(volume);
      await this.flushMap(volume);
    }
    refuseLost(volume);
  }

  /** Is anything of the volume being made durable? What of it fails is owed again. */
  isRunning(volume: Volume): boolean {
    return this.#data.isRunning(volume) || this.#maps.isRunning(volume);
  }

  /** Resolves when what was written to the volume's objects before is durable, whatever of the map. */
  async flushData(volume: Volume): Promise<void> {
    if (this.#data.isRunning(volume) || this.#owesData(volume)) await this.#data.run(volume);
  }

  /** Resolves when all changes of the map so far are durable, and verified. */
  async flushMap(volume: Volume): Promise<void> {
    if (this.#maps.isRunning(volume) || volume.mapDirty || volume.written) await this.#maps.run(volume);
  }

  /** For FUA changes: the map that they may have changed is durable, and the lock was this node's when they had been made. */
  async flushChange(volume: Volume): Promise<void> {
    volume.written = true;
    await this.#maps.run(volume);
    if (volume.lost !== null) throw new SystemError(errnos.EIO, volume.lost);
  }

  async #flushMapNow(volume: Volume): Promise<void> {
    const { mapDirty, written, lost } = volume;
    if ((!mapDirty && !written) || lost !== null) return;
    volume.mapDirty = false;
    volume.written = false;
    try {
      await this.#mapper.flush(volume.key, written || volume.lease?.granted === 'exclusive');
    } catch (error) {
      volume.mapDirty = true;
      volume.written ||= written && volume.lost === null;
      throw error;
    }
  }

  #owesData(volume: Volume): boolean {
    return !this.#isEverythingFlushed || volume.dirtyBlocks.size > 0 || volume.dirtyNames.size > 0;
  }

  async #flushDataNow(volume: Volume): Promise<void> {
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
    await this.#sync(names.length > MAX_NAMES ? [] : names);
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

/** What was acknowledged before the loss may be gone: no flush may say otherwise. */
function refuseLost(volume: Volume): void {
  const { lost, lossUntold } = volume;
  if (lost === null && lossUntold === null) return;
  volume.lossUntold = null;
  throw new SystemError(errnos.EIO, lost ?? lossUntold ?? '');
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
