/**
 * The rados driver: objects of a pool, byte-compatible with the original's (ondisk.md 3): the name is the RADOS object's, the content is
 * in place. What Ceph has acknowledged is durable, so nothing is kept here and nothing is owed.
 */
import type { Logger } from 'pino';
import type { Pool } from '../../rados/types.js';
import type { Fenced, LockCheck, LockMail, LockNews, LockPage } from '../../requests/locks.js';
import { monotonicMs } from '../../sys/clock.js';
import { errnoOf, errnos, messageOf, SystemError } from '../../sys/errno.js';
import type { Driver, DriverCapabilities, ListPage, LockHolder, ObjectInfo, ObjectIo } from '../driver.js';
import { checkName, checkOwner } from '../names.js';
import { neededCapabilities, requirePool } from './capabilities.js';
import { type Connect, Connection } from './connection.js';
import { Health } from './health.js';
import { RadosIo } from './io.js';
import { Listing } from './listing.js';
import { RadosLocks } from './locks.js';
import { RadosObjects } from './objects.js';

/** The largest data buffer of a segment. */
const MAX_IO = 4 << 20;
/**
 * How long opening may take, ms. librados gives up monitors that do not answer after 30 s, OSDs never. The supervisor waits for a minute.
 */
const OPEN_LIMIT_MS = 45_000;
/** How long close waits for what is in flight, ms. */
const CLOSE_PATIENCE_MS = 5000;

export interface RadosDriverSettings {
  readonly pool: string;
  /** '' is the pool's own. */
  readonly namespace?: string;
  /** Path of ceph.conf; null: librados' own search path. */
  readonly conf?: string | null;
  /** CephX user without `client.`; null: librados' default. */
  readonly cephxId?: string | null;
  /** Owner string of this driver's locks, `<hostname>_<first port>`. */
  readonly uniqueStr: string;
  /** The store is one of maps: locks are taken there. */
  readonly locks?: boolean;
  readonly log?: Logger;
  /** Default: librados. */
  readonly connect?: Connect;
}

export class RadosDriver implements Driver {
  readonly capabilities: DriverCapabilities = {
    durableOnAck: true,
    // Trim does give space back, but a client cannot see how much an object takes.
    sparse: false,
    serverSideCopy: false,
    nativeLocks: true,
    maxIo: MAX_IO,
  };
  readonly #settings: RadosDriverSettings;
  readonly #connection: Connection;
  readonly #health: Health;
  readonly #io: RadosIo;
  readonly #objects: RadosObjects;
  readonly #listing = new Listing();
  readonly #locks: RadosLocks;

