/** Locks as the mapper sees them: the operations of blockerm on locks as promises. */

import { decodeJson, encodeJson, type LockInfo } from './json.js';
import type { Fenced, LockCheck, LockMail, LockNews, LockPage } from './locks.js';
import type { Caller } from './object-client.js';
import { Flag, Op } from './ops.js';

/** Most bytes of an answer. */
const CAPACITY = 256 << 10;
/** Most names of one LOCKCHECK: their losses fit the answer. */
const NAMES = 512;

/** All reject with a SystemError. See LockService of blockers/driver.ts. */
export interface LockClient {
  /** Takes the exclusive lock, at once; fine when this owner has it. @throws EBUSY naming the holder */
  acquire(target: string): Promise<void>;
  /** @throws ENOENT when not locked, EPERM when another owner holds it and force is false */
  release(target: string, force: boolean): Promise<void>;
  holder(target: string): Promise<LockInfo | null>;
  /** @param poll see LockService.checkLocks */
  check(names: readonly string[], poll?: boolean): Promise<LockCheck>;
  break(target: string): Promise<LockInfo | null>;
  mail(to: string, mail: LockMail): Promise<void>;
  list(cursor: string | null, limit: number): Promise<LockPage>;
  /** Waits for news up to `ms`; @throws EOPNOTSUPP where the store tells nothing by itself */
  news(ms: number): Promise<LockNews>;
  /** @throws EOPNOTSUPP where the store cannot refuse anybody; EACCES, ENOENT */
  fence(owner: string): Promise<Fenced>;
}

export class XsegLockClient implements LockClient {
  readonly #port: Caller;
  readonly #destination: number;

  /** @param destination port number of blockerm; one that is being restarted is waited for */
  constructor(port: Caller, destination: number) {
    this.#port = port;
    this.#destination = destination;
  }

  async acquire(target: string): Promise<void> {
    await this.#call(Op.ACQUIRE, target, Flag.NOSYNC);
  }

  async release(target: string, force: boolean): Promise<void> {
    await this.#call(Op.RELEASE, target, force ? Flag.FORCE : 0);
  }

  async holder(target: string): Promise<LockInfo | null> {
    return (await this.#call(Op.LOCKINFO, target, 0, null)) as LockInfo | null;
  }

  async check(names: readonly string[], poll = false): Promise<LockCheck> {
    const lost: LockCheck['lost'][number][] = [];
    const mail: LockMail[] = [];
    for (let from = 0; from === 0 || from < names.length; from += NAMES) {
      const body = { names: names.slice(from, from + NAMES) };
      const page = (await this.#call(Op.LOCKCHECK, '', poll ? 0 : Flag.UNCACHED, body)) as LockCheck;
      lost.push(...page.lost);
      mail.push(...page.mail);
    }
    return { lost, mail };
  }

  async break(target: string): Promise<LockInfo | null> {
    return (await this.#call(Op.ACQUIRE, target, Flag.FORCE | Flag.NOSYNC, null)) as LockInfo | null;
  }

  async mail(to: string, mail: LockMail): Promise<void> {
    await this.#call(Op.LOCKMAIL, to, 0, mail);
  }

  async list(cursor: string | null, limit: number): Promise<LockPage> {
    return (await this.#call(Op.LOCKS, '', 0, { cursor, limit })) as unknown as LockPage;
  }

  async news(ms: number): Promise<LockNews> {
    return (await this.#call(Op.NEWS, '', 0, null, ms)) as LockNews;
  }

  async fence(owner: string): Promise<Fenced> {
    return (await this.#call(Op.FENCE, owner, 0, null)) as Fenced;
  }

  /** @param body JSON of the request; absent: neither the request nor its answer has data */
  async #call(op: Op, target: string, flags: number, body?: object | null, offset = 0): Promise<unknown> {
    const data = body ? encodeJson(body) : undefined;
    const size = data?.length ?? 0;
    // Asked before each flush and three times a second: the room is for the longest answer, of mail.
    const capacity = body === undefined ? 0 : CAPACITY;
    const request = { op, target, flags, data, offset, size, capacity, brief: true };
    const reply = await this.#port.call(this.#destination, request, { wait: true });
    return reply.serviced === 0 ? null : decodeJson(reply.data.subarray(0, reply.serviced), 'reply about locks');
  }
}
