/**
 * Long writes by a thread of their own, so that the event loop receives the next payload meanwhile: each is a copy of its data to the page cache, and one thread can make but
 * one copy at a time. Not by the thread pool of libuv: the thread that writes looks at the deadline itself, right before each of its calls, and
 * writes piece by piece (pieces.ts).
 *
 * The thread is started by the first such write, and is there for the life of the process. Until it is ready, and where it cannot be had, or has more to do than is good, who asks writes by itself.
 */
import fs from 'node:fs';
import { fileURLToPath } from 'node:url';
import { Worker } from 'node:worker_threads';
import { errnos } from '../../sys/errno.js';
import { Control, dataOf, Ring } from './long-writes-ring.js';
import type { LongWriter, Written } from './system.js';

/** Writes that wait for the thread: with more it is the slower one, and the event loop does its part. */
const MOST = 16;
/** A write of a few hundred KiB takes a hundred microseconds; one that takes so many milliseconds waits for the disk. */
const HELD_UP_MS = 10;
/** MiB of the thread's heap: it makes next to no objects. */
const HEAP = { maxOldGenerationSizeMb: 16, maxYoungGenerationSizeMb: 2 };

export class LongWrites implements LongWriter {
  readonly #script: string;
  readonly #ring = new Ring();
  #worker: Worker | null = null;
  #state: 'unused' | 'starting' | 'ready' | 'gone' = 'unused';
  #given = 0;
  #ended = 0;
  /** Who is told of the end of each, in their order. */
  #waiting: Written[] = [];
  /** When the first of them became the first, by performance.now(). */
  #since = 0;

  /** @param script of the thread; where there is none, nothing is taken */
  constructor(script: URL) {
    this.#script = fileURLToPath(script);
  }

  get takes(): boolean {
    if (this.#state === 'unused') this.#start();
    return this.#state === 'ready' && this.#waiting.length < MOST;
  }

  get isHeldUp(): boolean {
    return this.#waiting.length > 0 && performance.now() - this.#since > HELD_UP_MS;
  }

  write(fd: number, address: number, length: number, offset: number, deadline: number, ended: Written): void {
    this.#ring.put(this.#given, fd, address, length, offset, deadline);
    this.#given = (this.#given + 1) | 0;
    this.#waiting.push(ended);
    if (this.#waiting.length === 1) {
      this.#since = performance.now();
      this.#worker?.ref();
    }
    const { control } = this.#ring;
    Atomics.store(control, Control.GIVEN, this.#given);
    if (Atomics.load(control, Control.ASLEEP) === 1) Atomics.notify(control, Control.GIVEN, 1);
  }

  #start(): void {
    this.#state = fs.existsSync(this.#script) ? 'starting' : 'gone';
    if (this.#state === 'gone') return;
    const worker = this.#newWorker();
    if (worker === null) {
      this.#state = 'gone';
      return;
    }
    this.#worker = worker;
    worker.unref();
    worker.on('message', (what) => {
      if (what === 'ready') this.#state = 'ready';
      else this.#look();
    });
    // Without a thread all goes on by the event loop.
    worker.on('error', () => this.#end());
    worker.on('exit', () => this.#end());
  }

  /** null: the system gives the process no thread more. */
  #newWorker(): Worker | null {
    try {
      return new Worker(this.#script, { workerData: dataOf(this.#ring), resourceLimits: HEAP });
    } catch {
      return null;
    }
  }

  #look(): void {
    const { control } = this.#ring;
    Atomics.store(control, Control.TOLD, 0);
    const ended = Atomics.load(control, Control.ENDED);
    this.#since = performance.now();
    while (this.#ended !== ended) {
      const count = this.#ended;
      this.#ended = (count + 1) | 0;
      const tell = this.#waiting.shift() as Written;
      if (this.#waiting.length === 0) this.#worker?.unref();
      tell(this.#ring.errno(count), this.#ring.milliseconds(count));
    }
  }

  /** The thread is gone: what it had ended counts, what else it had been given was done in part or not at all. */
  #end(): void {
    if (this.#state === 'gone') return;
    this.#state = 'gone';
    this.#look();
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const tell of waiting) tell(errnos.EINTR, 0);
  }
}
