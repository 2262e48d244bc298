/**
 * Memory that librados writes results into while JavaScript runs on: C memory, which neither moves nor goes away with the process's
 * JavaScript heap while a thread of librados still writes to it. Everything native that this folder holds is counted here, so that
 * tests can see that all of it is given back.
 */
import koffi from 'koffi';
import * as libc from '../sys/libc.js';

/** Native objects that exist now. */
export const live = {
  clusters: 0,
  pools: 0,
  completions: 0,
  memories: 0,
  slots: 0,
  operations: 0,
  cursors: 0,
  watches: 0,
};

/** Frees it exactly once. */
export interface Room extends libc.Memory {
  free(): void;
}

/** @throws Error with code ENOMEM */
export function allocate(length: number): Room {
  const memory = libc.allocateMemory(length);
  live.memories++;
  let freed = false;
  return {
    address: memory.address,
    bytes: memory.bytes,
    free: () => {
      if (freed) return;
      freed = true;
      live.memories--;
      libc.freeMemory(memory);
    },
  };
}

/** Size of a slot in bytes: enough for every set of small results (sizes, lengths, pointers). */
export const SLOT = 64;
const SLAB = 4096;

/** A small piece of memory for the results of one call, recycled. */
class Slot implements Room {
  readonly address: number;
  readonly bytes: Buffer;
  #free = true;

  constructor(address: number, bytes: Buffer) {
    this.address = address;
    this.bytes = bytes;
  }

  take(): this {
    this.#free = false;
    this.bytes.fill(0);
    live.slots++;
    return this;
  }

  free(): void {
    if (this.#free) return;
    this.#free = true;
    live.slots--;
    spare.push(this);
  }
}

/** Slots nobody uses. They grow to the most that were ever needed at a time and stay. */
const spare: Slot[] = [];

/** A slot of SLOT zeroed bytes. */
export function takeSlot(): Room {
  let slot = spare.pop();
  if (!slot) {
    const slab = libc.allocateMemory(SLAB);
    for (let at = 0; at < SLAB; at += SLOT) spare.push(new Slot(slab.address + at, slab.bytes.subarray(at, at + SLOT)));
    slot = spare.pop()!;
  }
  return slot.take();
}

/** The pointer, size or handle below 2^53 that C wrote at `offset`. */
export const numberAt = (bytes: Buffer, offset: number): number =>
  bytes.readUInt32LE(offset) + bytes.readUInt32LE(offset + 4) * 2 ** 32;

/** A copy of `length` bytes at an address. */
export const copyFrom = (address: number, length: number): Buffer =>
  length === 0 ? Buffer.alloc(0) : Buffer.from(libc.viewMemory(address, length));

/** A copy of the NUL-terminated string at an address. */
export const stringAt = (address: number): string => koffi.decode.string(BigInt(address));

const TERMINATOR = Buffer.alloc(1);

/**
 * Byte strings as C takes many of them: arrays of pointers and of lengths. NUL-terminated, for the functions that want that.
 * @returns the addresses of the arrays, within `room`, which is to be freed after the call
 */
export function packStrings(strings: readonly Uint8Array[]): { room: Room; pointers: number; lengths: number } {
  const count = strings.length;
  const total = strings.reduce((sum, bytes) => sum + bytes.length + TERMINATOR.length, 0);
  const room = allocate(count * 16 + total);
  let at = count * 16;
  for (const [i, bytes] of strings.entries()) {
    room.bytes.writeBigUInt64LE(BigInt(room.address + at), i * 8);
    room.bytes.writeBigUInt64LE(BigInt(bytes.length), count * 8 + i * 8);
    room.bytes.set(bytes, at);
    at += bytes.length;
    room.bytes.set(TERMINATOR, at);
    at += TERMINATOR.length;
  }
  return { room, pointers: room.address, lengths: room.address + count * 8 };
}
