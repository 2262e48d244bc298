/**
 * What an NBD server needs of whatever it exports. The library calls it; it knows nothing of how the bytes are kept.
 *
 * The hot path is callback-shaped: the server owns a pool of Io objects, hands one to `submit`, and the device ends it with
 * `io.complete(errno)` once, before submit returns or later. Nothing is allocated per request.
 */

/** Memory for payloads that native calls and JavaScript both reach. */
export interface IoBuffer {
  /** Address in this process, for recv and send on a descriptor. */
  readonly address: number;
  /** The same memory as bytes; made on first use, so that the native path never pays for it. */
  readonly bytes: Buffer;
  /** Usable length in bytes. */
  readonly length: number;
}

/** What a device is asked for; the numbers are the protocol's. */
export const IoCommand = {
  READ: 0,
  WRITE: 1,
  FLUSH: 3,
  TRIM: 4,
  CACHE: 5,
  WRITE_ZEROES: 6,
  BLOCK_STATUS: 7,
  /** Change the export's size: `offset` is the new size in bytes. Only where info.canResize. */
  RESIZE: 8,
} as const;
export type IoCommand = (typeof IoCommand)[keyof typeof IoCommand];

/** One extent of block status: `flags` as the meta context defines them (base:allocation: 1 hole, 2 zero). */
export interface Extent {
  /** Bytes; up to 2^53 - 1, longer than 32 bits only on the wire of extended headers. */
  length: number;
  flags: number;
  /** Upper half of 64-bit flags; only clients with extended headers get it. Absent: 0. */
  flagsHigh?: number;
}

/** Who is at the other end of a connection: what an export provider may decide by. */
export interface Client {
  /** `unix` or `address:port`. */
  readonly peer: string;
  /** null: the connection is in plaintext. */
  readonly tls: ClientTls | null;
}

/** What TLS told of a client. */
export interface ClientTls {
  /** e.g. `TLSv1.3`. */
  readonly protocol: string;
  /** Subject of its verified certificate, as `CN=alice,O=Example` (RFC 4514, most specific first); null without one. */
  readonly subject: string | null;
  /** The pre-shared key's identity; null when a certificate (or none) was used. */
  readonly identity: string | null;
}

/**
 * One operation. Reads and writes are at most `maxIo` long: the server cuts longer requests. The server has validated it
 * against size, alignment and readOnly.
 */
export interface Io {
  readonly command: IoCommand;
  readonly offset: number;
  readonly length: number;
  readonly fua: boolean;
  /** WRITE_ZEROES: do not make a hole. */
  readonly noHole: boolean;
  /** WRITE_ZEROES: fail with EOPNOTSUPP rather than be as slow as writing. */
  readonly fastZero: boolean;
  /** BLOCK_STATUS: the meta context asked for, and: stop after one extent. */
  readonly context: string;
  readonly reqOne: boolean;
  /** READ: filled by the device from 0 to length. WRITE: the data. The server allocates and releases it. */
  readonly buffer: IoBuffer | null;
  /** FLUSH: no other request of any client is known of; the device may have this thread wait for a disk that answers at once. */
  readonly alone?: boolean;
  /** WRITE: there is something else for this thread to do meanwhile: another one may do a long write. */
  readonly meanwhile?: boolean;
  /** READ: the client understands holes; the device may then set `hole` instead of filling the buffer. */
  readonly mayBeHole: boolean;
  /** READ: set by the device before complete(0): the whole of it reads as zeros, the buffer was not filled. */
  hole: boolean;
  /** READ: the answer may be sent from a file; the device may then set `file` instead of filling the buffer. */
  readonly mayBeFile?: boolean;
  /**
   * READ: set by the device before complete(0): a descriptor of the server's own from then on (dup), and where the content begins in it. Until
   * the client has taken the answer it may still be changed by later writes to the file, as that of any request that runs beside them. -1: none.
   */
  file?: number;
  fileOffset?: number;
  /** BLOCK_STATUS: the device sets it before complete; covers a prefix of the range, at least one extent. */
  extents: Extent[] | null;
  /** For the device's own use while the operation runs. */
  tag: unknown;
  /** Ends the operation: 0, or a positive Linux errno (mapped to an NBD error by the server); text is for structured errors. */
  complete(errno: number, text?: string): void;
}

