/** The hot operations of a driver as promises: for tests and tools. A blocker peer has pooled ones instead (peer.ts). */
import { errnoOf, SystemError } from '../sys/errno.js';
import { allocateMemory, freeMemory } from '../sys/libc.js';
import type { Driver, ObjectIo } from './driver.js';

export interface OneIo {
  readonly name: string;
  readonly offset: number;
  readonly length: number;
  /** Write: the data, `length` bytes. */
  readonly data?: Uint8Array;
  readonly fua?: boolean;
  readonly noHole?: boolean;
  readonly uncached?: boolean;
  readonly alone?: boolean;
  readonly deadline?: number;
  /** What an operation on the same object left in OneResult. */
  readonly hint?: number;
}

export interface OneResult {
  /** Read: the content. */
  readonly data: Buffer;
  readonly hint: number;
}

/**
 * Runs one hot operation. @throws SystemError with the operation's errno
 */
export function runIo(
  driver: Driver,
  operation: 'read' | 'write' | 'trim' | 'writeZeroes' | 'flushObject',
  one: OneIo,
): Promise<OneResult> {
  return new Promise((resolve, reject) => {
    const memory = allocateMemory(one.length);
    if (one.data) memory.bytes.set(one.data);
    // A read has to fill all of it.
    else memory.bytes.fill(0xa5);
    let completed = false;
    const io: ObjectIo = {
      name: one.name,
      hint: one.hint ?? 0,
      isNamed: (name) => Buffer.from(one.name).equals(name),
      offset: one.offset,
      length: one.length,
      address: memory.address,
      bytes: memory.bytes.subarray(0, one.length),
      fua: one.fua ?? false,
      noHole: one.noHole ?? false,
      uncached: one.uncached ?? false,
      alone: one.alone ?? false,
      deadline: one.deadline ?? 0,
      complete(errno, reason) {
        if (completed) throw new Error(`${operation} of ${one.name} was completed twice`);
        completed = true;
        const data = Buffer.from(io.bytes);
        const { hint } = io;
        // A driver may still be in its call with this address: the memory goes after that.
        setImmediate(() => freeMemory(memory));
        if (errno === 0) resolve({ data, hint });
        else reject(new SystemError(errno, reason ?? `${operation} of object ${one.name} failed`));
      },
    };
    if (operation !== 'flushObject') driver[operation](io);
    else if (driver.flushObject) driver.flushObject(io);
    else
      driver.flush([one.name]).then(
        () => io.complete(0),
        (error: unknown) => io.complete(errnoOf(error)),
      );
  });
}
