/**
 * Locks on RADOS: taking and releasing them as the original does, and what it has not: saying whose they are, taking them back after a
 * crash, noticing their loss, mail, breaking and fencing.
 */
import { randomUUID } from 'node:crypto';
import type { Logger } from 'pino';
import type { Cluster, Pool } from '../../rados/types.js';
import type { Fenced, LockCheck, LockMail, LockNews, LockPage } from '../../requests/locks.js';
import { messageOf } from '../../sys/errno.js';
import type { LockHolder, LockService } from '../driver.js';
import { checkAddressee } from '../mail.js';
import { blocklist, fenceNode, HOUR, isRefused, WEEK } from './fencing.js';
import { type Attempts, Holding } from './holding.js';
import { KeptWatch } from './kept-watch.js';
import type { Self } from './lock-object.js';
import { Inbox, Outbox, toMessage } from './mail.js';
import { hasEnded, requireNone, thisProcess } from './namesake.js';
import { News } from './news.js';
import { type Client, changeClients, isFull, mailObject, nodeOf, withClient } from './registry.js';
import { LockWatches } from './watching.js';

/** Ceph has heard of the watch of the mail within this time, in ms; it is told every few seconds at least. */
const WATCH_ALIVE_MS = 10_000;
/** Until something is tried again that did not fit into the store, in ms. */
const RETRY_MS = 30_000;
/** How long the end may take, in ms. */
const CLOSE_MS = 3000;

/**
 * The driver's connection: its client of Ceph, and the next one when Ceph refuses it. `attempt` runs its work with the pool in the turn
 * in which there is a client that may be used, and again, with the next one's, when this one is refused (ESHUTDOWN).
 */
export interface LockConnection extends Attempts {
  readonly cluster: Cluster;
  readonly pool: Pool;
}

export interface RadosLocksOptions {
  readonly owner: string;
  readonly connection: LockConnection;
  readonly log: Pick<Logger, 'info' | 'warn'> | null;
}

export class RadosLocks implements LockService {
  readonly #owner: string;
  readonly #connection: LockConnection;
  readonly #log: RadosLocksOptions['log'];
  readonly #news = new News();
  readonly #inbox = new Inbox();
  readonly #outbox: Outbox;
  readonly #watches: LockWatches;
  readonly #mailWatch: KeptWatch;
  readonly #holding: Holding;
  /** Fencing that runs, by the owner that was named. */
  readonly #fencing = new Map<string, Promise<Fenced>>();
  /** Of putting this client on the list. */
  #retry: NodeJS.Timeout | null = null;
  #closed = false;
  /** Addresses of the clients that this was. */
  readonly #addresses = new Set<string>();
  /** The question whether another has this owner's name, while it is asked. */
  #question: { readonly id: string; readonly answered: (by: string) => void } | null = null;

