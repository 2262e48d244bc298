/**
 * Memory that objects are copied through, used over and over. Buffers of JavaScript for that cost more than the copying: the collector
 * looks at the whole heap again after every few of them.
 */
import { radosError } from '../../rados/error.js';
import type { Pool } from '../../rados/types.js';
import { errnos } from '../../sys/errno.js';
import { allocateMemory, freeMemory, type Memory } from '../../sys/libc.js';

/** The largest object that fits: the block of a volume by default. */
export const ROOM = 4 << 20;
/** Rooms that are kept while nobody uses them, of all drivers of this process. */
const KEPT = 8;

const idle: Memory[] = [];

/** Bytes of an object; nobody uses them after `giveBack`, which is called once. */
export interface Whole {
  readonly bytes: Buffer;
  giveBack(): void;
}

function keep(room: Memory): void {
  if (idle.length < KEPT) idle.push(room);
  else freeMemory(room);
}

/** Up to `size` bytes of an object, fewer when it is shorter; `size` is at most ROOM. @throws RadosError ENOENT */
export async function readIntoRoom(pool: Pool, object: string, size: number): Promise<Whole> {
  const room = idle.pop() ?? allocateMemory(ROOM);
  const result = await new Promise<number>((done) => pool.read(object, room.address, size, 0, done));
  if (result >= 0) return { bytes: room.bytes.subarray(0, result), giveBack: () => keep(room) };
  // A read that was given up may still be answered, into this memory: it is nobody's any more.
  if (result !== -errnos.ECANCELED) keep(room);
  const { name, namespace } = pool;
  throw radosError(result, `read object ${object} of pool ${name}${namespace && `, namespace ${namespace}`}`);
}
