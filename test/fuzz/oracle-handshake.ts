/** The handshake as it must go: for each option of the client the replies that the document allows. */
import { IHAVEOPT, OPT, REP, TFLAG } from '../unit/nbd/proto.js';
import { type Agreement, demand, Fields, take, textOf, type Walk } from './oracle.js';
import { walkTransmission } from './oracle-transmission.js';
import { type Export, LIMITS } from './world.js';

/** What an export offers to every client. */
function offerOf(info: Export['info']): number {
  const { readOnly } = info;
  const flags: [boolean, number][] = [
    [true, TFLAG.HAS_FLAGS],
    [readOnly, TFLAG.READ_ONLY],
    [info.canFlush, TFLAG.SEND_FLUSH],
    [info.canFua, TFLAG.SEND_FUA],
    [info.rotational, TFLAG.ROTATIONAL],
    [info.canTrim && !readOnly, TFLAG.SEND_TRIM],
    [info.canWriteZeroes && !readOnly, TFLAG.SEND_WRITE_ZEROES],
    [info.canWriteZeroes && info.canFastZero && !readOnly, TFLAG.SEND_FAST_ZERO],
    [info.multiConn, TFLAG.CAN_MULTI_CONN],
    [info.canResize && !readOnly, TFLAG.SEND_RESIZE],
    [info.canCache, TFLAG.SEND_CACHE],
  ];
  return flags.reduce((sum, [has, flag]) => (has ? sum | flag : sum), 0);
}

interface Told {
  readonly asked: Buffer;
  readonly replies: string;
}

interface Reply {
  readonly type: number;
  readonly data: Buffer;
}

const isError = (type: number): boolean => type >= 2 ** 31;
const FINAL_ONLY: readonly number[] = [];
/** Options whose data says something, so that there may be too much of it. */
const WITH_DATA: readonly number[] = [OPT.INFO, OPT.GO, OPT.LIST_META_CONTEXT, OPT.SET_META_CONTEXT];

export class Handshake {
  readonly #client: Buffer;
  readonly #exports: ReadonlyMap<string, Export>;
  #at = 0;
  #noZeroes = false;
  #structured = false;
  #extended = false;
  #contexts = new Map<number, string>();
  #contextsOf: string | null = null;
  #mayClose = false;
  /** What an INFO was about, and its replies: of this option, and of the one just before. */
  #told: Told | null = null;
  #before: Told | null = null;

  constructor(client: Buffer, exports: ReadonlyMap<string, Export>) {
    this.#client = client;
    this.#exports = exports;
  }

  #next(length: number): Buffer | null {
    if (this.#client.length - this.#at < length) return null;
    this.#at += length;
    return this.#client.subarray(this.#at - length, this.#at);
  }

