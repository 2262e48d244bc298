/** One request that waits for its answer, and the judgement of what comes. */
import { assemble, CFLAG, CHUNK, type Chunk, CMD, decodeStatus, E } from '../unit/nbd/proto.js';
import { type Agreement, demand, take, textOf, type Walk } from './oracle.js';
import { isZero, readSnapshot, type Snapshot } from './world.js';

const KNOWN_ERRORS: readonly number[] = Object.values(E);

interface Asked {
  readonly flags: number;
  readonly type: number;
  readonly cookie: bigint;
  readonly offset: bigint;
  readonly length: bigint;
}

export class Expected {
  /** The end of the connection is as good as an answer. */
  readonly mayClose: boolean;
  /** What the disk held when the request's turn came. */
  before: Snapshot = new Map();
  unknown: { start: number; end: number }[] = [];
  readonly #agreement: Agreement;
  readonly #asked: Asked;
  /** BLOCK_STATUS: contexts that must be answered. */
  readonly #ids: readonly number[];
  /** Empty: success. */
  readonly #errors: Set<number>;
  /** What the document leaves open (lengths of zero): EINVAL is as good as success. */
  readonly #vague: boolean;
  readonly #chunks: Chunk[] = [];

  constructor(
    agreement: Agreement,
    asked: Asked,
    ids: readonly number[],
    errors: Set<number>,
    vague: boolean,
    mayClose: boolean,
  ) {
    this.#agreement = agreement;
    this.#asked = asked;
    this.#ids = ids;
    this.#errors = errors;
    this.#vague = vague;
    this.mayClose = mayClose;
  }

  get cookie(): bigint {
    return this.#asked.cookie;
  }

  get offset(): bigint {
    return this.#asked.offset;
  }

  mustFailWith(error: number): void {
    this.#errors.add(error);
  }

