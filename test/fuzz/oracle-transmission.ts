/** Transmission as it must go: which requests there are, what each of them does, and whether the answers say so. */
import { CFLAG, CMD, E, TFLAG } from '../unit/nbd/proto.js';
import { type Agreement, demand, Inconclusive, take, type Walk } from './oracle.js';
import { Expected } from './oracle-reply.js';
import { type Export, LIMITS } from './world.js';

interface Header {
  readonly flags: number;
  readonly type: number;
  readonly cookie: bigint;
  readonly offset: bigint;
  readonly length: bigint;
}

const OWN_FLAGS = new Map<number, number>([
  [CMD.READ, CFLAG.DF],
  [CMD.WRITE_ZEROES, CFLAG.NO_HOLE | CFLAG.FAST_ZERO],
  [CMD.BLOCK_STATUS, CFLAG.REQ_ONE],
]);

/** Flags of TFLAG that offer a command. */
const OFFERS = new Map<number, number>([
  [CMD.READ, TFLAG.HAS_FLAGS],
  [CMD.WRITE, TFLAG.HAS_FLAGS],
  [CMD.BLOCK_STATUS, TFLAG.HAS_FLAGS],
  [CMD.FLUSH, TFLAG.SEND_FLUSH],
  [CMD.TRIM, TFLAG.SEND_TRIM],
  [CMD.CACHE, TFLAG.SEND_CACHE],
  [CMD.WRITE_ZEROES, TFLAG.SEND_WRITE_ZEROES],
  [CMD.RESIZE, TFLAG.SEND_RESIZE],
]);

const WRITES: readonly number[] = [CMD.WRITE, CMD.TRIM, CMD.WRITE_ZEROES, CMD.RESIZE];

/** Every error value a refusal may have, for one reason or another; empty: the request must succeed. */
function refusals({ type, flags, offset, length }: Header, agreement: Agreement, contexts: number): Set<number> {
  const { target, style, flags: offered } = agreement;
  const errors = new Set<number>();
  const offer = OFFERS.get(type);
  const writes = WRITES.includes(type);
  if (target.info.readOnly && writes) errors.add(E.PERM);
  if (offer === undefined || (offered & offer) === 0) errors.add(E.INVAL);
  let known = OWN_FLAGS.get(type) ?? 0;
  if ((offered & TFLAG.SEND_FUA) !== 0) known |= CFLAG.FUA;
  if ((offered & TFLAG.SEND_DF) === 0) known &= ~CFLAG.DF;
  if ((offered & TFLAG.SEND_FAST_ZERO) === 0) known &= ~CFLAG.FAST_ZERO;
  if (style === 'extended' && type === CMD.WRITE) known |= CFLAG.PAYLOAD_LEN;
  if (style === 'extended' && type === CMD.BLOCK_STATUS && contexts > 0) known |= CFLAG.PAYLOAD_LEN;
  if ((flags & ~known) !== 0) errors.add(E.INVAL);
  if (type === CMD.FLUSH) return errors;
  if (offset + length > BigInt(target.size)) {
    errors.add(type === CMD.WRITE || type === CMD.WRITE_ZEROES ? E.NOSPC : E.INVAL);
  }
  const minimum = BigInt(target.info.blockSize.minimum);
  if (offset % minimum !== 0n || length % minimum !== 0n) errors.add(E.INVAL);
  if ((type === CMD.READ || type === CMD.WRITE) && length > BigInt(LIMITS.payload)) {
    errors.add(E.INVAL);
    if ((flags & CFLAG.DF) !== 0) errors.add(E.OVERFLOW);
  }
  if (type === CMD.BLOCK_STATUS && contexts === 0) errors.add(E.INVAL);
  return errors;
}

/** The length and contexts a BLOCK_STATUS asks for in its payload; null: it is no such payload. */
function filterOf(payload: Buffer, known: ReadonlyMap<number, string>): { length: bigint; ids: number[] } | null {
  if (payload.length < 8 || payload.length % 4 !== 0) return null;
  const ids: number[] = [];
  for (let at = 8; at < payload.length; at += 4) ids.push(payload.readUInt32BE(at));
  if (new Set(ids).size !== ids.length || ids.some((id) => !known.has(id))) return null;
  return { length: payload.readBigUInt64BE(), ids };
}

class Stream {
  readonly #client: Buffer;
  readonly #agreement: Agreement;
  #at = 0;
  /** What ended the requests: more may come, or the server must close. */
  ending: 'open' | 'closed' = 'open';

  constructor(client: Buffer, agreement: Agreement) {
    this.#client = client;
    this.#agreement = agreement;
  }

  get left(): number {
    return this.#client.length - this.#at;
  }

  /** The next request, carried out in the model; null when there is none, and `ending` tells why. */
  next(): Expected | null {
    const { style } = this.#agreement;
    const extended = style === 'extended';
    const size = extended ? 32 : 28;
    this.ending = 'open';
    if (this.left < size) {
      // The magic number is looked at when the header is whole.
      return null;
    }
    const bytes = this.#client.subarray(this.#at, this.#at + size);
    if (bytes.readUInt32BE() !== (extended ? 0x21e41c71 : 0x25609513)) return this.#end('closed');
    const header: Header = {
      flags: bytes.readUInt16BE(4),
      type: bytes.readUInt16BE(6),
      cookie: bytes.readBigUInt64BE(8),
      offset: bytes.readBigUInt64BE(16),
      length: extended ? bytes.readBigUInt64BE(24) : BigInt(bytes.readUInt32BE(24)),
    };
    if (header.type === CMD.DISC) return this.#end('closed');
    this.#at += size;
    const carries = header.type === CMD.WRITE || (extended && (header.flags & CFLAG.PAYLOAD_LEN) !== 0);
    // Too long a payload: the server gives an error or none, and closes.
    if (extended && carries && header.length > BigInt(LIMITS.payload)) {
      this.#end('closed');
      return new Expected(this.#agreement, header, [], new Set([E.INVAL, E.PERM, E.NOSPC]), false, true);
    }
    if (carries && header.length > BigInt(this.left)) {
      this.#cutOff(header);
      this.#at = this.#client.length;
      return null;
    }
    const payload = carries ? this.#client.subarray(this.#at, this.#at + Number(header.length)) : Buffer.alloc(0);
    this.#at += payload.length;
    return this.#carryOut(header, payload, carries);
  }

  #end(ending: 'closed'): null {
    this.ending = ending;
    this.#at = this.#client.length;
    return null;
  }

