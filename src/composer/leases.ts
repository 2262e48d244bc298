/**
 * Leases: getting the right to use a volume's resolved map, and giving it back. A request that finds no lease waits here and is
 * dispatched again when there is one.
 */

import { Flag } from '../requests/ops.js';
import { ResolvedMap } from '../requests/resolved-map.js';
import { monotonicMs } from '../sys/clock.js';
import { errnoOf, errnos, messageOf } from '../sys/errno.js';
import type { Request } from '../xseg/index.js';
import { isAbandoned } from './abandoned.js';
import type { MapperClient } from './mapper-client.js';
import { Halt, type Volume } from './volume.js';

/** How long a volume that another node has locked is read without asking for the lock again. */
const RETRY_LOCK_MS = 1000;
/** A lease that ran out within this time of being granted is not asked for again sooner: its mapper's store is too slow. */
const EXPIRED_PAUSE_MS = 200;

export interface LeaseUser {
  /** Takes a request that waited and may go on. */
  dispatch(request: Request): void;
  /** A volume got no lease: it need not be remembered. @param gone there is no such volume any more */
  unused(volume: Volume, gone: boolean): void;
  /** Makes durable what was written to the volume's objects. @throws SystemError */
  flushData(volume: Volume): Promise<void>;
  /** The volume is halted: what waits for something else than an answer is looked at. */
  halted(volume: Volume): void;
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
      this.wait(volume, request);
      return false;
    }
    if (volume.map) return true;
    // Locked by another node: reads go on uncached, and now and then try to better the lease.
    if (write) {
      if (isAbandoned(request)) {
        abandon(request);
        return false;
      }
      if (park(volume, request)) return false;
      volume.waitingForLock.push(request);
      this.#acquireLock(volume);
      return false;
    }
    if (Date.now() - volume.triedAt <= RETRY_LOCK_MS) return true;
    volume.triedAt = Date.now();
    if (volume.inFlight > 0) {
      // A reader that never pauses must get a better lease as well: its reads go on meanwhile.
      this.#acquire(volume);
      return true;
    }
    volume.drop();
    this.wait(volume, request);
    return false;
  }

  /** Keeps a request until there is a lease. */
  wait(volume: Volume, request: Request): void {
    volume.waiting.push(request);
    if (volume.state === 'none') this.#acquire(volume);
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
        else if (volume.state === 'none' || (volume.state === 'held' && !volume.map)) install(volume, lease);
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
        this.#endLockWait(volume);
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
        const abandoned = this.#endLockWait(volume);
        // It ended for those who are gone; who came after them waits on.
        if (abandoned && errnoOf(error) === errnos.ECANCELED) {
          if (volume.waitingForLock.length > 0) this.#acquireLock(volume);
        } else failAll(volume.waitingForLock, error);
      },
    );
  }

  #endLockWait(volume: Volume): boolean {
    const { abandoned } = volume;
    volume.acquiringLock = false;
    volume.abandoned = false;
    return abandoned;
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

  /** Ends the waiting for a lock of those whom nobody waits for any more. */
  abandonWaiting(volume: Volume): void {
    const { waitingForLock } = volume;
    const left = waitingForLock.splice(0);
    for (const request of left) {
      if (isAbandoned(request)) abandon(request);
      else waitingForLock.push(request);
    }
    if (waitingForLock.length === left.length || waitingForLock.length > 0 || !volume.acquiringLock) return;
    volume.abandoned = true;
    // When the mapper cannot be told, the wait ends by itself.
    this.#mapper.abandon(volume.key).catch(() => {});
  }

  /** RENEW of the mapper. @param until see LeaseReply */
  renew(volume: Volume, until: number): void {
    if (volume.lease?.granted === 'exclusive' && until > volume.until) volume.until = until;
  }

  /** A blocker refused to begin a request, for the lease had run out: it is dropped, and asked for again by who waits. */
  expire(volume: Volume): void {
    if (volume.state !== 'held') return;
    volume.state = 'draining';
    volume.halt = Halt.EXPIRED;
    this.#user.halted(volume);
  }

  /** An operation that used the lease is over. */
  release(volume: Volume): void {
    volume.inFlight--;
    if (volume.inFlight === 0 && volume.state === 'draining') this.#drained(volume);
  }

  /**
   * REVOKE of the mapper: stop starting, let what runs finish, forget the map, then `done`.
   * @param flush what was written is durable before `done`, which gets the error otherwise
   */
  revoke(volume: Volume, flush: boolean, done: (error: unknown) => void): void {
    volume.revocations++;
    if (volume.state === 'none') {
      if (flush) this.#makeDurable(volume).then(done);
      else done(null);
      return;
    }
    volume.state = 'draining';
    volume.drains.push({ flush, error: null, done });
    if (volume.inFlight === 0) this.#drained(volume);
  }

  /**
   * REVOKE with LOST: another node has the lock. Nothing that was not sent may be; what waits fails.
   * @param reason a sentence for who asks
   */
  lose(volume: Volume, reason: string, done: () => void): void {
    volume.revocations++;
    volume.lost = reason;
    failAll(volume.waiting, { errno: errnos.EIO, message: reason });
    failAll(volume.waitingForLock, { errno: errnos.EIO, message: reason });
    if (volume.state === 'none') {
      volume.forgetWritten();
      done();
      return;
    }
    volume.state = 'draining';
    volume.halt = Halt.LOST;
    volume.drains.push({ flush: false, error: null, done });
    this.#user.halted(volume);
    if (volume.state === 'draining' && volume.inFlight === 0) this.#drained(volume);
  }

  /** Nothing is in flight: drops the lease, after a flush where one is asked for. */
  #drained(volume: Volume): void {
    if (volume.drainFlushing) return;
    const flushing = volume.drains.filter(({ flush }) => flush);
    if (flushing.length > 0 && volume.halt !== Halt.LOST) {
      volume.drainFlushing = true;
      this.#makeDurable(volume).then((error) => {
        volume.drainFlushing = false;
        for (const drain of flushing) Object.assign(drain, { flush: false, error });
        // More may have come meanwhile.
        this.#drained(volume);
      });
      return;
    }
    const { drains, lost, halt } = volume;
    const early = halt === Halt.EXPIRED && monotonicMs() - volume.grantedAt < EXPIRED_PAUSE_MS;
    volume.drains = [];
    volume.drop();
    for (const { flush, error, done } of drains) done(flush ? { errno: errnos.EIO, message: lost } : error);
    // Who came meanwhile asks for a new lease; the mapper answers when its operation is over.
    if (volume.waiting.length === 0) return;
    if (early) this.#acquireLater(volume);
    else this.#acquire(volume);
  }

  /** Resolves to what went wrong, or null. */
  async #makeDurable(volume: Volume): Promise<unknown> {
    const { written } = volume;
    // The mapper, who asks for it, does the rest: it lets go of the lock only when that is this node's still.
    volume.written = false;
    try {
      await this.#user.flushData(volume);
      return null;
    } catch (error) {
      volume.written ||= written;
      return error;
    }
  }

  #acquireLater(volume: Volume): void {
    if (volume.acquiring) return;
    volume.acquiring = true;
    setTimeout(() => {
      volume.acquiring = false;
      if (volume.state === 'none' && volume.waiting.length > 0) this.#acquire(volume);
    }, EXPIRED_PAUSE_MS).unref();
  }

  #redispatch(queue: Request[]): void {
    for (const request of queue.splice(0)) this.#user.dispatch(request);
  }
}

