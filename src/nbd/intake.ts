/**
 * The way in: takes requests off the stage, has them judged, cuts them into pieces and hands these over. What a piece needs (a buffer, a
 * place among the requests in flight, memory to gather) is asked for when its turn comes; when there is none, run() says so, and the
 * socket is not read until there is.
 */
import { readExtendedRequest, readRequest } from './codec.js';
import { Command, CommandFlag, commandName, EXTENDED_REQUEST_LENGTH, REQUEST_LENGTH, WireError } from './constants.js';
import { noCounters } from './counters.js';
import type { IoBuffer, IoCommand, Throttle } from './device.js';
import type { GatherBudget } from './gather.js';
import { endsWithGoodbye } from './goodbye.js';
import type { Holdings } from './holdings.js';
import type { Limits } from './limits.js';
import type { Log } from './log.js';
import type { Piece, Request, RequestPool } from './requests.js';
import type { Session } from './session.js';
import { StatusFilter } from './status-filter.js';
import { Ticket } from './ticket.js';
import type { Transport } from './transport.js';
import { BAD_FILTER, payloadLength, type Refusal, refuse } from './validate.js';
import { RECEIVE_SIZE, STAGE_SIZE, STAGE_START } from './wire-memory.js';

/** Bytes one connection receives or reads before the others have their turn. */
const TURN_BYTES = 4 * 1024 * 1024;
/** Bytes of buffers held that are worth a send before more is asked of the device: they come back while they are in the cache. */
const FLUSH_BYTES = 1024 * 1024;
/** After a write this long the next receive takes a header only, so that the next payload needs no copy out of the stage. */
const DIRECT_WRITE = 16 * 1024;
/** After so many shorter writes without such a long one between them, more are taken by one receive, and answered by one send. */
const SHORT_WRITES = 8;

/** Why run() stopped. */
export const Stop = {
  /** The stage is used up: more must be received. */
  BYTES: 0,
  /** Something is missing; wake() is called when it may be there, unless a reply's end brings it. */
  STALLED: 1,
  /** The turn is over. */
  TURN: 2,
  /** The client has said goodbye, or framing is lost. */
  END: 3,
} as const;
export type Stop = (typeof Stop)[keyof typeof Stop];

/** What the intake needs of its connection. */
export interface IntakeOwner {
  /** New requests end the connection, with no answer. */
  readonly refusing: boolean;
  /** No more block status is asked for until some was sent. */
  readonly statusFull: boolean;
  submit(piece: Piece): void;
  /** Ends a request that has no piece in the device. */
  answer(request: Request): void;
  flush(): void;
  wake(): void;
}

export interface IntakeContext {
  readonly limits: Limits;
  readonly gather: GatherBudget;
  readonly log: Log;
}

/** Of these a throttle is asked. A flush promises what was done before; what it would wait for has been counted. */
const isThrottled = (command: number): boolean =>
  command === Command.READ || command === Command.WRITE || command === Command.TRIM || command === Command.WRITE_ZEROES;

export class Intake {
  readonly counters = noCounters();
  /** DISC was read: why run() said END. */
  saidGoodbye = false;
  readonly #transport: Transport;
  readonly #session: Session;
  readonly #context: IntakeContext;
  readonly #pool: RequestPool;
  readonly #holdings: Holdings;
  readonly #owner: IntakeOwner;
  /** Bytes of a request's header. */
  readonly #headerLength: number;

  // The stage: [#at, #end) is not parsed. Before a receive, #end is STAGE_START, and what is there is a header that was cut.
  #at: number;
  #end: number;
  /** The next receive takes a header only. */
  #headerOnly = false;
  /** Writes since the last long one, as far as they matter. */
  #shortWrites = 0;

  /** The request that is being cut into pieces. */
  #current: Request | null = null;
  /** The piece of a WRITE whose data is arriving, and how much of it is there. */
  #fill: Piece | null = null;
  #filled = 0;
  /** A refused request's payload that is still to come, in bytes. */
  #skip = 0;
  /** Made when first needed. */
  #filter: StatusFilter | null = null;
  /** The payload of the current BLOCK_STATUS is arriving in #filter. */
  #filtering = false;
  /** Bytes left of this turn. */
  #turnLeft = 0;
  readonly #ticket: Ticket;
  /** What the current request has to pass before it takes memory. */
  #throttle: Throttle | null = null;

  constructor(
    transport: Transport,
    session: Session,
    context: IntakeContext,
    pool: RequestPool,
    holdings: Holdings,
    owner: IntakeOwner,
  ) {
    this.#transport = transport;
    this.#session = session;
    this.#context = context;
    this.#pool = pool;
    this.#holdings = holdings;
    this.#owner = owner;
    this.#headerLength = session.extended ? EXTENDED_REQUEST_LENGTH : REQUEST_LENGTH;
    this.#ticket = new Ticket(() => owner.wake());
    this.#at = session.stageStart;
    this.#end = session.stageEnd;
  }

