/**
 * Objects as a peer sees them: the operations of a blocker as promises. The mapper is written against the interface; in a
 * running node the blocker is on the other side of a segment.
 */
import { errnoOf, errnos, SystemError } from '../sys/errno.js';
import { decodeJson, encodeJson, type LockInfo, type NameListReply } from './json.js';
import { Flag, NO_V0_SIZE, Op } from './ops.js';
import { decodeInfo, decodeName, encodeName, NAME_STRUCT_SIZE } from './structs.js';

/** See ObjectClient.read. */
export interface ReadOptions {
  uncached?: boolean;
  into?: Buffer;
}

/** The operations on one store of objects. All reject with a SystemError. */
export interface ObjectClient {
  /**
   * `length` bytes from `offset`, zeros past the object's end. uncached: as another node may have left it. into: memory that the answer may
   * be put into, at least `length` bytes; what is returned is then a part of it, or is not.
   * @throws ENOENT when the object is missing
   */
  read(name: string, offset: number, length: number, options?: ReadOptions): Promise<Buffer>;
  /** Writes in place; creates the object when missing. fua: durable when it resolves. */
  write(name: string, offset: number, bytes: Uint8Array, options?: { fua?: boolean }): Promise<void>;
  /** The range reads as zeros afterwards; a missing object stays missing. */
  trim(name: string, offset: number, length: number): Promise<void>;
  writeZeroes(name: string, offset: number, length: number): Promise<void>;
  /** Makes these objects exist and be empty: all, or it fails once none is being made any more. */
  reset(names: readonly string[], durable: boolean): Promise<void>;
  /** Makes `target` a copy of at most `size` bytes of `source`. @throws ENOENT, EEXIST with `exclusive` */
  copy(source: string, target: string, size: number, options: { durable: boolean; exclusive?: boolean }): Promise<void>;
  /** @throws ENOENT when missing */
  delete(name: string): Promise<void>;
  /** Length and space used, in bytes; when it was changed last, ms since the epoch, if the store tells. @throws ENOENT when missing */
  info(name: string): Promise<{ size: number; allocated: number; modified?: number }>;
  truncate(name: string, size: number): Promise<void>;
  /** Content-addresses the object's first `size` bytes; resolves to 64 hex characters. */
  hash(name: string, size: number): Promise<string>;
  list(cursor: string | null, limit: number): Promise<NameListReply>;
  /** Makes these objects durable, or all of the store when null. */
  flush(names: readonly string[] | null): Promise<void>;
  /** What is kept of objects is looked at again before its next use: other nodes may have changed them. */
  forget(): Promise<void>;
  /**
   * The same store for requests that must not begin late: each carries what `deadline` returns when it is sent (Request.deadline), and is
   * refused with ETIME, nothing having been done, when the store comes to it after that.
   */
  withDeadline(deadline: () => number): ObjectClient;
  /** Takes the exclusive lock `target`, at once. @throws EBUSY naming the holder */
  acquire(target: string): Promise<void>;
  /** @throws ENOENT when not locked, EPERM when another owner holds it and force is false */
  release(target: string, force: boolean): Promise<void>;
  lockHolder(target: string): Promise<LockInfo | null>;
}

/** A request as Port.call of src/xseg takes it. */
export interface CallRequest {
  op: Op;
  target: string;
  offset?: number;
  size?: number;
  flags?: number;
  v0Size?: number;
  deadline?: number;
  data?: Buffer;
  capacity?: number;
  /** The answer is what was serviced, and no more of the buffer. */
  brief?: boolean;
  /** The answer has no data. */
  silent?: boolean;
  /** Memory that the answer may be put into. */
  into?: Buffer;
}

/** The part of a port that calling needs. */
export interface Caller {
  call(dst: number, request: CallRequest, options?: { wait?: boolean }): Promise<{ serviced: number; data: Buffer }>;
}

/** Largest data of one request to a blocker: full map reads and writes go in such pieces, as the original's did. */
export const PIECE = 512 * 1024;

/** An ObjectClient over XSEG requests to a blocker's port. */
export class XsegObjectClient implements ObjectClient {
  readonly #port: Caller;
  readonly #destination: number;
  readonly #wait: boolean;
  readonly #deadline: (() => number) | null;

  /**
   * @param destination port number of the blocker
   * @param options wait: a blocker that is being restarted is waited for (daemons), instead of failing at once (tools)
   */
  constructor(
    port: Caller,
    destination: number,
    options: { wait?: boolean } = {},
    deadline: (() => number) | null = null,
  ) {
    this.#port = port;
    this.#destination = destination;
    this.#wait = options.wait ?? false;
    this.#deadline = deadline;
  }

  withDeadline(deadline: () => number): ObjectClient {
    return new XsegObjectClient(this.#port, this.#destination, { wait: this.#wait }, deadline);
  }

  #call(op: Op, target: string, more: Omit<CallRequest, 'op' | 'target'> = {}) {
    const deadline = this.#deadline === null ? 0 : this.#deadline();
    const request = { op, target, offset: 0, size: 0, flags: 0, v0Size: NO_V0_SIZE, deadline, ...more };
    return this.#port.call(this.#destination, request, { wait: this.#wait });
  }

