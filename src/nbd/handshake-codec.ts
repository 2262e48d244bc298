/** Handshake messages to bytes and back (fixed newstyle). No I/O: callers bring exactly the bytes a decoder names. */
import {
  CLIENT_FLAGS_LENGTH,
  EXPORT_NAME_REPLY_LENGTH,
  EXPORT_NAME_ZEROES,
  GREETING_LENGTH,
  Info,
  MAGIC,
  MAX_STRING,
  OPTION_HEADER_LENGTH,
  OPTION_MAGIC,
  OPTION_REPLY_HEADER_LENGTH,
  OPTION_REPLY_MAGIC,
} from './constants.js';
import { ProtocolError } from './errors.js';

/** The data of one option does not follow the protocol; framing is intact, so the answer is ERR_INVALID. */
export class InvalidOptionError extends Error {
  constructor(message: string) {
    super(message);
    this.name = 'InvalidOptionError';
  }
}

const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

/**
 * Bytes of a protocol string to text.
 * @param what names the string in the error
 * @throws InvalidOptionError when longer than 4096 bytes, not UTF-8, or holding a NUL
 */
export function decodeString(bytes: Uint8Array, what: string): string {
  if (bytes.length > MAX_STRING)
    throw new InvalidOptionError(`${what} is ${bytes.length} bytes long, at most ${MAX_STRING}`);
  if (bytes.includes(0)) throw new InvalidOptionError(`${what} holds a NUL byte`);
  try {
    return utf8.decode(bytes);
  } catch {
    throw new InvalidOptionError(`${what} is not UTF-8`);
  }
}

/** Bytes of an export name to text; `what` names it in errors. @throws InvalidOptionError */
export type NameDecoder = (bytes: Buffer, what: string) => string;

/** Text to a protocol string, cut to 4096 bytes at a character's border. */
export function encodeString(text: string): Buffer {
  const bytes = Buffer.from(text.replaceAll('\0', ''), 'utf8');
  if (bytes.length <= MAX_STRING) return bytes;
  let end = MAX_STRING;
  while ((bytes[end] & 0xc0) === 0x80) end--;
  return bytes.subarray(0, end);
}

// The greeting and the client's flags

export function encodeGreeting(flags: number): Buffer {
  const out = Buffer.alloc(GREETING_LENGTH);
  out.writeBigUInt64BE(MAGIC, 0);
  out.writeBigUInt64BE(OPTION_MAGIC, 8);
  out.writeUInt16BE(flags, 16);
  return out;
}

/** The server's handshake flags. @throws ProtocolError when this is no newstyle NBD server */
export function decodeGreeting(bytes: Buffer): number {
  if (bytes.readBigUInt64BE(0) !== MAGIC)
    throw new ProtocolError('the peer is no NBD server: it sent another greeting');
  if (bytes.readBigUInt64BE(8) !== OPTION_MAGIC) {
    throw new ProtocolError('the server speaks the oldstyle handshake only; newstyle is needed');
  }
  return bytes.readUInt16BE(16);
}

export function encodeClientFlags(flags: number): Buffer {
  const out = Buffer.alloc(CLIENT_FLAGS_LENGTH);
  out.writeUInt32BE(flags);
  return out;
}

// Options and their replies

export function encodeOption(option: number, data: Uint8Array = Buffer.alloc(0)): Buffer {
  const out = Buffer.alloc(OPTION_HEADER_LENGTH + data.length);
  out.writeBigUInt64BE(OPTION_MAGIC, 0);
  out.writeUInt32BE(option, 8);
  out.writeUInt32BE(data.length, 12);
  out.set(data, OPTION_HEADER_LENGTH);
  return out;
}

/** @throws ProtocolError when the magic is wrong: framing is lost */
export function decodeOptionHeader(bytes: Buffer): { option: number; length: number } {
  if (bytes.readBigUInt64BE(0) !== OPTION_MAGIC)
    throw new ProtocolError('the client sent an option without its magic number');
  return { option: bytes.readUInt32BE(8), length: bytes.readUInt32BE(12) };
}

