/**
 * The server's side of the fixed newstyle handshake: greets, answers options, ends with a session, an abort, or an error that ends the
 * connection. An export is opened only by the option that enters transmission; every other one asks what opening would tell.
 */
import { errnoOf, errnos, messageOf, SystemError } from '../sys/errno.js';
import {
  CLIENT_FLAGS_LENGTH,
  HandshakeFlag,
  Info,
  OPTION_HEADER_LENGTH,
  Option,
  optionName,
  Reply,
} from './constants.js';
import type { BlockDevice, Client, DeviceInfo, ExportProvider } from './device.js';
import { ProtocolError, TlsRequiredError } from './errors.js';
import {
  decodeInfoRequest,
  decodeMetaRequest,
  decodeOptionHeader,
  decodeString,
  encodeExportNameReply,
  encodeGreeting,
  encodeInfoBlockSize,
  encodeInfoExport,
  encodeInfoText,
  encodeMetaContext,
  encodeOptionReply,
  encodeServerEntry,
  encodeString,
  InvalidOptionError,
} from './handshake-codec.js';
import type { Limits } from './limits.js';
import { type MetaContext, type ReplyStyle, type Session, transmissionFlags } from './session.js';

const SERVER_FLAGS = HandshakeFlag.FIXED_NEWSTYLE | HandshakeFlag.NO_ZEROES;

/** Where the handshake's bytes come from and go to. */
export interface HandshakeChannel {
  read(length: number): Promise<Buffer>;
  skip(length: number): Promise<void>;
  /** Resolves when the bytes are gone: the next option is not read while the client does not take its answers. */
  write(bytes: Buffer): Promise<void>;
  readonly rest: { start: number; end: number };
}

/** The client ended the handshake in an orderly way. */
export class AbortedError extends Error {}

export class Negotiation {
  readonly #channel: HandshakeChannel;
  readonly #provider: ExportProvider;
  readonly #limits: Limits;
  readonly #stopping: () => boolean;
  #client: Client;
  #noZeroes = false;
  #structured = false;
  /** More options for a client that asked for the list: nbdinfo --list goes on to ask for each export of it. */
  #forListed = 0;
  /** Contexts that SET_META_CONTEXT chose, and the export it chose them for. */
  #contexts: MetaContext[] = [];
  #contextsOf: string | null = null;

  /**
   * @param client who asks, as known before TLS
   * @param stopping whether the server is going down: options are then answered with ERR_SHUTDOWN
   */
  constructor(
    channel: HandshakeChannel,
    client: Client,
    provider: ExportProvider,
    limits: Limits,
    stopping: () => boolean,
  ) {
    this.#client = client;
    this.#channel = channel;
    this.#provider = provider;
    this.#limits = limits;
    this.#stopping = stopping;
  }

  /**
   * Runs the handshake to its end.
   * @throws AbortedError after ABORT; ProtocolError, DisconnectedError or the provider's error where nothing else can be answered
   */
  async run(): Promise<Session> {
    await this.#channel.write(encodeGreeting(SERVER_FLAGS));
    const flags = (await this.#channel.read(CLIENT_FLAGS_LENGTH)).readUInt32BE();
    if ((flags & ~SERVER_FLAGS) !== 0)
      throw new ProtocolError(`the client has unknown flags (0x${flags.toString(16)})`);
    this.#noZeroes = (flags & HandshakeFlag.NO_ZEROES) !== 0;
    for (let count = 0; count < this.#limits.options + this.#forListed; count++) {
      const session = await this.#option();
      if (session !== null) return session;
    }
    throw new ProtocolError(`the client sent ${this.#limits.options + this.#forListed} options and is still not done`);
  }

  async #option(): Promise<Session | null> {
    const { option, length } = decodeOptionHeader(await this.#channel.read(OPTION_HEADER_LENGTH));
    const name = optionName(option);
    if (length > this.#limits.optionSkip) throw new ProtocolError(`${name} comes with ${length} bytes of data`);
    if (length > this.#limits.optionLength) {
      if (option === Option.EXPORT_NAME) throw new ProtocolError(`an export name of ${length} bytes`);
      await this.#channel.skip(length);
      await this.#refuse(option, Reply.ERR_TOO_BIG, `${name} takes at most ${this.#limits.optionLength} bytes of data`);
      return null;
    }
    const data = await this.#channel.read(length);
    if (option === Option.EXPORT_NAME) return this.#exportName(data);
    if (option === Option.ABORT) {
      // A client that has gone already is as well aborted.
      await this.#reply(option, Reply.ACK).catch(() => {});
      throw new AbortedError();
    }
    try {
      if (this.#stopping()) await this.#refuse(option, Reply.ERR_SHUTDOWN, 'the server is shutting down');
      else if (option === Option.GO) return await this.#go(data);
      else await this.#answer(option, data);
    } catch (error) {
      if (!(error instanceof InvalidOptionError)) throw error;
      await this.#refuse(option, Reply.ERR_INVALID, `${name}: ${error.message}`);
    }
    return null;
  }

  async #answer(option: number, data: Buffer): Promise<void> {
    switch (option) {
      case Option.LIST:
        return this.#list(data);
      case Option.INFO:
        return this.#info(data);
      case Option.STRUCTURED_REPLY:
        if (data.length > 0) throw new InvalidOptionError('takes no data');
        this.#structured = true;
        return this.#reply(option, Reply.ACK);
      case Option.LIST_META_CONTEXT:
      case Option.SET_META_CONTEXT:
        return this.#metaContext(option, data);
      default:
        return this.#refuse(option, Reply.ERR_UNSUP, `${optionName(option)} is not supported`);
    }
  }

  #reply(option: number, type: number, data?: Buffer): Promise<void> {
    return this.#channel.write(encodeOptionReply(option, type, data));
  }

  #refuse(option: number, type: number, text: string): Promise<void> {
    return this.#reply(option, type, encodeString(text));
  }

