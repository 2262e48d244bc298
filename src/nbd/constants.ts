/**
 * Every number of the NBD protocol this library speaks, once. Names are the protocol document's, without the NBD_ prefix.
 * Server, client, tests and documentation take them from here.
 */

/** Magic numbers. The 64-bit ones are bigint because they pass 2^53; they are only compared and copied. */
export const MAGIC = 0x4e42444d41474943n;
export const OPTION_MAGIC = 0x49484156454f5054n;
export const OPTION_REPLY_MAGIC = 0x0003e889045565a9n;
export const REQUEST_MAGIC = 0x25609513;
export const SIMPLE_REPLY_MAGIC = 0x67446698;
export const STRUCTURED_REPLY_MAGIC = 0x668e33ef;
export const EXTENDED_REQUEST_MAGIC = 0x21e41c71;
export const EXTENDED_REPLY_MAGIC = 0x6e8a278c;

/** Sizes of fixed headers, in bytes. */
export const GREETING_LENGTH = 18;
export const CLIENT_FLAGS_LENGTH = 4;
export const OPTION_HEADER_LENGTH = 16;
export const OPTION_REPLY_HEADER_LENGTH = 20;
export const REQUEST_LENGTH = 28;
export const SIMPLE_REPLY_LENGTH = 16;
export const CHUNK_HEADER_LENGTH = 20;
export const EXTENDED_REQUEST_LENGTH = 32;
export const EXTENDED_CHUNK_HEADER_LENGTH = 32;
/** Size and transmission flags in the answer to EXPORT_NAME; zeroes follow unless both ends agreed on none. */
export const EXPORT_NAME_REPLY_LENGTH = 10;
export const EXPORT_NAME_ZEROES = 124;

/** Longest string of the protocol (names, descriptions, error texts), in bytes of UTF-8. */
export const MAX_STRING = 4096;
/** Most extents one block status chunk may carry. */
export const MAX_EXTENTS = 2 ** 20;

/** Handshake flags of the server; the client's answer has the same bits. */
export const HandshakeFlag = { FIXED_NEWSTYLE: 1, NO_ZEROES: 2 } as const;

export const Option = {
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

/** Option reply types; errors have bit 31 set. */
export const Reply = {
  ACK: 1,
  SERVER: 2,
  INFO: 3,
  META_CONTEXT: 4,
  ERR_UNSUP: 0x80000001,
  ERR_POLICY: 0x80000002,
  ERR_INVALID: 0x80000003,
  ERR_PLATFORM: 0x80000004,
  ERR_TLS_REQD: 0x80000005,
  ERR_UNKNOWN: 0x80000006,
  ERR_SHUTDOWN: 0x80000007,
  ERR_BLOCK_SIZE_REQD: 0x80000008,
  ERR_TOO_BIG: 0x80000009,
  ERR_EXT_HEADER_REQD: 0x8000000a,
} as const;

/** Information types of INFO and GO. */
export const Info = { EXPORT: 0, NAME: 1, DESCRIPTION: 2, BLOCK_SIZE: 3 } as const;

/** Transmission flags: what an export can do. */
export const TransmissionFlag = {
  HAS_FLAGS: 1 << 0,
  READ_ONLY: 1 << 1,
  SEND_FLUSH: 1 << 2,
  SEND_FUA: 1 << 3,
  ROTATIONAL: 1 << 4,
  SEND_TRIM: 1 << 5,
  SEND_WRITE_ZEROES: 1 << 6,
  SEND_DF: 1 << 7,
  CAN_MULTI_CONN: 1 << 8,
  SEND_RESIZE: 1 << 9,
  SEND_CACHE: 1 << 10,
  SEND_FAST_ZERO: 1 << 11,
  BLOCK_STATUS_PAYLOAD: 1 << 12,
} as const;

export const Command = {
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

export const CommandFlag = { FUA: 1, NO_HOLE: 2, DF: 4, REQ_ONE: 8, FAST_ZERO: 16, PAYLOAD_LEN: 32 } as const;

/** Structured reply chunks; errors have bit 15 set. */
export const Chunk = {
  NONE: 0,
  OFFSET_DATA: 1,
  OFFSET_HOLE: 2,
  BLOCK_STATUS: 5,
  /** Block status with 64-bit lengths and flags: extended headers only. */
  BLOCK_STATUS_EXT: 6,
  ERROR: 0x8001,
  ERROR_OFFSET: 0x8002,
} as const;
export const CHUNK_FLAG_DONE = 1;

/** Error values on the wire. */
export const WireError = {
  EPERM: 1,
  EIO: 5,
  ENOMEM: 12,
  EINVAL: 22,
  ENOSPC: 28,
  EOVERFLOW: 75,
  ENOTSUP: 95,
  ESHUTDOWN: 108,
} as const;

/** The meta context that tells holes and zeroes. */
export const BASE_ALLOCATION = 'base:allocation';
/** Its flag: nothing is allocated there. */
export const STATE_HOLE = 1;
/** Its flag: it reads as zeros. */
export const STATE_ZERO = 2;

const optionNames = new Map<number, string>(Object.entries(Option).map(([name, value]) => [value, name]));
const commandNames = new Map<number, string>(Object.entries(Command).map(([name, value]) => [value, name]));
const replyNames = new Map<number, string>(Object.entries(Reply).map(([name, value]) => [value, name]));

/** The option's name for messages, e.g. `SET_META_CONTEXT`. */
export const optionName = (option: number): string => optionNames.get(option) ?? `option ${option}`;
/** The command's name for messages, e.g. `WRITE_ZEROES`. */
export const commandName = (command: number): string => commandNames.get(command) ?? `command ${command}`;
/** The option reply's name for messages, e.g. `ERR_UNKNOWN`. */
export const replyName = (reply: number): string => replyNames.get(reply) ?? `reply ${reply}`;
