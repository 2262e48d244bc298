/**
 * The transmission phase alone, over a transport without I/O: requests go in as bytes, cut wherever a test likes, and the answers come
 * out as bytes, which are taken apart here without the library's codec.
 */
import type { BlockDevice } from '../../../src/nbd/device.js';
import { GatherBudget } from '../../../src/nbd/gather.js';
import { makeBudgets } from '../../../src/nbd/holdings.js';
import { type Limits, resolveLimits } from '../../../src/nbd/limits.js';
import { silent } from '../../../src/nbd/log.js';
import { Poller } from '../../../src/nbd/poller.js';
import type { MetaContext } from '../../../src/nbd/session.js';
import { Transmission } from '../../../src/nbd/transmission.js';
import { RECEIVE_SIZE, STAGE_START } from '../../../src/nbd/wire-memory.js';
import { assemble, CHUNK, type Chunk, CMD, extendedRequest, type RequestFields, request, type Style } from './proto.js';
import { FakeTransport } from './support.js';

export interface Asked extends RequestFields {
  /** What follows the header, whatever the header says. */
  readonly payload?: Uint8Array;
}

/** The bytes of some requests; each one's cookie is its index, in the upper half of the cookie too. */
export function requestBytes(style: Style, asked: readonly Asked[]): Buffer {
  const parts = asked.flatMap((fields, i) => {
    const header = { ...fields, cookie: cookieOf(i) };
    return [style === 'extended' ? extendedRequest(header) : request(header), fields.payload ?? Buffer.alloc(0)];
  });
  return Buffer.concat(parts);
}

const cookieOf = (index: number): bigint => (BigInt(index + 1) << 40n) | BigInt(index);

export interface TalkOptions {
  readonly style: Style;
  readonly device: BlockDevice;
  readonly contexts?: readonly MetaContext[];
  readonly limits?: Partial<Limits>;
  readonly poller?: Poller;
}

/** One connection in transmission. */
export class Talk {
  readonly transport = new FakeTransport();
  readonly transmission: Transmission;
  /** Resolves when the server is done with the connection. */
  readonly finished: Promise<void>;

  constructor({ style, device, contexts = [{ id: 1, name: 'base:allocation' }], limits: some, poller }: TalkOptions) {
    const limits = resolveLimits(some);
    const { transport } = this;
    let finish: () => void = () => {};
    this.finished = new Promise((resolve) => {
      finish = resolve;
    });
    const structured = style !== 'simple';
    const session = {
      exportName: 'disk',
      device,
      structured,
      extended: style === 'extended',
      contexts: structured ? contexts : [],
      stageStart: STAGE_START,
      stageEnd: STAGE_START,
    };
    const shared = {
      limits,
      gather: new GatherBudget(limits.gatherBytes),
      budgets: makeBudgets(limits),
      log: silent,
      poller: poller ?? new Poller(0),
      schedule: (transmission: Transmission) => setImmediate(() => transmission.turn()),
    };
    const transmission = new Transmission(transport, session, shared, finish);
    transport.events = transmission;
    this.transmission = transmission;
    transmission.start();
  }

  /** The bytes arrive, each chunk by itself. */
  feed(...chunks: readonly Uint8Array[]): void {
    for (const chunk of chunks) {
      for (let at = 0; at < chunk.length; at += RECEIVE_SIZE)
        this.transport.feed(chunk.subarray(at, at + RECEIVE_SIZE));
    }
  }

  /** The server has taken all that was fed. */
  get idle(): boolean {
    return !this.transport.hasUnread();
  }

  /** All answers, when the server is done. */
  async sent(): Promise<Buffer> {
    await this.finished;
    return this.transport.sent;
  }
}

/** Feeds the bytes, each chunk by itself, and returns all that the server says until it is done. They must end the connection. */
export function talk(options: TalkOptions, chunks: readonly Uint8Array[]): Promise<Buffer> {
  const conversation = new Talk(options);
  conversation.feed(...chunks);
  return conversation.sent();
}

