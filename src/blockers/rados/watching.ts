/**
 * Watches of the lock objects that matter to this owner: of locks that it holds, where somebody may take them away, and of those that it
 * was refused lately, which it may be waiting for. Who releases or breaks a lock notifies the object; so does the original. A watch is
 * only a help: what it misses is found by looking.
 */
import type { Pool, Watch } from '../../rados/types.js';
import { lockObject } from './lock-object.js';

/** How long a lock that was refused is watched, in ms. */
const LINGER_MS = 60_000;
/** Most watches. Ceph's client tells the OSD of each now and then that it is alive, so that many cost more than looking does. */
export const MOST_WATCHES = 64;

interface Watched {
  held: boolean;
  /** Of one that is not held: ends it. */
  timer: NodeJS.Timeout | null;
  watch: Watch | null;
  ended: boolean;
}

export class LockWatches {
  readonly #pool: () => Pool;
  readonly #heard: (target: string) => void;
  /** By target; the oldest first. */
  readonly #watched = new Map<string, Watched>();
  /** Watches that are being ended. */
  readonly #ending = new Set<Promise<void>>();

  /** @param heard the lock may have changed hands. Called between tasks */
  constructor(pool: () => Pool, heard: (target: string) => void) {
    this.#pool = pool;
    this.#heard = heard;
  }

  get size(): number {
    return this.#watched.size;
  }

  /** Watches a lock that is held, until `drop`. */
  hold(target: string): void {
    this.#begin(target, true);
  }

  /** Watches a lock that was refused, for a while. */
  refused(target: string): void {
    this.#begin(target, false);
  }

  drop(target: string): void {
    const watched = this.#watched.get(target);
    if (!watched) return;
    this.#watched.delete(target);
    watched.ended = true;
    if (watched.timer) clearTimeout(watched.timer);
    if (watched.watch) this.#end(watched.watch);
  }

  /** The client is another one: its predecessor's watches have ended. */
  renewed(): void {
    const held = [...this.#watched];
    for (const [target] of held) this.drop(target);
    for (const [target, watched] of held) this.#begin(target, watched.held);
  }

  async close(): Promise<void> {
    for (const target of [...this.#watched.keys()]) this.drop(target);
    await Promise.all(this.#ending);
  }

  #begin(target: string, held: boolean): void {
    let watched = this.#watched.get(target);
    if (!watched) {
      if (this.#watched.size >= MOST_WATCHES && !this.#makeRoom()) return;
      watched = { held, timer: null, watch: null, ended: false };
      this.#watched.set(target, watched);
      void this.#watch(target, watched);
    }
    watched.held = held;
    if (watched.timer) clearTimeout(watched.timer);
    watched.timer = held ? null : setTimeout(() => this.drop(target), LINGER_MS).unref();
  }

  /** Locks that were refused give way. */
  #makeRoom(): boolean {
    for (const [target, { held }] of this.#watched) {
      if (held) continue;
      this.drop(target);
      return true;
    }
    return false;
  }

  async #watch(target: string, watched: Watched): Promise<void> {
    const hear = (): void => {
      if (this.#watched.has(target)) this.#heard(target);
    };
    let watch: Watch;
    try {
      watch = await this.#pool().watch(lockObject(target), {
        notified: hear,
        failed: () => {
          // Looking finds what is missed; the next refusal or taking of the lock watches it again.
          if (this.#watched.get(target) === watched) this.drop(target);
          this.#heard(target);
        },
      });
    } catch {
      if (this.#watched.get(target) === watched) this.drop(target);
      return;
    }
    if (watched.ended) {
      this.#end(watch);
      return;
    }
    watched.watch = watch;
    // What happened between the refusal and now was not heard.
    if (!watched.held) hear();
  }

  #end(watch: Watch): void {
    const ending = watch
      .end()
      .catch(() => undefined)
      .finally(() => this.#ending.delete(ending));
    this.#ending.add(ending);
  }
}
