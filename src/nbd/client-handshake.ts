/** The client's side of the fixed newstyle handshake, option by option; `go` or `exportName` turns it into an NbdClient. */
import type { Duplex } from 'node:stream';
import { errnos, SystemError } from '../sys/errno.js';
import { ByteSource } from './byte-source.js';
import { type ClientOptions, NbdClient } from './client.js';
import { type NbdAddress, openStream } from './client-socket.js';
import { cleanText } from './client-text.js';
import { type ServerTls, secureStream, type TlsClientOptions } from './client-tls.js';
import {
  EXPORT_NAME_REPLY_LENGTH,
  EXPORT_NAME_ZEROES,
  GREETING_LENGTH,
  HandshakeFlag,
  Info,
  OPTION_REPLY_HEADER_LENGTH,
  Option,
  optionName,
  Reply,
  replyName,
} from './constants.js';
import { DisconnectedError, NbdError, ProtocolError } from './errors.js';
import {
  decodeExportNameReply,
  decodeGreeting,
  decodeInfo,
  decodeMetaContext,
  decodeOptionReplyHeader,
  decodeServerEntry,
  encodeClientFlags,
  encodeInfoRequest,
  encodeMetaRequest,
  encodeOption,
  InvalidOptionError,
} from './handshake-codec.js';
import type { MetaContext } from './session.js';

/** Longest reply to an option that is accepted, in bytes. */
const MAX_REPLY = 64 * 1024;
/** Most replies to one option: exports or meta contexts of a server; and their bytes together. */
const MAX_REPLIES = 64 * 1024;
const MAX_REPLY_BYTES = 32 * 1024 * 1024;
/** Milliseconds a server has for closing the connection after ABORT. */
const GOODBYE_MS = 1000;

/** What a server tells of an export. Sizes in bytes. */
export interface ExportInfo {
  readonly name: string;
  readonly size: number;
  /** Transmission flags (constants.TransmissionFlag). */
  readonly flags: number;
  readonly description: string | null;
  /** null when the server did not say: minimum 1, preferred 4096, maximum 32 MiB are what the protocol assumes. */
  readonly blockSize: { readonly minimum: number; readonly preferred: number; readonly maximum: number } | null;
}

/** One reply to an option. */
export interface OptionReply {
  readonly type: number;
  readonly data: Buffer;
}

const errnoOfReply = new Map<number, number>([
  [Reply.ERR_UNSUP, errnos.EOPNOTSUPP],
  [Reply.ERR_POLICY, errnos.EACCES],
  [Reply.ERR_INVALID, errnos.EINVAL],
  [Reply.ERR_PLATFORM, errnos.EOPNOTSUPP],
  [Reply.ERR_TLS_REQD, errnos.EACCES],
  [Reply.ERR_UNKNOWN, errnos.ENOENT],
  [Reply.ERR_SHUTDOWN, 108],
  [Reply.ERR_BLOCK_SIZE_REQD, errnos.EINVAL],
  [Reply.ERR_TOO_BIG, errnos.E2BIG],
  [Reply.ERR_EXT_HEADER_REQD, errnos.EOPNOTSUPP],
]);

const isError = (type: number): boolean => type >= 2 ** 31;

/** Decodes what a server sent; what cannot be decoded is its breach of the protocol. @throws ProtocolError */
function understood<T>(what: string, decode: () => T): T {
  try {
    return decode();
  } catch (error) {
    if (error instanceof InvalidOptionError)
      throw new ProtocolError(`the server sent ${what} wrongly: ${error.message}`);
    throw error;
  }
}

/** Of NbdHandshake.connect. */
export interface HandshakeOptions {
  /** false: ask for the 124 zeroes in the answer to EXPORT_NAME, as old clients do. */
  readonly noZeroes?: boolean;
  /** Ends the attempt to connect and to be greeted; rejections have its reason. */
  readonly signal?: AbortSignal;
}