function install(volume: Volume, lease: Awaited<ReturnType<MapperClient['lease']>>): void {
  volume.lease = lease;
  volume.seal = null;
  volume.state = 'held';
  volume.size = lease.size;
  volume.blockSize = lease.blockSize;
  volume.triedAt = Date.now();
  volume.grantedAt = monotonicMs();
  volume.until = lease.granted === 'exclusive' ? (lease.until ?? 0) : 0;
  volume.map = lease.granted === 'none' ? null : new ResolvedMap(Math.ceil(lease.size / lease.blockSize));
  // The mapper grants none before the volume is closed or opened: somebody has done that without this composer.
  volume.lossUntold = volume.lost ?? volume.lossUntold;
  volume.lost = null;
}

/** One waits for all of an asker who can keep the others: the records of requests are few, and other volumes need them. */
function park(volume: Volume, request: Request): boolean {
  const { src, flags } = request;
  if ((flags & Flag.MAY_PARK) === 0 || !volume.waitingForLock.some((waiting) => waiting.src === src)) return false;
  request.flags = flags | Flag.PARKED;
  request.fail(errnos.EAGAIN, `others wait for the lock of volume ${volume.key.name} already`);
  return true;
}

function abandon(request: Request): void {
  request.fail(errnos.ECANCELED, `the client that waited for the lock of volume ${request.target} is gone`);
}

function failAll(queue: Request[], error: unknown): void {
  const errno = errnoOf(error);
  const message = (error as { message?: string }).message ?? messageOf(error);
  for (const request of queue.splice(0)) request.fail(errno, message);
}