  /** A WRITE whose data does not all come: what of it is written is not said. */
  #cutOff({ type, offset, length }: Header): void {
    const { model, size } = this.#agreement.target;
    if (type === CMD.WRITE && offset + length <= BigInt(size)) model.forget(Number(offset), Number(length));
  }

  #carryOut(asked: Header, payload: Buffer, carries: boolean): Expected {
    const { target, style, contexts } = this.#agreement;
    let header = asked;
    let ids = [...contexts.keys()];
    const errors = new Set<number>();
    let vague = false;
    if (style === 'extended' && carries && asked.type === CMD.BLOCK_STATUS) {
      const filter = filterOf(payload, contexts);
      if (filter === null) errors.add(E.INVAL);
      else {
        header = { ...asked, length: filter.length };
        ids = filter.ids;
        vague = ids.length === 0;
      }
    } else if (style === 'extended' && carries && asked.type !== CMD.WRITE) errors.add(E.INVAL);
    for (const error of refusals(header, this.#agreement, ids.length)) errors.add(error);
    vague ||=
      (header.length === 0n && header.type !== CMD.FLUSH) ||
      (header.type === CMD.FLUSH && (header.offset !== 0n || header.length !== 0n));
    const expected = new Expected(this.#agreement, header, ids, errors, vague, false);
    if (errors.size === 0) this.#apply(header, payload, target, expected);
    return expected;
  }

  #apply({ type, offset, length, flags }: Header, payload: Buffer, target: Export, expected: Expected): void {
    const { model, bad } = target;
    const at = Number(offset);
    const count = Number(length);
    const fails = bad !== null && type !== CMD.FLUSH && at < bad.end && at + count > bad.start && count > 0;
    expected.before = model.snapshot();
    expected.unknown = [...model.unknown];
    if (fails) {
      expected.mustFailWith(E.IO);
      // Pieces next to the bad one may have been done.
      if (WRITES.includes(type)) model.forget(at, count);
      return;
    }
    if (type === CMD.WRITE) model.write(at, payload);
    else if (type === CMD.TRIM || type === CMD.WRITE_ZEROES) model.zero(at, count);
    if (WRITES.includes(type) && (flags & CFLAG.FUA) !== 0) target.due.fua += count;
    if (type === CMD.FLUSH && at === 0 && count === 0) target.due.flushes++;
  }
}

/** Follows the requests in `client` and the answers to them. */
export function* walkTransmission(client: Buffer, agreement: Agreement): Walk {
  const stream = new Stream(client, agreement);
  const pending = new Map<bigint, Expected[]>();
  let count = 0;
  let last: Expected | null = null;
  // Answers come in any order, so that all requests are looked at before the first answer.
  for (let expected = stream.next(); expected !== null; expected = stream.ending === 'open' ? stream.next() : null) {
    const same = pending.get(expected.cookie);
    if (same === undefined) pending.set(expected.cookie, [expected]);
    else same.push(expected);
    count++;
    last = expected;
  }
  while (count > 0) count -= yield* takeReply(pending, agreement, count === 1 && last?.mayClose === true);
  return stream.ending;
}

/** One message of the server; 1 when it was the last of a reply. */
function* takeReply(pending: Map<bigint, Expected[]>, { style }: Agreement, mayClose: boolean): Walk<number> {
  const head = Buffer.from(yield* take(style === 'extended' ? 32 : 16, mayClose));
  const magic = head.readUInt32BE();
  const cookie = head.readBigUInt64BE(8);
  const candidates = pending.get(cookie) ?? [];
  demand(candidates.length > 0, `a reply with the cookie ${cookie.toString(16)} that no request in flight has`);
  if (candidates.length > 1 && world.reorders) throw new Inconclusive();
  const expected = candidates[0];
  if (magic === 0x67446698) {
    demand(style !== 'extended', 'a simple reply with extended headers');
    yield* expected.simple(head.readUInt32BE(4));
  } else {
    demand(style !== 'simple', `a chunk without structured replies, or no reply at all: ${head.toString('hex')}`);
    demand(magic === (style === 'extended' ? 0x6e8a278c : 0x668e33ef), `no chunk: ${head.toString('hex')}`);
    const header = style === 'extended' ? head : Buffer.concat([head, yield* take(4)]);
    const length = style === 'extended' ? header.readBigUInt64BE(24) : BigInt(header.readUInt32BE(16));
    demand(length <= 32n * 2n ** 20n, `a chunk of ${length} bytes`);
    if (style === 'extended') demand(header.readBigUInt64BE(16) === expected.offset, 'a chunk with another offset');
    const payload = Buffer.from(yield* take(Number(length)));
    if (!expected.chunk(header.readUInt16BE(4), header.readUInt16BE(6), payload)) return 0;
  }
  candidates.shift();
  if (candidates.length === 0) pending.delete(cookie);
  return 1;
}

/** Whether the devices answer out of order now: set by the target before each input. */
export const world = { reorders: false };
