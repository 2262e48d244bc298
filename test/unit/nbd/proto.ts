/**
 * The NBD protocol by hand: messages of a client as bytes, and a socket that reads what the server says. Written from the protocol document
 * and on purpose without the library's own codec and constants, so that a mistake there cannot hide itself. The conformance tests and the
 * fuzzer use it.
 */
/** Where messages go and answers come from. */
export interface Peer {
  send(bytes: Uint8Array): void;
  /** Exactly so many bytes. @throws Error when the server closes before */
  take(length: number): Promise<Buffer>;
}

export const OPT = {
  EXPORT_NAME: 1,
  ABORT: 2,
  LIST: 3,
  PEEK_EXPORT: 4,
  STARTTLS: 5,
  INFO: 6,
  GO: 7,
  STRUCTURED_REPLY: 8,
  LIST_META_CONTEXT: 9,
  SET_META_CONTEXT: 10,
  EXTENDED_HEADERS: 11,
} as const;

const ERR = 2 ** 31;
export const REP = {
  ACK: 1,
  SERVER: 2,
  INFO: 3,
  META_CONTEXT: 4,
  ERR_UNSUP: ERR + 1,
  ERR_POLICY: ERR + 2,
  ERR_INVALID: ERR + 3,
  ERR_PLATFORM: ERR + 4,
  ERR_TLS_REQD: ERR + 5,
  ERR_UNKNOWN: ERR + 6,
  ERR_SHUTDOWN: ERR + 7,
  ERR_BLOCK_SIZE_REQD: ERR + 8,
  ERR_TOO_BIG: ERR + 9,
  ERR_EXT_HEADER_REQD: ERR + 10,
} as const;

export const CMD = {
  READ: 0,
  WRITE: 1,
  DISC: 2,
  FLUSH: 3,
  TRIM: 4,
  CACHE: 5,
  WRITE_ZEROES: 6,
  BLOCK_STATUS: 7,
  RESIZE: 8,
} as const;

export const CFLAG = { FUA: 1, NO_HOLE: 2, DF: 4, REQ_ONE: 8, FAST_ZERO: 16, PAYLOAD_LEN: 32 } as const;

export const TFLAG = {
  HAS_FLAGS: 1,
  READ_ONLY: 2,
  SEND_FLUSH: 4,
  SEND_FUA: 8,
  ROTATIONAL: 16,
  SEND_TRIM: 32,
  SEND_WRITE_ZEROES: 64,
  SEND_DF: 128,
  CAN_MULTI_CONN: 256,
  SEND_RESIZE: 512,
  SEND_CACHE: 1024,
  SEND_FAST_ZERO: 2048,
  BLOCK_STATUS_PAYLOAD: 4096,
} as const;

export const CHUNK = {
  NONE: 0,
  OFFSET_DATA: 1,
  OFFSET_HOLE: 2,
  BLOCK_STATUS: 5,
  BLOCK_STATUS_EXT: 6,
  ERROR: 0x8001,
  ERROR_OFFSET: 0x8002,
} as const;

export const E = {
  PERM: 1,
  IO: 5,
  NOMEM: 12,
  INVAL: 22,
  NOSPC: 28,
  OVERFLOW: 75,
  NOTSUP: 95,
  SHUTDOWN: 108,
} as const;

export const IHAVEOPT = 0x49484156454f5054n;
export const GREETING = 18;
export const REQUEST = 28;
export const EXTENDED_REQUEST = 32;

export const u16 = (value: number): Buffer => {
  const bytes = Buffer.alloc(2);
  bytes.writeUInt16BE(value);
  return bytes;
};
export const u32 = (value: number): Buffer => {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value >>> 0);
  return bytes;
};
export const u64 = (value: number | bigint): Buffer => {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64BE(BigInt.asUintN(64, BigInt(value)));
  return bytes;
};
const text = (value: string | Uint8Array): Buffer => Buffer.from(value as string);
/** A string with its 32-bit length before it. */
export const counted = (value: string | Uint8Array): Buffer => Buffer.concat([u32(text(value).length), text(value)]);

/** @param claimed the length the header tells, when that is not the data's */
export function option(type: number, data: Uint8Array = Buffer.alloc(0), claimed = data.length): Buffer {
  return Buffer.concat([u64(IHAVEOPT), u32(type), u32(claimed), data]);
}

/** The data of INFO and GO. */
export function infoData(name: string | Uint8Array, infos: readonly number[] = []): Buffer {
  return Buffer.concat([counted(name), u16(infos.length), ...infos.map(u16)]);
}

/** The data of LIST_META_CONTEXT and SET_META_CONTEXT. */
export function metaData(name: string | Uint8Array, queries: readonly string[]): Buffer {
  return Buffer.concat([counted(name), u32(queries.length), ...queries.map(counted)]);
}

export interface RequestFields {
  readonly type: number;
  readonly flags?: number;
  readonly cookie?: bigint;
  readonly offset?: number | bigint;
  readonly length?: number | bigint;
}