/**
 * A connection that has greeted and has no export yet. Its options are asked one at a time: each is to have its answer before the next.
 * The way out is `go` or `exportName`, `abort` or `leave`, or `destroy`.
 */
export class NbdHandshake {
  #stream: Duplex;
  #source: ByteSource;
  readonly #noZeroes: boolean;
  /** What was connected to; null for a unix socket or an open stream. */
  readonly #host: string | null;
  #structured = false;
  #extended = false;
  #contexts: MetaContext[] = [];
  /** The export that the meta contexts were chosen for. */
  #contextExport: string | null = null;
  #tls: ServerTls | null = null;

  private constructor(stream: Duplex, source: ByteSource, noZeroes: boolean, host: string | null) {
    this.#stream = stream;
    this.#source = source;
    this.#noZeroes = noZeroes;
    this.#host = host;
  }

  /**
   * Connects and answers the greeting.
   * @throws SystemError when nobody listens, ProtocolError when it is no newstyle NBD server
   */
  static async connect(address: NbdAddress, options: HandshakeOptions = {}): Promise<NbdHandshake> {
    const { signal } = options;
    const stream = await openStream(address, signal);
    const source = new ByteSource(stream);
    const abort = (): void => void stream.destroy();
    signal?.addEventListener('abort', abort, { once: true });
    try {
      const flags = decodeGreeting(await source.read(GREETING_LENGTH));
      if ((flags & HandshakeFlag.FIXED_NEWSTYLE) === 0)
        throw new ProtocolError('the server lacks the fixed newstyle handshake');
      const noZeroes = (flags & HandshakeFlag.NO_ZEROES) !== 0 && options.noZeroes !== false;
      stream.write(encodeClientFlags(HandshakeFlag.FIXED_NEWSTYLE | (noZeroes ? HandshakeFlag.NO_ZEROES : 0)));
      return new NbdHandshake(stream, source, noZeroes, 'host' in address ? address.host : null);
    } catch (error) {
      stream.destroy();
      throw signal?.aborted ? signal.reason : error;
    } finally {
      signal?.removeEventListener('abort', abort);
    }
  }

  /** What TLS told of the server; null: the connection is in plaintext. */
  get tls(): ServerTls | null {
    return this.#tls;
  }

