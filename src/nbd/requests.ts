/** Requests and the pieces they are cut into: pooled per connection, so that a request costs no allocation. */
import type { ReplyAddress, RequestHeader } from './codec.js';
import type { Extent, Io, IoBuffer, IoCommand } from './device.js';
import type { MetaContext } from './session.js';

/** What a finished piece puts on the wire. */
export const Answer = {
  /** The request's end: success or error, no data. */
  STATUS: 0,
  /** The piece's buffer. */
  DATA: 1,
  /** The request's gathered bytes. */
  GATHERED: 2,
  /** The piece's extents. */
  EXTENTS: 3,
  /** The piece's range reads as zeros. */
  HOLE: 4,
  /** The piece failed; others of its request may be there. */
  FAILED: 5,
} as const;
export type Answer = (typeof Answer)[keyof typeof Answer];

/** One command of the client, from its header to its last reply. */
export class Request implements RequestHeader, ReplyAddress {
  flags = 0;
  command = 0;
  cookieHigh = 0;
  cookieLow = 0;
  offset = 0;
  offsetHigh = 0;
  offsetLow = 0;
  length = 0;
  /** Pieces in the device. */
  outstanding = 0;
  /** What is not in the device yet: bytes of READ and WRITE, pieces of the rest. */
  unissued = 0;
  /** The first error, as a wire value, and its text. */
  error = 0;
  text = '';
  /** Counted among the errors. */
  failed = false;
  /** BLOCK_STATUS: the contexts asked for; null: all that were negotiated. */
  contexts: readonly MetaContext[] | null = null;
  /** A read that must be whole before its header: where its pieces meet. */
  gather: Buffer | null = null;
  /** Such a read without that memory: its header goes out before its first piece, and its pieces follow one by one. */
  streamed = false;

  /** Forgets the previous use; the header's fields are read anew each time. */
  reset(): void {
    this.outstanding = 0;
    this.unissued = 0;
    this.error = 0;
    this.text = '';
    this.failed = false;
    this.contexts = null;
    this.gather = null;
    this.streamed = false;
  }
}

/** Who hears of finished pieces. */
export interface PieceOwner {
  completed(piece: Piece, errno: number, text: string): void;
  misused(message: string): void;
}

/** One operation in the device; then, until it is sent, one answer. */
export class Piece implements Io {
  command: IoCommand = 0;
  offset = 0;
  length = 0;
  fua = false;
  noHole = false;
  fastZero = false;
  context = '';
  reqOne = false;
  alone = false;
  meanwhile = false;
  buffer: IoBuffer | null = null;
  mayBeHole = false;
  hole = false;
  mayBeFile = false;
  file = -1;
  fileOffset = 0;
  extents: Extent[] | null = null;
  tag: unknown = null;

  request!: Request;
  answer: Answer = Answer.STATUS;
  /** FAILED: the error as a wire value, and its text. */
  error = 0;
  text = '';
  /** Id of the meta context in this connection. */
  contextId = 0;
  /** The last chunk of its reply. */
  done = false;
  running = false;
  /** One of the block status pieces that a connection may have at a time; the extents it has brought. */
  counted = false;
  extentCount = 0;
  readonly #owner: PieceOwner;

  constructor(owner: PieceOwner) {
    this.#owner = owner;
  }

  complete(errno: number, text = ''): void {
    if (!this.running) {
      this.#owner.misused('the device completed an operation twice');
      return;
    }
    this.running = false;
    this.#owner.completed(this, errno, text);
  }
}

/** Requests and pieces of one connection that are not in use. */
export class RequestPool {
  readonly #requests: Request[] = [];
  readonly #pieces: Piece[] = [];
  readonly #owner: PieceOwner;

  constructor(owner: PieceOwner) {
    this.#owner = owner;
  }

  takeRequest(): Request {
    return this.#requests.pop() ?? new Request();
  }

  giveRequest(request: Request): void {
    request.gather = null;
    this.#requests.push(request);
  }

  takePiece(request: Request): Piece {
    const piece = this.#pieces.pop() ?? new Piece(this.#owner);
    piece.request = request;
    return piece;
  }

  givePiece(piece: Piece): void {
    piece.buffer = null;
    piece.extents = null;
    piece.tag = null;
    piece.fua = false;
    piece.noHole = false;
    piece.fastZero = false;
    piece.mayBeHole = false;
    piece.hole = false;
    piece.answer = Answer.STATUS;
    piece.done = false;
    this.#pieces.push(piece);
  }
}