  /** @throws SystemError EINVAL for an unusable owner string */
  constructor(settings: RadosDriverSettings) {
    const { pool, namespace = '', conf = null, cephxId: id = null, uniqueStr, log = null, connect } = settings;
    checkOwner(uniqueStr);
    this.#settings = settings;
    const renewed = () => this.#locks.reconnected();
    const connection = new Connection({ pool, namespace, conf, id, log, renewed, connect });
    this.#connection = connection;
    this.#health = new Health(connection.where, log, () => connection.backlog);
    const failed = (errno: number): void => this.#health.failed(errno);
    this.#io = new RadosIo(connection, failed);
    this.#objects = new RadosObjects(
      (work) => this.#attempt(work),
      (deadline) => connection.mayChange(deadline),
    );
    this.#locks = new RadosLocks({ owner: uniqueStr, connection, log });
  }

  /** @throws SystemError that names pool, configuration and user, and says what to do */
  async open(): Promise<void> {
    try {
      await within(OPEN_LIMIT_MS, this.#ask());
    } catch (error) {
      await this.#connection.close(0);
      throw this.#openError(error);
    }
    this.#connection.begin();
    this.#health.start();
  }

  async #ask(): Promise<void> {
    await this.#connection.open();
    if (await this.#locks.open()) this.#connection.distrustLeases();
    await requirePool(this.#connection.pool, this.#settings.locks === true);
  }

  #openError(error: unknown): SystemError {
    const { pool, namespace = '', locks = false, conf, cephxId } = this.#settings;
    const user = cephxId ? `client.${cephxId}` : 'the default user';
    const from = `${this.#connection.where} cannot be used (${conf ?? 'the default ceph.conf'}, ${user})`;
    // The OSDs do not say which right is missing.
    const forbidden = errnoOf(error) === errnos.EPERM;
    const needs = forbidden ? `; ${user} needs ${neededCapabilities({ pool, namespace, locks })} for this pool` : '';
    return new SystemError(errnoOf(error), `${from}: ${messageOf(error)}${needs}`, { cause: error });
  }

  async close(): Promise<void> {
    this.#health.stop();
    try {
      if (this.#connection.isOpen) await within(CLOSE_PATIENCE_MS, this.#locks.close());
    } catch (error) {
      // What it leaves in the store is its successor's to find; the store may be down.
      this.#settings.log?.warn(`${this.#connection.where}: closing: ${messageOf(error)}`);
    } finally {
      await this.#connection.close(CLOSE_PATIENCE_MS);
    }
  }

  /** Where the objects are and how Ceph does, for STATUS. */
  status(): object {
    const { pool, namespace = '', conf = null, cephxId = null } = this.#settings;
    const connection = this.#connection;
    const { count, oldestSince } = connection.backlog;
    return {
      driver: 'rados',
      pool,
      namespace,
      conf,
      user: cephxId,
      ...(connection.isOpen && {
        fsid: connection.cluster.fsid,
        client: `client.${connection.cluster.instanceId}`,
        addresses: connection.cluster.addresses,
      }),
      inFlight: count,
      oldestMs: oldestSince === 0 ? 0 : Math.round(monotonicMs() - oldestSince),
      trouble: this.#health.trouble(connection.isOpen && !connection.ready),
      slowSince: this.#health.slowSince,
      lastFull: this.#health.lastFull,
      blocklisted: connection.blocklisted,
      reconnecting: connection.isOpen && !connection.ready,
    };
  }

  read(io: ObjectIo): void {
    this.#io.read(io);
  }

  write(io: ObjectIo): void {
    this.#io.write(io);
  }

  trim(io: ObjectIo): void {
    this.#io.trim(io);
  }

  writeZeroes(io: ObjectIo): void {
    this.#io.writeZeroes(io);
  }

  /** All that was acknowledged is durable, whoever wrote it. */
  async flush(): Promise<void> {}

  /** Nothing of the store is kept. */
  forget(): void {}

  async #attempt<T>(work: (pool: Pool) => Promise<T>): Promise<T> {
    try {
      return await this.#connection.attempt(work);
    } catch (error) {
      this.#health.failed(errnoOf(error));
      throw error;
    }
  }

  async reset(name: string, _durable: boolean, deadline = 0): Promise<void> {
    checkName(name);
    await this.#objects.reset(name, deadline);
  }

  async copy(
    source: string,
    target: string,
    size: number,
    options: { durable: boolean; exclusive: boolean; deadline?: number },
  ): Promise<void> {
    checkName(source);
    checkName(target);
    await this.#objects.copy(source, target, size, options.exclusive, options.deadline ?? 0);
  }

  async delete(name: string, deadline = 0): Promise<void> {
    checkName(name);
    await this.#objects.delete(name, deadline);
  }

  async info(name: string): Promise<ObjectInfo> {
    checkName(name);
    return await this.#objects.info(name);
  }

  async truncate(name: string, size: number, deadline = 0): Promise<void> {
    checkName(name);
    await this.#objects.truncate(name, size, deadline);
  }

  async hash(name: string, size: number): Promise<string> {
    checkName(`${name}_hash`);
    return await this.#objects.hash(name, size);
  }

  list(cursor: string | null, limit: number): Promise<ListPage> {
    return this.#attempt((pool) => this.#listing.page(pool, cursor, limit));
  }

  acquire(target: string): Promise<void> {
    return this.#locks.acquire(target);
  }

  release(target: string, force: boolean): Promise<void> {
    return this.#locks.release(target, force);
  }

  lockHolder(target: string): Promise<LockHolder | null> {
    return this.#locks.lockHolder(target);
  }

  breakLock(target: string): Promise<LockHolder | null> {
    return this.#locks.breakLock(target);
  }

  checkLocks(names: readonly string[], poll = false): Promise<LockCheck> {
    return this.#locks.checkLocks(names, poll);
  }

  sendMail(to: string, mail: LockMail): Promise<void> {
    return this.#locks.sendMail(to, mail);
  }

  listLocks(cursor: string | null, limit: number): Promise<LockPage> {
    return this.#locks.listLocks(cursor, limit);
  }

  nextNews(ms: number): Promise<LockNews> {
    return this.#locks.nextNews(ms);
  }

  fence(owner: string): Promise<Fenced> {
    return this.#locks.fence(owner);
  }
}

/** @throws SystemError ETIMEDOUT when it takes longer; it goes on by itself then */
async function within<T>(ms: number, work: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    const why = `Ceph has not answered for ${ms / 1000} s: see ceph -s`;
    timer = setTimeout(() => reject(new SystemError(errnos.ETIMEDOUT, why)), ms);
  });
  try {
    return await Promise.race([work, late]);
  } finally {
    clearTimeout(timer);
    work.catch(() => undefined);
  }
}
