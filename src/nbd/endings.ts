/**
 * What becomes of operations that the device has ended: their answers, in chunks of their own where the client takes them so, and what they
 * held given back when these are gone.
 */
import { errnos, SystemError } from '../sys/errno.js';
import { Command, WireError } from './constants.js';
import type { Counters } from './counters.js';
import { wireError } from './errors.js';
import { clampExtents } from './extents.js';
import type { GatherBudget } from './gather.js';
import type { Holdings } from './holdings.js';
import type { Replies } from './replies.js';
import { Answer, type Piece, type Request, type RequestPool } from './requests.js';
import type { ReplyStyle } from './session.js';

/** Longest hole one chunk can tell, in bytes. */
const MAX_HOLE = 2 ** 32 - 1;

/**
 * Block status pieces of one connection in the device or not sent yet, and the extents in those that are not sent: no buffer is
 * counted for them, so that a client which asks and does not read would cost memory without end.
 */
const MAX_STATUSES = 16;
const MAX_STATUS_EXTENTS = 2 ** 17;

/** What endings tell their connection. */
export interface EndingsOwner {
  /** A reply that had begun cannot be finished: the connection must end. */
  broken(error: Error): void;
  /** The device did what no device may do; for the log. */
  misused(message: string): void;
}

export class Endings {
  readonly #structured: boolean;
  readonly #extended: boolean;
  readonly #pool: RequestPool;
  readonly #holdings: Holdings;
  readonly #replies: Replies;
  readonly #gather: GatherBudget;
  readonly #counters: Counters;
  readonly #owner: EndingsOwner;
  #statuses = 0;
  #statusExtents = 0;

  /** @param counters where failed requests are counted */
  constructor(
    { structured, extended }: ReplyStyle,
    pool: RequestPool,
    holdings: Holdings,
    replies: Replies,
    gather: GatherBudget,
    counters: Counters,
    owner: EndingsOwner,
  ) {
    this.#structured = structured;
    this.#extended = extended;
    this.#pool = pool;
    this.#holdings = holdings;
    this.#replies = replies;
    this.#gather = gather;
    this.#counters = counters;
    this.#owner = owner;
  }

  /** Whether a further block status must wait. */
  get statusFull(): boolean {
    return this.#statuses >= MAX_STATUSES || this.#statusExtents >= MAX_STATUS_EXTENTS;
  }

  /** A block status goes to the device: it counts until its answer is gone. */
  statusSubmitted(piece: Piece): void {
    piece.counted = true;
    this.#statuses++;
  }

  /**
   * The device has ended an operation.
   * @param closed nobody is there to be answered any more
   */
  completed(piece: Piece, errno: number, text: string, closed: boolean): void {
    const { request } = piece;
    request.outstanding--;
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
    if (closed) {
      this.#holdings.release(piece);
      this.#drop(piece, last);
      return;
    }
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
    const { text } = request;
    this.#drop(piece, true);
    this.#owner.broken(new SystemError(errnos.EIO, `a read failed after its reply had begun: ${text}`));
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
    this.#owner.misused('the device answered block status with no extent');
    return false;
  }

  /** Ends a request that has no piece in the device. */
  answer(request: Request): void {
    this.#end(request, this.#pool.takePiece(request), false);
  }

  /** The request's last word. */
  #end(request: Request, piece: Piece, gathered: boolean): void {
    if (request.error !== 0) this.#countError(request);
    this.#push(piece, gathered ? Answer.GATHERED : Answer.STATUS, true);
  }

  #countError(request: Request): void {
    if (!request.failed) this.#counters.errors++;
    request.failed = true;
  }

  #push(piece: Piece, answer: Answer, done: boolean): void {
    piece.answer = answer;
    piece.done = done;
    this.#replies.push(piece);
  }

  /** The piece's answer is gone, or never will go. */
  retire(piece: Piece): void {
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
    if (gather !== null) this.#gather.give(gather);
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
}
