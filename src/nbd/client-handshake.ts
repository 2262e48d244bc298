/** The client's side of the fixed newstyle handshake, option by option; `go` or `exportName` turns it into an NbdClient. */
import net from 'node:net';
import type { Duplex } from 'node:stream';
import { errnos, SystemError } from '../sys/errno.js';
import { ByteSource } from './byte-source.js';
import { NbdClient } from './client.js';
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
} from './handshake-codec.js';
import type { MetaContext } from './session.js';

/** Longest reply to an option that is accepted, in bytes. */
const MAX_REPLY = 64 * 1024;

/** Where the server is: a unix socket, a TCP address, or an open stream. */
export type NbdAddress =
  | { readonly path: string }
  | { readonly host: string; readonly port: number }
  | { readonly stream: Duplex };

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

/** A connected stream. @throws SystemError naming the address */
function open(address: NbdAddress): Promise<Duplex> {
  if ('stream' in address) return Promise.resolve(address.stream);
  const name = 'path' in address ? address.path : `${address.host}:${address.port}`;
  return new Promise((resolve, reject) => {
    const socket = net.connect('path' in address ? { path: address.path } : { ...address, noDelay: true });
    const failed = (error: NodeJS.ErrnoException) => {
      reject(
        new SystemError(Math.abs(error.errno ?? errnos.EIO), `cannot connect to ${name}: ${error.message}`, {
          cause: error,
        }),
      );
    };
    socket.once('error', failed);
    socket.once('connect', () => {
      socket.off('error', failed);
      resolve(socket);
    });
  });
}

export class NbdHandshake {
  readonly #stream: Duplex;
  readonly #source: ByteSource;
  readonly #noZeroes: boolean;
  #structured = false;
  #contexts: MetaContext[] = [];

  private constructor(stream: Duplex, source: ByteSource, noZeroes: boolean) {
    this.#stream = stream;
    this.#source = source;
    this.#noZeroes = noZeroes;
  }

  /**
   * Connects and answers the greeting.
   * @param options noZeroes false: ask for the 124 zeroes in the answer to EXPORT_NAME, as old clients do
   * @throws SystemError when nobody listens, ProtocolError when it is no newstyle NBD server
   */
  static async connect(address: NbdAddress, options: { noZeroes?: boolean } = {}): Promise<NbdHandshake> {
    const stream = await open(address);
    const source = new ByteSource(stream);
    try {
      const flags = decodeGreeting(await source.read(GREETING_LENGTH));
      if ((flags & HandshakeFlag.FIXED_NEWSTYLE) === 0)
        throw new ProtocolError('the server lacks the fixed newstyle handshake');
      const noZeroes = (flags & HandshakeFlag.NO_ZEROES) !== 0 && options.noZeroes !== false;
      stream.write(encodeClientFlags(HandshakeFlag.FIXED_NEWSTYLE | (noZeroes ? HandshakeFlag.NO_ZEROES : 0)));
      return new NbdHandshake(stream, source, noZeroes);
    } catch (error) {
      stream.destroy();
      throw error;
    }
  }

  /**
   * Sends any option and takes its replies up to the last one: an ACK or an error, which is not thrown.
   * @throws ProtocolError, DisconnectedError
   */
  async option(option: number, data?: Uint8Array): Promise<OptionReply[]> {
    this.#stream.write(encodeOption(option, data));
    const replies: OptionReply[] = [];
    for (;;) {
      const header = decodeOptionReplyHeader(await this.#source.read(OPTION_REPLY_HEADER_LENGTH));
      if (header.option !== option)
        throw new ProtocolError(`the server answered ${optionName(header.option)}, not ${optionName(option)}`);
      if (header.length > MAX_REPLY)
        throw new ProtocolError(`the server's reply to ${optionName(option)} is ${header.length} bytes long`);
      const reply = { type: header.type, data: await this.#source.read(header.length) };
      replies.push(reply);
      if (reply.type === Reply.ACK || isError(reply.type)) return replies;
    }
  }

  /** As option(), but an error reply is thrown, and the ACK is left out. @throws NbdError */
  async #ask(option: number, data?: Uint8Array): Promise<OptionReply[]> {
    const replies = await this.option(option, data);
    const last = replies.pop() as OptionReply;
    if (isError(last.type)) {
      const what = `${optionName(option)}: ${replyName(last.type)}`;
      throw new NbdError(errnoOfReply.get(last.type) ?? errnos.EIO, what, { text: last.data.toString('utf8') });
    }
    return replies;
  }

  /** The exports the server tells of. @throws NbdError */
  async list(): Promise<{ name: string; description: string }[]> {
    const replies = await this.#ask(Option.LIST);
    return replies.filter(({ type }) => type === Reply.SERVER).map(({ data }) => decodeServerEntry(data));
  }

  /** Asks for structured replies; false when the server has none. */
  async structuredReply(): Promise<boolean> {
    this.#structured = (await this.option(Option.STRUCTURED_REPLY)).at(-1)?.type === Reply.ACK;
    return this.#structured;
  }

  /** Names of the meta contexts of an export that match the queries (all without a query). @throws NbdError */
  async listMetaContexts(exportName: string, queries: readonly string[] = []): Promise<string[]> {
    const replies = await this.#ask(Option.LIST_META_CONTEXT, encodeMetaRequest(exportName, queries));
    return replies.filter(({ type }) => type === Reply.META_CONTEXT).map(({ data }) => decodeMetaContext(data).name);
  }

  /** Chooses meta contexts; those the server has come back. @throws NbdError */
  async setMetaContexts(exportName: string, queries: readonly string[]): Promise<MetaContext[]> {
    this.#contexts = [];
    const replies = await this.#ask(Option.SET_META_CONTEXT, encodeMetaRequest(exportName, queries));
    this.#contexts = replies
      .filter(({ type }) => type === Reply.META_CONTEXT)
      .map(({ data }) => decodeMetaContext(data));
    return this.#contexts;
  }

  /** What the server tells of an export, without entering it. @throws NbdError */
  info(exportName: string): Promise<ExportInfo> {
    return this.#exportInfo(Option.INFO, exportName);
  }

  /** Enters an export. @throws NbdError, after which other options may follow */
  async go(exportName: string): Promise<NbdClient> {
    return this.#enter(await this.#exportInfo(Option.GO, exportName));
  }

  /** Enters an export the old way. @throws DisconnectedError when the server does not have it: it can say no more */
  async exportName(name: string): Promise<NbdClient> {
    this.#stream.write(encodeOption(Option.EXPORT_NAME, Buffer.from(name, 'utf8')));
    const length = EXPORT_NAME_REPLY_LENGTH + (this.#noZeroes ? 0 : EXPORT_NAME_ZEROES);
    const { size, flags } = decodeExportNameReply(await this.#source.read(length));
    return this.#enter({ name, size, flags, description: null, blockSize: null });
  }

  #enter(info: ExportInfo): NbdClient {
    return new NbdClient(this.#stream, this.#source, info, this.#structured, this.#contexts);
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
      const reply = decodeInfo(data);
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

  /** Ends the handshake in an orderly way. */
  async abort(): Promise<void> {
    await this.option(Option.ABORT).catch((error: unknown) => {
      if (!(error instanceof DisconnectedError)) throw error;
    });
    this.#stream.destroy();
  }

  /** Drops the connection. */
  destroy(): void {
    this.#stream.destroy();
  }
}
