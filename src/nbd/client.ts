/** An NBD client in its transmission phase: every command as a promise, any number in flight, answered in any order. */
import type { Duplex } from 'node:stream';
import { errnos, SystemError } from '../sys/errno.js';
import { ClientChannel, type ClientLimits, checkFields, type Request } from './client-channel.js';
import { checkRequest } from './client-checks.js';
import { type ExtentAt, extentsOf } from './client-extents.js';
import type { ExportInfo } from './client-handshake.js';
import type { Pending } from './client-pending.js';
import type { ServerTls } from './client-tls.js';
import { writeU64 } from './codec.js';
import { Command, CommandFlag, TransmissionFlag } from './constants.js';
import type { Extent } from './device.js';
import type { MetaContext, ReplyStyle } from './session.js';

/** How a client behaves in transmission. */
export interface ClientOptions extends ClientLimits {
  /**
   * Requests that the export does not allow (not offered, past its end, off its block sizes) are refused here, as the protocol document
   * asks of clients. Default true; false: they are sent, and it is the server that refuses them. The export's size is that of the
   * handshake: when another client makes it grow, only a new connection, or false, reaches what was added.
   */
  readonly strict?: boolean;
}

/** What a handshake hands over. */
export interface ClientSession {
  readonly stream: Duplex;
  /** Bytes that came after the handshake's last message. */
  readonly received: readonly Buffer[];
  readonly info: ExportInfo;
  readonly style: ReplyStyle;
  readonly contexts: readonly MetaContext[];
  readonly tls: ServerTls | null;
  readonly options: ClientOptions;
}

/** What an export offers, by its transmission flags. */
export interface Abilities {
  readonly write: boolean;
  readonly flush: boolean;
  readonly fua: boolean;
  readonly trim: boolean;
  readonly writeZeroes: boolean;
  readonly fastZero: boolean;
  readonly cache: boolean;
  readonly resize: boolean;
  readonly df: boolean;
  readonly multiConn: boolean;
  readonly rotational: boolean;
  /** At least one meta context was chosen. */
  readonly blockStatus: boolean;
  /** The server answers for fewer contexts than were chosen when it is asked to. */
  readonly blockStatusFilter: boolean;
}

/**
 * Throughout: offsets and lengths in bytes; rejections are NbdError (the server's answer), DisconnectedError or ProtocolError, and
 * SystemError for what is not even sent (ClientOptions.strict). An NbdError ESHUTDOWN is the server's last word: the client then
 * disconnects by itself.
 */
export class NbdClient {
  /** What the server told of the export. */
  readonly info: ExportInfo;
  readonly contexts: readonly MetaContext[];
  /** null: the connection is in plaintext. */
  readonly tls: ServerTls | null;
  readonly can: Abilities;
  readonly #channel: ClientChannel;
  readonly #contextNames: ReadonlyMap<number, string>;
  readonly #strict: boolean;
  #size: number;

  /** Made by NbdHandshake. */
  constructor(session: ClientSession) {
    this.info = session.info;
    this.contexts = session.contexts;
    this.tls = session.tls;
    this.#size = session.info.size;
    this.#contextNames = new Map(session.contexts.map(({ id, name }) => [id, name]));
    this.can = abilities(session.info.flags, session.style, session.contexts.length > 0);
    this.#channel = new ClientChannel(session.stream, session.received, session.style, session.options);
    this.#strict = session.options.strict ?? true;
  }

  /** Size of the export in bytes, as it was when it was entered, or what this client has resized it to. */
  get size(): number {
    return this.#size;
  }

  /** Transmission flags (constants.TransmissionFlag). */
  get flags(): number {
    return this.info.flags;
  }

  /** Replies are structured: errors have words, reads may have holes. */
  get structured(): boolean {
    return this.#channel.style.structured;
  }

  /** Extended headers: requests without a payload, and extents, may be longer than 4 GiB. */
  get extended(): boolean {
    return this.#channel.style.extended;
  }

  /** Resolves to the reason when the connection is over; never rejects. */
  get closed(): Promise<Error> {
    return this.#channel.closed;
  }

