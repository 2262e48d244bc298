/**
 * The transmission phase of one connection: takes requests off the stage, has them judged, cuts them into pieces, gives the pieces
 * to the device and their ends to the replies. What a piece needs (a buffer, a place among the requests in flight, memory to
 * gather) is asked for when its turn comes; when there is none the socket is not read until there is.
 */
import { errnos, messageOf } from '../sys/errno.js';
import { readRequest } from './codec.js';
import { Command, CommandFlag, commandName, MAX_EXTENTS, REQUEST_LENGTH, WireError } from './constants.js';
import type { BlockDevice, Extent, IoBuffer, IoCommand } from './device.js';
import { ProtocolError, wireError } from './errors.js';
import type { GatherBudget } from './gather.js';
import type { Limits } from './limits.js';
import type { Log } from './log.js';
import { Replies } from './replies.js';
import { Answer, type Piece, type PieceOwner, type Request, RequestPool } from './requests.js';
import type { MetaContext, Session } from './session.js';
import type { Transport } from './transport.js';
import { refuse, SHUTTING_DOWN } from './validate.js';
import { STAGE_SIZE, STAGE_START } from './wire-memory.js';

/** Bytes one connection receives or reads before the others have their turn. */
const TURN_BYTES = 4 * 1024 * 1024;
/** Bytes of buffers held that are worth a send before more is asked of the device: they come back while they are in the cache. */
const FLUSH_BYTES = 1024 * 1024;
/** After a write this long the next receive takes a header only, so that the next payload needs no copy out of the stage. */
const DIRECT_WRITE = 16 * 1024;

/** What a server's connections share. */
export interface Shared {
  readonly limits: Limits;
  readonly gather: GatherBudget;
  readonly log: Log;
  /** Asks for turn() once, in this turn of the event loop, after what else has completed in it. */
  schedule(transmission: Transmission): void;
}

/** What a connection has done, for logs and status. */
export interface Counters {
  requests: number;
  reads: number;
  writes: number;
  /** Bytes. */
  read: number;
  written: number;
  errors: number;
}

export class Transmission implements PieceOwner {
  readonly counters: Counters = { requests: 0, reads: 0, writes: 0, read: 0, written: 0, errors: 0 };
  readonly #transport: Transport;
  readonly #device: BlockDevice;
  readonly #session: Session;
  readonly #structured: boolean;
  readonly #contexts: readonly MetaContext[];
  readonly #shared: Shared;
  readonly #limits: Limits;
  readonly #finished: () => void;
  readonly #pool = new RequestPool(this);
  readonly #replies: Replies;

  // The stage: [#at, #end) is not parsed. #carry bytes of a cut header lie right before STAGE_START when it is empty.
  #at: number;
  #end: number;
  #carry = 0;
  /** The next receive takes a header only. */
  #headerOnly = false;

  /** The request that is being cut into pieces. */
  #current: Request | null = null;
  /** The piece of a WRITE whose data is arriving, and how much of it is there. */
  #fill: Piece | null = null;
  #filled = 0;
  /** A refused WRITE's data that is still to come. */
  #skip = 0;

  #unanswered = 0;
  /** Pieces in the device. */
  #inDevice = 0;
  /** Bytes of the device's buffers held. */
  #held = 0;
  /** The intake waits for something; the transport is paused. */
  #stalled = false;
  #paused = true;
  #awaitingBuffer = false;
  #awaitingGather = false;
  #pumping = false;
  /** Bytes left of this turn. */
  #turnLeft = 0;
  /** The intake stopped because its turn is over. */
  #yielded = false;
  /** No more requests are taken: DISC, end of stream, broken framing. */
  #ending = false;
  /** New requests are answered with ESHUTDOWN. */
  #refusing = false;
  #closed = false;
  #over = false;
  scheduled = false;

