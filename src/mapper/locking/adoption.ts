/**
 * What a mapper does about the locks that an earlier one of this node left. Those it knows to be in use count as held, though nothing
 * is done by them before they were looked at; what another node took meanwhile is lost. Those that nobody uses are released, when what was
 * written under them is durable.
 */
import { randomUUID } from 'node:crypto';
import { errnoOf, errnos, messageOf, SystemError } from '../../sys/errno.js';
import type { Clock } from '../clock.js';
import type { MapperContext, MapperLog } from '../context.js';
import { plainName } from '../names.js';
import type { NotedVolume } from '../provisional/noted.js';
import type { Volume } from '../volume.js';
import { PATIENCE_MS as BREAK_MS, type Breaking } from './breaking.js';
import type { Losses } from './losses.js';
import type { LockRegistry } from './registry.js';

/** Locks of one page. */
const PAGE = 256;
/**
 * How long the composers may take to give back what an earlier mapper granted, in ms. Later they have nothing any more: its leases have
 * run out.
 */
const PATIENCE_MS = 3500;
/** When what failed is tried again, in ms: the store may be in trouble for a while. */
const AGAIN_MS = 10_000;

export interface AdoptionOptions {
  readonly context: Pick<MapperContext, 'volumes' | 'leases' | 'locks'>;
  readonly registry: LockRegistry;
  /** Blocks that it left provisional, by volume. */
  readonly noted: ReadonlyMap<string, NotedVolume>;
  readonly breaking: Breaking;
  readonly losses: Losses;
  readonly clock: Clock;
  readonly log: MapperLog;
  /** Flushes the store of blocks whole. */
  readonly flushAll: () => Promise<void>;
  /** Makes durable whatever was written of the volume before, by anybody of this node. @param flushAll as above, once for many volumes */
  readonly flushData: (volume: Volume, flushAll: () => Promise<void>) => Promise<void>;
}

export class Adoption {
  readonly #options: AdoptionOptions;
  /** Volumes that composers used under the earlier mapper, or may have. */
  readonly #held: string[] = [];
  readonly #hadComposers: boolean;
  #stopped = false;

  constructor(options: AdoptionOptions) {
    this.#options = options;
    this.#hadComposers = options.context.leases.inherited.length > 0;
  }

  /** Notes what is known of volumes before any request is served. */
  begin(): void {
    const { context, registry, losses, noted } = this.#options;
    for (const [name, record] of [...registry.records]) {
      void context.volumes.use(name, async (volume) => {
        volume.open = record.open;
        volume.byHand = record.byHand;
        const { breaking } = record;
        if (breaking) volume.breaking = { id: randomUUID(), after: [], ...breaking };
        if (record.lost) losses.mark(volume, record.lost);
        else if (record.held) this.#hold(volume);
      });
    }
    for (const [name, left] of noted) {
      void context.volumes.use(name, async (volume) => {
        if (volume.lost || volume.breaking) {
          this.#forget(volume);
          return;
        }
        // A note is there only while the lock is held, also when that was not written down in time.
        if (!volume.locked) this.#hold(volume);
        context.volumes.committer.adopt(volume, left);
      });
    }
  }

