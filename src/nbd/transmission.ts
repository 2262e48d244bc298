/**
 * The transmission phase of one connection: moves requests from the intake into the device and their ends to the replies, holds the
 * client back by its socket when something is missing, and knows when all is over.
 */
import { errnos, messageOf, SystemError } from '../sys/errno.js';
import { Command, WireError } from './constants.js';
import type { Counters } from './counters.js';
import { type BlockDevice, IoCommand } from './device.js';
import { wireError } from './errors.js';
import { clampExtents } from './extents.js';
import { type Budgets, Holdings } from './holdings.js';
import { Intake, type IntakeContext, type IntakeOwner, Stop } from './intake.js';
import { Replies } from './replies.js';
import { Answer, type Piece, type PieceOwner, type Request, RequestPool } from './requests.js';
import type { Session } from './session.js';
import type { Transport } from './transport.js';

/** Longest hole one chunk can tell, in bytes. */
const MAX_HOLE = 2 ** 32 - 1;

/**
 * Block status pieces of one connection in the device or not sent yet, and the extents in those that are not sent: no buffer is
 * counted for them, so that a client which asks and does not read would cost memory without end.
 */
const MAX_STATUSES = 16;
const MAX_STATUS_EXTENTS = 2 ** 17;

/** What a server's connections share. */
export interface Shared extends IntakeContext {
  readonly budgets: Budgets;
  /** Asks for turn() once, in this turn of the event loop, after what else has completed in it. */
  schedule(transmission: Transmission): void;
}

export class Transmission implements PieceOwner, IntakeOwner {
  readonly #transport: Transport;
  readonly #device: BlockDevice;
  readonly #structured: boolean;
  readonly #extended: boolean;
  readonly #shared: Shared;
  readonly #finished: () => void;
  readonly #pool = new RequestPool(this);
  readonly #holdings: Holdings;
  readonly #intake: Intake;
  readonly #replies: Replies;

  /** Pieces in the device. */
  #inDevice = 0;
  #statuses = 0;
  #statusExtents = 0;
  #pumping = false;
  /** The intake waits for something; the transport is paused. */
  #stalled = false;
  #paused = true;
  /** No more requests are taken: DISC, end of stream, broken framing. */
  #ending = false;
  #refusing = false;
  #closed = false;
  #over = false;
  #scheduled = false;

  /** @param finished called once, when the connection is to be ended: nothing is in flight and all is sent, or it is gone */
  constructor(transport: Transport, session: Session, shared: Shared, finished: () => void) {
    this.#transport = transport;
    this.#device = session.device;
    this.#structured = session.structured;
    this.#extended = session.extended;
    this.#shared = shared;
    this.#finished = finished;
    const blocked = (): boolean => this.#replies.blocked;
    this.#holdings = new Holdings(session.device, shared.limits, shared.budgets, () => this.wake(), blocked);
    this.#intake = new Intake(transport, session, shared, this.#pool, this.#holdings, this);
    this.#replies = new Replies(transport, session, (piece) => this.#retire(piece));
  }

  get counters(): Counters {
    return this.#intake.counters;
  }

  /** Requests being served. */
  get inFlight(): number {
    return this.#holdings.requests;
  }

  get refusing(): boolean {
    return this.#refusing;
  }

  get statusFull(): boolean {
    return this.#statuses >= MAX_STATUSES || this.#statusExtents >= MAX_STATUS_EXTENTS;
  }

  /** Takes what negotiation left in the stage, then reads on. */
  start(): void {
    this.#pump();
  }

  // What the transport tells

  readable(staged: number): void {
    this.#intake.staged(staged);
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
    const count = this.#intake.receive();
    if (count < 0) this.ended();
    if (count <= 0) return false;
    this.#pump();
    return true;
  }

  // Moving

