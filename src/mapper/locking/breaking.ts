/**
 * Breaking another node's lock (vlmc unlock -f). The lock is this node's from then on, and it is used for nothing until nothing of the
 * old holder can reach the store: that one says so, or its time is over and the stores that can refuse it do. Only then it is released.
 */
import { randomUUID } from 'node:crypto';
import type { LockInfo } from '../../requests/json.js';
import type { LockClient } from '../../requests/lock-client.js';
import type { StoreFenced } from '../../requests/locks.js';
import type { Once } from '../../requests/once.js';
import { errnoOf, errnos, messageOf, SystemError } from '../../sys/errno.js';
import type { Clock } from '../clock.js';
import type { MapperLog } from '../context.js';
import type { Break, Volume, Volumes } from '../volume.js';
import type { Fencing } from './fencing.js';

/** How often the old holder is told, in ms. */
const TELL_MS = 300;
/**
 * How long it has, in ms, from the moment it no longer holds the lock: 3 s until its leases have run out (VALID_MS), and what its
 * kernel is executing then.
 */
export const PATIENCE_MS = 5000;

/** Note of a request that has the lock which it was about: delivered again, it does not mean whoever has it then. */
export const DONE = 'done';

/** What RELEASE with FORCE answers. */
export interface UnlockReply {
  /** The owner string that had the lock; null when it was this node's. */
  readonly holder: string | null;
  /** It said that nothing of it is under way any more; otherwise its time was waited out. */
  readonly confirmed: boolean;
  readonly waitedMs: number;
  /** What each store did to refuse a holder that did not say so; null where there was nothing to do. */
  readonly fenced: readonly StoreFenced[] | null;
}

export interface BreakingOptions {
  readonly client: LockClient;
  /** This node's owner string. */
  readonly owner: string;
  readonly volumes: Volumes;
  readonly clock: Clock;
  readonly log: MapperLog;
  readonly note: (volume: Volume) => Promise<void>;
  readonly fencing: Fencing;
  /** Whether the lock in the store is this node's. */
  readonly isOurs: (name: string) => Promise<boolean>;
  /** Mail is to be read from now on. */
  readonly begun: () => void;
}

export class Breaking {
  readonly #options: BreakingOptions;
  /** Ends the waiting for an answer, by the volume's name. */
  readonly #answers = new Map<string, { id: string; answered: () => void }>();
  /** What runs; null: there turned out to be nothing to go on with. */
  readonly #running = new Map<string, Promise<UnlockReply | null>>();

  constructor(options: BreakingOptions) {
    this.#options = options;
  }

  /** The old holder has ended. */
  gone(volume: Volume, id: string): void {
    const waiting = this.#answers.get(volume.name);
    if (waiting?.id === id) waiting.answered();
  }

  /**
   * Breaks the lock, which this mapper does not hold, waits and releases it.
   * @param once of the request
   * @throws SystemError ENOENT when nobody holds it
   */
  async run(volume: Volume, once: Once): Promise<UnlockReply> {
    for (;;) {
      const { name, breaking } = volume;
      const running = this.#running.get(name);
      const reply = await (running ?? this.#start(name, () => this.#goOn(volume, breaking, once)));
      if (reply) return reply;
      if (!running) throw new SystemError(errnos.EIO, `the lock of ${name} was not broken, for no reason`);
    }
  }

  async #goOn(volume: Volume, breaking: Break | null, once: Once): Promise<UnlockReply> {
    if (breaking) {
      const ended = await this.#resume(volume, breaking);
      if (ended) return ended;
    }
    // An earlier mapper was done with it, but for saying so.
    if (once.note === DONE) {
      return { holder: breaking?.holder ?? null, confirmed: breaking === null, waitedMs: 0, fenced: null };
    }
    return this.#break(volume, once);
  }

