/** The short way (xseg/direct.ts) of a volume's reads and writes to a composer in this process. */
import { type Io, IoCommand } from '../nbd/index.js';
import { Op } from '../requests/ops.js';
import type { DirectRequest, Port } from '../xseg/index.js';

export class DirectIo implements DirectRequest {
  op = 0;
  offset = 0;
  size = 0;
  address = 0;
  hint = 0;
  readonly deadline = 0;
  readonly #port: Port;
  readonly #composer: number;
  /** The volume's. */
  readonly #name: Uint8Array;
  #io: Io | null = null;

  constructor(port: Port, composerPort: number, name: Uint8Array) {
    this.#port = port;
    this.#composer = composerPort;
    this.#name = name;
  }

  /**
   * Does what an Io asks for, where that needs no waiting; ending it is the caller's.
   * @param hint the composer's handle for the volume
   * @returns false when it is to be sent as a request
   */
  serve(io: Io, hint: number): boolean {
    const { command, buffer } = io;
    if (buffer === null || hint === 0 || (command !== IoCommand.READ && command !== IoCommand.WRITE)) return false;
    // What is to be durable before its answer has to wait.
    if (io.fua) return false;
    const composer = this.#port.directTo(this.#composer);
    if (composer === null) return false;
    this.op = command === IoCommand.READ ? Op.READ : Op.WRITE;
    this.offset = io.offset;
    this.size = io.length;
    this.address = buffer.address;
    this.hint = hint;
    this.#io = io;
    return composer(this);
  }

  isNamed(name: Uint8Array): boolean {
    const own = this.#name;
    if (own.length !== name.length) return false;
    for (let i = 0; i < name.length; i++) if (own[i] !== name[i]) return false;
    return true;
  }

  clear(from: number): void {
    this.#io?.buffer?.bytes.fill(0, from, this.size);
  }

  get meanwhile(): boolean {
    return this.#io?.meanwhile ?? false;
  }

  get mayLend(): boolean {
    return this.#io?.mayBeFile ?? false;
  }

  lend(fd: number, offset: number): void {
    const io = this.#io as Io;
    io.file = fd;
    io.fileOffset = offset;
  }
}