  /**
   * Takes the connection into TLS (STARTTLS). What was negotiated before is forgotten: it may have been somebody else's words.
   * @returns null, or the server's refusal, after which the handshake goes on in plaintext; the caller decides
   * @throws SystemError EACCES when the TLS handshake fails; ProtocolError when the server sent plaintext after its agreement
   */
  async startTls(options: TlsClientOptions): Promise<NbdError | null> {
    if (this.#tls !== null) throw new SystemError(errnos.EINVAL, 'the connection is in TLS already');
    try {
      await this.#ask(Option.STARTTLS);
    } catch (error) {
      if (error instanceof NbdError) return error;
      throw error;
    }
    const rest = this.#source.detach();
    const raw = this.#stream;
    if (rest.length > 0 || raw.readableLength > 0) {
      raw.on('error', () => {}).destroy();
      throw new ProtocolError('the server sent plaintext after it had agreed to TLS: somebody may have put it there');
    }
    const { stream, tls } = await secureStream(raw, options, this.#host);
    this.#stream = stream;
    this.#source = new ByteSource(stream);
    this.#tls = tls;
    this.#structured = false;
    this.#extended = false;
    this.#contexts = [];
    this.#contextExport = null;
    return null;
  }

  /**
   * Sends any option and takes its replies up to the last one: an ACK or an error, which is not thrown.
   * @throws ProtocolError, DisconnectedError
   */
  async option(option: number, data?: Uint8Array): Promise<OptionReply[]> {
    if (this.#stream.writableEnded) throw new DisconnectedError('this client has ended the handshake');
    this.#stream.write(encodeOption(option, data));
    const replies: OptionReply[] = [];
    let bytes = 0;
    for (;;) {
      const header = decodeOptionReplyHeader(await this.#source.read(OPTION_REPLY_HEADER_LENGTH));
      if (header.option !== option)
        throw new ProtocolError(`the server answered ${optionName(header.option)}, not ${optionName(option)}`);
      if (header.length > MAX_REPLY)
        throw new ProtocolError(`the server's reply to ${optionName(option)} is ${header.length} bytes long`);
      const reply = { type: header.type, data: await this.#source.read(header.length) };
      replies.push(reply);
      bytes += header.length;
      if (replies.length > MAX_REPLIES || bytes > MAX_REPLY_BYTES)
        throw new ProtocolError(`the server answers ${optionName(option)} without an end`);
      if (reply.type === Reply.ACK || isError(reply.type)) return replies;
    }
  }

  /** As option(), but an error reply is thrown, and the ACK is left out. @throws NbdError */
  async #ask(option: number, data?: Uint8Array): Promise<OptionReply[]> {
    const replies = await this.option(option, data);
    const last = replies.pop() as OptionReply;
    if (isError(last.type)) {
      // The protocol document leaves a client nothing else to do then.
      if (last.type === Reply.ERR_SHUTDOWN) this.leave();
      const what = `${optionName(option)}: ${replyName(last.type)}`;
      const details = { wire: last.type, text: cleanText(last.data) };
      throw new NbdError(errnoOfReply.get(last.type) ?? errnos.EIO, what, details);
    }
    return replies;
  }

  /** The exports the server tells of. @throws NbdError */
  async list(): Promise<{ name: string; description: string }[]> {
    const replies = await this.#ask(Option.LIST);
    return replies
      .filter(({ type }) => type === Reply.SERVER)
      .map(({ data }) => understood('an export', () => decodeServerEntry(data)));
  }

  /** Asks for structured replies; false when the server has none. */
  async structuredReply(): Promise<boolean> {
    if (!(await this.#accepts(Option.STRUCTURED_REPLY))) return false;
    this.#structured = true;
    return true;
  }

  /** Asks for extended headers, which imply structured replies; false when the server has none. */
  async extendedHeaders(): Promise<boolean> {
    if (!(await this.#accepts(Option.EXTENDED_HEADERS))) return false;
    this.#structured = true;
    this.#extended = true;
    return true;
  }

  async #accepts(option: number): Promise<boolean> {
    return (await this.option(option)).at(-1)?.type === Reply.ACK;
  }

  /** Names of the meta contexts of an export that match the queries (all without a query). @throws NbdError */
  async listMetaContexts(exportName: string, queries: readonly string[] = []): Promise<string[]> {
    const replies = await this.#ask(Option.LIST_META_CONTEXT, encodeMetaRequest(exportName, queries));
    return replies
      .filter(({ type }) => type === Reply.META_CONTEXT)
      .map(({ data }) => understood('a meta context', () => decodeMetaContext(data).name));
  }

  /** Chooses meta contexts; those the server has come back. @throws NbdError */
  async setMetaContexts(exportName: string, queries: readonly string[]): Promise<MetaContext[]> {
    this.#contexts = [];
    this.#contextExport = exportName;
    const replies = await this.#ask(Option.SET_META_CONTEXT, encodeMetaRequest(exportName, queries));
    const contexts = replies
      .filter(({ type }) => type === Reply.META_CONTEXT)
      .map(({ data }) => understood('a meta context', () => decodeMetaContext(data)));
    const ids = new Set(contexts.map(({ id }) => id));
    const names = new Set(contexts.map(({ name }) => name));
    if (ids.size !== contexts.length || names.size !== contexts.length)
      throw new ProtocolError('the server gave one meta context twice');
    this.#contexts = contexts;
    return contexts;
  }

  /** What the server tells of an export, without entering it. @throws NbdError */
  info(exportName: string): Promise<ExportInfo> {
    return this.#exportInfo(Option.INFO, exportName);
  }

  /** Enters an export. @throws NbdError, after which other options may follow */
  async go(exportName: string, options: ClientOptions = {}): Promise<NbdClient> {
    return this.#enter(exportName, await this.#exportInfo(Option.GO, exportName), options);
  }

  /**
   * Enters an export the old way.
   * @throws DisconnectedError when the server does not have it: it can say no more; SystemError EINVAL after extended headers
   */
  async exportName(name: string, options: ClientOptions = {}): Promise<NbdClient> {
    if (this.#extended) {
      throw new SystemError(
        errnos.EINVAL,
        'EXPORT_NAME must not follow extended headers, which were agreed on: use go',
      );
    }
    this.#stream.write(encodeOption(Option.EXPORT_NAME, Buffer.from(name, 'utf8')));
    const length = EXPORT_NAME_REPLY_LENGTH + (this.#noZeroes ? 0 : EXPORT_NAME_ZEROES);
    const reply = await this.#source.read(length).catch((error: Error) => {
      const message = `the server closed the connection instead of opening ${JSON.stringify(name)}: it may have no such export`;
      throw new DisconnectedError(message, { cause: error });
    });
    const { size, flags } = decodeExportNameReply(reply);
    return this.#enter(name, { name, size, flags, description: null, blockSize: null }, options);
  }

  #enter(exportName: string, info: ExportInfo, options: ClientOptions): NbdClient {
    return new NbdClient({
      stream: this.#stream,
      received: this.#source.detach(),
      info,
      style: { structured: this.#structured, extended: this.#extended },
      // Contexts that were chosen for another export are not this one's.
      contexts: this.#contextExport === exportName ? this.#contexts : [],
      tls: this.#tls,
      options,
    });
  }

  async #exportInfo(option: number, name: string): Promise<ExportInfo> {
    const request = encodeInfoRequest(name, [Info.NAME, Info.DESCRIPTION, Info.BLOCK_SIZE]);
    const info: { -readonly [K in keyof ExportInfo]: ExportInfo[K] } = {
      name,
      size: -1,
      flags: 0,
      description: null,
      blockSize: null,
    };
    for (const { type, data } of await this.#ask(option, request)) {
      if (type !== Reply.INFO) continue;
      const reply = understood('information', () => decodeInfo(data));
      if (reply.info === 'export') Object.assign(info, { size: reply.size, flags: reply.flags });
      else if (reply.info === 'name') info.name = reply.text;
      else if (reply.info === 'description') info.description = reply.text;
      else if (reply.info === 'blockSize') {
        info.blockSize = { minimum: reply.minimum, preferred: reply.preferred, maximum: reply.maximum };
      }
    }
    if (info.size < 0)
      throw new ProtocolError(`the server acknowledged ${optionName(option)} without telling the size`);
    return info;
  }

  /** Ends the handshake in an orderly way, and waits for the server's word. */
  async abort(): Promise<void> {
    await this.option(Option.ABORT).catch((error: unknown) => {
      if (!(error instanceof DisconnectedError)) throw error;
    });
    this.#close();
  }

  /** As abort(), without waiting. Not while an option waits for its answer. */
  leave(): void {
    this.#close(encodeOption(Option.ABORT));
  }

  /** Ends sending (in TLS the server is told so), and closes when the server does. */
  #close(last?: Buffer): void {
    const stream = this.#stream;
    if (stream.destroyed || stream.writableEnded) return;
    const late = setTimeout(() => stream.destroy(), GOODBYE_MS).unref();
    stream.once('close', () => clearTimeout(late)).once('end', () => stream.destroy());
    if (stream.readableEnded) stream.destroy();
    else if (last === undefined) stream.end();
    else stream.end(last);
    stream.resume();
  }

  /** Drops the connection. */
  destroy(): void {
    this.#stream.destroy();
  }
}
