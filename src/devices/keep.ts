/**
 * What the keeper does: connects devices again that have lost connections, and has the sizes of devices follow those of their volumes. It
 * needs nothing of the node but its endpoint, and is no part of it: the node may come and go.
 */
import { messageOf } from '../sys/errno.js';
import { type Context, endpointOf, withTable } from './context.js';
import { askSizes } from './link.js';
import { openDriver, requireRoot } from './module.js';
import type { NbdDriver } from './netlink.js';
import { lostConnections, reconnectEntry } from './reconnect.js';
import { setSize } from './resize.js';
import { kernelDevices } from './sysfs.js';
import { DamagedTable, type Entry, readTable, reconcile } from './table.js';
import { type EndpointAddress, SECTOR } from './types.js';

/** How often it is looked whether all is well, and how often the endpoint is tried while it is away. */
const LOOK_MS = 1000;
const RETRY_MS = 200;
/** How often connections are offered to a device of which nothing tells whether it lacks some. */
const OFFER_MS = 10_000;

export interface KeepOptions {
  /** End when there is no device any more. Called with the lock held, by which nobody attaches another before it returns. */
  readonly idle?: () => void;
}

export async function keep(context: Context, signal: AbortSignal, options: KeepOptions): Promise<void> {
  requireRoot('keep devices connected');
  const driver = await openDriver(context.roots);
  const ended = new AbortController();
  const stop = (): void => ended.abort();
  signal.addEventListener('abort', stop, { once: true });
  if (signal.aborted) stop();
  const keeper = new Keeper(context, driver, ended.signal);
  const hearing = driver
    .hearLost(ended.signal, (index) => keeper.heard(index))
    .catch((error: unknown) => {
      context.log.warn(`lost connections are noticed a second later: ${messageOf(error)}`);
    });
  try {
    await keeper.run(options);
  } finally {
    signal.removeEventListener('abort', stop);
    stop();
    await hearing;
  }
}

class Keeper {
  readonly #context: Context;
  readonly #driver: NbdDriver;
  readonly #signal: AbortSignal;
  #wake: (() => void) | null = null;
  #woken = false;
  /** What was said last of each device, by its index: said once. */
  readonly #said = new Map<number, string>();
  /** When connections were last offered to devices, by their indices. */
  readonly #offered = new Map<number, number>();

  constructor(context: Context, driver: NbdDriver, signal: AbortSignal) {
    this.#context = context;
    this.#driver = driver;
    this.#signal = signal;
    signal.addEventListener('abort', () => this.wake());
  }

  /** The kernel tells that a device lost a connection. */
  heard(index: number): void {
    this.#offered.delete(index);
    this.wake();
  }

  wake(): void {
    this.#woken = true;
    this.#wake?.();
  }

  async run({ idle }: KeepOptions): Promise<void> {
    while (!this.#signal.aborted) {
      this.#woken = false;
      let pause = LOOK_MS;
      try {
        const entries = await this.#entries();
        if (entries.length === 0 && idle !== undefined && (await this.#retire(idle))) return;
        const whole = await this.#connect(entries);
        if (whole) await this.#follow(entries);
        else pause = RETRY_MS;
      } catch (error) {
        this.#say(-1, `the devices cannot be looked after: ${messageOf(error)}`);
      }
      await this.#pause(pause);
    }
  }

  /** The devices there are; the lock is taken only where the table is not what the kernel has. */
  async #entries(): Promise<Entry[]> {
    const entries = this.#seen() ?? (await withTable(this.#context, async (all) => [...all]));
    return entries.filter(({ state }) => state === 'attached');
  }

  /** Null: the table is not what the kernel has. */
  #seen(): Entry[] | null {
    const { runDir, segment, roots } = this.#context;
    try {
      const { entries, changed } = reconcile(readTable(runDir), kernelDevices(roots), segment, Date.now(), true);
      return changed ? null : entries;
    } catch (error) {
      if (error instanceof DamagedTable) return null;
      throw error;
    }
  }

  /** Whether there is still nothing to do, so that this is the end. */
  #retire(idle: () => void): Promise<boolean> {
    return withTable(this.#context, async (entries) => {
      if (entries.length > 0) return false;
      idle();
      return true;
    });
  }

  /** Connects what is lost. False: not all of it could be. */
  async #connect(entries: readonly Entry[]): Promise<boolean> {
    const lost = await lostConnections(this.#context, entries);
    const outcomes = await Promise.all(
      entries.map((entry, i) => !this.#isDue(entry, lost[i]) || this.#again(entry, lost[i])),
    );
    return outcomes.every(Boolean);
  }

  /** Where nothing tells whether connections are lost, it is as the kernel said last, and now and then. */
  #isDue({ index }: Entry, lost: number | null): boolean {
    if (lost !== null) return lost > 0;
    return performance.now() - (this.#offered.get(index) ?? Number.NEGATIVE_INFINITY) >= OFFER_MS;
  }

  async #again(entry: Entry, lost: number | null): Promise<boolean> {
    const { index, volume, connections } = entry;
    // The kernel takes connections where it lacks some, and lets go of the others.
    const what = lost === null ? 'its connections are offered anew' : `${lost} of ${connections} connections are lost`;
    try {
      const line = `/dev/nbd${index} (${volume}): ${what}`;
      // Once, and not again with every try that is told with its reason.
      if (lost !== null && !this.#said.get(index)?.startsWith(line)) this.#say(index, line);
      const now = await reconnectEntry(this.#context, this.#driver, entry);
      this.#offered.set(index, performance.now());
      const [left] = await lostConnections(this.#context, [now]);
      if (left === 0) this.#say(index, `/dev/nbd${index} (${volume}) is connected`);
      return left === 0 || left === null;
    } catch (error) {
      this.#say(index, `/dev/nbd${index} (${volume}): ${what}; ${messageOf(error)}`);
      return false;
    }
  }

  /** Has sizes follow. An endpoint that is away is nothing new: its connections tell. */
  async #follow(entries: readonly Entry[]): Promise<void> {
    const byEndpoint = new Map<string, Entry[]>();
    for (const entry of entries) {
      const key = JSON.stringify(endpointOf(this.#context, entry));
      byEndpoint.set(key, [...(byEndpoint.get(key) ?? []), entry]);
    }
    for (const some of byEndpoint.values()) await this.#followAt(endpointOf(this.#context, some[0]), some);
  }

  async #followAt(endpoint: EndpointAddress, entries: readonly Entry[]): Promise<void> {
    let sizes: (number | null)[];
    try {
      sizes = await askSizes(
        endpoint,
        entries.map(({ exportName }) => exportName),
      );
    } catch {
      return;
    }
    for (const [i, { index, volume, size }] of entries.entries()) {
      const now = sizes[i];
      if (now === null) this.#say(index, `/dev/nbd${index}: the endpoint does not know the volume ${volume} any more`);
      else if (now - (now % SECTOR) !== size) await setSize(this.#context, this.#driver, volume, now, size);
    }
  }

  #say(index: number, text: string): void {
    if (this.#said.get(index) === text) return;
    this.#said.set(index, text);
    this.#context.log.info(text);
  }

  /** Until something happens, at most so many ms. */
  #pause(ms: number): Promise<void> {
    if (this.#woken) return Promise.resolve();
    return new Promise((resolve) => {
      const done = (): void => {
        clearTimeout(timer);
        this.#wake = null;
        resolve();
      };
      const timer = setTimeout(done, ms);
      this.#wake = done;
    });
  }
}
