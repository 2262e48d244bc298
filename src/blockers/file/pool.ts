/**
 * Work that may block and therefore runs on libuv's thread pool: koffi's asynchronous calls with their errno, and a limit that
 * keeps a crowd of syncs from taking every thread.
 */
import * as libc from '../../sys/libc.js';
import { checkDeadline } from '../errors.js';

/** Runs at most `width` tasks at a time, the others in order. */
export class Limiter {
  readonly #width: number;
  #running = 0;
  readonly #queue: (() => void)[] = [];

  constructor(width: number) {
    this.#width = width;
  }

  async run<T>(task: () => Promise<T>): Promise<T> {
    if (this.#running >= this.#width) await new Promise<void>((resolve) => this.#queue.push(resolve));
    else this.#running++;
    try {
      return await task();
    } finally {
      // The place goes straight to the next in line, so nobody can slip in between.
      const next = this.#queue.shift();
      if (next) next();
      else this.#running--;
    }
  }
}

/** Threads of libuv's pool. */
export const poolThreads = Math.min(Math.max(Number(process.env.UV_THREADPOOL_SIZE) || 4, 1), 1024);

/**
 * Changes that have a deadline: no more than find a thread, so that what was looked at in time does not begin late after a wait of the
 * pool's own. Syncs, which take long, have the other half.
 */
const changes = new Limiter(Math.max(2, poolThreads >> 1));

/** Begins a change when a thread is free for it. @param deadline see ObjectIo.deadline @throws ETIME when that is too late */
export function inTime<T>(deadline: number, work: () => Promise<T>): Promise<T> {
  if (deadline === 0) return work();
  return changes.run(() => {
    checkDeadline(deadline);
    return work();
  });
}

/** koffi allows 256 calls in flight in the process; the rest is for the other parts of it. */
const nativeCalls = new Limiter(48);

/** A failed native call: positive errno. */
export class NativeError extends Error {
  readonly errno: number;
  constructor(call: string, errno: number) {
    super(`${call}: errno ${errno}`);
    this.errno = errno;
  }
}

/**
 * Calls a libc function on the thread pool. @param start passes its callback to `.async`
 * @throws NativeError when the result is -1
 */
export function native(call: string, start: (done: (error: Error | null, result: number) => void) => void) {
  return nativeCalls.run(
    () =>
      new Promise<number>((resolve, reject) => {
        start((error, result) => {
          if (error) reject(error);
          // koffi restores the call's errno for the callback.
          else if (result === -1) reject(new NativeError(call, libc.errno()));
          else resolve(result);
        });
      }),
  );
}