  /** @param options df: the answer in one piece (where can.df) */
  async read(offset: number, length: number, options: { df?: boolean } = {}): Promise<Buffer> {
    this.#check({ command: Command.READ, flags: dfFlag(options), offset, length });
    const target = Buffer.allocUnsafe(length);
    await this.readInto(target, offset, options);
    return target;
  }

  /** Fills all of `target` from `offset` on. Until it resolves, or has rejected, the bytes belong to the client. */
  async readInto(target: Uint8Array, offset: number, options: { df?: boolean } = {}): Promise<void> {
    const bytes = Buffer.from(target.buffer, target.byteOffset, target.byteLength);
    const { df = false } = options;
    const request = { command: Command.READ, flags: dfFlag(options), offset, length: bytes.length };
    await this.#request({ ...request, target: bytes, df });
  }

  /**
   * Writes all of `data`, which must not change until it resolves.
   * @param options fua: it is durable then
   * @throws SystemError EOPNOTSUPP for fua where the server has none: to write without would be to lose data unnoticed
   */
  async write(offset: number, data: Uint8Array, options: { fua?: boolean } = {}): Promise<void> {
    const flags = this.#fua(options);
    await this.#request({ command: Command.WRITE, flags, offset, length: data.length, payload: data });
  }

  /** All writes that were answered before are durable when it resolves. */
  async flush(): Promise<void> {
    await this.#request({ command: Command.FLUSH, flags: 0, offset: 0, length: 0 });
  }

  /** Tells that the content is not needed: it may read as anything until it is written again. */
  async trim(offset: number, length: number, options: { fua?: boolean } = {}): Promise<void> {
    await this.#request({ command: Command.TRIM, flags: this.#fua(options), offset, length });
  }

  /**
   * Makes a range read as zeros.
   * @param options noHole: the space stays allocated; fastZero: rather fail than be as slow as writing (EOPNOTSUPP then)
   */
  async writeZeroes(
    offset: number,
    length: number,
    options: { fua?: boolean; noHole?: boolean; fastZero?: boolean } = {},
  ): Promise<void> {
    const flags =
      this.#fua(options) | (options.noHole ? CommandFlag.NO_HOLE : 0) | (options.fastZero ? CommandFlag.FAST_ZERO : 0);
    await this.#request({ command: Command.WRITE_ZEROES, flags, offset, length });
  }

  /** A hint that the range will be read soon. */
  async cache(offset: number, length: number): Promise<void> {
    await this.#request({ command: Command.CACHE, flags: 0, offset, length });
  }

  /** Changes the export's size (the protocol's RESIZE extension). */
  async resize(size: number): Promise<void> {
    await this.#request({ command: Command.RESIZE, flags: 0, offset: size, length: 0 });
    this.#size = size;
  }

  /**
   * Extents from `offset` on by name of the meta context: at least one each, which need not reach the end of the range; the last may
   * reach beyond. extents() goes through a whole range.
   * @param options reqOne: exactly one; contexts: names of those that are wanted, default all that were chosen
   * @throws SystemError EINVAL when no meta context, or not this one, was chosen in the handshake
   */
  async blockStatus(
    offset: number,
    length: number,
    options: { reqOne?: boolean; contexts?: readonly string[] } = {},
  ): Promise<Map<string, Extent[]>> {
    const { reqOne = false } = options;
    const flags = reqOne ? CommandFlag.REQ_ONE : 0;
    const wanted = this.#choose(options.contexts);
    const filter = this.can.blockStatusFilter && wanted.size < this.#contextNames.size;
    const contexts = filter ? wanted : this.#contextNames;
    const payload = filter ? encodeFilter(length, [...wanted.keys()]) : undefined;
    const request = { command: Command.BLOCK_STATUS, flags, offset, length, contexts, reqOne, payload };
    const { extents } = await this.#request(request);
    for (const name of extents.keys()) if (![...wanted.values()].includes(name)) extents.delete(name);
    return extents;
  }

