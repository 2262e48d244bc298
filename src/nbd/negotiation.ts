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
import type { BlockDevice, Client, ClientTls, DeviceInfo, ExportProvider } from './device.js';
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
  type NameDecoder,
} from './handshake-codec.js';
import type { Limits } from './limits.js';
import { MetaContexts } from './meta-contexts.js';
import { type ReplyStyle, type Session, transmissionFlags } from './session.js';
import type { TlsMode } from './tls.js';

const SERVER_FLAGS = HandshakeFlag.FIXED_NEWSTYLE | HandshakeFlag.NO_ZEROES;

/** Linux's; Node's table lacks it. */
const ESHUTDOWN = 108;

/** Options whose data says something. */
const WITH_DATA: ReadonlySet<number> = new Set([
  Option.INFO,
  Option.GO,
  Option.LIST_META_CONTEXT,
  Option.SET_META_CONTEXT,
]);

/** Where the handshake's bytes come from and go to. */
export interface HandshakeChannel {
  read(length: number): Promise<Buffer>;
  skip(length: number): Promise<void>;
  /** Resolves when the bytes are gone: the next option is not read while the client does not take its answers. */
  write(bytes: Buffer): Promise<void>;
  /** Whether the client has sent more than was read: what it may not before it has its answer to STARTTLS. */
  hasMore(): boolean;
  /** Goes on in TLS: from then on bytes are read and written through it. @throws when the TLS handshake fails */
  startTls(): Promise<ClientTls>;
  readonly rest: { start: number; end: number };
}

/** The client ended the handshake in an orderly way. */
export class AbortedError extends Error {}

export interface NegotiationOptions {
  readonly channel: HandshakeChannel;
  /** Who asks, as known before TLS. */
  readonly client: Client;
  readonly provider: ExportProvider;
  readonly limits: Limits;
  /** Whether the server is going down: options are then answered with ERR_SHUTDOWN. */
  readonly stopping: () => boolean;
  readonly tls: TlsMode;
  /** Reads an export name where it need not be a protocol string. @throws InvalidOptionError */
  readonly exportName?: NameDecoder;
}

export class Negotiation {
  readonly #options: NegotiationOptions;
  readonly #channel: HandshakeChannel;
  readonly #limits: Limits;
  readonly #contexts: MetaContexts;
  #client: Client;
  #fixed = false;
  #noZeroes = false;
  #structured = false;
  #extended = false;
  /** Data of the option before, when that was an INFO which succeeded: a GO with the same data tells the same. */
  #informed: Buffer | null = null;
  /** More options for a client that asked for the list: nbdinfo --list goes on to ask for each export of it. */
  #forListed = 0;

  constructor(options: NegotiationOptions) {
    this.#options = options;
    this.#channel = options.channel;
    this.#limits = options.limits;
    this.#client = options.client;
    this.#contexts = new MetaContexts(options.provider);
  }

  /** Who asks, as known by now. */
  get client(): Client {
    return this.#client;
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
    this.#fixed = (flags & HandshakeFlag.FIXED_NEWSTYLE) !== 0;
    // Such a client cannot start TLS, and must not be told to.
    if (this.#mustSecure && !this.#fixed) {
      throw new ProtocolError('the client lacks the fixed newstyle handshake, without which there is no TLS');
    }
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
    const { optionLength } = this.#limits;
    if (length > optionLength && option === Option.EXPORT_NAME) {
      throw new ProtocolError(`an export name of ${length} bytes`);
    }
    // What is kept of it: for options that take no data, or are not known, some is as good as all.
    const data = await this.#channel.read(Math.min(length, optionLength));
    await this.#channel.skip(length - data.length);
    const informed = this.#informed?.equals(data) ?? false;
    this.#informed = null;
    if (option === Option.EXPORT_NAME) return this.#exportName(data);
    if (option === Option.ABORT) {
      // A client that has gone already is as well aborted.
      await this.#reply(option, Reply.ACK).catch(() => {});
      throw new AbortedError();
    }
    if (this.#mustSecure && option !== Option.STARTTLS) {
      await this.#refuseInsecure(option);
      return null;
    }
    try {
      if (this.#options.stopping()) await this.#refuse(option, Reply.ERR_SHUTDOWN, 'the server is shutting down');
      else if (length > data.length && WITH_DATA.has(option)) await this.#refuseLong(option);
      else if (option === Option.GO) return await this.#go(data, informed);
      else await this.#answer(option, data);
    } catch (error) {
      if (!(error instanceof InvalidOptionError)) throw error;
      await this.#refuse(option, Reply.ERR_INVALID, `${name}: ${error.message}`);
    }
    return null;
  }

  /** A SET_META_CONTEXT that fails takes back what was chosen, too. */
  #refuseLong(option: number): Promise<void> {
    if (option === Option.SET_META_CONTEXT) this.#contexts.clear();
    const text = `${optionName(option)} takes at most ${this.#limits.optionLength} bytes of data`;
    return this.#refuse(option, Reply.ERR_TOO_BIG, text);
  }