/** 28 bytes. */
export function request({ type, flags = 0, cookie = 1n, offset = 0, length = 0 }: RequestFields): Buffer {
  return Buffer.concat([u32(0x25609513), u16(flags), u16(type), u64(cookie), u64(offset), u32(Number(length))]);
}

/** 32 bytes: the request of extended headers. */
export function extendedRequest({ type, flags = 0, cookie = 1n, offset = 0, length = 0 }: RequestFields): Buffer {
  return Buffer.concat([u32(0x21e41c71), u16(flags), u16(type), u64(cookie), u64(offset), u64(length)]);
}

export interface OptionAnswer {
  readonly option: number;
  readonly type: number;
  readonly data: Buffer;
}

/** One reply to an option. */
export async function takeOptionReply(peer: Peer): Promise<OptionAnswer> {
  const header = await peer.take(20);
  if (header.readBigUInt64BE(0) !== 0x3e889045565a9n) throw new Error(`no option reply: ${header.toString('hex')}`);
  const data = await peer.take(header.readUInt32BE(16));
  return { option: header.readUInt32BE(8), type: header.readUInt32BE(12), data: Buffer.from(data) };
}

/** Replies to one option up to the last one, which is an ACK or an error. */
export async function takeAnswers(peer: Peer): Promise<OptionAnswer[]> {
  const answers: OptionAnswer[] = [];
  for (;;) {
    const answer = await takeOptionReply(peer);
    answers.push(answer);
    if (answer.type === REP.ACK || answer.type >= ERR) return answers;
  }
}

/** Sends an option and takes all of its replies. */
export function ask(peer: Peer, type: number, data?: Uint8Array, claimed?: number): Promise<OptionAnswer[]> {
  peer.send(option(type, data, claimed));
  return takeAnswers(peer);
}

/** As ask(); the type of the last reply. */
export async function verdict(peer: Peer, type: number, data?: Uint8Array, claimed?: number): Promise<number> {
  return (await ask(peer, type, data, claimed)).at(-1)!.type;
}

/** Greets: takes the server's greeting and answers it. The server's handshake flags. */
export async function greet(peer: Peer, flags = 3): Promise<number> {
  const greeting = await peer.take(GREETING);
  peer.send(u32(flags));
  return greeting.readUInt16BE(16);
}

export type Style = 'simple' | 'structured' | 'extended';

export interface Entered {
  readonly size: bigint;
  readonly flags: number;
  /** Ids by name of the contexts that SET_META_CONTEXT chose. */
  readonly contexts: Map<string, number>;
}

/** Greets, agrees on a style of replies and on meta contexts, and enters an export. @throws Error when the server refuses */
export async function enter(
  peer: Peer,
  style: Style,
  name = 'disk',
  queries: readonly string[] = ['base:allocation'],
): Promise<Entered> {
  await greet(peer);
  if (style !== 'simple') {
    const negotiated = await verdict(peer, style === 'extended' ? OPT.EXTENDED_HEADERS : OPT.STRUCTURED_REPLY);
    if (negotiated !== REP.ACK) throw new Error(`${style} replies were refused with ${negotiated - ERR}`);
  }
  const contexts = new Map<string, number>();
  if (style !== 'simple' && queries.length > 0) {
    for (const { type, data } of await ask(peer, OPT.SET_META_CONTEXT, metaData(name, queries))) {
      if (type === REP.META_CONTEXT) contexts.set(data.toString('utf8', 4), data.readUInt32BE(0));
    }
  }
  const answers = await ask(peer, OPT.GO, infoData(name));
  if (answers.at(-1)!.type !== REP.ACK) throw new Error(`GO was refused with ${answers.at(-1)!.type - ERR}`);
  const info = answers.find(({ type, data }) => type === REP.INFO && data.readUInt16BE(0) === 0)!.data;
  return { size: info.readBigUInt64BE(2), flags: info.readUInt16BE(10), contexts };
}

export interface Chunk {
  readonly flags: number;
  readonly type: number;
  readonly cookie: bigint;
  /** Extended headers: the request's offset. */
  readonly offset: bigint | null;
  readonly payload: Buffer;
}

/** One chunk of a structured or extended reply. @param head what of its header was taken already */
export async function takeChunk(peer: Peer, style: Style, head: Buffer = Buffer.alloc(0)): Promise<Chunk> {
  const extended = style === 'extended';
  const header = Buffer.concat([head, await peer.take((extended ? 32 : 20) - head.length)]);
  if (header.readUInt32BE(0) !== (extended ? 0x6e8a278c : 0x668e33ef))
    throw new Error(`no chunk: ${header.toString('hex')}`);
  const length = extended ? Number(header.readBigUInt64BE(24)) : header.readUInt32BE(16);
  return {
    flags: header.readUInt16BE(4),
    type: header.readUInt16BE(6),
    cookie: header.readBigUInt64BE(8),
    offset: extended ? header.readBigUInt64BE(16) : null,
    payload: Buffer.from(await peer.take(length)),
  };
}

/** Chunks of one reply up to the one with DONE; requests are answered one at a time. */
export async function takeChunks(peer: Peer, style: Style, head?: Buffer): Promise<Chunk[]> {
  const chunks: Chunk[] = [await takeChunk(peer, style, head)];
  while ((chunks.at(-1)!.flags & 1) === 0) chunks.push(await takeChunk(peer, style));
  return chunks;
}

