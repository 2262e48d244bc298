/**
 * Leases: getting the right to use a volume's resolved map, and giving it back. A request that finds no lease waits here and is
 * dispatched again when there is one.
 */

import { ResolvedMap } from '../requests/resolved-map.js';
import { errnoOf, errnos, messageOf } from '../sys/errno.js';
import type { Request } from '../xseg/index.js';
import type { MapperClient } from './mapper-client.js';
import type { Volume } from './volume.js';

/** How long a volume that another node has locked is read without asking for the lock again. */
const RETRY_LOCK_MS = 1000;

export interface LeaseUser {
  /** Takes a request that waited and may go on. */
  dispatch(request: Request): void;
  /** A volume got no lease: it need not be remembered. @param gone there is no such volume any more */
  unused(volume: Volume, gone: boolean): void;
}

export class Leases {
  readonly #mapper: MapperClient;
  readonly #user: LeaseUser;

  constructor(mapper: MapperClient, user: LeaseUser) {
    this.#mapper = mapper;
    this.#user = user;
  }

  /**
   * May this request go on now? If not it is kept and dispatched later, or failed.
   * @param write it changes the volume
   */
  admit(volume: Volume, request: Request, write: boolean): boolean {
    if (volume.state !== 'held') {
      volume.waiting.push(request);
      if (volume.state === 'none') this.#acquire(volume);
      return false;
    }
    if (volume.map) return true;
    // Locked by another node: reads go on uncached, and now and then try to better the lease.
    if (write) {
      volume.waitingForLock.push(request);
      this.#acquireLock(volume);
      return false;
    }
    if (Date.now() - volume.triedAt > RETRY_LOCK_MS && volume.inFlight === 0) {
      volume.drop();
      volume.waiting.push(request);
      this.#acquire(volume);
      return false;
    }
    return true;
  }

  #acquire(volume: Volume): void {
    if (volume.acquiring) return;
    volume.acquiring = true;
    const { revocations } = volume;
    this.#mapper.lease(volume.key, false).then(
      (lease) => {
        volume.acquiring = false;
        if (this.#isOutdated(volume, revocations)) return;
        // One volume, one resolved map: two would not know of each other's changes.
        if (volume.key.assumeV0 && lease.version > 0) volume.hasHeader = true;
        // A write may have got the lock while this was on its way: its lease is the better one.
        else if (volume.state !== 'held') install(volume, lease);
        this.#redispatch(volume.waiting);
        if (volume.map) this.#redispatch(volume.waitingForLock);
      },
      (error: unknown) => {
        volume.acquiring = false;
        failAll(volume.waiting, error);
        this.#user.unused(volume, errnoOf(error) === errnos.ENOENT);
      },
    );
  }

  #acquireLock(volume: Volume): void {
    if (volume.acquiringLock) return;
    volume.acquiringLock = true;
    const { revocations } = volume;
    this.#mapper.lease(volume.key, true).then(
      (lease) => {
        volume.acquiringLock = false;
        if (this.#isOutdated(volume, revocations)) return;
        // A read may have found the lock free meanwhile: then its map is in use.
        if (!volume.map) install(volume, lease);
        if (!volume.map && !lease.readOnly) {
          failAll(volume.waitingForLock, {
            errno: errnos.EBUSY,
            message: `volume ${volume.key.name} is locked by ${lease.holder}`,
          });
          return;
        }
        this.#redispatch(volume.waitingForLock);
      },
      (error: unknown) => {
        volume.acquiringLock = false;
        failAll(volume.waitingForLock, error);
      },
    );
  }

  /**
   * Replies and requests of the mapper come by different queues: a revoke may overtake the lease that it takes back. Such a lease
   * is not used; who waits asks again.
   */
  #isOutdated(volume: Volume, revocations: number): boolean {
    if (volume.revocations === revocations) return false;
    volume.waiting.push(...volume.waitingForLock.splice(0));
    if (volume.state === 'none' && volume.waiting.length > 0) this.#acquire(volume);
    else if (volume.state === 'held') this.#redispatch(volume.waiting);
    return true;
  }

  /** An operation that used the lease is over. */
  release(volume: Volume): void {
    volume.inFlight--;
    if (volume.inFlight > 0 || volume.onDrained.length === 0) return;
    const drained = volume.onDrained;
    volume.onDrained = [];
    for (const callback of drained) callback();
  }

  /** REVOKE of the mapper: stop starting, let what runs finish, forget the map, then `done`. */
  revoke(volume: Volume, done: () => void): void {
    const dropped = (): void => {
      volume.drop();
      done();
      // Who came meanwhile asks for a new lease; the mapper answers when its operation is over.
      if (volume.waiting.length > 0) this.#acquire(volume);
    };
    volume.revocations++;
    if (volume.state === 'none') {
      done();
      return;
    }
    volume.state = 'draining';
    if (volume.inFlight === 0) dropped();
    else volume.onDrained.push(dropped);
  }

  #redispatch(queue: Request[]): void {
    for (const request of queue.splice(0)) this.#user.dispatch(request);
  }
}

function install(volume: Volume, lease: Awaited<ReturnType<MapperClient['lease']>>): void {
  volume.lease = lease;
  volume.state = 'held';
  volume.size = lease.size;
  volume.blockSize = lease.blockSize;
  volume.triedAt = Date.now();
  volume.map = lease.granted === 'none' ? null : new ResolvedMap(Math.ceil(lease.size / lease.blockSize));
}

function failAll(queue: Request[], error: unknown): void {
  const errno = errnoOf(error);
  const message = (error as { message?: string }).message ?? messageOf(error);
  for (const request of queue.splice(0)) request.fail(errno, message);
}