  startTurn(): void {
    this.#turnLeft = TURN_BYTES;
  }

  /** Bytes were received that are not taken yet. */
  get hasMore(): boolean {
    return this.#at < this.#end;
  }

  /** More bytes are likely there already, and are worth a receive now. */
  get eager(): boolean {
    return this.#turnLeft > 0 && (this.#fill !== null || this.#skip > 0 || this.#headerOnly);
  }

  /** Bytes that the next receive into the stage may take. */
  get #limit(): number {
    return this.#shortWrites < SHORT_WRITES ? RECEIVE_SIZE : STAGE_SIZE;
  }

  /** `count` bytes have arrived in the stage; there may be more than the transport takes unasked. */
  staged(count: number): void {
    const limit = this.#limit;
    const more = count === RECEIVE_SIZE && limit > count ? this.#transport.receiveStage(limit - count, count) : 0;
    // Of an end it tells again.
    this.#end = STAGE_START + count + Math.max(more, 0);
  }

  /** One receive to where the next bytes belong; after run() said BYTES. Bytes; 0 none now; -1 ended. */
  receive(): number {
    const fill = this.#fill;
    let count: number;
    if (fill !== null) {
      count = this.#transport.receiveInto(fill.buffer as IoBuffer, this.#filled, fill.length - this.#filled);
      if (count > 0) this.#filled += count;
    } else {
      const limit = this.#headerOnly && this.#skip === 0 ? this.#headerLength - (STAGE_START - this.#at) : this.#limit;
      count = this.#transport.receiveStage(limit);
      if (count > 0) this.#end = STAGE_START + count;
    }
    if (count > 0) this.#turnLeft -= count;
    return count;
  }

  /** Parses the stage until it is used up, or says why not. */
  run(): Stop {
    for (;;) {
      if (this.#skip > 0) {
        const count = Math.min(this.#skip, this.#end - this.#at);
        this.#at += count;
        this.#skip -= count;
        if (this.#skip > 0) return this.#needBytes();
      }
      if (this.#filtering && !this.#takeFilter()) return this.#needBytes();
      if (this.#current !== null) {
        if (this.#throttle !== null) {
          if (!this.#ticket.admits(this.#current, this.#throttle)) return Stop.STALLED;
          this.#throttle = null;
        }
        const stop = this.#issue(this.#current);
        if (stop !== null) return stop;
        this.#current = null;
        if (this.#holdings.bytes >= FLUSH_BYTES) this.#owner.flush();
      }
      if (this.#end - this.#at < this.#headerLength) return this.#needBytes();
      if (this.#holdings.full) return Stop.STALLED;
      if (this.#turnLeft <= 0) return Stop.TURN;
      // Not ESHUTDOWN: the kernel's client, and qemu with its reconnect-delay too, hand every error on as one of the disk, and file systems of guests end.
      // What has no answer they send again by their next connection.
      if (this.#owner.refusing) return Stop.END;
      if (!this.#begin()) return Stop.END;
    }
  }

  /**
   * Takes no more requests: drops half a one. Its pieces in the device end it, as a failure; without any it ends here, unanswered.
   */
  drop(): void {
    this.#ticket.cancel();
    this.#throttle = null;
    this.#skip = 0;
    this.#filtering = false;
    if (this.#fill !== null) {
      this.#holdings.release(this.#fill);
      this.#fill = null;
    }
    const request = this.#current;
    this.#current = null;
    // The last piece of a streamed read is its end, wherever it is now.
    if (request === null || (request.streamed && request.unissued === 0)) return;
    request.unissued = 0;
    request.error ||= WireError.ESHUTDOWN;
    if (request.outstanding > 0) return;
    this.#holdings.end();
    if (request.gather !== null) this.#context.gather.give(request.gather);
  }

  /** No request is held back by the device's throttle any more. */
  release(): void {
    this.#ticket.release();
  }

  /** The client has left, and what is unread of it says goodbye. False where that cannot be told. */
  get willSayGoodbye(): boolean {
    const unread = this.#transport.unread();
    if (unread === null) return false;
    const staged = this.#transport.stage.subarray(this.#at, this.#end);
    const request = this.#current;
    let payload = this.#skip;
    if (this.#filtering) payload = this.#filter?.missing ?? 0;
    else if (request?.command === Command.WRITE) payload += request.unissued - (this.#fill === null ? 0 : this.#filled);
    return endsWithGoodbye(Buffer.concat([staged, unread]), payload, this.#session.extended);
  }

  /** Makes the stage ready for the next receive, which continues what is left in it. */
  #needBytes(): Stop {
    const left = this.#end - this.#at;
    if (this.#end !== STAGE_START) {
      if (left > 0) this.#transport.stage.copyWithin(STAGE_START - left, this.#at, this.#end);
      this.#at = STAGE_START - left;
      this.#end = STAGE_START;
    }
    return Stop.BYTES;
  }

  /** Takes one header off the stage; false when there is no next request. */
  #begin(): boolean {
    const request = this.#pool.takeRequest();
    const { extended } = this.#session;
    const framed = extended
      ? readExtendedRequest(this.#transport.stageView, this.#at, request)
      : readRequest(this.#transport.stageView, this.#at, request);
    if (!framed || request.command === Command.DISC || (extended && this.#isTooLong(request))) {
      if (!framed) this.#context.log.warn(`${this.#transport.peer}: a request came without its magic number`);
      this.saidGoodbye = framed && request.command === Command.DISC;
      this.#pool.giveRequest(request);
      return false;
    }
    this.#at += this.#headerLength;
    request.reset();
    this.#holdings.begin();
    this.counters.requests++;
    this.#current = request;
    this.#receiveBody(request);
    return true;
  }

  /** A payload longer than any that was agreed on: the document asks for a disconnect rather than for taking it. */
  #isTooLong(request: Request): boolean {
    if (payloadLength(request, true) <= this.#context.limits.payload) return false;
    this.#context.log.warn(`${this.#transport.peer}: a payload of ${request.length} bytes is longer than the maximum`);
    return true;
  }

  /** Decides what becomes of the request; one whose payload says what it is about is judged when that is there. */
  #receiveBody(request: Request): void {
    const { command, flags } = request;
    const { extended, contexts } = this.#session;
    const payload = payloadLength(request, extended);
    this.#headerOnly = command === Command.WRITE && payload >= DIRECT_WRITE;
    if (this.#headerOnly) this.#shortWrites = 0;
    else if (command === Command.WRITE && this.#shortWrites < SHORT_WRITES) this.#shortWrites++;
    let refusal: Refusal | null;
    if (extended && command === Command.BLOCK_STATUS && contexts.length > 0 && flags & CommandFlag.PAYLOAD_LEN) {
      refusal = this.#startFilter(payload);
      if (refusal === null) return;
    } else refusal = this.#judge(request);
    if (refusal === null) this.#accept(request);
    else {
      this.#refuse(request, refusal);
      // The payload follows whatever we think of the request; framing is kept by taking it.
      this.#skip = payload;
    }
  }

  /** The payload of a BLOCK_STATUS is coming. */
  #startFilter(payload: number): Refusal | null {
    this.#filter ??= new StatusFilter(this.#session.contexts);
    if (!this.#filter.fits(payload)) return BAD_FILTER;
    this.#filter.start(payload);
    this.#filtering = true;
    return null;
  }

  /** Takes what there is of a BLOCK_STATUS's payload; true when it was all, and the request is judged. */
  #takeFilter(): boolean {
    const filter = this.#filter as StatusFilter;
    const request = this.#current as Request;
    const count = Math.min(filter.missing, this.#end - this.#at);
    filter.take(this.#transport.stage, this.#at, count);
    this.#at += count;
    if (filter.missing > 0) return false;
    this.#filtering = false;
    request.length = filter.effectLength;
    request.contexts = filter.selected;
    let refusal: Refusal | null = BAD_FILTER;
    if (request.contexts !== null) refusal = this.#judge(request);
    if (refusal === null) this.#accept(request);
    else this.#refuse(request, refusal);
    return true;
  }

  #judge(request: Request): Refusal | null {
    return refuse(request, this.#session.device, this.#session, this.#context.limits.payload);
  }

  #refuse(request: Request, refusal: Refusal): void {
    request.error = refusal.error;
    request.text = refusal.text;
    this.#context.log.debug(`${this.#transport.peer}: ${commandName(request.command)} refused: ${refusal.text}`);
  }

  /** The request runs: how much of it there is to issue. */
  #accept(request: Request): void {
    const { counters } = this;
    const { command, length } = request;
    if (command === Command.READ) {
      request.unissued = length;
      counters.reads++;
      counters.read += length;
    } else if (command === Command.WRITE) {
      request.unissued = length;
      counters.writes++;
      counters.written += length;
    } else if (command === Command.BLOCK_STATUS) {
      request.unissued = (request.contexts ?? this.#session.contexts).length;
    } else if (length > 0 || command === Command.FLUSH || command === Command.RESIZE) {
      request.unissued = 1;
    }
    const { throttle } = this.#session.device;
    if (throttle !== null && throttle !== undefined && length > 0 && isThrottled(command)) this.#throttle = throttle;
  }

  /** Gives what is left of the request to the device; null when all of it is there. */
  #issue(request: Request): Stop | null {
    if (request.streamed && request.unissued === 0) return request.outstanding > 0 ? Stop.STALLED : null;
    if (request.unissued === 0 && request.outstanding === 0 && this.#fill === null) {
      this.#owner.answer(request);
      return null;
    }
    if (request.command === Command.READ) return this.#issueRead(request);
    if (request.command === Command.WRITE) return this.#issueWrite(request);
    return this.#issueRest(request);
  }

  #issueRead(request: Request): Stop | null {
    const { maxIo } = this.#session.device;
    const whole = this.#mustBeWhole(request);
    const cut = request.length > maxIo;
    if (cut && whole && request.gather === null && !request.streamed) this.#gatherOrStream(request);
    while (request.unissued > 0) {
      if (request.streamed && !this.#isAlone(request)) return Stop.STALLED;
      if (this.#turnLeft <= 0) return Stop.TURN;
      if (this.#holdings.bytes >= FLUSH_BYTES) this.#owner.flush();
      const offset = request.offset + request.length - request.unissued;
      // Cut at multiples of maxIo: a device of blocks of that size finds each piece within one of them, all of it a hole or none.
      const length = cut ? Math.min(request.unissued, maxIo - (offset % maxIo)) : request.length;
      const buffer = this.#holdings.allocate(length);
      if (buffer === null) return Stop.STALLED;
      const piece = this.#piece(request, offset, length, buffer);
      piece.mayBeHole = !whole;
      if (this.#transport.sendsFiles && request.gather === null) this.#holdings.allowFile(piece);
      request.unissued -= length;
      this.#turnLeft -= length;
      this.#owner.submit(piece);
    }
    // Nothing may come between its pieces: the next request is taken when the last of them is on its way.
    return request.streamed && request.outstanding > 0 ? Stop.STALLED : null;
  }

  /** No other request can be answered between this one's pieces, and the piece before is done. */
  #isAlone(request: Request): boolean {
    return this.#holdings.requests === 1 && request.outstanding === 0;
  }

  /** Simple replies and DF: the header goes out when every byte is there. */
  #mustBeWhole(request: Request): boolean {
    return !this.#session.structured || (request.flags & CommandFlag.DF) !== 0;
  }

  /** Waiting for memory would mean to wait for whoever holds it, who may never take his reply. */
  #gatherOrStream(request: Request): void {
    request.gather = this.#context.gather.take(request.length);
    request.streamed = request.gather === null;
  }

  #issueWrite(request: Request): Stop | null {
    while (request.unissued > 0 || this.#fill !== null) {
      let piece = this.#fill;
      if (piece === null) {
        const length = Math.min(this.#session.device.maxIo, request.unissued);
        const buffer = this.#holdings.allocate(length);
        if (buffer === null) return Stop.STALLED;
        piece = this.#piece(request, request.offset + request.length - request.unissued, length, buffer);
        this.#fill = piece;
        this.#filled = 0;
      }
      const count = Math.min(this.#end - this.#at, piece.length - this.#filled);
      if (count > 0) {
        this.#transport.copyStaged(this.#at, piece.buffer as IoBuffer, this.#filled, count);
        this.#at += count;
        this.#filled += count;
      }
      if (this.#filled < piece.length) return this.#needBytes();
      this.#fill = null;
      request.unissued -= piece.length;
      this.#owner.submit(piece);
    }
    return null;
  }

  /** Everything without a payload is one piece, block status one for each context. */
  #issueRest(request: Request): Stop | null {
    const { command, flags } = request;
    const contexts = request.contexts ?? this.#session.contexts;
    while (request.unissued > 0) {
      if (command === Command.BLOCK_STATUS && this.#owner.statusFull) {
        this.#owner.flush();
        if (this.#owner.statusFull) return Stop.STALLED;
      }
      const piece = this.#piece(request, request.offset, request.length, null);
      if (command === Command.BLOCK_STATUS) {
        const context = contexts[contexts.length - request.unissued];
        piece.context = context.name;
        piece.contextId = context.id;
        piece.reqOne = (flags & CommandFlag.REQ_ONE) !== 0;
      } else {
        piece.noHole = (flags & CommandFlag.NO_HOLE) !== 0;
        piece.fastZero = (flags & CommandFlag.FAST_ZERO) !== 0;
      }
      request.unissued--;
      this.#owner.submit(piece);
    }
    return null;
  }

  #piece(request: Request, offset: number, length: number, buffer: IoBuffer | null): Piece {
    const piece = this.#pool.takePiece(request);
    piece.command = request.command as IoCommand;
    piece.offset = offset;
    piece.length = length;
    piece.buffer = buffer;
    piece.fua = (request.flags & CommandFlag.FUA) !== 0;
    return piece;
  }
}
