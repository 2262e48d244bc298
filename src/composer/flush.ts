/**
 * FLUSH: makes durable what was acknowledged before. The order is the contract's: data objects first, then the map that names them.
 * Flushes that arrive while one runs share the next one.
 */
import { Op } from '../requests/ops.js';
import { MAX_ALLOCATION, type Port } from '../xseg/index.js';
import type { MapperClient } from './mapper-client.js';
import type { Volume } from './volume.js';

/** More names than this are not listed: the blocker then flushes everything, which costs less than the list. */
const MAX_NAMES = 4096;

interface Round {
  running: Promise<void>;
  next: Promise<void> | null;
}

export class Flusher {
  readonly #port: Port;
  readonly #blocker: number;
  readonly #mapper: MapperClient;
  readonly #rounds = new WeakMap<Volume, Round>();
  readonly #mapFlushes = new WeakMap<Volume, Promise<void>>();

  constructor(port: Port, blockerPort: number, mapper: MapperClient) {
    this.#port = port;
    this.#blocker = blockerPort;
    this.#mapper = mapper;
  }

  /** Resolves when everything acknowledged on this volume before the call is durable. */
  flush(volume: Volume): Promise<void> {
    const round = this.#rounds.get(volume);
    if (!round) return this.#start(volume);
    // What the running round took may miss the caller's last write: the next one does not.
    round.next ??= round.running.then(
      () => this.#start(volume),
      () => this.#start(volume),
    );
    return round.next;
  }

  #start(volume: Volume): Promise<void> {
    const running = this.#flush(volume);
    const round: Round = { running, next: null };
    this.#rounds.set(volume, round);
    const done = (): void => {
      if (this.#rounds.get(volume) === round && !round.next) this.#rounds.delete(volume);
    };
    running.then(done, done);
    return running;
  }

  /** Is there a change of the map that is not durable yet, or just becomes so? */
  owesMap(volume: Volume): boolean {
    return volume.mapDirty || this.#mapFlushes.has(volume);
  }

  /** Resolves when all changes of the map so far are durable; for FUA writes too. One at a time: none overtakes another. */
  flushMap(volume: Volume): Promise<void> {
    const before = this.#mapFlushes.get(volume);
    if (!volume.mapDirty) return before ?? Promise.resolve();
    const flushed = (before ?? Promise.resolve()).catch(() => {}).then(() => this.#flushMapNow(volume));
    this.#mapFlushes.set(volume, flushed);
    const done = (): void => {
      if (this.#mapFlushes.get(volume) === flushed) this.#mapFlushes.delete(volume);
    };
    flushed.then(done, done);
    return flushed;
  }

  async #flushMapNow(volume: Volume): Promise<void> {
    if (!volume.mapDirty) return;
    volume.mapDirty = false;
    try {
      await this.#mapper.flush(volume.key);
    } catch (error) {
      volume.mapDirty = true;
      throw error;
    }
  }

  async #flush(volume: Volume): Promise<void> {
    const names = takeDirty(volume);
    const all = volume.flushAll || names.length > MAX_NAMES;
    volume.flushAll = false;
    try {
      if (all || names.length > 0) await this.#flushObjects(all ? [] : names);
    } catch (error) {
      for (const name of names) volume.dirtyNames.add(name);
      volume.flushAll ||= all;
      throw error;
    }
    await this.flushMap(volume);
  }

  async #flushObjects(names: readonly string[]): Promise<void> {
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

/** Names of all objects written since the last flush; they count as clean from now on. */
function takeDirty(volume: Volume): string[] {
  const names = [...volume.dirtyNames];
  volume.dirtyNames.clear();
  for (const block of volume.dirtyBlocks) {
    if (volume.map?.has(block)) names.push(volume.map.objectName(block));
  }
  volume.dirtyBlocks.clear();
  return names.filter((name) => name !== '');
}