export function encodeOptionReply(option: number, type: number, data: Uint8Array = Buffer.alloc(0)): Buffer {
  const out = Buffer.alloc(OPTION_REPLY_HEADER_LENGTH + data.length);
  out.writeBigUInt64BE(OPTION_REPLY_MAGIC, 0);
  out.writeUInt32BE(option, 8);
  out.writeUInt32BE(type, 12);
  out.writeUInt32BE(data.length, 16);
  out.set(data, OPTION_REPLY_HEADER_LENGTH);
  return out;
}

/** @throws ProtocolError when the magic is wrong */
export function decodeOptionReplyHeader(bytes: Buffer): { option: number; type: number; length: number } {
  if (bytes.readBigUInt64BE(0) !== OPTION_REPLY_MAGIC)
    throw new ProtocolError('the server answered an option without its magic number');
  return { option: bytes.readUInt32BE(8), type: bytes.readUInt32BE(12), length: bytes.readUInt32BE(16) };
}

/** The whole answer to EXPORT_NAME: size in bytes, transmission flags, and the zeroes unless both ends agreed to leave them out. */
export function encodeExportNameReply(size: number, flags: number, noZeroes: boolean): Buffer {
  const out = Buffer.alloc(EXPORT_NAME_REPLY_LENGTH + (noZeroes ? 0 : EXPORT_NAME_ZEROES));
  out.writeBigUInt64BE(BigInt(size), 0);
  out.writeUInt16BE(flags, 8);
  return out;
}

export function decodeExportNameReply(bytes: Buffer): { size: number; flags: number } {
  return { size: decodeSize(bytes.readBigUInt64BE(0)), flags: bytes.readUInt16BE(8) };
}

function decodeSize(size: bigint): number {
  if (size > BigInt(Number.MAX_SAFE_INTEGER))
    throw new ProtocolError(`an export of ${size} bytes is more than this client can address`);
  return Number(size);
}

// LIST

export function encodeServerEntry(name: string, description = ''): Buffer {
  const bytes = encodeString(name);
  const out = Buffer.concat([Buffer.alloc(4), bytes, encodeString(description)]);
  out.writeUInt32BE(bytes.length, 0);
  return out;
}

export function decodeServerEntry(data: Buffer): { name: string; description: string } {
  const reader = new Reader(data);
  const name = decodeString(reader.take(reader.u32('the name length'), 'the export name'), 'the export name');
  return { name, description: decodeString(reader.rest(), 'the description') };
}

// INFO and GO

export function encodeInfoRequest(name: string, infos: readonly number[]): Buffer {
  const bytes = Buffer.from(name, 'utf8');
  const out = Buffer.alloc(6 + bytes.length + 2 * infos.length);
  out.writeUInt32BE(bytes.length, 0);
  out.set(bytes, 4);
  out.writeUInt16BE(infos.length, 4 + bytes.length);
  infos.forEach((info, i) => {
    out.writeUInt16BE(info, 6 + bytes.length + 2 * i);
  });
  return out;
}

/**
 * @param decodeName reads the export name
 * @throws InvalidOptionError
 */
export function decodeInfoRequest(
  data: Buffer,
  decodeName: NameDecoder = decodeString,
): { name: string; infos: number[] } {
  const reader = new Reader(data);
  const name = decodeName(reader.take(reader.u32('the name length'), 'the export name'), 'the export name');
  const count = reader.u16('the number of information requests');
  const infos: number[] = [];
  for (let i = 0; i < count; i++) infos.push(reader.u16('an information request'));
  reader.end();
  return { name, infos };
}

export function encodeInfoExport(size: number, flags: number): Buffer {
  const out = Buffer.alloc(12);
  out.writeUInt16BE(Info.EXPORT, 0);
  out.writeBigUInt64BE(BigInt(size), 2);
  out.writeUInt16BE(flags, 10);
  return out;
}

/** NAME and DESCRIPTION. */
export function encodeInfoText(info: number, text: string): Buffer {
  const bytes = encodeString(text);
  const out = Buffer.alloc(2 + bytes.length);
  out.writeUInt16BE(info, 0);
  out.set(bytes, 2);
  return out;
}

/** Sizes in bytes. */
export function encodeInfoBlockSize(minimum: number, preferred: number, maximum: number): Buffer {
  const out = Buffer.alloc(14);
  out.writeUInt16BE(Info.BLOCK_SIZE, 0);
  out.writeUInt32BE(minimum, 2);
  out.writeUInt32BE(preferred, 6);
  out.writeUInt32BE(maximum, 10);
  return out;
}