  /** Goes on with what an earlier mapper of this node began. Who asks for it again meanwhile shares it. */
  async resume(volume: Volume): Promise<void> {
    const { name, breaking } = volume;
    if (breaking && !this.#running.has(name)) await this.#start(name, () => this.#resume(volume, breaking));
  }

  /** Waits for the rest of the time; null when the earlier mapper had not come to break the lock, or was done with it. */
  async #resume(volume: Volume, breaking: Break): Promise<UnlockReply | null> {
    if (await this.#options.isOurs(volume.name)) return this.#wait(volume, breaking);
    volume.breaking = null;
    await this.#options.note(volume);
    return null;
  }

  #start(name: string, work: () => Promise<UnlockReply | null>): Promise<UnlockReply | null> {
    const running = work().finally(() => this.#running.delete(name));
    this.#running.set(name, running);
    return running;
  }

  async #break(volume: Volume, once: Once): Promise<UnlockReply> {
    const { client, clock, note, volumes } = this.#options;
    const { name } = volume;
    const broken = await volume.locking.exclusive(async () => {
      if (volume.locked) throw new SystemError(errnos.EBUSY, `volume ${name} was just locked by this node`);
      const before = await client.holder(name);
      if (!before) throw new SystemError(errnos.ENOENT, `volume ${name} is not locked`);
      // Noted before it is done: a mapper that dies in between must not give the lock to anybody too early.
      const breaking: Break = {
        id: randomUUID(),
        holder: before.owner,
        after: before.after ?? [],
        until: clock.now() + 2 * PATIENCE_MS,
      };
      volume.breaking = breaking;
      volumes.committer.forget(volume);
      await note(volume);
      const previous = await this.#take(volume, before);
      once.note = DONE;
      // The blocker may have died after it did it and before it answered: its successor then found the lock this node's already.
      const twice = previous?.owner === this.#options.owner;
      const holder = twice ? before.owner : (previous?.owner ?? null);
      const waits = holder !== null && holder !== this.#options.owner;
      volume.breaking = {
        id: breaking.id,
        holder: holder ?? before.owner,
        after: (twice ? before : previous)?.after ?? [],
        until: clock.now() + (waits ? PATIENCE_MS : 0),
      };
      await note(volume);
      return volume.breaking;
    });
    return this.#wait(volume, broken);
  }

  /** What fails may have been done all the same: then whoever had the lock is waited for. While that is not known, nobody gets it. */
  async #take(volume: Volume, before: LockInfo): Promise<LockInfo | null> {
    try {
      return await this.#options.client.break(volume.name);
    } catch (error) {
      if (await this.#options.isOurs(volume.name)) return before;
      volume.breaking = null;
      await this.#options.note(volume);
      throw error;
    }
  }

  async #wait(volume: Volume, broken: Break): Promise<UnlockReply> {
    const { client, clock, fencing, log, note, owner, begun } = this.#options;
    const { name } = volume;
    const from = clock.now();
    begun();
    let confirmed = false;
    let answered = (): void => {};
    const answer = new Promise<void>((resolve) => (answered = resolve)).then(() => {
      confirmed = true;
    });
    this.#answers.set(name, { id: broken.id, answered });
    let complained = false;
    try {
      while (!confirmed && clock.now() < broken.until) {
        await client.mail(broken.holder, { kind: 'broken', name, from: owner, id: broken.id }).catch((error) => {
          if (!complained) log.info(`${broken.holder} cannot be told that its lock was broken: ${messageOf(error)}`);
          complained = true;
        });
        let cancel = (): void => {};
        const pause = new Promise<void>((resolve) => {
          cancel = clock.after(Math.max(0, Math.min(TELL_MS, broken.until - clock.now())), resolve);
        });
        await Promise.race([answer, pause]);
        cancel();
      }
    } finally {
      this.#answers.delete(name);
    }
    const holder = broken.holder === owner ? null : broken.holder;
    // Before anybody gets the lock: what the old holder sent is refused from then on. One that has answered is left alone: all its other
    // volumes would fail with it. But it answers for itself only: one that was started anew does not remember whom it broke.
    const silent = confirmed || holder === null ? broken.after : [holder, ...broken.after];
    const fenced = silent.length === 0 ? null : await fencing.run(silent);
    // Whom a store does not refuse may write for as long as it was allowed to: that began before its lock was taken.
    const left = broken.until - clock.now();
    if (left > 0 && fenced?.some(({ failed }) => failed !== null)) {
      await new Promise<void>((resolve) => void clock.after(left, resolve));
    }
    await volume.locking.exclusive(async () => {
      await client.release(name, false).catch((error) => {
        // Somebody broke it in turn. Otherwise it stays as it is for whoever tries again.
        if (errnoOf(error) !== errnos.ENOENT && errnoOf(error) !== errnos.EPERM) throw error;
      });
      volume.breaking = null;
    });
    await note(volume);
    return { holder, confirmed: confirmed || holder === null, waitedMs: Math.round(clock.now() - from), fenced };
  }
}
