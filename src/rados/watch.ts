/**
 * Watches. librados calls a watch back on a thread of its own, and that thread then waits for JavaScript: so the callbacks copy what
 * they are given and return, and what there is to do is done afterwards. They are rare; nothing of the data path comes this way.
 *
 * There is one pair of callbacks for the whole process, for as long as it lives: a watch is told from the others by its number, which
 * librados passes back. So a call that comes after the end of a watch finds nobody, and no freed callback.
 */
import koffi from 'koffi';
import { errnos } from '../sys/errno.js';
import type { Connection } from './connection.js';
import { copyFrom, live, takeSlot } from './memory.js';
import type { Watch, WatchHandlers } from './types.js';

/** 0: the cluster's own default (osd_client_watch_timeout, 30 s) after which a watcher that is not heard of is given up. */
const DEFAULT_SECONDS = 0;

type Id = number | bigint;

const watches = new Map<number, ObjectWatch>();
let lastNumber = 0;
let callbacks: { notified: bigint; failed: bigint } | null = null;

function registerCallbacks(): { notified: bigint; failed: bigint } {
  const notified = koffi.proto('void', ['uintptr_t', 'uint64_t', 'uint64_t', 'uint64_t', 'uintptr_t', 'size_t']);
  const failed = koffi.proto('void', ['uintptr_t', 'uint64_t', 'int']);
  return {
    notified: koffi.register((number: number, notification: Id, handle: Id, by: Id, data: number, length: number) => {
      const message = copyFrom(data, length);
      setImmediate(() => watches.get(number)?.notified(notification, handle, BigInt(by), message));
    }, koffi.pointer(notified)),
    failed: koffi.register((number: number, _handle: Id, result: number) => {
      setImmediate(() => watches.get(number)?.failed(-result));
    }, koffi.pointer(failed)),
  };
}

export class ObjectWatch implements Watch {
  readonly #connection: Connection;
  readonly #io: number;
  readonly #object: string;
  readonly #handlers: WatchHandlers;
  readonly #onEnd: () => void;
  readonly #number = ++lastNumber;
  #handle: Id | null = null;
  #opening: Promise<number> | null = null;
  #ending: Promise<void> | null = null;

  constructor(connection: Connection, io: number, object: string, handlers: WatchHandlers, onEnd: () => void) {
    this.#connection = connection;
    this.#io = io;
    this.#object = object;
    this.#handlers = handlers;
    this.#onEnd = onEnd;
  }

  /** Begins to watch. Resolves to 0 or a negative errno; then the watch has ended. */
  open(): Promise<number> {
    this.#opening ??= this.#open();
    return this.#opening;
  }

  async #open(): Promise<number> {
    const { library, completions } = this.#connection;
    callbacks ??= registerCallbacks();
    const { notified, failed } = callbacks;
    const slot = takeSlot();
    // A notification may come before the completion.
    watches.set(this.#number, this);
    let handle = 0n;
    const result = await new Promise<number>((resolve) => {
      completions.queue(
        this.#io,
        (completion) =>
          library.aioWatch(
            this.#io,
            this.#object,
            completion,
            slot.address,
            notified,
            failed,
            DEFAULT_SECONDS,
            this.#number,
          ),
        (result) => {
          handle = slot.bytes.readBigUInt64LE(0);
          resolve(result);
        },
        () => slot.free(),
      );
    });
    if (result < 0) {
      watches.delete(this.#number);
      this.#onEnd();
      return result;
    }
    this.#handle = handle;
    live.watches++;
    return 0;
  }

  age(): number {
    if (this.#handle === null || this.#ending || this.#connection.closed) return -errnos.ENOTCONN;
    return this.#connection.library.watchCheck(this.#io, this.#handle);
  }

  end(): Promise<void> {
    watches.delete(this.#number);
    this.#ending ??= this.#end();
    return this.#ending;
  }

  async #end(): Promise<void> {
    if (this.#handle === null && ((await this.#opening) ?? -1) < 0) return;
    const { library, completions } = this.#connection;
    const handle = this.#handle!;
    // Whether the OSD has heard of it does not matter: it gives up a watcher that it no longer hears of.
    await new Promise<number>((resolve) =>
      completions.queue(this.#io, (completion) => library.aioUnwatch(this.#io, handle, completion), resolve),
    );
    live.watches--;
    this.#onEnd();
  }

  /** Somebody notified: tells the owner, then confirms. */
  notified(notification: Id, handle: Id, by: bigint, message: Buffer): void {
    try {
      this.#handlers.notified(message, by);
    } finally {
      const { library, closed } = this.#connection;
      if (!this.#ending && !closed) library.notifyAck(this.#io, this.#object, notification, handle, null, 0);
    }
  }

  /** The watch is broken. */
  failed(errno: number): void {
    this.#handlers.failed(errno);
  }
}