/** What became of one request. */
export interface Told {
  /** 0, or the value of the first error. */
  error: number;
  /** ERROR_OFFSET's offsets. */
  errorOffsets: bigint[];
  text: string;
  /** A READ's data, when it was told without an error. */
  data: Buffer | null;
  /** None: a simple reply. */
  chunks: Chunk[];
  done: boolean;
}

/**
 * Takes apart all that a server said to `asked`, by index; replies may be interleaved.
 * @throws Error where it is not what the protocol document says
 */
export function parseReplies(style: Style, bytes: Buffer, asked: readonly Asked[]): Map<number, Told> {
  const told = new Map<number, Told>();
  let at = 0;
  const take = (length: number): Buffer => {
    if (at + length > bytes.length) throw new Error(`the answers end in the middle of a message`);
    at += length;
    return bytes.subarray(at - length, at);
  };
  while (at < bytes.length) {
    const magic = bytes.readUInt32BE(at);
    const cookie = bytes.readBigUInt64BE(at + 8);
    const index = Number(cookie & 0xffffffffffn);
    if (index >= asked.length || cookie !== cookieOf(index)) throw new Error(`an answer to nobody: ${cookie}`);
    const fields = asked[index];
    const reply = told.get(index) ?? { error: 0, errorOffsets: [], text: '', data: null, chunks: [], done: false };
    if (reply.done) throw new Error(`request ${index} is answered after its end`);
    told.set(index, reply);
    if (magic === 0x67446698) {
      if (style === 'extended' || reply.chunks.length > 0) throw new Error('a simple reply where chunks are due');
      if (style === 'structured' && fields.type === CMD.READ) throw new Error('a simple reply to a structured READ');
      reply.error = take(16).readUInt32BE(4);
      if (fields.type === CMD.READ && reply.error === 0) reply.data = take(Number(fields.length ?? 0));
      reply.done = true;
      continue;
    }
    if (magic !== (style === 'extended' ? 0x6e8a278c : 0x668e33ef)) throw new Error(`magic ${magic.toString(16)}`);
    const chunk = takeChunk(take, style, fields);
    reply.chunks.push(chunk);
    if (chunk.type >= 0x8000) {
      const text = chunk.payload.readUInt16BE(4);
      reply.error ||= chunk.payload.readUInt32BE(0);
      reply.text ||= chunk.payload.toString('utf8', 6, 6 + text);
      if (chunk.type === CHUNK.ERROR_OFFSET) reply.errorOffsets.push(chunk.payload.readBigUInt64BE(6 + text));
      const length = chunk.payload.length - (chunk.type === CHUNK.ERROR_OFFSET ? 8 : 0);
      if (length !== 6 + text) throw new Error('an error chunk of a wrong length');
    }
    reply.done = (chunk.flags & 1) !== 0;
    if (reply.done && fields.type === CMD.READ && reply.error === 0)
      reply.data = assemble(reply.chunks, BigInt(fields.offset ?? 0), Number(fields.length ?? 0));
  }
  return told;
}

function takeChunk(take: (length: number) => Buffer, style: Style, fields: Asked): Chunk {
  const header = take(style === 'extended' ? 32 : 20);
  const offset = style === 'extended' ? header.readBigUInt64BE(16) : null;
  if (offset !== null && offset !== BigInt.asUintN(64, BigInt(fields.offset ?? 0)))
    throw new Error(`offset ${offset} in the answer to ${fields.offset}`);
  const flags = header.readUInt16BE(4);
  if (flags > 1) throw new Error(`chunk flags ${flags}`);
  return {
    flags,
    type: header.readUInt16BE(6),
    cookie: header.readBigUInt64BE(8),
    offset,
    payload: take(style === 'extended' ? Number(header.readBigUInt64BE(24)) : header.readUInt32BE(16)),
  };
}