/** One INFO reply's meaning; `null` fields were not in it. Unknown information types are skipped, as clients must. */
export type InfoReply =
  | { info: 'export'; size: number; flags: number }
  | { info: 'name' | 'description'; text: string }
  | { info: 'blockSize'; minimum: number; preferred: number; maximum: number }
  | { info: 'unknown'; type: number };

/** @throws InvalidOptionError when it is shorter or longer than its type wants */
export function decodeInfo(data: Buffer): InfoReply {
  const reader = new Reader(data);
  const type = reader.u16('the information type');
  switch (type) {
    case Info.EXPORT: {
      const size = decodeSize(reader.u64('the size'));
      const flags = reader.u16('the flags');
      reader.end();
      return { info: 'export', size, flags };
    }
    case Info.NAME:
      return { info: 'name', text: decodeString(reader.rest(), 'the name') };
    case Info.DESCRIPTION:
      return { info: 'description', text: decodeString(reader.rest(), 'the description') };
    case Info.BLOCK_SIZE: {
      const reply = {
        info: 'blockSize' as const,
        minimum: reader.u32('the minimum'),
        preferred: reader.u32('the preferred size'),
        maximum: reader.u32('the maximum'),
      };
      reader.end();
      return reply;
    }
    default:
      return { info: 'unknown', type };
  }
}

// LIST_META_CONTEXT and SET_META_CONTEXT

export function encodeMetaRequest(name: string, queries: readonly string[]): Buffer {
  const strings = [name, ...queries].map((text) => Buffer.from(text, 'utf8'));
  const out = Buffer.alloc(4 + strings.reduce((sum, bytes) => sum + 4 + bytes.length, 0));
  let at = 0;
  strings.forEach((bytes, i) => {
    at = out.writeUInt32BE(bytes.length, at);
    out.set(bytes, at);
    at += bytes.length;
    if (i === 0) at = out.writeUInt32BE(queries.length, at);
  });
  return out;
}

/**
 * @param decodeName reads the export name
 * @throws InvalidOptionError
 */
export function decodeMetaRequest(
  data: Buffer,
  decodeName: NameDecoder = decodeString,
): { name: string; queries: string[] } {
  const reader = new Reader(data);
  const name = decodeName(reader.take(reader.u32('the name length'), 'the export name'), 'the export name');
  const count = reader.u32('the number of queries');
  // Every query takes at least its length field, so a count beyond the data is known before anything is kept.
  if (count > reader.left / 4) throw new InvalidOptionError(`${count} queries do not fit into the option`);
  const queries: string[] = [];
  for (let i = 0; i < count; i++) {
    queries.push(decodeString(reader.take(reader.u32('a query length'), 'a query'), 'a query'));
  }
  reader.end();
  return { name, queries };
}

export function encodeMetaContext(id: number, name: string): Buffer {
  const bytes = encodeString(name);
  const out = Buffer.alloc(4 + bytes.length);
  out.writeUInt32BE(id, 0);
  out.set(bytes, 4);
  return out;
}

export function decodeMetaContext(data: Buffer): { id: number; name: string } {
  const reader = new Reader(data);
  return { id: reader.u32('the context id'), name: decodeString(reader.rest(), 'the context name') };
}

/** Takes fields off an option's data; running out of it is the sender's mistake. */
class Reader {
  readonly #data: Buffer;
  #at = 0;
  constructor(data: Buffer) {
    this.#data = data;
  }
  get left(): number {
    return this.#data.length - this.#at;
  }
  take(length: number, what: string): Buffer {
    if (length > this.left) throw new InvalidOptionError(`the data ends inside ${what}`);
    this.#at += length;
    return this.#data.subarray(this.#at - length, this.#at);
  }
  u16(what: string): number {
    return this.take(2, what).readUInt16BE();
  }
  u32(what: string): number {
    return this.take(4, what).readUInt32BE();
  }
  u64(what: string): bigint {
    return this.take(8, what).readBigUInt64BE();
  }
  rest(): Buffer {
    return this.take(this.left, 'the rest');
  }
  end(): void {
    if (this.left > 0) throw new InvalidOptionError(`${this.left} bytes follow the last field`);
  }
}
