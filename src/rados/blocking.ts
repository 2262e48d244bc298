/**
 * Functions of librados that block run on libuv's thread pool, which the whole process shares: a cluster that does not answer must
 * not take all of its threads from the others (files, names, other clusters). So few run at a time, and nobody waits for one for
 * ever: a call that has not returned in time is given up, and keeps its place until it does return.
 *
 * A process that exits waits for the threads of the pool, in C, where nobody can interrupt it: one that exits while such a call runs
 * ends at once instead.
 */
import koffi from 'koffi';
import { errnos } from '../sys/errno.js';
import { radosError } from './error.js';
import { untilCalled } from './idle.js';

/** Calls of one cluster at a time. */
const WIDTH = 2;
/** Calls of all clusters of the process at a time: two threads of the pool stay free (it has four by default). */
const ALL = Math.max(2, (Number(process.env.UV_THREADPOOL_SIZE) || 4) - 2);

/** Starts a call through `.async` with this callback. */
export type Blocking<R> = (done: (error: Error | null, result: R) => void) => void;

const endNow = koffi.load('libc.so.6').func('void _exit(int status)');

let running = 0;
const waiting: (() => boolean)[] = [];

function atExit(code: number): void {
  if (running > 0) endNow(code);
}

/** Again with each call, so that whatever else is to be done at the exit is done before it. */
function registerLast(): void {
  process.off('exit', atExit);
  process.on('exit', atExit);
}

/** The blocking calls of one cluster. */
export class BlockingCalls {
  #running = 0;
  readonly #idle: (() => void)[] = [];

  /**
   * Runs a call as soon as there is room. @param what for the error, e.g. `list pool blocks`
   * @param timeoutMs from now on
   * @param late called instead of resolving when the call has been given up, once it has returned or was not made: frees what it used
   * @throws RadosError ETIMEDOUT
   */
  run<R>(what: string, timeoutMs: number, call: Blocking<R>, late?: (result: R) => void): Promise<R> {
    return new Promise<R>((resolve, reject) => {
      let over = false;
      const timer = setTimeout(() => {
        over = true;
        reject(radosError(-errnos.ETIMEDOUT, what));
      }, timeoutMs);
      const begin = (): boolean => {
        if (!over && (this.#running >= WIDTH || running >= ALL)) return false;
        if (over) {
          late?.(-errnos.ECANCELED as R);
          return true;
        }
        this.#running++;
        running++;
        registerLast();
        call((error, result) => {
          this.#running--;
          running--;
          clearTimeout(timer);
          if (over || error) late?.(error ? (-errnos.EIO as R) : result);
          if (error) reject(error);
          else resolve(result);
          admit();
          if (this.#running === 0) for (const end of this.#idle.splice(0)) end();
        });
        return true;
      };
      if (!begin()) waiting.push(begin);
    });
  }

  /** Resolves true once no call runs, false when that took longer than `patienceMs`. */
  idle(patienceMs: number): Promise<boolean> {
    if (this.#running === 0) return Promise.resolve(true);
    return untilCalled(this.#idle, patienceMs);
  }
}

/** Begins those that there is room for now, in order; one whose cluster has no room does not hold up those behind it. */
function admit(): void {
  for (const begin of waiting.splice(0)) if (!begin()) waiting.push(begin);
}
