/**
 * What the answers to any bytes of a client must be. Two coroutines walk along the client's bytes and the server's at the same time: they
 * ask for server bytes and complain about what they get. Made from the protocol document, without the library's code.
 */
import type { Export } from './world.js';

/** The server did what it must not. */
export class Violation extends Error {
  constructor(message: string) {
    super(message);
    this.name = 'Violation';
  }
}

/** The answers to this input cannot be judged: two requests in flight share a cookie and may be answered in any order. */
export class Inconclusive extends Error {}

/** A wish for bytes of the server. Where `mayClose`, the end of the connection is an answer too. */
export interface Want {
  readonly bytes: number;
  readonly mayClose: boolean;
}

/** `open`: all is answered, the server waits for more. `closed`: the server must end the connection. `either`: it may. */
export type Ending = 'open' | 'closed' | 'either';
export type Walk<T = Ending> = Generator<Want, T, Buffer>;

export function* take(bytes: number, mayClose = false): Walk<Buffer> {
  return bytes === 0 ? Buffer.alloc(0) : yield { bytes, mayClose };
}

export function demand(condition: boolean, message: string): asserts condition {
  if (!condition) throw new Violation(message);
}

const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

/** A string as the document allows it; null for any other bytes. */
export function textOf(bytes: Uint8Array): string | null {
  if (bytes.length > 4096 || bytes.includes(0)) return null;
  try {
    return utf8.decode(bytes);
  } catch {
    return null;
  }
}

/** The reader of one option's data; `ok` turns false when it runs out. */
export class Fields {
  readonly #data: Buffer;
  #at = 0;
  ok = true;
  constructor(data: Buffer) {
    this.#data = data;
  }
  get left(): number {
    return this.#data.length - this.#at;
  }
  bytes(length: number): Buffer {
    if (length > this.left) this.ok = false;
    const out = this.ok ? this.#data.subarray(this.#at, this.#at + length) : Buffer.alloc(0);
    this.#at += out.length;
    return out;
  }
  number(size: number): number {
    const bytes = this.bytes(size);
    return bytes.length === size ? bytes.readUIntBE(0, size) : 0;
  }
  /** A string with its length before it. */
  text(): string {
    const text = textOf(this.bytes(this.number(4)));
    if (text === null) this.ok = false;
    return text ?? '';
  }
}

/** What the handshake agreed on. */
export interface Agreement {
  readonly target: Export;
  readonly style: 'simple' | 'structured' | 'extended';
  /** Ids of the selected contexts, and which of them is base:allocation. */
  readonly contexts: ReadonlyMap<number, string>;
  /** Flags the server told. */
  readonly flags: number;
}