  /** Nothing but STARTTLS and ABORT is answered. */
  get #mustSecure(): boolean {
    return this.#options.tls === 'required' && this.#client.tls === null;
  }

  #refuseInsecure(option: number): Promise<void> {
    return this.#refuse(option, Reply.ERR_TLS_REQD, 'this server requires TLS: start it first (STARTTLS)');
  }

  async #answer(option: number, data: Buffer): Promise<void> {
    switch (option) {
      case Option.STARTTLS:
        return this.#startTls(data);
      case Option.LIST:
        return this.#list(data);
      case Option.INFO:
        return this.#info(data);
      case Option.STRUCTURED_REPLY:
        if (data.length > 0) throw new InvalidOptionError('takes no data');
        if (this.#extended) {
          const text = 'extended headers are agreed on, which include structured replies';
          return this.#refuse(option, Reply.ERR_EXT_HEADER_REQD, text);
        }
        this.#structured = true;
        return this.#reply(option, Reply.ACK);
      case Option.EXTENDED_HEADERS:
        if (data.length > 0) throw new InvalidOptionError('takes no data');
        this.#extended = true;
        this.#structured = true;
        return this.#reply(option, Reply.ACK);
      case Option.LIST_META_CONTEXT:
      case Option.SET_META_CONTEXT:
        return this.#metaContext(option, data);
      default:
        return this.#refuse(option, Reply.ERR_UNSUP, `${optionName(option)} is not supported`);
    }
  }

  async #startTls(data: Buffer): Promise<void> {
    if (this.#options.tls === 'off') {
      return this.#refuse(Option.STARTTLS, Reply.ERR_UNSUP, 'STARTTLS: there is no TLS here');
    }
    if (data.length > 0) throw new InvalidOptionError('takes no data');
    if (this.#client.tls !== null) throw new InvalidOptionError('TLS is in use already');
    if (!this.#fixed) {
      return this.#refuse(Option.STARTTLS, Reply.ERR_POLICY, 'STARTTLS needs the fixed newstyle handshake');
    }
    // Whoever sits between could have put them there, to be taken for the client's own words (CVE-2021-3716).
    if (this.#channel.hasMore()) throw new ProtocolError('the client sent more in plaintext behind STARTTLS');
    await this.#reply(Option.STARTTLS, Reply.ACK);
    this.#client = { ...this.#client, tls: await this.#channel.startTls() };
    this.#structured = false;
    this.#extended = false;
    this.#forListed = 0;
    this.#contexts.clear();
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
      entries = await this.#options.provider.list(this.#client);
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
    const { name, infos } = decodeInfoRequest(data, this.#options.exportName);
    let what: { info: DeviceInfo; size: number };
    try {
      what = await this.#options.provider.describe(name, this.#client);
    } catch (error) {
      return this.#refuseExport(Option.INFO, error);
    }
    this.#informed = data;
    await this.#channel.write(this.#infoReplies(Option.INFO, name, infos, what, true));
  }

  /** @param informed an INFO has just told of the same */
  async #go(data: Buffer, informed: boolean): Promise<Session | null> {
    const { name, infos } = decodeInfoRequest(data, this.#options.exportName);
    let device: BlockDevice;
    try {
      device = await this.#options.provider.open(name, this.#client);
    } catch (error) {
      await this.#refuseExport(Option.GO, error);
      return null;
    }
    return this.#enter(name, device, this.#infoReplies(Option.GO, name, infos, device, informed));
  }

  /** EXPORT_NAME has no error reply: whatever goes wrong ends the connection. */
  async #exportName(data: Buffer): Promise<Session> {
    if (this.#mustSecure)
      throw new TlsRequiredError('the client chose an export without TLS, which this server requires');
    // Its replies would not be what the client expects: the size and flags of this option come before it is done.
    if (this.#extended) throw new ProtocolError('the client used EXPORT_NAME with extended headers, which need GO');
    if (this.#options.stopping()) throw new SystemError(errnos.ECONNREFUSED, 'the server is shutting down');
    let name: string;
    try {
      const decode = this.#options.exportName ?? decodeString;
      name = decode(data, 'the export name');
    } catch (error) {
      throw new ProtocolError(messageOf(error));
    }
    const device = await this.#options.provider.open(name, this.#client);
    const flags = this.#flags(name, device.info, false);
    return this.#enter(name, device, encodeExportNameReply(device.size, flags, this.#noZeroes));
  }

  get #style(): ReplyStyle {
    return { structured: this.#structured, extended: this.#extended };
  }

  /** @param all tell what could be had if contexts were chosen, too */
  #flags(name: string, info: DeviceInfo, all: boolean): number {
    const contexts = this.#contexts.of(name).length > 0 || (all && info.metaContexts.length > 0);
    return transmissionFlags(info, this.#style, contexts);
  }

  /** Sends the last answer; from then on the device belongs to the session. */
  async #enter(exportName: string, device: BlockDevice, answer: Buffer): Promise<Session> {
    try {
      await this.#channel.write(answer);
    } catch (error) {
      await device.close();
      throw error;
    }
    const contexts = this.#contexts.of(exportName);
    const { start, end } = this.#channel.rest;
    return { exportName, device, ...this.#style, contexts, stageStart: start, stageEnd: end };
  }

  /** Every INFO reply asked for, in one write, and the ACK. */
  #infoReplies(
    option: number,
    name: string,
    infos: readonly number[],
    { info, size }: { readonly info: DeviceInfo; readonly size: number },
    all: boolean,
  ): Buffer {
    const replies: Buffer[] = [];
    const add = (data: Buffer) => replies.push(encodeOptionReply(option, Reply.INFO, data));
    add(encodeInfoExport(size, this.#flags(name, info, all)));
    if (infos.includes(Info.NAME)) add(encodeInfoText(Info.NAME, info.name ?? name));
    if (infos.includes(Info.DESCRIPTION) && info.description !== null) {
      add(encodeInfoText(Info.DESCRIPTION, info.description));
    }
    if (infos.includes(Info.BLOCK_SIZE)) {
      const { minimum, preferred, maximum } = info.blockSize;
      const most = Math.min(maximum, this.#limits.payload);
      add(encodeInfoBlockSize(minimum, preferred, most - (most % minimum)));
    }
    replies.push(encodeOptionReply(option, Reply.ACK));
    return Buffer.concat(replies);
  }

  async #metaContext(option: number, data: Buffer): Promise<void> {
    const set = option === Option.SET_META_CONTEXT;
    if (set) this.#contexts.clear();
    if (!this.#structured) throw new InvalidOptionError('structured replies or extended headers come first');
    const { name, queries } = decodeMetaRequest(data, this.#options.exportName);
    const { metaQueries, metaContexts } = this.#limits;
    if (queries.length > metaQueries) {
      return this.#refuse(option, Reply.ERR_TOO_BIG, `${optionName(option)} takes at most ${metaQueries} queries`);
    }
    let found: readonly string[];
    try {
      found = await this.#contexts.find(name, queries, set, this.#client);
    } catch (error) {
      return this.#refuseExport(option, error);
    }
    if (set && found.length > metaContexts) {
      return this.#refuse(option, Reply.ERR_TOO_BIG, `a connection has at most ${metaContexts} meta contexts`);
    }
    const ids = set ? this.#contexts.choose(name, found).map(({ id }) => id) : [];
    const replies = found.map((context, i) =>
      // LIST has no ids.
      encodeOptionReply(option, Reply.META_CONTEXT, encodeMetaContext(ids[i] ?? 0, context)),
    );
    replies.push(encodeOptionReply(option, Reply.ACK));
    await this.#channel.write(Buffer.concat(replies));
  }

  /** What the provider said about an export, as an option error with its text. */
  #refuseExport(option: number, error: unknown): Promise<void> {
    if (error instanceof TlsRequiredError) {
      // The word is only for those who can do something about it, and in SELECTIVETLS only for INFO and GO.
      const canStart = this.#options.tls !== 'off' && this.#client.tls === null && this.#fixed;
      const asked = option === Option.INFO || option === Option.GO;
      return this.#refuse(option, canStart && asked ? Reply.ERR_TLS_REQD : Reply.ERR_POLICY, messageOf(error));
    }
    const errno = errnoOf(error);
    const type =
      errno === errnos.ENOENT ? Reply.ERR_UNKNOWN : errno === ESHUTDOWN ? Reply.ERR_SHUTDOWN : Reply.ERR_POLICY;
    return this.#refuse(option, type, messageOf(error));
  }
}