/** What a device can do, and what is told of it. */
export interface DeviceInfo {
  /** The canonical name of the export, for NBD_INFO_NAME; absent: the name that the client used. */
  readonly name?: string;
  readonly readOnly: boolean;
  readonly canFlush: boolean;
  readonly canFua: boolean;
  readonly canTrim: boolean;
  readonly canWriteZeroes: boolean;
  readonly canFastZero: boolean;
  readonly canCache: boolean;
  /** RESIZE is offered. */
  readonly canResize: boolean;
  readonly multiConn: boolean;
  readonly rotational: boolean;
  /** Block sizes in bytes: minimum and preferred are powers of two; maximum bounds one request's payload. */
  readonly blockSize: { readonly minimum: number; readonly preferred: number; readonly maximum: number };
  /** Names of the meta contexts it answers, e.g. `base:allocation`. */
  readonly metaContexts: readonly string[];
  readonly description: string | null;
}

/** A request before it begins, and the connection that it came by, to a Throttle. One for each connection, used again. */
export interface ThrottleTicket {
  /** WRITE, WRITE_ZEROES or TRIM; else READ. */
  readonly isWrite: boolean;
  /** Bytes of data that move; 0 for WRITE_ZEROES and TRIM. */
  readonly bytes: number;
  /** To be called once after admit() said no, and not within it: the request may begin, and has been counted. */
  granted(): void;
}

/** What holds requests back before they take any memory: READ, WRITE, WRITE_ZEROES and TRIM, no others. */
export interface Throttle {
  /** Counts a request that may begin. When it may not, it waits: granted() follows, or the server cancels. */
  admit(ticket: ThrottleTicket): boolean;
  /** Counts one that is not to be held back: its client has left. */
  charge(ticket: ThrottleTicket): void;
  /** A request that waits will not begin. */
  cancel(ticket: ThrottleTicket): void;
}

/** What one connection reads and writes: made by ExportProvider.open. */
export interface BlockDevice {
  /** Optional. What slows it down; null or absent: nothing does now. Asked for each request. */
  readonly throttle?: Throttle | null;
  readonly info: DeviceInfo;
  /** Current size in bytes; may change while connected (online resize). */
  readonly size: number;
  /** The longest single read or write `submit` takes, in bytes. */
  readonly maxIo: number;
  /** A buffer of at least `length` <= maxIo bytes, or null when there is none now: the server waits and stops reading. */
  allocate(length: number): IoBuffer | null;
  release(buffer: IoBuffer): void;
  /** Calls back once when an allocation may succeed again after it returned null. */
  whenAvailable(callback: () => void): void;
  submit(io: Io): void;
  /**
   * Optional. Nothing more is submitted for now: a device that does its work in this process may do it within the call, so that the
   * answers of a batch go out together and no turn of the event loop lies between.
   */
  kick?(): void;
  /**
   * Optional. The client is gone while operations are in flight, or sent and not read yet: those that wait for something (a lock, say) may
   * fail now, and changes that are still submitted may be refused, for the client may have sent them again by another connection. It may
   * be called more than once. close() follows when all have completed.
   */
  abandon?(): void;
  /**
   * Optional; absent, abandon is called. As abandon, of a client that said goodbye: what it has sent is to be done, but for what waits for a lock
   * or the like, and before what others ask for from now on of the same bytes.
   * @param isRead all of it was submitted; else leave follows once more
   */
  leave?(isRead: boolean): void;
  /** The last connection's end: no Io is in flight. */
  close(): Promise<void>;
}

/**
 * What a server offers by name. An error's `errno` becomes the option's answer: ENOENT unknown export, ESHUTDOWN the server is
 * going down, a TlsRequiredError that TLS comes first, anything else policy; its message goes to the client.
 */
export interface ExportProvider {
  /** Names (and descriptions) for NBD_OPT_LIST: those this client may know of. */
  list(client: Client): Promise<{ name: string; description?: string }[]>;
  /**
   * Opens an export for one connection. @throws an error with `errno`: ENOENT (unknown export), EACCES (policy),
   * EBUSY …; its message goes to the client.
   * @param name UTF-8 export name, "" = default
   */
  open(name: string, client: Client): Promise<BlockDevice>;
  /** What open would tell, without opening: for NBD_OPT_INFO and failed negotiations that must not touch the store. */
  describe(name: string, client: Client): Promise<{ info: DeviceInfo; size: number }>;
  /**
   * Optional. Names of meta contexts that match a query, for exports whose contexts carry a parameter. Without it the names of
   * `info.metaContexts` are matched: a query of LIST that ends in `:` is a namespace, any other query the name itself.
   * @param query a query of the client; null: LIST without any query, for everything there is
   * @param set SET_META_CONTEXT: exact names only
   */
  metaContexts?(name: string, query: string | null, set: boolean, client: Client): Promise<readonly string[]>;
}
