/** An NBD client in its transmission phase: every command as a promise, any number in flight. */
import type { Duplex } from 'node:stream';
import type { ByteSource } from './byte-source.js';
import type { ExportInfo } from './client-handshake.js';
import { readU64, writeRequest } from './codec.js';
import {
  CHUNK_FLAG_DONE,
  CHUNK_HEADER_LENGTH,
  Chunk,
  Command,
  CommandFlag,
  commandName,
  REQUEST_LENGTH,
  SIMPLE_REPLY_LENGTH,
  SIMPLE_REPLY_MAGIC,
  STRUCTURED_REPLY_MAGIC,
} from './constants.js';
import type { Extent } from './device.js';
import { DisconnectedError, NbdError, ProtocolError } from './errors.js';
import type { MetaContext } from './session.js';

interface Pending {
  readonly what: string;
  readonly command: number;
  readonly offset: number;
  /** READ: where the data goes. */
  readonly target: Buffer | null;
  received: number;
  error: NbdError | null;
  readonly extents: Map<string, Extent[]>;
  resolve(pending: Pending): void;
  reject(error: Error): void;
}

/** Chunks other than read data are at most this long: 2^20 extents. */
const MAX_CHUNK = 8 * 2 ** 20 + 4096;
const viewOf = (bytes: Buffer): DataView => new DataView(bytes.buffer, bytes.byteOffset, bytes.length);

export class NbdClient {
  /** What the server told of the export. */
  readonly info: ExportInfo;
  readonly structured: boolean;
  readonly contexts: readonly MetaContext[];
  readonly #stream: Duplex;
  readonly #source: ByteSource;
  readonly #pending = new Map<number, Pending>();
  #cookie = 0;
  #over: Error | null = null;

  /** Made by NbdHandshake. */
  constructor(
    stream: Duplex,
    source: ByteSource,
    info: ExportInfo,
    structured: boolean,
    contexts: readonly MetaContext[],
  ) {
    this.#stream = stream;
    this.#source = source;
    this.info = info;
    this.structured = structured;
    this.contexts = contexts;
    this.#receive().catch((error: Error) => this.#fail(error));
  }

  /** Size of the export in bytes, as it was when it was entered. */
  get size(): number {
    return this.info.size;
  }

  /** Transmission flags (constants.TransmissionFlag). */
  get flags(): number {
    return this.info.flags;
  }

  /** @throws NbdError with the server's errno; DisconnectedError */
  async read(offset: number, length: number, options: { df?: boolean } = {}): Promise<Buffer> {
    const target = Buffer.allocUnsafe(length);
    await this.#request(Command.READ, options.df ? CommandFlag.DF : 0, offset, length, target);
    return target;
  }

  /** @throws NbdError, DisconnectedError */
  async write(offset: number, data: Uint8Array, options: { fua?: boolean } = {}): Promise<void> {
    await this.#request(Command.WRITE, options.fua ? CommandFlag.FUA : 0, offset, data.length, null, data);
  }

  /** @throws NbdError, DisconnectedError */
  async flush(): Promise<void> {
    await this.#request(Command.FLUSH, 0, 0, 0);
  }

  /** @throws NbdError, DisconnectedError */
  async trim(offset: number, length: number, options: { fua?: boolean } = {}): Promise<void> {
    await this.#request(Command.TRIM, options.fua ? CommandFlag.FUA : 0, offset, length);
  }

  /** @throws NbdError (EOPNOTSUPP when fastZero cannot be fast), DisconnectedError */
  async writeZeroes(
    offset: number,
    length: number,
    options: { fua?: boolean; noHole?: boolean; fastZero?: boolean } = {},
  ): Promise<void> {
    const flags =
      (options.fua ? CommandFlag.FUA : 0) |
      (options.noHole ? CommandFlag.NO_HOLE : 0) |
      (options.fastZero ? CommandFlag.FAST_ZERO : 0);
    await this.#request(Command.WRITE_ZEROES, flags, offset, length);
  }

  /** @throws NbdError, DisconnectedError */
  async cache(offset: number, length: number): Promise<void> {
    await this.#request(Command.CACHE, 0, offset, length);
  }

  /** Extents from `offset` on, of each negotiated meta context by name. @throws NbdError, DisconnectedError */
  async blockStatus(
    offset: number,
    length: number,
    options: { reqOne?: boolean } = {},
  ): Promise<Map<string, Extent[]>> {
    return (await this.#request(Command.BLOCK_STATUS, options.reqOne ? CommandFlag.REQ_ONE : 0, offset, length))
      .extents;
  }

  /** Any request, valid or not. @throws NbdError, DisconnectedError */
  async raw(command: number, flags: number, offset: number, length: number, payload?: Uint8Array): Promise<void> {
    await this.#request(
      command,
      flags,
      offset,
      length,
      command === Command.READ ? Buffer.alloc(length) : null,
      payload,
    );
  }

