/**
 * A cluster's operations in flight, and how they end: librados tells through a pipe (pipe.ts) by the low 32 bits of the completion's
 * address, which no two operations in flight share.
 *
 * They are bounded so that the pipe cannot be full: its writers are librados' threads, which must never wait for this process. Those
 * beyond wait here, in order. Their bytes need no bound of their own: they are those of the callers' requests.
 */
import { monotonicMs } from '../sys/clock.js';
import { errnos } from '../sys/errno.js';
import { RadosError } from './error.js';
import { untilCalled } from './idle.js';
import { live } from './memory.js';
import { CompletionPipe } from './pipe.js';
import type { Done } from './types.js';

/** The functions of librados that completions need. */
export interface CompletionCalls {
  /** Makes a completion with these callback and argument. Returns its address. */
  create(callback: number, argument: number): number;
  /** How an operation of this pool ended. */
  result(completion: number, io: number): number;
  release(completion: number): void;
  cancel(io: number, completion: number): void;
}

/** An operation in flight. Recycled. */
class Pending {
  completion = 0;
  io = 0;
  since = 0;
  done: Done | null = null;
  /** Gives back memory that librados writes to; once it has ended, whatever `done` was told. */
  free: (() => void) | null = null;
}

/** An operation that waits for its turn. */
interface Waiting {
  readonly io: number;
  readonly since: number;
  readonly start: Start;
  readonly done: Done;
  readonly free: (() => void) | null;
}

/** Hands an operation with this completion to librados. Returns a negative errno when that refused it. */
export type Start = (completion: number) => number;

/** Entries at the head of the queue that have gone, before it is moved up. */
const MOST_GONE = 1024;

/** See Completions.queue. */
export const PATIENT = 0;

export class Completions {
  readonly #calls: CompletionCalls;
  readonly #mostOperations: number;
  readonly #pipe: CompletionPipe;
  /** By the low 32 bits of the completion's address; in the order in which they began. */
  readonly #pending = new Map<number, Pending>();
  readonly #spare: Pending[] = [];
  readonly #waiting: Waiting[] = [];
  #firstWaiting = 0;
  #held = false;
  #closed = false;
  readonly #idle: (() => void)[] = [];

  /** @param most operations in flight, as far as the pipe allows @throws RadosError when there are no descriptors left */
  constructor(calls: CompletionCalls, most = Number.POSITIVE_INFINITY) {
    this.#calls = calls;
    this.#pipe = new CompletionPipe((tokens, count) => this.#ended(tokens, count));
    this.#mostOperations = Math.min(most, this.#pipe.capacity);
  }

  /** Operations in flight and those that wait for their turn. */
  get count(): number {
    return this.#pending.size + this.#waiting.length - this.#firstWaiting;
  }

