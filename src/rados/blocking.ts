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

/** Of a call that librados does not limit: one place stays free of such, so that a new connection, or fencing, does not wait for it. */
export const ENDLESS = true;

/** Starts a call through `.async` with this callback. */
export type Blocking<R> = (done: (error: Error | null, result: R) => void) => void;

const endNow = koffi.load('libc.so.6').func('void _exit(int status)');

let running = 0;
let endless = 0;
/** Calls beside those that have a place. */
let beside = 0;
const waiting: (() => boolean)[] = [];

function atExit(code: number): void {
  if (running + beside > 0) endNow(code);
}

/** Again with each call, so that whatever else is to be done at the exit is done before it. */
function registerLast(): void {
  process.off('exit', atExit);
  process.on('exit', atExit);
}

/** Runs a call that nothing holds up, whatever else runs. Resolves when it has returned. */
export function runBeside(call: Blocking<void>): Promise<void> {
  beside++;
  registerLast();
  return new Promise((resolve) => {
    call(() => {
      beside--;
      resolve();
    });
  });
}

/** The blocking calls of one cluster. */
export class BlockingCalls {
  #running = 0;
  #endless = 0;
  #waiting = 0;
  readonly #idle: (() => void)[] = [];

  /**
   * Runs a call as soon as there is room. @param what for the error, e.g. `list pool blocks`
   * @param timeoutMs from now on
   * @param late called instead of resolving when the call has been given up, once it has returned or will not be made: frees what it used
   * @throws RadosError ETIMEDOUT
   */
  run<R>(
    what: string,
    timeoutMs: number,
    call: Blocking<R>,
    late?: (result: R) => void,
    isEndless = false,
  ): Promise<R> {
    return new Promise<R>((resolve, reject) => {
      let over = false;
      const timer = setTimeout(() => {
        over = true;
        const at = waiting.indexOf(begin);
        if (at >= 0) {
          waiting.splice(at, 1);
          this.#waiting--;
          late?.(-errnos.ECANCELED as R);
          this.#settle();
        }
        reject(radosError(-errnos.ETIMEDOUT, what));
      }, timeoutMs);
      let waits = false;
      const begin = (): boolean => {
        if (!this.#hasRoom(isEndless)) return false;
        if (waits) this.#waiting--;
        this.#count(1, isEndless);
        registerLast();
        call((error, result) => {
          this.#count(-1, isEndless);
          clearTimeout(timer);
          if (over || error) late?.(error ? (-errnos.EIO as R) : result);
          if (error) reject(error);
          else resolve(result);
          admit();
          this.#settle();
        });
        return true;
      };
      if (begin()) return;
      waits = true;
      this.#waiting++;
      waiting.push(begin);
    });
  }

  #hasRoom(isEndless: boolean): boolean {
    if (isEndless && (this.#endless >= WIDTH - 1 || endless >= ALL - 1)) return false;
    return this.#running < WIDTH && running < ALL;
  }

  #count(change: number, isEndless: boolean): void {
    this.#running += change;
    running += change;
    if (!isEndless) return;
    this.#endless += change;
    endless += change;
  }

  /** Resolves true once no call runs or waits, false when that took longer than `patienceMs`. */
  idle(patienceMs: number): Promise<boolean> {
    if (this.#isIdle) return Promise.resolve(true);
    return untilCalled(this.#idle, patienceMs);
  }

  get #isIdle(): boolean {
    return this.#running === 0 && this.#waiting === 0;
  }

  #settle(): void {
    if (this.#isIdle) for (const end of this.#idle.splice(0)) end();
  }
}

/** Begins those that there is room for now, in order; one whose cluster has no room does not hold up those behind it. */
function admit(): void {
  for (const begin of waiting.splice(0)) if (!begin()) waiting.push(begin);
}