/** What became of one request: its error value (0: success), and the parts of its answer. */
export interface Outcome {
  readonly error: number;
  readonly text: string;
  /** ERROR_OFFSET's offsets. */
  readonly errorOffsets: bigint[];
  /** READ: the data, holes filled with zeros. */
  readonly data: Buffer | null;
  /** Empty for a simple reply. */
  readonly chunks: Chunk[];
  readonly simple: boolean;
}

/** Takes the answer to one request, of whatever kind the style allows. */
export async function takeOutcome(
  peer: Peer,
  style: Style,
  { type, offset = 0, length = 0 }: RequestFields,
): Promise<Outcome> {
  const wanted = Number(length);
  const head = Buffer.from(await peer.take(style === 'extended' ? 32 : 16));
  if (head.readUInt32BE(0) === 0x67446698) {
    if (style === 'extended') throw new Error('a simple reply with extended headers');
    const error = head.readUInt32BE(4);
    const data = type === CMD.READ && error === 0 ? Buffer.from(await peer.take(wanted)) : null;
    return { error, text: '', errorOffsets: [], data, chunks: [], simple: true };
  }
  if (style === 'simple') throw new Error(`no simple reply: ${head.toString('hex')}`);
  const chunks = await takeChunks(peer, style, head);
  const failed = chunks.filter((chunk) => chunk.type >= 0x8000);
  const data = type === CMD.READ && failed.length === 0 ? assemble(chunks, BigInt(offset), wanted) : null;
  const texts = failed.map(({ payload }) => payload.toString('utf8', 6, 6 + payload.readUInt16BE(4)));
  const errorOffsets = failed
    .filter((chunk) => chunk.type === CHUNK.ERROR_OFFSET)
    .map(({ payload }) => payload.readBigUInt64BE(6 + payload.readUInt16BE(4)));
  return {
    error: failed[0]?.payload.readUInt32BE(0) ?? 0,
    text: texts[0] ?? '',
    errorOffsets,
    data,
    chunks,
    simple: false,
  };
}

/** The bytes that content chunks describe. @throws Error where they overlap, leave something out or lie outside */
export function assemble(chunks: readonly Chunk[], offset: bigint, length: number): Buffer {
  const data = Buffer.alloc(length);
  const seen = Buffer.alloc(length);
  for (const { type, payload } of chunks) {
    if (type !== CHUNK.OFFSET_DATA && type !== CHUNK.OFFSET_HOLE) continue;
    const at = Number(payload.readBigUInt64BE(0) - offset);
    const count = type === CHUNK.OFFSET_DATA ? payload.length - 8 : payload.readUInt32BE(8);
    if (type === CHUNK.OFFSET_HOLE && payload.length !== 12) throw new Error(`a hole chunk of ${payload.length} bytes`);
    if (count < 1 || at < 0 || at + count > length) throw new Error(`content of ${count} bytes at ${at} of ${length}`);
    if (seen.subarray(at, at + count).some((byte) => byte !== 0)) throw new Error(`content twice at ${at}`);
    seen.fill(1, at, at + count);
    if (type === CHUNK.OFFSET_DATA) payload.copy(data, at, 8);
  }
  if (seen.includes(0)) throw new Error(`content is missing at ${seen.indexOf(0)} of ${length}`);
  return data;
}

/** Sends one request (and a payload) and takes its outcome. Extended WRITEs get PAYLOAD_LEN. */
export function execute(
  peer: Peer,
  style: Style,
  fields: RequestFields,
  payload: Uint8Array = Buffer.alloc(0),
): Promise<Outcome> {
  if (style === 'extended') {
    const flags = (fields.flags ?? 0) | (payload.length > 0 ? CFLAG.PAYLOAD_LEN : 0);
    peer.send(Buffer.concat([extendedRequest({ ...fields, flags }), payload]));
  } else {
    peer.send(Buffer.concat([request(fields), payload]));
  }
  return takeOutcome(peer, style, fields);
}

export interface StatusExtent {
  readonly length: bigint;
  readonly flags: bigint;
}

/** The context id and extents of a status chunk of either kind. */
export function decodeStatus({ type, payload }: Chunk): { id: number; extents: StatusExtent[] } {
  const extents: StatusExtent[] = [];
  if (type === CHUNK.BLOCK_STATUS) {
    for (let at = 4; at < payload.length; at += 8)
      extents.push({ length: BigInt(payload.readUInt32BE(at)), flags: BigInt(payload.readUInt32BE(at + 4)) });
  } else {
    const count = payload.readUInt32BE(4);
    if (count !== 0 && payload.length !== 8 + 16 * count)
      throw new Error(`${count} extents in ${payload.length} bytes`);
    for (let at = 8; at < payload.length; at += 16)
      extents.push({ length: payload.readBigUInt64BE(at), flags: payload.readBigUInt64BE(at + 8) });
  }
  return { id: payload.readUInt32BE(0), extents };
}