  /** When the oldest operation began that only the cluster has to answer, ms of the monotonic clock; 0 when there is none. */
  get oldestSince(): number {
    for (const { since } of this.#pending.values()) if (since !== PATIENT) return since;
    return 0;
  }

  /**
   * A completion for an operation that is handed to librados at once; 0 when the operation has to wait: see `queue`.
   */
  take(io: number, done: Done): number {
    if (this.#firstWaiting < this.#waiting.length || this.#full) return 0;
    return this.#take(io, monotonicMs(), done, null);
  }

  /** librados refused the operation that this completion was for: it ends with that errno, later. */
  refused(completion: number, result: number): void {
    const pending = this.#remove(completion >>> 0)!;
    const { done, free } = pending;
    this.#recycle(pending);
    this.#release(completion);
    setImmediate(() => {
      free?.();
      done?.(result);
      this.#settle();
    });
  }

  /**
   * Begins an operation as soon as its turn has come; at once when it has.
   * @param free gives back memory that librados uses: called once it no longer does
   * @param since PATIENT: an operation that waits for other clients, so that its age says nothing of the cluster
   */
  queue(io: number, start: Start, done: Done, free: (() => void) | null = null, since = monotonicMs()): void {
    if (this.#firstWaiting < this.#waiting.length || this.#full) {
      this.#waiting.push({ io, since, start, done, free });
    } else this.#start(io, since, start, done, free);
  }

  /** Resolves true once nothing is in flight or waits, false when that took longer than `patienceMs`. */
  idle(patienceMs: number): Promise<boolean> {
    if (this.count === 0) return Promise.resolve(true);
    return untilCalled(this.#idle, patienceMs);
  }

  /** Operations that wait end now; librados is told to give up those in flight, which end soon after. Both with ECANCELED. */
  cancel(): void {
    const waiting = this.#waiting.splice(0).slice(this.#firstWaiting);
    this.#firstWaiting = 0;
    for (const { done, free } of waiting) {
      free?.();
      call(done, -errnos.ECANCELED);
    }
    for (const { io, completion } of [...this.#pending.values()]) {
      if (io !== 0) this.#calls.cancel(io, completion);
    }
    this.#settle();
  }

  /** What is still in flight ends with ECANCELED, although librados may end it later: its memory is given back only then. */
  abandon(): void {
    for (const pending of [...this.#pending.values()]) {
      const { done } = pending;
      pending.done = null;
      if (done) call(done, -errnos.ECANCELED);
    }
    this.#pipe.unref();
    this.#held = false;
    this.#closed = true;
  }

  /** Once nothing is in flight and librados has ended. */
  close(): void {
    this.#closed = true;
    this.#pipe.close();
  }

  get #full(): boolean {
    return this.#pending.size >= this.#mostOperations;
  }

  #start(io: number, since: number, start: Start, done: Done, free: (() => void) | null): void {
    const completion = this.#take(io, since, done, free);
    const result = start(completion);
    if (result < 0) this.refused(completion, result);
  }

  #take(io: number, since: number, done: Done, free: (() => void) | null): number {
    const completion = this.#create();
    const pending = this.#spare.pop() ?? new Pending();
    pending.completion = completion;
    pending.io = io;
    pending.since = since;
    pending.done = done;
    pending.free = free;
    this.#pending.set(completion >>> 0, pending);
    if (!this.#held && !this.#closed) {
      this.#held = true;
      this.#pipe.ref();
    }
    return completion;
  }

  /** A completion whose low 32 bits no other in flight has. */
  #create(): number {
    live.completions++;
    const first = this.#calls.create(this.#pipe.callback, this.#pipe.argument);
    if (!this.#pending.has(first >>> 0)) return first;
    // Kept until another one is there, which therefore has another address.
    const kept = [first];
    for (;;) {
      const next = this.#calls.create(this.#pipe.callback, this.#pipe.argument);
      if (!this.#pending.has(next >>> 0)) {
        for (const completion of kept) this.#calls.release(completion);
        return next;
      }
      kept.push(next);
    }
  }

  #release(completion: number): void {
    live.completions--;
    this.#calls.release(completion);
  }

  #remove(token: number): Pending | undefined {
    const pending = this.#pending.get(token);
    if (!pending) return undefined;
    this.#pending.delete(token);
    return pending;
  }

  #recycle(pending: Pending): void {
    pending.done = null;
    pending.free = null;
    if (this.#spare.length < this.#mostOperations) this.#spare.push(pending);
  }

  #ended(tokens: Uint32Array, count: number): void {
    for (let i = 0; i < count; i++) {
      const pending = this.#remove(tokens[i]);
      if (!pending) throw new RadosError(errnos.EIO, `librados ended an operation that nobody began: ${tokens[i]}`);
      const { completion, io, done, free } = pending;
      const result = this.#calls.result(completion, io);
      this.#release(completion);
      this.#recycle(pending);
      if (done) call(done, result);
      free?.();
    }
    this.#admit();
    this.#settle();
  }

  /** Begins those that wait, as far as there is room. */
  #admit(): void {
    while (this.#firstWaiting < this.#waiting.length) {
      const { io, since, start, done, free } = this.#waiting[this.#firstWaiting];
      if (this.#full) break;
      this.#firstWaiting++;
      this.#start(io, since, start, done, free);
    }
    if (this.#firstWaiting === this.#waiting.length || this.#firstWaiting > MOST_GONE) {
      this.#waiting.splice(0, this.#firstWaiting);
      this.#firstWaiting = 0;
    }
  }

  #settle(): void {
    if (this.count > 0) return;
    if (this.#held) {
      this.#held = false;
      this.#pipe.unref();
    }
    for (const end of this.#idle.splice(0)) end();
  }
}

/** One callback's error must not keep the others from being called. */
function call(done: Done, result: number): void {
  try {
    done(result);
  } catch (error) {
    queueMicrotask(() => {
      throw error;
    });
  }
}