  async read(name: string, offset: number, length: number, { uncached, into }: ReadOptions = {}): Promise<Buffer> {
    const flags = uncached ? Flag.UNCACHED : 0;
    // The blocker fills all of the buffer, so nothing has to be cleared before.
    if (length <= PIECE) {
      const request = { offset, size: length, flags, capacity: length, brief: true, into };
      return whole(await this.#call(Op.READ, name, request), length, name);
    }
    const out = Buffer.allocUnsafe(length);
    for (let done = 0; done < length; done += PIECE) {
      const size = Math.min(PIECE, length - done);
      const request = { offset: offset + done, size, flags, capacity: size, brief: true };
      whole(await this.#call(Op.READ, name, request), size, name).copy(out, done);
    }
    return out;
  }

  async write(name: string, offset: number, bytes: Uint8Array, options: { fua?: boolean } = {}): Promise<void> {
    const flags = options.fua ? Flag.FUA : 0;
    for (let done = 0; done === 0 || done < bytes.length; done += PIECE) {
      const piece = bytes.subarray(done, Math.min(done + PIECE, bytes.length));
      const data = Buffer.from(piece.buffer, piece.byteOffset, piece.byteLength);
      const request = { offset: offset + done, size: data.length, flags, data, silent: true };
      const { serviced } = await this.#call(Op.WRITE, name, request);
      if (serviced !== data.length) {
        throw new SystemError(errnos.EIO, `object ${name}: ${serviced} of ${data.length} bytes were written`);
      }
    }
  }

  async trim(name: string, offset: number, length: number): Promise<void> {
    await this.#call(Op.TRIM, name, { offset, size: length });
  }

  async writeZeroes(name: string, offset: number, length: number): Promise<void> {
    await this.#call(Op.WRITE_ZEROES, name, { offset, size: length });
  }

  async reset(names: readonly string[], durable: boolean): Promise<void> {
    const flags = durable ? Flag.FUA : 0;
    if (names.length === 1) await this.#call(Op.RESET, names[0], { flags });
    else {
      try {
        await this.#callForAll(Op.RESET, names, flags);
      } catch (error) {
        // A blocker of before version 1.5, which goes on when the mapper was replaced, knows none for several.
        if (errnoOf(error) !== errnos.EINVAL) throw error;
        for (const name of names) await this.#call(Op.RESET, name, { flags });
      }
    }
  }

  async copy(
    source: string,
    target: string,
    size: number,
    options: { durable: boolean; exclusive?: boolean },
  ): Promise<void> {
    const flags = (options.durable ? Flag.FUA : 0) | (options.exclusive ? Flag.EXCL : 0);
    await this.#call(Op.COPY, target, { size, flags, data: encodeName(source) });
  }

  async delete(name: string): Promise<void> {
    await this.#call(Op.DELETE, name);
  }

  async info(name: string): Promise<{ size: number; allocated: number; modified?: number }> {
    const reply = await this.#call(Op.INFO, name, { capacity: 24 });
    const { size, ...more } = decodeInfo(reply.data.subarray(0, Math.max(reply.serviced, 8)));
    return { size, allocated: size, ...more };
  }

  async truncate(name: string, size: number): Promise<void> {
    await this.#call(Op.TRUNCATE, name, { offset: size });
  }

  async hash(name: string, size: number): Promise<string> {
    return decodeName((await this.#call(Op.HASH, name, { size, capacity: NAME_STRUCT_SIZE })).data, 'HASH reply');
  }

  async list(cursor: string | null, limit: number): Promise<NameListReply> {
    const data = encodeJson({ cursor, limit });
    const reply = await this.#call(Op.LIST, '', { size: data.length, data, capacity: PIECE });
    const page = decodeJson(reply.data.subarray(0, reply.serviced), 'LIST reply');
    if (!page || !Array.isArray(page.names)) throw new SystemError(errnos.EIO, 'LIST reply has no names');
    return page as unknown as NameListReply;
  }

  async flush(names: readonly string[] | null): Promise<void> {
    if (names === null) {
      await this.#call(Op.FLUSH, '');
      return;
    }
    await this.#callForAll(Op.FLUSH, names);
  }

  /** One request for all of these objects, or several: pieces that fit one. */
  async #callForAll(op: Op, names: readonly string[], flags = 0): Promise<void> {
    for (let from = 0; from < names.length; ) {
      let bytes = 0;
      let to = from;
      while (to < names.length && bytes + Buffer.byteLength(names[to]) + 1 <= PIECE) {
        bytes += Buffer.byteLength(names[to++]) + 1;
      }
      const data = Buffer.from(names.slice(from, to).join('\n'), 'utf8');
      await this.#call(op, '', { size: data.length, data, flags, silent: true });
      from = to;
    }
  }

  async forget(): Promise<void> {
    await this.#call(Op.FORGET, '');
  }

  async acquire(target: string): Promise<void> {
    await this.#call(Op.ACQUIRE, target, { flags: Flag.NOSYNC });
  }

  async release(target: string, force: boolean): Promise<void> {
    await this.#call(Op.RELEASE, target, { flags: force ? Flag.FORCE : 0 });
  }

  async lockHolder(target: string): Promise<LockInfo | null> {
    const reply = await this.#call(Op.LOCKINFO, target, { capacity: 4096 });
    return decodeJson(reply.data.subarray(0, reply.serviced), 'LOCKINFO reply') as LockInfo | null;
  }
}

/** What was read, if that is as much as was asked for: a blocker reads zeros past an object's end. @throws SystemError EIO */
function whole({ data }: { data: Buffer }, length: number, name: string): Buffer {
  if (data.length === length) return data;
  throw new SystemError(errnos.EIO, `object ${name}: ${data.length} of ${length} bytes were read`);
}