  #choose(names: readonly string[] | undefined): ReadonlyMap<number, string> {
    if (names === undefined && this.contexts.length > 0) return this.#contextNames;
    const wanted = new Map(this.contexts.filter(({ name }) => names?.includes(name)).map(({ id, name }) => [id, name]));
    const missing = names?.find((name) => ![...wanted.values()].includes(name));
    if (missing === undefined && wanted.size > 0) return wanted;
    const which = missing === undefined ? 'no meta context' : `the meta context ${missing}`;
    const why = missing === undefined ? 'was chosen, or the server has none' : 'was not chosen, or the server lacks it';
    throw new SystemError(errnos.EINVAL, `block status: ${which} ${why}`);
  }

  /**
   * All extents of a range in order, neighbours of the same kind merged.
   * @param options context: default the first that was chosen; offset, length: default the whole export
   */
  extents(options: { context?: string; offset?: number; length?: number } = {}): AsyncGenerator<ExtentAt, void, void> {
    return extentsOf(this, options);
  }

  /**
   * Any request, valid or not, for tests of servers. With extended headers PAYLOAD_LEN is set when there is a payload; everything else
   * goes out as it is given.
   */
  async raw(command: number, flags: number, offset: number, length: number, payload?: Uint8Array): Promise<void> {
    const target = command === Command.READ ? Buffer.alloc(length) : undefined;
    const contexts = command === Command.BLOCK_STATUS ? this.#contextNames : undefined;
    await this.#channel.request({ command, flags, offset, length, payload, target, contexts });
  }

  /**
   * Takes no more requests, waits for those in flight, says goodbye, and resolves when the server has closed the connection (or was
   * given 10 s for it).
   */
  async disconnect(): Promise<void> {
    await this.#channel.disconnect();
  }

  /** Drops the connection now; what is in flight rejects with `reason`. */
  destroy(reason?: Error): void {
    this.#channel.destroy(reason);
  }

  #request(request: Request): Promise<Pending> {
    this.#check(request);
    return this.#channel.request(request);
  }

  #check(request: Pick<Request, 'command' | 'flags' | 'offset' | 'length'>): void {
    checkFields(request, this.extended);
    if (this.#strict) checkRequest(request, this.info, this.can, this.#size);
  }

  #fua({ fua }: { fua?: boolean }): number {
    if (!fua) return 0;
    if (!this.can.fua) {
      throw new SystemError(errnos.EOPNOTSUPP, 'this export has no FUA; write without it and flush');
    }
    return CommandFlag.FUA;
  }
}

const dfFlag = ({ df }: { df?: boolean }): number => (df ? CommandFlag.DF : 0);

function abilities(flags: number, style: ReplyStyle, blockStatus: boolean): Abilities {
  const has = (flag: number) => (flags & flag) !== 0;
  const F = TransmissionFlag;
  const write = !has(F.READ_ONLY);
  return {
    write,
    flush: has(F.SEND_FLUSH),
    fua: has(F.SEND_FUA),
    trim: write && has(F.SEND_TRIM),
    writeZeroes: write && has(F.SEND_WRITE_ZEROES),
    fastZero: write && has(F.SEND_WRITE_ZEROES) && has(F.SEND_FAST_ZERO),
    cache: has(F.SEND_CACHE),
    resize: has(F.SEND_RESIZE),
    df: style.structured && has(F.SEND_DF),
    multiConn: has(F.CAN_MULTI_CONN),
    rotational: has(F.ROTATIONAL),
    blockStatus,
    blockStatusFilter: style.extended && blockStatus && has(F.BLOCK_STATUS_PAYLOAD),
  };
}

/** Payload of BLOCK_STATUS with PAYLOAD_LEN: the length that is asked about, and the ids of the contexts. */
function encodeFilter(length: number, ids: readonly number[]): Buffer {
  const out = Buffer.alloc(8 + 4 * ids.length);
  writeU64(new DataView(out.buffer, out.byteOffset, out.length), 0, length);
  ids.forEach((id, i) => {
    out.writeUInt32BE(id, 8 + 4 * i);
  });
  return out;
}
