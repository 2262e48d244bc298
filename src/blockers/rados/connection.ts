/**
 * The driver's client of Ceph, and its successor when Ceph blocklists it. Another node that takes a lock by force has this node's clients
 * blocklisted: what they still send is refused with ESHUTDOWN, of all volumes. The locks that were not broken are still this node's, so
 * a new client takes over, and what was refused is sent again as far as its deadline allows.
 */
import { setTimeout as delay } from 'node:timers/promises';
import type { Logger } from 'pino';
import { connect } from '../../rados/index.js';
import type { Cluster, ClusterOptions, Pool } from '../../rados/types.js';
import { monotonicMs } from '../../sys/clock.js';
import { errnoOf, errnos, messageOf, SystemError } from '../../sys/errno.js';
import { isLate } from '../errors.js';
import type { Backlog } from './health.js';

/** Between attempts to get a new client, ms. */
const RETRY_MS = 1000;
/**
 * How long after a look at a lock its volume may be changed, ms (the mapper's VALID_MS): a deadline is that much later than the look it
 * rests on.
 */
const LEASE_MS = 3000;
/** How long the answers to what an old client has in flight are waited for, ms: where an OSD is down, none comes before it is up. */
const OLD_PATIENCE_MS = 600_000;
/** How often a failing attempt is told, ms. */
const TELL_MS = 60_000;

const NOTHING: Backlog = { count: 0, oldestSince: 0 };

export type Connect = (options: ClusterOptions) => Promise<Cluster>;

export interface ConnectionOptions {
  readonly pool: string;
  readonly namespace: string;
  readonly conf: string | null;
  readonly id: string | null;
  readonly log: Logger | null;
  /** Called with a new client before anything is sent through it. When it fails, another client is tried. */
  readonly renewed: () => Promise<void>;
  /** Default: librados. */
  readonly connect?: Connect;
}

interface Client {
  readonly cluster: Cluster;
  readonly pool: Pool;
}

/** Something that waits for a client. */
export interface Waiter {
  /** Until when it may be begun, as in ObjectIo; 0: at any time. */
  readonly deadline: number;
  /** There is one. */
  resume(): void;
  /** It ends with this errno. */
  refuse(errno: number): void;
}

export class Connection {
  readonly #options: ConnectionOptions;
  readonly #connect: Connect;
  readonly #ending = new AbortController();
  #cluster: Cluster | null = null;
  #pool: Pool | null = null;
  #waiting: Waiter[] = [];
  #renewing = false;
  /** When the current renewal began, ms of the monotonic clock. */
  #refusedSince = 0;
  /** What waits for the end of its time, and wakes it. */
  readonly #expiring = new Map<Waiter, NodeJS.Timeout>();
  /** Deadlines before this one rest on a look at a lock from before the client was refused, perhaps because that lock was taken. */
  #oldestDeadline = 0;
  /** Nothing is sent while this is false. */
  ready = false;
  /** How often a client was blocklisted. */
  blocklisted = 0;

  constructor(options: ConnectionOptions) {
    this.#options = options;
    this.#connect = options.connect ?? connect;
  }

  /** `pool blocks`, with its namespace: for messages. */
  get where(): string {
    const { pool, namespace } = this.#options;
    return namespace === '' ? `pool ${pool}` : `pool ${pool}, namespace ${namespace}`;
  }

