/**
 * A store for the changes that an operation makes to volumes whose locks it holds: from the moment a lock is known to be lost no request
 * is sent, and none is begun by the blocker later than the locks are good for. Reads are of what is stored now, since nothing says
 * that they are of a locked volume (maps that are locked are read by StoredMap's own reader).
 */
import type { ObjectClient, ReadOptions } from '../../requests/object-client.js';
import { errnoOf, errnos, messageOf, SystemError } from '../../sys/errno.js';
import type { Clock } from '../clock.js';
import type { Volume } from '../volume.js';
import type { LockChecks } from './checks.js';
import { LostLock } from './lost.js';

/** The locks could not be looked at, for the reason of which this is the errno: no word of what was to be made durable. */
export class LookFailed extends SystemError {
  constructor(cause: unknown) {
    super(errnoOf(cause), `the lock cannot be looked at: ${messageOf(cause)}`, { cause });
    this.name = 'LookFailed';
  }
}

export class FencedObjects implements ObjectClient {
  readonly #plain: ObjectClient;
  readonly #timed: ObjectClient;
  readonly #flushing: ObjectClient;
  readonly #volumes: readonly Volume[];
  readonly #losses: readonly number[];
  readonly #checks: LockChecks;
  readonly #clock: Clock;

  /** @param volumes whose locks must be held; one that is not locked yet does not count until it is */
  constructor(plain: ObjectClient, volumes: readonly Volume[], checks: LockChecks, clock: Clock) {
    this.#plain = plain;
    this.#volumes = volumes;
    this.#losses = volumes.map((volume) => volume.losses);
    this.#checks = checks;
    this.#clock = clock;
    this.#timed = plain.withDeadline(() => this.#deadline());
    this.#flushing = plain.withDeadline(() => this.#until());
  }

  /** Looks in the store whether the locks are still held. @throws LostLock; SystemError when the store cannot be asked */
  async verify(): Promise<void> {
    this.#refuseLost();
    await Promise.all(this.#volumes.filter((volume) => volume.locked).map((volume) => this.#checks.verify(volume)));
    this.#refuseLost();
  }

  #refuseLost(): void {
    for (const [i, volume] of this.#volumes.entries()) {
      if (volume.lost || volume.losses !== this.#losses[i]) throw new LostLock(volume);
    }
  }

  /** Called for each request when it is sent. @throws LostLock */
  #deadline(): number {
    this.#refuseLost();
    return this.#until();
  }

  #until(): number {
    let until = Number.POSITIVE_INFINITY;
    for (const volume of this.#volumes) if (volume.locked) until = Math.min(until, volume.validUntil);
    return until === Number.POSITIVE_INFINITY ? 0 : until;
  }

  /** Whether a change could be begun now without another look at the locks. @throws LostLock */
  holds(): boolean {
    const until = this.#deadline();
    return until === 0 || this.#clock.now() < until;
  }

  async #change<T>(work: (objects: ObjectClient) => Promise<T>): Promise<T> {
    for (;;) {
      if (!this.holds()) await this.verify();
      try {
        return await work(this.#timed);
      } catch (error) {
        // The store came to it too late, and did nothing. Whoever still has the locks asks again.
        if (errnoOf(error) !== errnos.ETIME) throw error;
        await this.verify();
      }
    }
  }

  read(name: string, offset: number, length: number, { into }: ReadOptions = {}): Promise<Buffer> {
    return this.#plain.read(name, offset, length, { uncached: true, into });
  }
  write(name: string, offset: number, bytes: Uint8Array, options?: { fua?: boolean }): Promise<void> {
    return this.#change((objects) => objects.write(name, offset, bytes, options));
  }
  trim(name: string, offset: number, length: number): Promise<void> {
    return this.#change((objects) => objects.trim(name, offset, length));
  }
  writeZeroes(name: string, offset: number, length: number): Promise<void> {
    return this.#change((objects) => objects.writeZeroes(name, offset, length));
  }
  reset(names: readonly string[], durable: boolean): Promise<void> {
    return this.#change((objects) => objects.reset(names, durable));
  }
  copy(source: string, target: string, size: number, options: { durable: boolean; exclusive?: boolean }) {
    return this.#change((objects) => objects.copy(source, target, size, options));
  }
  delete(name: string): Promise<void> {
    return this.#change((objects) => objects.delete(name));
  }
  truncate(name: string, size: number): Promise<void> {
    return this.#change((objects) => objects.truncate(name, size));
  }
  hash(name: string, size: number): Promise<string> {
    return this.#change((objects) => objects.hash(name, size));
  }
  info(name: string): Promise<{ size: number; allocated: number; modified?: number }> {
    return this.#plain.info(name);
  }
  list(cursor: string | null, limit: number): ReturnType<ObjectClient['list']> {
    return this.#plain.list(cursor, limit);
  }
  /**
   * What was written becomes durable whatever the locks are; a copy that is not complete yet (Driver.flush) only as long as they are good.
   * @throws LookFailed
   */
  async flush(names: readonly string[] | null): Promise<void> {
    for (;;) {
      try {
        return await this.#flushing.flush(names);
      } catch (error) {
        if (errnoOf(error) !== errnos.ETIME) throw error;
        await this.verify().catch((failure) => {
          throw failure instanceof LostLock ? failure : new LookFailed(failure);
        });
      }
    }
  }
  forget(): Promise<void> {
    return this.#plain.forget();
  }
  withDeadline(deadline: () => number): ObjectClient {
    return this.#plain.withDeadline(deadline);
  }
  acquire(target: string): Promise<void> {
    return this.#plain.acquire(target);
  }
  release(target: string, force: boolean): Promise<void> {
    return this.#plain.release(target, force);
  }
  lockHolder(target: string): ReturnType<ObjectClient['lockHolder']> {
    return this.#plain.lockHolder(target);
  }
}