  *walk(): Walk {
    const greeting = yield* take(18);
    demand(greeting.toString('hex') === '4e42444d4147494349484156454f50540003', 'the greeting is another one');
    const flags = this.#next(4)?.readUInt32BE();
    if (flags === undefined) return 'open';
    if ((flags & ~3) !== 0) return 'closed';
    this.#noZeroes = (flags & 2) !== 0;
    for (let count = 1; ; count++) {
      // A client that goes on and on may be sent away.
      this.#mayClose = count > LIMITS.options;
      const header = this.#next(16);
      if (header === null) return this.#mayClose ? 'either' : 'open';
      if (header.readBigUInt64BE() !== IHAVEOPT) return 'closed';
      const option = header.readUInt32BE(8);
      const length = header.readUInt32BE(12);
      this.#before = this.#told;
      this.#told = null;
      if (length > LIMITS.optionSkip) return 'closed';
      if (length > LIMITS.optionLength && option === OPT.EXPORT_NAME) return 'closed';
      const data = this.#next(length);
      if (data === null) return 'open';
      if (length > LIMITS.optionLength && WITH_DATA.includes(option)) {
        if (option === OPT.SET_META_CONTEXT) this.#contextsOf = null;
        yield* this.#replies(option, FINAL_ONLY, [REP.ERR_TOO_BIG, REP.ERR_INVALID]);
        continue;
      }
      const ending = yield* this.#option(option, data);
      if (ending === 'abort') return 'closed';
      if (ending !== null) return yield* walkTransmission(this.#client.subarray(this.#at), ending);
    }
  }

  /** Replies to one option up to its last; that is one of `finals`, those before it are of the types `parts`. */
  *#replies(option: number, parts: readonly number[], finals: readonly number[]): Walk<Reply[]> {
    const replies: Reply[] = [];
    for (;;) {
      const header = yield* take(20, this.#mayClose);
      demand(header.readBigUInt64BE() === 0x3e889045565a9n, `no option reply: ${header.toString('hex')}`);
      demand(header.readUInt32BE(8) === option, `an answer to option ${header.readUInt32BE(8)}, not ${option}`);
      const type = header.readUInt32BE(12);
      const length = header.readUInt32BE(16);
      demand(length <= 65_536, `an option reply of ${length} bytes`);
      const data = Buffer.from(yield* take(length));
      replies.push({ type, data });
      if (isError(type)) demand(textOf(data) !== null, 'the text of an error is no string');
      if (type === REP.ACK) demand(length === 0, 'an ACK with data');
      if (type === REP.ACK || isError(type)) {
        demand(finals.includes(type), `option ${option} is answered with 0x${type.toString(16)}`);
        return replies;
      }
      demand(parts.includes(type), `option ${option} has a reply of type 0x${type.toString(16)}`);
    }
  }

  *#option(option: number, data: Buffer): Walk<Agreement | 'abort' | null> {
    switch (option) {
      case OPT.EXPORT_NAME:
        return yield* this.#exportName(data);
      case OPT.ABORT:
        yield* this.#replies(option, FINAL_ONLY, [REP.ACK]);
        return 'abort';
      case OPT.LIST: {
        const replies = yield* this.#replies(option, [REP.SERVER], [data.length > 0 ? REP.ERR_INVALID : REP.ACK]);
        if (data.length === 0) demand(replies.length === this.#exports.size + 1, `LIST has ${replies.length} replies`);
        return null;
      }
      case OPT.INFO:
      case OPT.GO:
        return yield* this.#info(option, data);
      case OPT.STRUCTURED_REPLY: {
        const finals = this.#extended
          ? [REP.ERR_EXT_HEADER_REQD, REP.ERR_INVALID]
          : [data.length > 0 ? REP.ERR_INVALID : REP.ACK];
        const replies = yield* this.#replies(
          option,
          FINAL_ONLY,
          this.#structured ? [...finals, REP.ERR_INVALID] : finals,
        );
        if (replies[0].type === REP.ACK) this.#structured = true;
        return null;
      }
      case OPT.EXTENDED_HEADERS: {
        const finals = [data.length > 0 ? REP.ERR_INVALID : REP.ACK, ...(this.#extended ? [REP.ERR_INVALID] : [])];
        const replies = yield* this.#replies(option, FINAL_ONLY, finals);
        if (replies[0].type === REP.ACK) this.#extended = true;
        return null;
      }
      case OPT.LIST_META_CONTEXT:
      case OPT.SET_META_CONTEXT:
        yield* this.#meta(option, data);
        return null;
      case OPT.STARTTLS:
        yield* this.#replies(option, FINAL_ONLY, [REP.ERR_UNSUP, REP.ERR_POLICY, REP.ERR_INVALID]);
        return null;
      default:
        yield* this.#replies(option, FINAL_ONLY, [REP.ERR_UNSUP]);
        return null;
    }
  }

  *#exportName(data: Buffer): Walk<Agreement | 'abort'> {
    const name = textOf(data);
    const target = name === null || this.#extended ? undefined : this.#exports.get(name);
    if (target === undefined) return 'abort';
    const reply = yield* take(this.#noZeroes ? 10 : 134, this.#mayClose);
    demand(
      reply.subarray(10).every((byte) => byte === 0),
      'the zeroes after EXPORT_NAME are none',
    );
    return this.#enter(name as string, target, reply.readBigUInt64BE(), reply.readUInt16BE(8), false);
  }

  /** @param all an INFO, or a GO right behind the same: what could be had with meta contexts is told */
  #enter(name: string, target: Export, size: bigint, flags: number, all: boolean): Agreement {
    demand(size === BigInt(target.size), `the export has ${size} bytes, not ${target.size}`);
    const chunks = this.#structured || this.#extended;
    const chosen = this.#contextsOf === name && this.#contexts.size > 0;
    const payload = this.#extended && (chosen || (all && target.info.metaContexts.length > 0));
    const offer = offerOf(target.info) | (chunks ? TFLAG.SEND_DF : 0) | (payload ? TFLAG.BLOCK_STATUS_PAYLOAD : 0);
    demand(flags === offer, `the transmission flags are ${flags}, not ${offer}`);
    const style = this.#extended ? 'extended' : this.#structured ? 'structured' : 'simple';
    const contexts = chunks && this.#contextsOf === name ? this.#contexts : new Map<number, string>();
    return { target, style, contexts, flags };
  }

  *#info(option: number, data: Buffer): Walk<Agreement | null> {
    const fields = new Fields(data);
    const name = fields.text();
    const infos = Array.from({ length: Math.min(fields.number(2), 40_000) }, () => fields.number(2));
    if (!fields.ok || fields.left > 0) {
      yield* this.#replies(option, FINAL_ONLY, [REP.ERR_INVALID]);
      return null;
    }
    const target = this.#exports.get(name);
    if (target === undefined) {
      yield* this.#replies(option, FINAL_ONLY, [REP.ERR_UNKNOWN]);
      return null;
    }
    const repeated = new Set(infos).size !== infos.length;
    const replies = yield* this.#replies(option, [REP.INFO], [REP.ACK, ...(repeated ? [REP.ERR_INVALID] : [])]);
    if (replies.at(-1)?.type !== REP.ACK) return null;
    const [info, ...more] = replies.filter(({ type, data }) => type === REP.INFO && data.readUInt16BE() === 0);
    demand(info?.data.length === 12 && more.length === 0, 'INFO_EXPORT is missing, repeated or malformed');
    const size = info.data.readBigUInt64BE(2);
    const told = replies.map(({ type, data }) => `${type} ${data.toString('hex')}`);
    const again = option === OPT.GO && this.#before?.asked.equals(data) === true;
    if (again) demand(told.join() === this.#before?.replies, 'GO tells something else than the INFO before it');
    const agreement = this.#enter(name, target, size, info.data.readUInt16BE(10), option === OPT.INFO || again);
    if (option === OPT.GO) return agreement;
    this.#told = { asked: data, replies: told.join() };
    return null;
  }

  *#meta(option: number, data: Buffer): Walk<void> {
    const set = option === OPT.SET_META_CONTEXT;
    if (set) this.#contextsOf = null;
    const fields = new Fields(data);
    const name = fields.text();
    const count = fields.number(4);
    const queries: string[] = [];
    for (let i = 0; i < count && fields.ok; i++) queries.push(fields.text());
    if (!this.#structured && !this.#extended) {
      yield* this.#replies(
        option,
        [REP.META_CONTEXT],
        set ? [REP.ERR_INVALID] : [REP.ERR_INVALID, REP.ACK, REP.ERR_UNKNOWN],
      );
      return;
    }
    if (!fields.ok || fields.left > 0) {
      yield* this.#replies(option, FINAL_ONLY, [REP.ERR_INVALID]);
      return;
    }
    const target = this.#exports.get(name);
    if (target === undefined) {
      yield* this.#replies(option, FINAL_ONLY, [REP.ERR_UNKNOWN]);
      return;
    }
    const finals: number[] = [REP.ACK];
    // What lacks a namespace may be refused or ignored; of too many the server may have enough.
    if (queries.some((query) => !/^[^:\s]+:/.test(query))) finals.push(REP.ERR_INVALID);
    if (queries.length > 16) finals.push(REP.ERR_TOO_BIG);
    const replies = yield* this.#replies(option, [REP.META_CONTEXT], finals);
    if (replies.at(-1)?.type !== REP.ACK) return;
    const chosen = replies.slice(0, -1).map(({ data }) => [data.readUInt32BE(), data.toString('utf8', 4)] as const);
    const expected = target.info.metaContexts.filter((context) =>
      set
        ? queries.includes(context)
        : queries.length === 0 ||
          queries.some((query) => query === context || (query.endsWith(':') && context.startsWith(query))),
    );
    const names = chosen.map(([, context]) => context);
    demand([...names].sort().join() === [...expected].sort().join(), `meta contexts ${names}, not ${expected}`);
    if (!set) return;
    this.#contexts = new Map(chosen);
    demand(this.#contexts.size === chosen.length, 'two meta contexts have one id');
    this.#contextsOf = name;
  }
}