  #request(
    command: number,
    flags: number,
    offset: number,
    length: number,
    target: Buffer | null = null,
    payload?: Uint8Array,
  ): Promise<Pending> {
    return new Promise((resolve, reject) => {
      if (this.#over !== null) {
        reject(this.#over);
        return;
      }
      this.#cookie = (this.#cookie + 1) >>> 0;
      const what = `${commandName(command)} of ${length} bytes at ${offset}`;
      const extents = new Map<string, Extent[]>();
      const received = 0;
      this.#pending.set(this.#cookie, {
        what,
        command,
        offset,
        target,
        received,
        error: null,
        extents,
        resolve,
        reject,
      });
      const header = Buffer.alloc(REQUEST_LENGTH);
      writeRequest(viewOf(header), 0, { flags, command, cookieHigh: 0, cookieLow: this.#cookie, offset, length });
      this.#stream.cork();
      this.#stream.write(header);
      if (payload !== undefined && payload.length > 0) this.#stream.write(payload);
      this.#stream.uncork();
    });
  }

  async #receive(): Promise<void> {
    for (;;) {
      const head = await this.#source.read(SIMPLE_REPLY_LENGTH);
      const magic = head.readUInt32BE(0);
      const pending = this.#pending.get(head.readUInt32BE(12));
      if (pending === undefined || head.readUInt32BE(8) !== 0)
        throw new ProtocolError('the server answered a request that was not made');
      let done = true;
      if (magic === SIMPLE_REPLY_MAGIC) await this.#simple(pending, head.readUInt32BE(4));
      else if (magic === STRUCTURED_REPLY_MAGIC && this.structured) {
        const length = (await this.#source.read(CHUNK_HEADER_LENGTH - SIMPLE_REPLY_LENGTH)).readUInt32BE();
        await this.#chunk(pending, head.readUInt16BE(6), length);
        done = (head.readUInt16BE(4) & CHUNK_FLAG_DONE) !== 0;
      } else throw new ProtocolError('the server sent a reply without its magic number');
      if (!done) continue;
      this.#pending.delete(head.readUInt32BE(12));
      if (pending.error !== null) pending.reject(pending.error);
      else if (pending.target !== null && pending.received !== pending.target.length) {
        throw new ProtocolError(`${pending.what}: the server sent ${pending.received} bytes`);
      } else pending.resolve(pending);
    }
  }

  async #simple(pending: Pending, error: number): Promise<void> {
    if (this.structured && (pending.command === Command.READ || pending.command === Command.BLOCK_STATUS)) {
      throw new ProtocolError(`${pending.what}: a simple reply where structured ones were agreed on`);
    }
    if (error !== 0) pending.error = new NbdError(error, pending.what);
    else if (pending.target !== null) {
      await this.#source.readInto(pending.target);
      pending.received = pending.target.length;
    }
  }

  async #chunk(pending: Pending, type: number, length: number): Promise<void> {
    const { target, what } = pending;
    if (type === Chunk.OFFSET_DATA) {
      if (target === null || length <= 8) throw new ProtocolError(`${what}: a data chunk that does not belong there`);
      const at = readU64(viewOf(await this.#source.read(8)), 0) - pending.offset;
      const bytes = length - 8;
      if (at < 0 || at + bytes > target.length) throw new ProtocolError(`${what}: data outside of what was asked for`);
      await this.#source.readInto(target.subarray(at, at + bytes));
      pending.received += bytes;
      return;
    }
    if (length > MAX_CHUNK) throw new ProtocolError(`${what}: a chunk of ${length} bytes`);
    const data = await this.#source.read(length);
    const view = viewOf(data);
    if (type === Chunk.OFFSET_HOLE && target !== null && length === 12) {
      const at = readU64(view, 0) - pending.offset;
      const bytes = view.getUint32(8);
      if (at < 0 || at + bytes > target.length)
        throw new ProtocolError(`${what}: a hole outside of what was asked for`);
      target.fill(0, at, at + bytes);
      pending.received += bytes;
    } else if (type === Chunk.BLOCK_STATUS && length >= 12 && length % 8 === 4) {
      const context = this.contexts.find(({ id }) => id === view.getUint32(0));
      if (context === undefined) throw new ProtocolError(`${what}: an answer for a meta context that was not chosen`);
      const extents: Extent[] = [];
      for (let at = 4; at < length; at += 8) {
        extents.push({ length: view.getUint32(at), flags: view.getUint32(at + 4) });
      }
      pending.extents.set(context.name, extents);
    } else if ((type === Chunk.ERROR || type === Chunk.ERROR_OFFSET) && length >= 6) {
      const text = data.subarray(6, 6 + view.getUint16(4)).toString('utf8');
      pending.error ??= new NbdError(view.getUint32(0), what, { text });
    } else if (type !== Chunk.NONE || length !== 0) {
      throw new ProtocolError(`${what}: a chunk of unknown type ${type} or wrong length ${length}`);
    }
  }

  #fail(error: Error): void {
    this.#over ??= error;
    this.#stream.destroy();
    for (const pending of this.#pending.values()) pending.reject(error);
    this.#pending.clear();
  }

  /** Says goodbye, after what is in flight. Resolves when the server has closed the connection. */
  async disconnect(): Promise<void> {
    if (this.#over !== null) return;
    const closed = new Promise<void>((resolve) => this.#stream.once('close', resolve));
    const header = Buffer.alloc(REQUEST_LENGTH);
    writeRequest(viewOf(header), 0, {
      flags: 0,
      command: Command.DISC,
      cookieHigh: 0,
      cookieLow: 0,
      offset: 0,
      length: 0,
    });
    this.#stream.write(header);
    await closed;
    this.#fail(new DisconnectedError('this client has disconnected'));
  }

  /** Drops the connection now. */
  destroy(): void {
    this.#fail(new DisconnectedError('this client was destroyed'));
  }
}