  /** What is said of the lock was written after the note. */
  #forget(volume: Volume): void {
    const { context, log } = this.#options;
    try {
      context.volumes.committer.forget(volume);
    } catch (error) {
      // It is tried again before the lock is taken, which fails with it.
      log.warn(`volume ${volume.name}: the note of its first writes stays: ${messageOf(error)}`);
    }
  }

  #hold(volume: Volume): void {
    volume.locked = true;
    volume.tenure++;
    // Others may have written through this node before the mapper ended.
    volume.written = true;
    volume.strangers = true;
    this.#held.push(volume.name);
  }

  /** Resolves when no composer goes on by leases of an earlier mapper. */
  async reclaim(): Promise<void> {
    const { clock, context, log } = this.#options;
    if (!this.#hadComposers) return;
    let late = false;
    await new Promise<void>((resolve) => {
      const cancel = clock.after(PATIENCE_MS, () => {
        late = true;
        resolve();
      });
      void context.leases.revokeInherited().then(() => {
        cancel();
        resolve();
      });
    });
    if (late) log.warn('a composer does not answer; what it was allowed to do has run out');
  }

  /** What failed is not tried again. */
  stop(): void {
    this.#stopped = true;
  }

  /**
   * Goes on with what was begun, takes the other locks back and releases what nobody uses; tries until it succeeds. To be called after
   * reclaim.
   */
  finish(): void {
    const { registry } = this.#options;
    for (const [name, record] of [...registry.records]) if (record.breaking) this.#resume(name);
    this.#until('locks that an earlier mapper left', () => this.#release());
  }

  #until(what: string, work: () => Promise<void>): void {
    const { clock, log } = this.#options;
    let told = false;
    const attempt = (): void => {
      if (this.#stopped) return;
      work().catch((error) => {
        if (!told) log.warn(`${what}: ${messageOf(error)}; it is tried again`);
        told = true;
        clock.after(AGAIN_MS, attempt);
      });
    };
    attempt();
  }

  /** @throws the first error, when all has been tried */
  async #release(): Promise<void> {
    const { context } = this.#options;
    let flushed: Promise<void> | null = null;
    const flush = (): Promise<void> => (flushed ??= this.#options.flushAll());
    let failure: unknown = null;
    const failed = (name: string) => (error: unknown) => {
      failure ??= new SystemError(errnoOf(error), `that of ${name} is not released: ${messageOf(error)}`, {
        cause: error,
      });
    };
    if (!this.#hadComposers) {
      for (const name of this.#held) await this.#releaseUnused(name, flush).catch(failed(name));
    }
    let cursor: string | null = null;
    do {
      const page = await context.locks.client.list(cursor, PAGE);
      for (const { name, after = [] } of page.locks) await this.#takeBack(name, after, flush).catch(failed(name));
      cursor = page.cursor;
    } while (cursor !== null);
    if (failure) throw failure;
  }

  #resume(name: string): void {
    const { breaking, context } = this.#options;
    const { volumes } = context;
    this.#until(`breaking the lock of ${name}`, () => volumes.use(name, (volume) => breaking.resume(volume)));
  }

  /** A lock that was held for clients of a composer that lives no more. */
  #releaseUnused(name: string, flush: () => Promise<void>): Promise<void> {
    const { locks } = this.#options.context;
    return this.#alone(name, async (volume) => {
      if (!volume.locked || volume.kept || volume.leases.size > 0) return;
      // Endpoints may have outlived it: the last of their clients gives the lock back.
      if (await this.#options.context.leases.isOpen(volume)) return;
      await locks.verify(volume);
      await this.#options.context.volumes.committer.conclude(volume, false);
      await this.#options.flushData(volume, flush);
      await locks.release(volume);
    });
  }

  /** @param after whom this node took the lock from, when the machine ended before that was done with */
  async #takeBack(name: string, after: readonly string[], flush: () => Promise<void>): Promise<void> {
    const { locks } = this.#options.context;
    const plain = plainName(name);
    if (plain !== name) {
      // Of an upgrade that was cut short, and that may be going on now under the gate of the volume.
      await this.#alone(plain, async () => {
        await locks.client.acquire(name);
        await locks.client.release(name, false);
      });
      return;
    }
    await this.#alone(name, async (volume) => {
      if (volume.locked || volume.lost || volume.breaking) return;
      if (after.length > 0) {
        const [holder, ...others] = after;
        volume.breaking = { id: randomUUID(), holder, after: others, until: this.#options.clock.now() + BREAK_MS };
        await locks.note(volume);
        this.#resume(name);
        return;
      }
      try {
        await locks.acquire(volume);
      } catch (error) {
        // Somebody was quicker.
        if (errnoOf(error) === errnos.EBUSY) return;
        throw error;
      }
      await this.#options.flushData(volume, flush);
      if (await this.#options.context.leases.isOpen(volume)) return;
      await locks.release(volume);
      this.#options.log.info(`took back and released the lock of ${name}, which an earlier mapper left`);
    });
  }

  #alone(name: string, work: (volume: Volume) => Promise<void>): Promise<void> {
    return this.#options.context.volumes.use(name, (volume) =>
      volume.gate.exclusive(() => volume.leasing.exclusive(() => work(volume))),
    );
  }
}
