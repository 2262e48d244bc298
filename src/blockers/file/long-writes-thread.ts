/** The writing thread (long-writes.ts): takes one write after the other from the ring, sleeps when there is none. It ends with the process. */
import { parentPort, workerData } from 'node:worker_threads';
import { errno, pwrite } from '../../sys/libc.js';
import { Control, type Ring, type RingData, ringOf } from './long-writes-ring.js';
import { writePieces } from './pieces.js';

const calls = { pwrite, errno };

function serve(ring: Ring): never {
  const { control } = ring;
  parentPort?.postMessage('ready');
  for (let ended = 0; ; ) {
    if (Atomics.load(control, Control.GIVEN) === ended) {
      Atomics.store(control, Control.ASLEEP, 1);
      // Not if something came just now: who gave it has not seen that this thread was to sleep.
      Atomics.wait(control, Control.GIVEN, ended);
      Atomics.store(control, Control.ASLEEP, 0);
      continue;
    }
    const began = performance.now();
    const failed = writePieces(calls, ...ring.get(ended));
    ring.end(ended, failed, performance.now() - began);
    ended = (ended + 1) | 0;
    Atomics.store(control, Control.ENDED, ended);
    if (Atomics.exchange(control, Control.TOLD, 1) === 0) parentPort?.postMessage('ended');
  }
}

const ring = ringOf(workerData as RingData);
// Without one it ends, and the process writes by itself.
if (ring !== null) serve(ring);