  get #name(): string {
    const { type, flags, offset, length } = this.#asked;
    return `command ${type} with flags ${flags} at ${offset} of ${length} bytes`;
  }

  #judge(error: number): void {
    if (error !== 0)
      demand(KNOWN_ERRORS.includes(error), `${this.#name}: the error value ${error} is none of the protocol`);
    const allowed =
      this.#errors.has(error) ||
      (error === 0 && this.#errors.size === 0) ||
      (this.#vague && [0, E.INVAL].includes(error));
    const wanted = this.#errors.size === 0 ? 'success' : [...this.#errors].join(' or ');
    demand(allowed, `${this.#name}: answered with error ${error}, not with ${wanted}`);
  }

  /** A simple reply. */
  *simple(error: number): Walk<void> {
    const { type, length } = this.#asked;
    this.#judge(error);
    if (this.#agreement.style === 'structured') {
      demand(type !== CMD.READ, 'a simple reply to READ although structured replies were agreed on');
      if (type === CMD.BLOCK_STATUS) demand(error !== 0, 'a simple reply to a BLOCK_STATUS that succeeded');
    }
    demand(this.#chunks.length === 0, 'a simple reply after chunks');
    if (type === CMD.READ && error === 0) this.#compare(Buffer.from(yield* take(Number(length))));
  }

  /** One content chunk of a READ that failed elsewhere. */
  #comparePart(type: number, payload: Buffer): void {
    const at = payload.readBigUInt64BE(0);
    const data = type === CHUNK.OFFSET_DATA ? payload.subarray(8) : Buffer.alloc(payload.readUInt32BE(8));
    const { offset, length } = this.#asked;
    demand(at >= offset && at + BigInt(data.length) <= offset + length, `${this.#name}: content outside of it`);
    this.#compare(data, Number(at));
  }

  #compare(data: Buffer, start = Number(this.#asked.offset)): void {
    const expected = readSnapshot(this.before, start, data.length);
    for (const range of this.unknown) {
      const from = Math.max(0, range.start - start);
      const to = Math.min(data.length, range.end - start);
      if (from < to) data.copy(expected, from, from, to);
    }
    if (data.equals(expected)) return;
    const at = data.findIndex((byte, i) => byte !== expected[i]);
    demand(false, `${this.#name}: byte ${at} is ${data[at]}, not ${expected[at]}`);
  }

  /** One chunk; true when it was the last. */
  chunk(flags: number, type: number, payload: Buffer): boolean {
    demand((flags & ~1) === 0, `a chunk with flags ${flags}`);
    const { cookie, offset } = this.#asked;
    this.#chunks.push({ flags, type, cookie, offset, payload });
    if (type === CHUNK.NONE) demand(flags === 1 && payload.length === 0, 'a NONE chunk with data or without DONE');
    else if (type === CHUNK.ERROR || type === CHUNK.ERROR_OFFSET) this.#error(type, payload);
    else this.#content(type, payload);
    if ((flags & 1) === 0) return false;
    this.#finish();
    return true;
  }

  #error(type: number, payload: Buffer): void {
    const tail = type === CHUNK.ERROR_OFFSET ? 8 : 0;
    demand(payload.length >= 6 + tail, 'an error chunk that is too short');
    const length = payload.readUInt16BE(4);
    demand(payload.length === 6 + length + tail, 'the length of an error chunk is not that of its text');
    demand(textOf(payload.subarray(6, 6 + length)) !== null, 'the text of an error is no string');
    demand(payload.readUInt32BE() !== 0, 'an error chunk without an error');
    if (tail === 0) return;
    const at = payload.readBigUInt64BE(6 + length) - this.#asked.offset;
    demand(at >= 0n && at < this.#asked.length, `${this.#name}: an error offset outside of it`);
  }

  #content(type: number, payload: Buffer): void {
    const read = this.#asked.type === CMD.READ;
    if (type === CHUNK.OFFSET_DATA) demand(read && payload.length >= 9, `${this.#name}: a data chunk`);
    else if (type === CHUNK.OFFSET_HOLE) demand(read && payload.length === 12, `${this.#name}: a hole chunk`);
    else {
      demand(type === CHUNK.BLOCK_STATUS || type === CHUNK.BLOCK_STATUS_EXT, `a chunk of type ${type}`);
      demand(this.#asked.type === CMD.BLOCK_STATUS, `${this.#name}: a status chunk`);
      if (type === CHUNK.BLOCK_STATUS_EXT) {
        demand(this.#agreement.style === 'extended', 'an extended status chunk without extended headers');
        demand(payload.length >= 24 && payload.length % 16 === 8, 'the length of an extended status chunk');
      } else demand(payload.length >= 12 && payload.length % 8 === 4, 'the length of a status chunk');
    }
  }

  #finish(): void {
    const failed = this.#chunks.filter(({ type }) => type >= 0x8000);
    const generic = failed.filter(({ type }) => type === CHUNK.ERROR);
    demand(generic.length <= 1, `${this.#name}: more than one ERROR chunk`);
    this.#judge(failed[0]?.payload.readUInt32BE() ?? 0);
    const content = this.#chunks.filter(({ type }) => type === CHUNK.OFFSET_DATA || type === CHUNK.OFFSET_HOLE);
    if ((this.#asked.flags & CFLAG.DF) !== 0 && this.#asked.type === CMD.READ) {
      demand(content.length <= 1, `${this.#name}: a fragmented answer to DF`);
    }
    if (failed.length > 0) {
      // Where each error tells its place, what came is good.
      if (generic.length === 0) for (const { type, payload } of content) this.#comparePart(type, payload);
      return;
    }
    if (this.#asked.type === CMD.READ) {
      this.#compare(assemble(this.#chunks, this.#asked.offset, Number(this.#asked.length)));
    } else if (this.#asked.type === CMD.BLOCK_STATUS) this.#status();
  }

  #status(): void {
    const { flags, offset, length } = this.#asked;
    const status = this.#chunks.filter(({ type }) => type !== CHUNK.NONE).map(decodeStatus);
    const ids = status.map(({ id }) => id);
    if (!this.#vague)
      demand([...ids].sort().join() === [...this.#ids].sort().join(), `status of contexts ${ids}, not ${this.#ids}`);
    const { target, contexts } = this.#agreement;
    for (const { id, extents } of status) {
      demand(extents.length <= 2 ** 20, 'too many extents');
      let at = offset;
      extents.forEach((extent, i) => {
        demand(extent.length > 0n, 'an empty extent');
        demand(extent.length % BigInt(target.info.blockSize.minimum) === 0n, 'an extent off the minimum block size');
        if (i > 0) demand(at < offset + length, `${this.#name}: an extent that begins after it`);
        if (contexts.get(id) === 'base:allocation' && (extent.flags & 2n) !== 0n) {
          const known = this.unknown.every(
            ({ start, end }) => at >= BigInt(end) || at + extent.length <= BigInt(start),
          );
          const zero = !known || isZero(this.before, Number(at), Number(extent.length));
          demand(zero, `${this.#name}: zeros are told of ${extent.length} bytes at ${at}, which hold data`);
        }
        at += extent.length;
      });
      demand(at <= BigInt(target.size), `${this.#name}: extents past the end`);
      if ((flags & CFLAG.REQ_ONE) !== 0)
        demand(extents.length === 1 && at <= offset + length, 'REQ_ONE: more than one extent');
    }
  }
}
