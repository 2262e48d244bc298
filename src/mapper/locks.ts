/**
 * The exclusive lock of a volume in the store, which keeps other nodes out: taken without waiting, released by whoever took it,
 * so that a failed operation leaves nothing locked that it locked itself.
 */
import { errnoOf, errnos, messageOf, SystemError } from '../sys/errno.js';
import type { MapStore } from './map-store.js';
import type { Volume } from './volume.js';

/** Local time for people, `2026-03-01 10:04`. @param since ms since the epoch */
export function clockTime(since: number): string {
  const date = new Date(since);
  const two = (n: number): string => String(n).padStart(2, '0');
  return `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())} ${two(date.getHours())}:${two(date.getMinutes())}`;
}

export class Locks {
  readonly #maps: MapStore;

  constructor(maps: MapStore) {
    this.#maps = maps;
  }

  /**
   * Takes the lock of a volume unless this mapper has it. What was cached without it is dropped.
   * @returns whether it was taken now
   * @throws SystemError EBUSY with the holder, since when, and what to do
   */
  async acquire(volume: Volume): Promise<boolean> {
    if (volume.locked) return false;
    try {
      await this.#maps.objects.acquire(volume.name);
    } catch (error) {
      if (errnoOf(error) !== errnos.EBUSY) throw error;
      throw await this.#busy(volume.name, error);
    }
    volume.locked = true;
    volume.map = null;
    return true;
  }

  /**
   * Releases the lock if this mapper has it, after what was written of the map is durable: the next holder reads it. That the lock
   * was already taken away is no error: it is gone, as wanted.
   */
  async release(volume: Volume): Promise<void> {
    if (!volume.locked) return;
    await this.#maps.flush(volume.touched);
    try {
      await this.#maps.objects.release(volume.name, false);
    } catch (error) {
      if (errnoOf(error) !== errnos.ENOENT && errnoOf(error) !== errnos.EPERM) throw error;
    }
    volume.locked = false;
    volume.opened = false;
    volume.written = false;
    volume.map = null;
  }

  /**
   * Works with the lock held. A lock that was not held before is released afterwards, whatever happens; on failure the cached map
   * is dropped, since it may not be what is stored.
   */
  async during<T>(volume: Volume, work: () => Promise<T>): Promise<T> {
    const taken = await this.acquire(volume);
    let result: T;
    try {
      result = await work();
    } catch (error) {
      volume.map = null;
      if (taken) await this.#abandon(volume);
      throw error;
    }
    if (taken) await this.release(volume);
    return result;
  }

  /** Releases after a failure: the caller gets that failure, not what goes wrong here. */
  async #abandon(volume: Volume): Promise<void> {
    await this.#maps.flush(volume.touched).catch(() => volume.touched.clear());
    await this.release(volume).catch(() => {});
  }

  async #busy(volume: string, cause: unknown): Promise<SystemError> {
    try {
      const holder = await this.#maps.objects.lockHolder(volume);
      if (holder) {
        const since = holder.since === null ? '' : ` since ${clockTime(holder.since)}`;
        const host = holder.owner.replace(/_\d+$/, '');
        return new SystemError(
          errnos.EBUSY,
          `volume ${volume} is locked by ${holder.owner}${since}; run vlmc unlock -f ${volume} once ${host} is down`,
          { cause },
        );
      }
    } catch {
      // The holder is only for the message; the store's own follows.
    }
    return new SystemError(errnos.EBUSY, `volume ${volume} is locked: ${messageOf(cause)}`, { cause });
  }
}