  async #list(data: Buffer): Promise<void> {
    if (data.length > 0) throw new InvalidOptionError('takes no data');
    let entries: { name: string; description?: string }[];
    try {
      entries = await this.#provider.list(this.#client);
    } catch (error) {
      return this.#refuseExport(Option.LIST, error);
    }
    this.#forListed = entries.length * this.#limits.optionsPerExport;
    const replies = entries.map(({ name, description }) =>
      encodeOptionReply(Option.LIST, Reply.SERVER, encodeServerEntry(name, description)),
    );
    replies.push(encodeOptionReply(Option.LIST, Reply.ACK));
    await this.#channel.write(Buffer.concat(replies));
  }

  async #info(data: Buffer): Promise<void> {
    const { name, infos } = decodeInfoRequest(data);
    let what: { info: DeviceInfo; size: number };
    try {
      what = await this.#provider.describe(name, this.#client);
    } catch (error) {
      return this.#refuseExport(Option.INFO, error);
    }
    await this.#channel.write(this.#infoReplies(Option.INFO, name, infos, what.info, what.size));
  }

  async #go(data: Buffer): Promise<Session | null> {
    const { name, infos } = decodeInfoRequest(data);
    let device: BlockDevice;
    try {
      device = await this.#provider.open(name, this.#client);
    } catch (error) {
      await this.#refuseExport(Option.GO, error);
      return null;
    }
    return this.#enter(name, device, this.#infoReplies(Option.GO, name, infos, device.info, device.size));
  }

  /** EXPORT_NAME has no error reply: whatever goes wrong ends the connection. */
  async #exportName(data: Buffer): Promise<Session> {
    if (this.#stopping()) throw new SystemError(errnos.ECONNREFUSED, 'the server is shutting down');
    let name: string;
    try {
      name = decodeString(data, 'the export name');
    } catch (error) {
      throw new ProtocolError(messageOf(error));
    }
    const device = await this.#provider.open(name, this.#client);
    const flags = transmissionFlags(device.info, this.#style);
    return this.#enter(name, device, encodeExportNameReply(device.size, flags, this.#noZeroes));
  }

  get #style(): ReplyStyle {
    return { structured: this.#structured, extended: false };
  }

  /** Sends the last answer; from then on the device belongs to the session. */
  async #enter(exportName: string, device: BlockDevice, answer: Buffer): Promise<Session> {
    try {
      await this.#channel.write(answer);
    } catch (error) {
      await device.close();
      throw error;
    }
    const contexts = this.#contextsOf === exportName && this.#structured ? this.#contexts : [];
    const { start, end } = this.#channel.rest;
    return { exportName, device, ...this.#style, contexts, stageStart: start, stageEnd: end };
  }

  /** Every INFO reply asked for, in one write, and the ACK. */
  #infoReplies(option: number, name: string, infos: readonly number[], info: DeviceInfo, size: number): Buffer {
    const replies: Buffer[] = [];
    const add = (data: Buffer) => replies.push(encodeOptionReply(option, Reply.INFO, data));
    add(encodeInfoExport(size, transmissionFlags(info, this.#style)));
    if (infos.includes(Info.NAME)) add(encodeInfoText(Info.NAME, name));
    if (infos.includes(Info.DESCRIPTION) && info.description !== null) {
      add(encodeInfoText(Info.DESCRIPTION, info.description));
    }
    if (infos.includes(Info.BLOCK_SIZE)) {
      const { minimum, preferred, maximum } = info.blockSize;
      add(encodeInfoBlockSize(minimum, preferred, Math.min(maximum, this.#limits.payload)));
    }
    replies.push(encodeOptionReply(option, Reply.ACK));
    return Buffer.concat(replies);
  }

  async #metaContext(option: number, data: Buffer): Promise<void> {
    const set = option === Option.SET_META_CONTEXT;
    if (set) {
      this.#contexts = [];
      this.#contextsOf = null;
    }
    if (!this.#structured) throw new InvalidOptionError('structured replies come first');
    const { name, queries } = decodeMetaRequest(data);
    let offered: readonly string[];
    try {
      offered = (await this.#provider.describe(name, this.#client)).info.metaContexts;
    } catch (error) {
      return this.#refuseExport(option, error);
    }
    const chosen = offered
      .map((context, i) => ({ id: i + 1, name: context }))
      .filter((context) => (set ? queries.includes(context.name) : listed(context.name, queries)));
    if (set) {
      this.#contexts = chosen;
      this.#contextsOf = name;
    }
    const replies = chosen.map((context) =>
      encodeOptionReply(option, Reply.META_CONTEXT, encodeMetaContext(set ? context.id : 0, context.name)),
    );
    replies.push(encodeOptionReply(option, Reply.ACK));
    await this.#channel.write(Buffer.concat(replies));
  }

  /** What the provider said about an export, as an option error with its text. */
  #refuseExport(option: number, error: unknown): Promise<void> {
    if (error instanceof TlsRequiredError) return this.#refuse(option, Reply.ERR_TLS_REQD, messageOf(error));
    const errno = errnoOf(error);
    const type = errno === errnos.ENOENT ? Reply.ERR_UNKNOWN : errno === 108 ? Reply.ERR_SHUTDOWN : Reply.ERR_POLICY;
    return this.#refuse(option, type, messageOf(error));
  }
}

/** LIST_META_CONTEXT: no query lists all, `namespace:` lists that namespace, anything else itself. */
function listed(context: string, queries: readonly string[]): boolean {
  if (queries.length === 0) return true;
  return queries.some((query) => query === context || (query.endsWith(':') && context.startsWith(query)));
}
