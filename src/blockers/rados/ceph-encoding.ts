/**
 * How Ceph writes values into bytes: little-endian numbers, strings with their length before them, structures with version and length.
 * Only what the lock class needs. Reading never goes past the end: what comes from outside is checked.
 */
import { errnos, SystemError } from '../../sys/errno.js';

/** Longest string or structure that is believed. What the lock class stores is far shorter. */
const MOST = 1 << 20;

/** The bytes are not what they should be. */
export function malformed(what: string): SystemError {
  return new SystemError(errnos.EBADMSG, `Ceph's answer about a lock cannot be understood: ${what}`);
}

export class Writer {
  readonly #parts: Buffer[] = [];

  u8(value: number): this {
    this.#parts.push(Buffer.from([value]));
    return this;
  }

  u32(value: number): this {
    const bytes = Buffer.alloc(4);
    bytes.writeUInt32LE(value);
    this.#parts.push(bytes);
    return this;
  }

  i64(value: bigint): this {
    const bytes = Buffer.alloc(8);
    bytes.writeBigInt64LE(value);
    this.#parts.push(bytes);
    return this;
  }

  raw(bytes: Uint8Array): this {
    this.#parts.push(Buffer.from(bytes));
    return this;
  }

  string(text: string): this {
    const bytes = Buffer.from(text, 'utf8');
    return this.u32(bytes.length).raw(bytes);
  }

  /** A structure of version 1 that readers of version 1 understand. */
  struct(fill: (inner: Writer) => void): this {
    const inner = new Writer();
    fill(inner);
    const bytes = inner.finish();
    return this.u8(1).u8(1).u32(bytes.length).raw(bytes);
  }

  finish(): Buffer {
    return Buffer.concat(this.#parts);
  }
}

/** All methods throw SystemError EBADMSG when the bytes end too early. */
export class Reader {
  readonly #bytes: Buffer;
  #at: number;
  readonly #end: number;

  constructor(bytes: Uint8Array, from = 0, end = bytes.length) {
    this.#bytes = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length);
    this.#at = from;
    this.#end = end;
  }

  get left(): number {
    return this.#end - this.#at;
  }

  #take(length: number): number {
    if (length > this.left) throw malformed(`${length} bytes are wanted where ${this.left} are left`);
    const at = this.#at;
    this.#at += length;
    return at;
  }

  u8(): number {
    return this.#bytes[this.#take(1)];
  }

  u32(): number {
    return this.#bytes.readUInt32LE(this.#take(4));
  }

  i64(): bigint {
    return this.#bytes.readBigInt64LE(this.#take(8));
  }

  /** A view of the bytes, not a copy. */
  raw(length: number): Buffer {
    const at = this.#take(length);
    return this.#bytes.subarray(at, at + length);
  }

  string(): string {
    const length = this.u32();
    if (length > MOST) throw malformed(`a string of ${length} bytes`);
    return this.raw(length).toString('utf8');
  }

  /** The inside of a structure; what later versions have added at its end is passed over. */
  struct(): Reader {
    this.u8();
    const compatible = this.u8();
    if (compatible > 1) throw malformed(`a structure that only version ${compatible} and later can read`);
    const length = this.u32();
    const at = this.#take(length);
    return new Reader(this.#bytes, at, at + length);
  }
}
