/** A client that asks for reads and writes on the short way (src/xseg/direct.ts), as the endpoint does of a composer in its process. */
import { Op } from '../../src/requests/ops.js';
import { allocateMemory } from '../../src/sys/libc.js';
import type { DirectRequest, Port } from '../../src/xseg/index.js';
import { PORTS } from '../unit/composer/volume-client.js';

/** Blocks are small here, and what spans two goes another way. */
const room = allocateMemory(64 << 10);

class Ask implements DirectRequest {
  readonly address = room.address;
  readonly deadline = 0;
  readonly #name: Buffer;

  constructor(
    name: string,
    readonly hint: number,
    readonly op: number,
    readonly offset: number,
    readonly size: number,
  ) {
    this.#name = Buffer.from(name);
  }

  isNamed(name: Uint8Array): boolean {
    return this.#name.equals(name);
  }

  clear(from: number): void {
    room.bytes.fill(0, from, this.size);
  }
}

export class ShortWay {
  readonly #port: Port;
  readonly #hints: ReadonlyMap<string, number>;

  /** @param hints the composer's handles of volumes, by name */
  constructor(port: Port, hints: ReadonlyMap<string, number>) {
    this.#port = port;
    this.#hints = hints;
  }

  /** Writes within the call, if that can be. */
  write(name: string, offset: number, data: Uint8Array): boolean {
    if (data.length > room.bytes.length) return false;
    room.bytes.set(data);
    return this.#ask(name, Op.WRITE, offset, data.length);
  }

  /** Reads within the call; null: that cannot be. */
  read(name: string, offset: number, length: number): Buffer | null {
    if (length > room.bytes.length || !this.#ask(name, Op.READ, offset, length)) return null;
    return Buffer.from(room.bytes.subarray(0, length));
  }

  #ask(name: string, op: number, offset: number, size: number): boolean {
    const composer = this.#port.directTo(PORTS.composer);
    const hint = this.#hints.get(name) ?? 0;
    if (composer === null || hint === 0) return false;
    return composer(new Ask(name, hint, op, offset, size));
  }
}