  /** Has turn() called later in this turn of the event loop, unless what goes on now will see to it. */
  wake(): void {
    if (this.#pumping || this.#scheduled || this.#over) return;
    this.#scheduled = true;
    this.#shared.schedule(this);
  }

  /** What schedule() asked for. */
  turn(): void {
    this.#scheduled = false;
    this.#pump();
  }

  flush(): void {
    this.#replies.flush();
  }

  /**
   * Moves everything as far as it goes in one turn: parses what is staged, receives more, sends what is ready.
   * Completions inside it are picked up by it.
   */
  #pump(): void {
    if (this.#pumping || this.#closed) return;
    this.#pumping = true;
    let stop: Stop = Stop.END;
    try {
      stop = this.#move();
    } catch (error) {
      // A device that fails to allocate or release, or a mistake of ours, costs this client, not the others.
      this.misused(`the connection is dropped: ${messageOf(error)}`);
      this.#ending = true;
      this.#transport.destroy(error instanceof Error ? error : undefined);
      return;
    } finally {
      this.#pumping = false;
    }
    this.#stalled = stop === Stop.STALLED || stop === Stop.TURN;
    if (this.#finishIfIdle()) return;
    this.#holdBack();
    if (stop === Stop.TURN) this.wake();
  }

  /** Why the intake stopped. */
  #move(): Stop {
    let stop: Stop = Stop.END;
    this.#intake.startTurn();
    while (!this.#ending) {
      stop = this.#intake.run();
      if (stop === Stop.END) this.#stop();
      else if (stop === Stop.STALLED) {
        // Sending may free what the intake waits for.
        this.#device.kick?.();
        if (!this.#replies.flush()) break;
      } else {
        // A payload is likely there already; of headers, libuv or the poller tells.
        if (stop === Stop.TURN || !this.#intake.eager) break;
        const count = this.#intake.receive();
        if (count < 0) this.ended();
        if (count <= 0) break;
      }
    }
    if (this.#inDevice > 0) this.#device.kick?.();
    this.#replies.flush();
    return stop;
  }

  /** Pauses or resumes the socket as the intake needs it. */
  #holdBack(): void {
    const pause = this.#stalled || this.#ending;
    if (pause === this.#paused) return;
    this.#paused = pause;
    if (pause) this.#transport.pause();
    else this.#transport.resume();
  }

  submit(piece: Piece): void {
    piece.request.outstanding++;
    this.#inDevice++;
    piece.running = true;
    if (piece.command === IoCommand.BLOCK_STATUS) {
      piece.counted = true;
      this.#statuses++;
    }
    try {
      this.#device.submit(piece);
    } catch (error) {
      this.misused(`the device threw instead of completing: ${messageOf(error)}`);
      if (piece.running) piece.complete(errnos.EIO);
    }
  }

  misused(message: string): void {
    this.#shared.log.error(`${this.#transport.peer}: ${message}`);
  }

  // Ends of operations

  completed(piece: Piece, errno: number, text: string): void {
    const { request } = piece;
    request.outstanding--;
    this.#inDevice--;
    const alone = errno !== 0 && this.#failsAlone(piece);
    if (errno !== 0) {
      if (alone) {
        piece.error = wireError(errno);
        piece.text = text;
      } else if (request.error === 0) {
        request.error = wireError(errno, piece.fastZero);
        request.text = text;
      }
    }
    const last = request.outstanding === 0 && request.unissued === 0;
    if (this.#closed) {
      this.#holdings.release(piece);
      this.#drop(piece, last);
      this.#finishIfIdle();
      return;
    }
    this.wake();
    const { streamed } = request;
    if (streamed && request.error !== 0 && !this.#canPad(piece)) {
      this.#cutShort(piece);
      return;
    }
    if (piece.hole) this.#takeHole(piece);
    if (streamed && errno !== 0) piece.buffer?.bytes.fill(0, 0, piece.length);
    if (alone || streamed || (errno === 0 && this.#hasContent(piece))) {
      // The chunk of a streamed read has begun before it could be known whether it fails.
      const done = last && request.error === 0 && !(streamed && this.#structured);
      if (alone) this.#fail(piece, done);
      else if (request.command === Command.BLOCK_STATUS) this.#push(piece, Answer.EXTENTS, done);
      else if (piece.hole) this.#pushHole(piece, done);
      else this.#push(piece, Answer.DATA, done);
      if (last && !done) this.answer(request);
      return;
    }
    if (errno === 0 && request.gather !== null) {
      piece.buffer?.bytes.copy(request.gather, piece.offset - request.offset, 0, piece.length);
    }
    this.#holdings.release(piece);
    if (last) this.#end(request, piece, request.gather !== null && request.error === 0);
    else this.#give(piece);
  }

  /**
   * The piece of a READ whose chunks go out each by itself: its failure tells where it was, and the others stay valid (protocol
   * document, NBD_REPLY_TYPE_ERROR_OFFSET). Of a READ that was not cut nothing better is known than that it failed.
   */
  #failsAlone({ request, length }: Piece): boolean {
    const { command, gather, streamed } = request;
    return command === Command.READ && this.#structured && gather === null && !streamed && length !== request.length;
  }

  /**
   * A streamed read that failed after its chunk had begun: the chunk is completed (what failed reads as zeros), and an error follows it. A
   * simple reply has no place for one, and of a read that is given up not all is to come.
   */
  #canPad({ offset, length, request }: Piece): boolean {
    const isNext = offset + length + request.unissued === request.offset + request.length;
    return this.#structured && isNext && offset !== request.offset;
  }

  /**
   * A streamed read that fails. Its first piece fails it as a whole, and none follows; after that its header is out, and only the end of the
   * connection can tell that no more data comes.
   */
  #cutShort(piece: Piece): void {
    const { request } = piece;
    request.unissued = 0;
    this.#holdings.release(piece);
    if (piece.offset === request.offset) {
      this.#end(request, piece, false);
      return;
    }
    this.#drop(piece, true);
    this.#ending = true;
    this.#transport.destroy(new SystemError(errnos.EIO, `a read failed after its reply had begun: ${request.text}`));
  }

  #fail(piece: Piece, done: boolean): void {
    this.#holdings.release(piece);
    this.#countError(piece.request);
    this.#push(piece, Answer.FAILED, done);
  }

  /** A hole needs no buffer; where holes cannot be told it is zeros like any others. */
  #takeHole(piece: Piece): void {
    if (piece.mayBeHole) this.#holdings.release(piece);
    else {
      piece.hole = false;
      piece.buffer?.bytes.fill(0, 0, piece.length);
    }
  }

  /** One chunk for holes next to each other, as long as the first of them waits: a client that does not read costs one. */
  #pushHole(piece: Piece, done: boolean): void {
    const before = this.#replies.newest;
    if (
      before !== undefined &&
      before.answer === Answer.HOLE &&
      before.request === piece.request &&
      before.offset + before.length === piece.offset &&
      before.length + piece.length <= MAX_HOLE
    ) {
      before.length += piece.length;
      before.done = done;
      this.#pool.givePiece(piece);
    } else this.#push(piece, Answer.HOLE, done);
  }

