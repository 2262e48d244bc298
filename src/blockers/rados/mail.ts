/**
 * Mail between the owners of locks: notifications of the addressee's object, which it watches. Nothing is stored: a letter to somebody who
 * is not there is gone, as is one that comes while the watch is broken; senders repeat what matters.
 */

import type { Pool } from '../../rados/types.js';
import type { LockMail } from '../../requests/locks.js';
import { errnos } from '../../sys/errno.js';
import { isErrno } from '../errors.js';
import { checkAddressee, toMail } from '../mail.js';
import { nameError } from '../names.js';
import { mailObject } from './registry.js';

/** How long a letter is waited for: a client that died is thought alive by Ceph for up to half a minute. */
const PATIENCE_MS = 1000;
/** Most letters that wait for one addressee, and most that wait to be read. The oldest are dropped. */
const MOST = 256;
/** Longest message that is read: names are short. */
const MOST_BYTES = 4096;
/** Most letters that are read at once. */
const AT_ONCE = 64;

/** A message of the mail object: a letter, that a lock may not be the owner's any more, and whether another has this owner's name. */
export type Message =
  | { readonly letter: LockMail }
  | { readonly changed: string }
  | { readonly ask: string }
  | { readonly alive: string; readonly by: string };

/** @returns null when it is no message */
export function toMessage(bytes: Buffer): Message | null {
  if (bytes.length > MOST_BYTES) return null;
  let value: unknown;
  try {
    value = JSON.parse(bytes.toString('utf8'));
  } catch {
    return null;
  }
  const letter = toMail(value);
  if (letter) return { letter };
  const { changed, ask, alive, by } = (value ?? {}) as Record<string, unknown>;
  if (typeof changed === 'string') return nameError(changed) ? null : { changed };
  if (typeof ask === 'string') return { ask };
  return typeof alive === 'string' && typeof by === 'string' ? { alive, by } : null;
}

/** What has come and was not read yet. */
export class Inbox {
  #letters: LockMail[] = [];

  put(letter: LockMail): void {
    if (this.#letters.length >= MOST) this.#letters.shift();
    this.#letters.push(letter);
  }

  get isEmpty(): boolean {
    return this.#letters.length === 0;
  }

  /** The oldest, as many as an answer has room for. */
  take(): LockMail[] {
    return this.#letters.splice(0, AT_ONCE);
  }
}

/** Sends to each addressee one message at a time, so that they arrive in order, and nobody is waited for longer than a second. */
export class Outbox {
  readonly #pool: () => Pool;
  readonly #addressees = new Map<string, Addressee>();
  #closed = false;

  constructor(pool: () => Pool) {
    this.#pool = pool;
  }

  /**
   * Resolves when the letter has arrived, when that takes too long, or at once when an earlier one is still on its way: then it follows,
   * unless a newer one of the same kind about the same lock comes meanwhile.
   * @throws SystemError EINVAL for an unusable addressee
   */
  async send(to: string, letter: LockMail): Promise<void> {
    checkAddressee(to);
    await this.#send(to, `${letter.kind} ${letter.name}`, letter);
  }

  /** Tells the owner that a lock may not be its own any more. */
  tell(to: string, changed: string): void {
    try {
      checkAddressee(to);
    } catch {
      // Holders that are no nodes of ours have no mail.
      return;
    }
    this.#send(to, `changed ${changed}`, { changed }).catch(() => undefined);
  }

  /** Asks whether another has this owner's name. Resolves when all have heard of it that are there. @throws SystemError */
  ask(owner: string, id: string): Promise<void> {
    return this.#notify(owner, { ask: id });
  }

  /** Answers such a question. */
  answer(owner: string, id: string, by: string): void {
    this.#notify(owner, { alive: id, by }).catch(() => undefined);
  }

  close(): void {
    this.#closed = true;
    for (const addressee of this.#addressees.values()) addressee.waiting.clear();
  }

  async #send(to: string, key: string, message: object): Promise<void> {
    const addressee = this.#addressees.get(to);
    if (addressee) {
      const { waiting } = addressee;
      waiting.delete(key);
      if (waiting.size >= MOST) waiting.delete(waiting.keys().next().value ?? '');
      waiting.set(key, message);
      return;
    }
    const first: Addressee = { waiting: new Map() };
    this.#addressees.set(to, first);
    const sent = this.#notify(to, message);
    void sent.catch(() => undefined).then(() => this.#goOn(to, first));
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, PATIENCE_MS);
    });
    try {
      await Promise.race([sent, late]);
    } finally {
      clearTimeout(timer);
    }
  }

  async #goOn(to: string, addressee: Addressee): Promise<void> {
    const { waiting } = addressee;
    while (waiting.size > 0 && !this.#closed) {
      const [[key, message]] = waiting;
      waiting.delete(key);
      await this.#notify(to, message).catch(() => undefined);
    }
    this.#addressees.delete(to);
  }

  async #notify(to: string, message: object): Promise<void> {
    try {
      await this.#pool().notify(mailObject(to), Buffer.from(JSON.stringify(message), 'utf8'), PATIENCE_MS);
    } catch (error) {
      // Nobody ever was there; or who was does not answer.
      if (!isErrno(error, errnos.ENOENT, errnos.ETIMEDOUT)) throw error;
    }
  }
}

interface Addressee {
  /** By kind and lock, in the order of their coming. */
  readonly waiting: Map<string, object>;
}