  /** @param finished called once, when the connection is to be ended: nothing is in flight and all is sent, or it is gone */
  constructor(transport: Transport, session: Session, shared: Shared, finished: () => void) {
    this.#transport = transport;
    this.#device = session.device;
    this.#session = session;
    this.#structured = session.structured;
    this.#contexts = session.contexts;
    this.#shared = shared;
    this.#limits = shared.limits;
    this.#finished = finished;
    this.#at = session.stageStart;
    this.#end = session.stageEnd;
    this.#replies = new Replies(transport, session.structured, (piece) => this.#retire(piece));
  }

  /** Takes what negotiation left in the stage, then reads on. */
  start(): void {
    this.#pump();
  }

  // What the transport tells

  readable(staged: number): void {
    this.#staged(staged);
    this.#pump();
  }

  drained(): void {
    this.#replies.drained();
    this.#pump();
  }

  /** The client sends no more: what is in flight is finished, half a request is dropped. */
  ended(): void {
    if (this.#ending) return;
    if (this.#inDevice > 0) this.#device.abandon?.();
    this.#stop();
    this.#pump();
  }

  /** Requests being served. */
  get inFlight(): number {
    return this.#unanswered;
  }

  /** The transport is closed: answers are dropped, the device may still be at work. */
  closed(): void {
    if (this.#closed) return;
    this.#closed = true;
    if (this.#inDevice > 0) this.#device.abandon?.();
    this.#stop();
    this.#replies.discard();
    this.#finishIfIdle();
  }

  /** The server goes down: what is in flight is finished and answered, what comes now is refused, then the connection ends. */
  shutDown(): void {
    this.#refusing = true;
    this.#pump();
  }

  // What the poller asks

  /** Whether polling the socket makes sense now. */
  get pollable(): boolean {
    return this.#transport.pollable && !this.#paused && !this.#ending;
  }

  /** The device is at work for this client: the event loop is needed. */
  get waiting(): boolean {
    return this.#inDevice > 0;
  }

  /** Receives without being told of readiness; true when something was there. */
  poll(): boolean {
    const count = this.#receive();
    if (count < 0) this.ended();
    if (count <= 0) return false;
    this.#pump();
    return true;
  }

  /** What schedule() asked for. */
  turn(): void {
    this.scheduled = false;
    this.#pump();
  }

  // Receiving

  #staged(count: number): void {
    this.#at = STAGE_START - this.#carry;
    this.#end = STAGE_START + count;
    this.#carry = 0;
  }

  /** One receive to where the next bytes belong. Bytes; 0 none now; -1 ended. The stage is empty but for the carry. */
  #receive(): number {
    const fill = this.#fill;
    if (fill !== null) {
      const count = this.#transport.receiveInto(fill.buffer as IoBuffer, this.#filled, fill.length - this.#filled);
      if (count > 0) this.#filled += count;
      return count;
    }
    const count = this.#transport.receiveStage(
      this.#headerOnly && this.#skip === 0 ? REQUEST_LENGTH - this.#carry : STAGE_SIZE,
    );
    if (count > 0) this.#staged(count);
    return count;
  }

  /**
   * Moves everything as far as it goes in one turn: parses what is staged, receives more, sends what is ready.
   * Completions inside it are picked up by it.
   */
  #pump(): void {
    if (this.#pumping || this.#closed) return;
    this.#pumping = true;
    this.#turnLeft = TURN_BYTES;
    this.#yielded = false;
    for (;;) {
      this.#stalled = false;
      if (!this.#ending) this.#intake();
      if (this.#stalled) {
        // Sending may free what the intake waits for.
        if (!this.#yielded && this.#replies.flush()) continue;
        break;
      }
      if (this.#ending || this.#turnLeft <= 0) break;
      // A payload is likely there already; of headers, libuv or the poller tells.
      if (this.#fill === null && this.#skip === 0 && !this.#headerOnly) break;
      const count = this.#receive();
      if (count < 0) this.ended();
      if (count <= 0) break;
      this.#turnLeft -= count;
    }
    this.#replies.flush();
    this.#pumping = false;
    if (this.#finishIfIdle()) return;
    this.#holdBack();
    if (this.#yielded) this.#wake();
  }

  /** Pauses or resumes the socket as the intake needs it. */
  #holdBack(): void {
    const pause = this.#stalled || this.#ending;
    if (pause === this.#paused) return;
    this.#paused = pause;
    if (pause) this.#transport.pause();
    else this.#transport.resume();
  }

  // Intake

  /** Parses the stage until it is used up or something is missing (#stalled). */
  #intake(): void {
    while (!this.#ending) {
      if (this.#skip > 0) {
        const count = Math.min(this.#skip, this.#end - this.#at);
        this.#at += count;
        this.#skip -= count;
        if (this.#skip > 0) return;
      }
      if (this.#current !== null) {
        if (!this.#issue(this.#current)) return;
        this.#current = null;
        if (this.#held >= FLUSH_BYTES) this.#replies.flush();
      }
      const left = this.#end - this.#at;
      if (left < REQUEST_LENGTH) {
        this.#keepCarry(left);
        return;
      }
      if (this.#unanswered >= this.#limits.inFlight) {
        this.#stalled = true;
        return;
      }
      if (this.#turnLeft <= 0) {
        this.#yield();
        return;
      }
      this.#begin();
    }
  }

  #keepCarry(left: number): void {
    if (left > 0) this.#transport.stage.copyWithin(STAGE_START - left, this.#at, this.#end);
    this.#carry = left;
    this.#at = STAGE_START;
    this.#end = STAGE_START;
  }

  /** Takes one header off the stage. */
  #begin(): void {
    const request = this.#pool.takeRequest();
    if (!readRequest(this.#transport.stageView, this.#at, request)) {
      this.#pool.giveRequest(request);
      this.#shared.log.warn(
        `${this.#transport.peer}: ${new ProtocolError('a request without its magic number').message}`,
      );
      this.#stop();
      return;
    }
    this.#at += REQUEST_LENGTH;
    request.reset();
    const { command, length } = request;
    if (command === Command.DISC) {
      this.#pool.giveRequest(request);
      this.#stop();
      return;
    }
    this.#unanswered++;
    this.counters.requests++;
    this.#headerOnly = command === Command.WRITE && length >= DIRECT_WRITE;
    const refusal = this.#refusing ? SHUTTING_DOWN : refuse(request, this.#device, this.#session, this.#limits.payload);
    if (refusal !== null) {
      request.error = refusal.error;
      request.text = refusal.text;
      this.#shared.log.debug(`${this.#transport.peer}: ${commandName(command)} refused: ${refusal.text}`);
      // The data follows whatever we think of the request; framing is kept by taking it.
      if (command === Command.WRITE) this.#skip = length;
    } else if (command === Command.READ) {
      request.unissued = length;
      this.counters.reads++;
      this.counters.read += length;
    } else if (command === Command.WRITE) {
      request.unissued = length;
      this.counters.writes++;
      this.counters.written += length;
    } else if (length > 0 || command === Command.FLUSH) {
      request.unissued = command === Command.BLOCK_STATUS ? this.#contexts.length : 1;
    }
    this.#current = request;
  }

  /** Gives what is left of the request to the device; false when bytes or memory are missing for that. */
  #issue(request: Request): boolean {
    if (request.unissued === 0 && request.outstanding === 0 && this.#fill === null) {
      this.#answer(request, this.#pool.takePiece(request), Answer.STATUS);
      return true;
    }
    if (request.command === Command.READ) return this.#issueRead(request);
    if (request.command === Command.WRITE) return this.#issueWrite(request);
    const contexts = request.unissued;
    for (let i = 0; i < contexts; i++) {
      const piece = this.#piece(request, request.offset, request.length, null);
      if (request.command === Command.BLOCK_STATUS) {
        piece.context = this.#contexts[i].name;
        piece.contextId = this.#contexts[i].id;
        piece.reqOne = (request.flags & CommandFlag.REQ_ONE) !== 0;
      } else {
        piece.noHole = (request.flags & CommandFlag.NO_HOLE) !== 0;
        piece.fastZero = (request.flags & CommandFlag.FAST_ZERO) !== 0;
      }
      request.unissued--;
      this.#submit(piece);
    }
    return true;
  }

  #issueRead(request: Request): boolean {
    const { maxIo } = this.#device;
    const whole = !this.#structured || (request.flags & CommandFlag.DF) !== 0;
    if (whole && request.length > maxIo && request.gather === null) {
      if (this.#awaitingGather) return this.#stall();
      request.gather = this.#shared.gather.take(request.length, () => {
        this.#awaitingGather = false;
        this.#wake();
      });
      if (request.gather === null) {
        this.#awaitingGather = true;
        return this.#stall();
      }
    }
    while (request.unissued > 0) {
      if (this.#turnLeft <= 0) return this.#yield();
      if (this.#held >= FLUSH_BYTES) this.#replies.flush();
      const length = Math.min(maxIo, request.unissued);
      const buffer = this.#allocate(length);
      if (buffer === null) return this.#stall();
      const piece = this.#piece(request, request.offset + request.length - request.unissued, length, buffer);
      request.unissued -= length;
      this.#turnLeft -= length;
      this.#submit(piece);
    }
    return true;
  }

  #issueWrite(request: Request): boolean {
    while (request.unissued > 0 || this.#fill !== null) {
      let piece = this.#fill;
      if (piece === null) {
        const length = Math.min(this.#device.maxIo, request.unissued);
        const buffer = this.#allocate(length);
        if (buffer === null) return this.#stall();
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
      if (this.#filled < piece.length) return false;
      this.#fill = null;
      request.unissued -= piece.length;
      this.#submit(piece);
    }
    return true;
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

  #submit(piece: Piece): void {
    piece.request.outstanding++;
    this.#inDevice++;
    piece.running = true;
    try {
      this.#device.submit(piece);
    } catch (error) {
      this.misused(`the device threw instead of completing: ${messageOf(error)}`);
      if (piece.running) piece.complete(errnos.EIO);
    }
  }

  // What the intake may wait for

  /** Goes on in the next turn of the event loop. */
  #yield(): false {
    this.#yielded = true;
    return this.#stall();
  }

  #stall(): false {
    this.#stalled = true;
    return false;
  }

  #allocate(length: number): IoBuffer | null {
    if (this.#held > 0 && this.#held + length > this.#limits.inFlightBytes) return null;
    if (this.#awaitingBuffer) return null;
    const buffer = this.#device.allocate(length);
    if (buffer !== null) {
      this.#held += length;
      return buffer;
    }
    this.#awaitingBuffer = true;
    this.#device.whenAvailable(() => {
      this.#awaitingBuffer = false;
      this.#wake();
    });
    return null;
  }

  #release(piece: Piece): void {
    if (piece.buffer === null) return;
    this.#held -= piece.length;
    this.#device.release(piece.buffer);
    piece.buffer = null;
  }

  #wake(): void {
    if (this.#pumping || this.scheduled || this.#over) return;
    this.scheduled = true;
    this.#shared.schedule(this);
  }

  // Ends of operations

  completed(piece: Piece, errno: number, text: string): void {
    const { request } = piece;
    request.outstanding--;
    this.#inDevice--;
    if (errno !== 0 && request.error === 0) {
      request.error = wireError(errno, piece.fastZero);
      request.text = text;
    }
    const last = request.outstanding === 0 && request.unissued === 0;
    if (this.#closed) {
      this.#release(piece);
      this.#drop(piece, last);
      this.#finishIfIdle();
      return;
    }
    this.#wake();
    const { command } = request;
    if (command === Command.READ && errno === 0 && request.gather === null) {
      const done = last && request.error === 0;
      this.#push(piece, Answer.DATA, done);
      if (last && !done) this.#answer(request, this.#pool.takePiece(request), Answer.STATUS);
      return;
    }
    if (command === Command.BLOCK_STATUS && errno === 0) {
      piece.extents = clampExtents(piece.extents, piece.length, piece.reqOne);
      if (piece.extents !== null) {
        const done = last && request.error === 0;
        this.#push(piece, Answer.EXTENTS, done);
        if (last && !done) this.#answer(request, this.#pool.takePiece(request), Answer.STATUS);
        return;
      }
      request.error ||= WireError.EIO;
      this.misused('the device answered block status with no extent');
    }
    if (errno === 0 && request.gather !== null) {
      piece.buffer?.bytes.copy(request.gather, piece.offset - request.offset, 0, piece.length);
    }
    this.#release(piece);
    if (!last) this.#pool.givePiece(piece);
    else this.#answer(request, piece, request.gather !== null && request.error === 0 ? Answer.GATHERED : Answer.STATUS);
  }

  misused(message: string): void {
    this.#shared.log.error(`${this.#transport.peer}: ${message}`);
  }

  /** The request's last word. */
  #answer(request: Request, piece: Piece, answer: Answer): void {
    if (request.error !== 0) this.counters.errors++;
    piece.request = request;
    this.#push(piece, answer, true);
  }

  #push(piece: Piece, answer: Answer, done: boolean): void {
    piece.answer = answer;
    piece.done = done;
    this.#replies.push(piece);
  }

  /** The piece's answer is gone. */
  #retire(piece: Piece): void {
    this.#release(piece);
    this.#drop(piece, piece.done);
  }

  #drop(piece: Piece, last: boolean): void {
    const { request } = piece;
    this.#pool.givePiece(piece);
    if (!last) return;
    this.#unanswered--;
    const { gather } = request;
    this.#pool.giveRequest(request);
    if (gather !== null) this.#shared.gather.give(gather);
  }

  // The end

  /** Takes no more requests; half a one is dropped. */
  #stop(): void {
    this.#ending = true;
    if (this.#fill !== null) {
      this.#release(this.#fill);
      this.#fill = null;
    }
    const request = this.#current;
    this.#current = null;
    this.#skip = 0;
    if (request === null) return;
    // Its pieces in the device end it, as a failure; without any, it ends here, unanswered.
    request.unissued = 0;
    request.error ||= WireError.ESHUTDOWN;
    if (request.outstanding === 0) {
      this.#unanswered--;
      if (request.gather !== null) this.#shared.gather.give(request.gather);
    }
  }

  #finishIfIdle(): boolean {
    if (this.#over) return true;
    if (this.#inDevice > 0) return false;
    // A request that waits for memory is in flight; one that waits for the client's bytes is not.
    const refused = this.#refusing && !this.#stalled;
    if (!this.#closed && !((this.#ending || refused) && this.#replies.idle)) return false;
    this.#stop();
    this.#over = true;
    this.#finished();
    return true;
  }
}

/**
 * Extents fit for the wire: none empty, none past the request's end, at most as many as a chunk may carry, only the first when one was
 * asked for. Null when that leaves none.
 */
export function clampExtents(extents: Extent[] | null, length: number, one: boolean): Extent[] | null {
  if (extents === null) return null;
  const out: Extent[] = [];
  let left = length;
  for (const extent of extents) {
    if (left <= 0 || out.length >= (one ? 1 : MAX_EXTENTS)) break;
    if (!(extent.length > 0)) continue;
    const clamped = Math.min(extent.length, left);
    out.push({ length: clamped, flags: extent.flags });
    left -= clamped;
  }
  return out.length > 0 ? out : null;
}