  /** @throws SystemError EINVAL for an unusable owner string */
  constructor({ owner, connection, log }: RadosLocksOptions) {
    checkAddressee(owner);
    this.#owner = owner;
    this.#connection = connection;
    this.#log = log;
    const pool = (): Pool => connection.pool;
    this.#outbox = new Outbox(pool);
    this.#watches = new LockWatches(pool, (target) => this.#changed(target));
    this.#mailWatch = new KeptWatch({
      pool,
      object: mailObject(owner),
      notified: (bytes) => this.#received(bytes),
      broken: () => this.#holding.heard(),
      mended: () => this.#news.mail(),
    });
    this.#holding = new Holding({
      owner,
      connection,
      watches: this.#watches,
      self: () => this.#self(),
      wouldHear: () => this.#mailWatch.isAlive(WATCH_ALIVE_MS),
      broke: (target, holder) => this.#outbox.tell(holder, target),
      tookOver: (target, from) => log?.info(`took the lock of ${target} over from ${from}, this node's former client`),
    });
  }

  /**
   * To be called when there is a client, and before anything is sent to the store. A predecessor that was not closed is refused by Ceph
   * from then on: what it had under way when it was killed does not come after what is sent now.
   * Resolves to whether another node has had a predecessor refused, or is about to: then leases from before may rest on locks that it took.
   * @throws SystemError EBUSY when it lives
   */
  async open(): Promise<boolean> {
    const left = await this.#registerIfFits();
    try {
      await this.#watchMail();
      await this.#succeed(left);
    } catch (error) {
      await this.#leave();
      throw error;
    }
    return left.some(({ fencing, fenced }) => fencing !== undefined || fenced !== undefined);
  }

  /**
   * Makes sure that others of this owner string have ended, or are refused from now on, and takes them off the list.
   * @throws SystemError EBUSY when one of them lives
   */
  async #succeed(left: readonly Client[]): Promise<void> {
    const others = left.filter((client) => !this.#addresses.has(client.address) && !isRefused(client));
    const ended = others.filter(hasEnded);
    const perhapsLiving = others.filter((other) => !ended.includes(other));
    if (perhapsLiving.length > 0) await this.#askForNamesake();
    await this.#refuse(ended, HOUR);
    await this.#refuse(perhapsLiving, WEEK);
    await this.#forget(left);
  }

  async #refuse(clients: readonly Client[], seconds: number): Promise<void> {
    const addresses = clients.map(({ address }) => address);
    try {
      await blocklist(this.#connection.cluster, addresses, seconds);
    } catch (error) {
      this.#log?.warn(
        `an earlier client of this blocker, ${addresses.join(', ')}, was not closed, and Ceph was not told to refuse what it may still ` +
          `have under way: ${messageOf(error)}`,
      );
    }
  }

  async #askForNamesake(): Promise<void> {
    const id = randomUUID();
    const answer = new Promise<string>((resolve) => {
      this.#question = { id, answered: resolve };
    });
    try {
      await requireNone(this.#owner, () => this.#outbox.ask(this.#owner, id), answer);
    } finally {
      this.#question = null;
    }
  }

  /**
   * To be called when there is another client, before anything is sent through it. It may be a successor of this process that had the former
   * one refused, after this stood still for long.
   * @throws SystemError EBUSY when that one lives
   */
  async reconnected(): Promise<void> {
    this.#holding.heard();
    const left = await this.#registerIfFits();
    await this.#watchMail();
    try {
      await this.#succeed(left);
    } catch (error) {
      // Not to be found, nor to answer, before it is tried again.
      await this.#mailWatch.pause();
      await this.#unregister();
      throw error;
    }
    this.#watches.renewed();
    // There is much to look at: a client is refused because somebody took a lock.
    this.#news.mail();
  }

  /** A store that is full must be usable, or nobody could delete anything: what does not fit now is made when there is space. */
  async #registerIfFits(): Promise<readonly Client[]> {
    if (this.#retry) clearTimeout(this.#retry);
    this.#retry = null;
    try {
      return await this.#register();
    } catch (error) {
      if (!isFull(error)) throw error;
      this.#log?.warn(
        `this client is not on the list of those of its node, so that nobody can fence it: ${messageOf(error)}`,
      );
      this.#retry = setTimeout(() => {
        if (!this.#closed) this.#registerIfFits().catch(() => undefined);
      }, RETRY_MS).unref();
      return [];
    }
  }

  async #watchMail(): Promise<void> {
    try {
      await this.#mailWatch.begin();
    } catch (error) {
      if (!isFull(error)) throw error;
      this.#mailWatch.retry();
    }
  }

  /** To be called while there is a client. Ends in bounded time though Ceph does not answer: then Ceph and successors find out. */
  async close(): Promise<void> {
    this.#closed = true;
    if (this.#retry) clearTimeout(this.#retry);
    this.#news.close();
    this.#outbox.close();
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, CLOSE_MS);
    });
    await Promise.race([this.#leave(), late]);
    clearTimeout(timer);
  }

  async #leave(): Promise<void> {
    try {
      await Promise.all([this.#mailWatch.close(), this.#watches.close(), this.#holding.settled()]);
      await this.#unregister();
    } catch (error) {
      this.#log?.warn(`this client stays on the list of those of its node: ${messageOf(error)}`);
    }
  }

  async #unregister(): Promise<void> {
    const { cluster, pool } = this.#connection;
    const ours = new Set(cluster.addresses);
    await changeClients(pool, nodeOf(this.#owner), (clients) =>
      clients.filter(({ owner, address }) => owner !== this.#owner || !ours.has(address)),
    );
    for (const address of ours) this.#addresses.delete(address);
  }

  acquire(target: string): Promise<void> {
    return this.#holding.acquire(target);
  }

  release(target: string, force: boolean): Promise<void> {
    return this.#holding.release(target, force);
  }

  breakLock(target: string): Promise<LockHolder | null> {
    return this.#holding.break(target);
  }

  lockHolder(target: string): Promise<LockHolder | null> {
    return this.#holding.holder(target);
  }

  listLocks(cursor: string | null, limit: number): Promise<LockPage> {
    return this.#holding.list(cursor, limit);
  }

  async checkLocks(names: readonly string[], poll = false): Promise<LockCheck> {
    const lost = await this.#holding.check(names, poll);
    const mail = this.#inbox.take();
    if (!this.#inbox.isEmpty) this.#news.mail();
    return { lost, mail };
  }

  nextNews(ms: number): Promise<LockNews> {
    return this.#news.next(ms);
  }

  sendMail(to: string, mail: LockMail): Promise<void> {
    return this.#outbox.send(to, mail);
  }

  fence(owner: string): Promise<Fenced> {
    const running = this.#fencing.get(owner);
    if (running) return running;
    const fencing = this.#connection
      .attempt((pool) => fenceNode(this.#connection.cluster, pool, owner, this.#owner))
      .finally(() => this.#fencing.delete(owner));
    this.#fencing.set(owner, fencing);
    return fencing;
  }

  #self(): Self {
    const { instanceId, addresses } = this.#connection.cluster;
    return { owner: this.#owner, instance: instanceId, address: addresses[0] ?? '' };
  }

  #changed(target: string): void {
    this.#holding.heard(target);
    this.#news.changed(target);
  }

  #received(bytes: Buffer): void {
    const message = toMessage(bytes);
    if (!message) return;
    if ('changed' in message) this.#changed(message.changed);
    else if ('alive' in message) {
      if (message.alive === this.#question?.id) this.#question.answered(message.by);
    } else if ('ask' in message) {
      const { instanceId, addresses } = this.#connection.cluster;
      // Of two that ask each other at the same time one goes on.
      if (!this.#question || this.#question.id < message.ask) {
        this.#outbox.answer(this.#owner, message.ask, `client.${instanceId} at ${addresses[0]}`);
      }
    } else {
      const { letter } = message;
      // Who says that it broke a lock did so.
      if (letter.kind === 'broken') this.#holding.heard(letter.name);
      this.#inbox.put(letter);
      this.#news.mail();
    }
  }

  /** Puts this client on the list of its node. Resolves to those that this owner had before. */
  async #register(): Promise<readonly Client[]> {
    const { cluster, pool } = this.#connection;
    const instance = `client.${cluster.instanceId}`;
    const client = { owner: this.#owner, instance, since: Date.now(), process: thisProcess };
    const before = await changeClients(pool, nodeOf(this.#owner), (clients) =>
      cluster.addresses.reduce((all, address) => withClient(all, { ...client, address }), clients),
    );
    const ours = new Set(cluster.addresses);
    for (const address of ours) this.#addresses.add(address);
    return before.filter(({ owner, address }) => owner === this.#owner && !ours.has(address));
  }

  async #forget(left: readonly Client[]): Promise<void> {
    if (left.length === 0) return;
    const addresses = new Set(left.map(({ address }) => address));
    await changeClients(this.#connection.pool, nodeOf(this.#owner), (clients) =>
      clients.filter(({ owner, address }) => owner !== this.#owner || !addresses.has(address)),
    );
  }
}