  get cluster(): Cluster {
    if (this.#cluster === null) throw this.#closed();
    return this.#cluster;
  }

  /** @throws SystemError EBADF when it is closed */
  get pool(): Pool {
    if (this.#pool === null) throw this.#closed();
    return this.#pool;
  }

  get isOpen(): boolean {
    return this.#pool !== null;
  }

  /** What waits for Ceph, or for a client that it takes. */
  get backlog(): Backlog {
    const { count, oldestSince } = this.#cluster?.inFlight ?? NOTHING;
    if (this.#waiting.length === 0) return { count, oldestSince };
    const since = oldestSince === 0 ? this.#refusedSince : Math.min(oldestSince, this.#refusedSince);
    return { count: count + this.#waiting.length, oldestSince: since };
  }

  #closed(): SystemError {
    return new SystemError(errnos.EBADF, `${this.where} is closed`);
  }

  /** Connects; nothing is sent before `begin`. @throws SystemError */
  async open(): Promise<void> {
    const client = await this.#client();
    if (this.#ending.signal.aborted) {
      await client.cluster.close(0);
      throw this.#closed();
    }
    this.#take(client);
  }

  async #client(): Promise<Client> {
    const { pool, namespace, conf, id } = this.#options;
    const cluster = await this.#connect({ conf, id });
    try {
      return { cluster, pool: await cluster.pool(pool, namespace) };
    } catch (error) {
      await cluster.close(0);
      throw error;
    }
  }

  #take({ cluster, pool }: Client): void {
    this.#cluster = cluster;
    this.#pool = pool;
  }

  begin(): void {
    this.ready = true;
    const resumed = this.#waiting;
    this.#waiting = [];
    for (const waiter of resumed) waiter.resume();
  }

  /** Keeps a waiter until there is a client that may be used. */
  wait(waiter: Waiter): void {
    if (!this.isOpen) waiter.refuse(errnos.EBADF);
    else this.#waiting.push(waiter);
  }

  /**
   * Does this deadline rest on a look at a lock from before a former client was refused? Then nothing is changed on its word: on a machine
   * whose clock stood still, say a virtual one that was paused, it may look as if it had not passed.
   */
  isStale(deadline: number): boolean {
    return deadline !== 0 && deadline < this.#oldestDeadline;
  }

  /** From now on a deadline that rests on a look at a lock from before now is stale. */
  distrustLeases(): void {
    this.#oldestDeadline = monotonicMs() + LEASE_MS;
  }

  /** May a change with this deadline be begun now? */
  mayChange(deadline: number): boolean {
    return !this.isStale(deadline) && !isLate(deadline);
  }

  /**
   * Ends a waiter that may not change anything, with ETIME once its deadline has passed: not before, as whoever asks again then has looked
   * at the lock again.
   */
  expire(waiter: Waiter): void {
    const ms = Math.max(0, Math.ceil(waiter.deadline - monotonicMs()));
    const end = (): void => {
      this.#expiring.delete(waiter);
      waiter.refuse(errnos.ETIME);
    };
    this.#expiring.set(waiter, setTimeout(end, ms));
  }

  /** Resolves when there is a client that may be used. @throws SystemError EBADF when it is closed */
  #whenReady(): Promise<void> {
    if (this.ready) return Promise.resolve();
    return new Promise((resolve, reject) => {
      this.wait({ deadline: 0, resume: resolve, refuse: () => reject(this.#closed()) });
    });
  }

  /**
   * Does something with the pool, once more with a new client's whenever Ceph refuses the old one. `work` is called in the turn in which
   * the client is there, and checks its deadline in the turn in which it hands something to it.
   * @throws what work throws; SystemError EBADF when it is closed
   */
  async attempt<T>(work: (pool: Pool) => Promise<T>): Promise<T> {
    for (;;) {
      if (!this.ready) await this.#whenReady();
      // Another waiter may have found the next client refused, too.
      if (!this.ready) continue;
      const { pool } = this;
      try {
        return await work(pool);
      } catch (error) {
        if (!this.isRefusal(errnoOf(error), pool)) throw error;
      }
    }
  }

  /**
   * Does this errno of an operation on the pool say that Ceph refused the client, so that the operation was not done and can be sent
   * again? Then a new client is on its way, if it is not there yet. (If an OSD did it and died before it answered, it is done twice: the
   * same bytes again, or EEXIST, or ENOENT.)
   */
  isRefusal(errno: number, pool: Pool): boolean {
    if (!this.isOpen) return false;
    const isOld = pool !== this.#pool;
    // An old client that was given up answers nothing else; its operations were refused, or not begun.
    const isGone = isOld && (errno === errnos.ECANCELED || errno === errnos.ENOTCONN);
    if (errno !== errnos.ESHUTDOWN && !isGone) return false;
    if (!isOld && !this.#renewing) this.#beginRenewal();
    return true;
  }

  #beginRenewal(): void {
    this.ready = false;
    this.blocklisted++;
    this.#refusedSince = monotonicMs();
    this.#options.log?.error(
      `${this.where}: Ceph blocklisted this node's client client.${this.#cluster?.instanceId}: another node took locks of this one by ` +
        'force, or an administrator did it; connecting anew, volumes whose locks are still held go on',
    );
    void this.#renew();
  }

  async #renew(): Promise<void> {
    this.#renewing = true;
    // An attempt may take half a minute.
    const sweeping = setInterval(() => this.#refuseLate(), RETRY_MS);
    const renewed = await this.#tryOn();
    clearInterval(sweeping);
    this.#renewing = false;
    if (renewed && this.isOpen) this.begin();
  }

  /** Tries until there is a client that may be used (true), or this is closed. */
  async #tryOn(): Promise<boolean> {
    const { log, renewed } = this.#options;
    let told = Number.NEGATIVE_INFINITY;
    while (this.isOpen) {
      try {
        const client = await this.#client();
        if (!this.isOpen) {
          await client.cluster.close(0);
          return false;
        }
        // What is in flight at the old one is refused by and by, and then sent again.
        this.#cluster?.close(OLD_PATIENCE_MS).catch(() => undefined);
        this.#take(client);
        await renewed();
        if (!this.isOpen) return false;
        log?.warn(
          `${this.where}: connected anew as client.${client.cluster.instanceId}; ${this.#waiting.length} operations go on`,
        );
        this.distrustLeases();
        return true;
      } catch (error) {
        if (this.isOpen && monotonicMs() - told >= TELL_MS) {
          told = monotonicMs();
          log?.error(`${this.where}: cannot connect anew, trying on: ${messageOf(error)}`);
        }
      }
      await delay(RETRY_MS, undefined, { signal: this.#ending.signal }).catch(() => undefined);
    }
    return false;
  }

  /** Nobody has to wait for the end of what may not be done any more. */
  #refuseLate(): void {
    const late = this.#waiting.filter(({ deadline }) => isLate(deadline));
    if (late.length === 0) return;
    this.#waiting = this.#waiting.filter((waiter) => !late.includes(waiter));
    for (const waiter of late) waiter.refuse(errnos.ETIME);
  }

  /**
   * Ends. What waits is refused with EBADF.
   * @param patienceMs how long what is in flight is waited for
   */
  async close(patienceMs: number): Promise<void> {
    const cluster = this.#cluster;
    this.ready = false;
    this.#cluster = null;
    this.#pool = null;
    this.#ending.abort();
    for (const waiter of this.#waiting.splice(0)) waiter.refuse(errnos.EBADF);
    for (const [waiter, timer] of this.#expiring) {
      clearTimeout(timer);
      waiter.refuse(errnos.EBADF);
    }
    this.#expiring.clear();
    await cluster?.close(patienceMs);
  }
}