  /** The piece goes out by itself, before its request's end. */
  #hasContent(piece: Piece): boolean {
    const { request } = piece;
    if (request.command === Command.READ) return request.gather === null;
    if (request.command !== Command.BLOCK_STATUS) return false;
    piece.extents = clampExtents(piece.extents, piece.length, piece.reqOne, this.#extended);
    if (piece.extents !== null) {
      piece.extentCount = piece.extents.length;
      this.#statusExtents += piece.extentCount;
      return true;
    }
    request.error ||= WireError.EIO;
    this.misused('the device answered block status with no extent');
    return false;
  }

  answer(request: Request): void {
    this.#end(request, this.#pool.takePiece(request), false);
  }

  /** The request's last word. */
  #end(request: Request, piece: Piece, gathered: boolean): void {
    if (request.error !== 0) this.#countError(request);
    this.#push(piece, gathered ? Answer.GATHERED : Answer.STATUS, true);
  }

  #countError(request: Request): void {
    if (!request.failed) this.counters.errors++;
    request.failed = true;
  }

  #push(piece: Piece, answer: Answer, done: boolean): void {
    piece.answer = answer;
    piece.done = done;
    this.#replies.push(piece);
  }

  /** The piece's answer is gone. */
  #retire(piece: Piece): void {
    this.#holdings.release(piece);
    this.#drop(piece, piece.done);
  }

  #drop(piece: Piece, last: boolean): void {
    const { request } = piece;
    this.#give(piece);
    if (!last) return;
    this.#holdings.end();
    const { gather } = request;
    this.#pool.giveRequest(request);
    if (gather !== null) this.#shared.gather.give(gather);
  }

  #give(piece: Piece): void {
    if (piece.counted) {
      this.#statuses--;
      this.#statusExtents -= piece.extentCount;
      piece.counted = false;
      piece.extentCount = 0;
    }
    this.#pool.givePiece(piece);
  }

  // The end

  #stop(): void {
    this.#ending = true;
    this.#intake.drop();
    this.#holdings.stop();
  }

  #finishIfIdle(): boolean {
    if (this.#over) return true;
    if (this.#inDevice > 0) return false;
    // A request that waits for memory is in flight; one that waits for the client's bytes is not.
    const refused = this.#refusing && !this.#stalled;
    if (!this.#closed && !((this.#ending || refused) && this.#replies.idle)) return false;
    this.#stop();
    this.#over = true;
    this.#holdings.leave();
    this.#finished();
    return true;
  }
}
