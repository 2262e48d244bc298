/**
 * Answers on their way out: finished pieces wait here, are written as simple replies or chunks into the transport's batch when it
 * has room, and are retired when the batch is gone. A client that does not read stops here: nothing is written, the pieces keep
 * their buffers, and the limits on requests in flight stop the reading of its socket.
 */
import {
  encodeBlockStatusChunk,
  encodeErrorChunk,
  writeChunkHeader,
  writeDataChunk,
  writeSimpleReply,
} from './codec.js';
import { CHUNK_HEADER_LENGTH, Chunk, Command, SIMPLE_REPLY_LENGTH } from './constants.js';
import { encodeString } from './handshake-codec.js';
import { Answer, type Piece, type Request } from './requests.js';
import type { Transport } from './transport.js';

const DATA_CHUNK_LENGTH = CHUNK_HEADER_LENGTH + 8;
/** Chunks up to this long are copied among the headers; longer ones end the batch. */
const INLINE_CHUNK = 4 * 1024 + 256;
const NO_BYTES = Buffer.alloc(0);

export class Replies {
  readonly #transport: Transport;
  readonly #structured: boolean;
  /** Called for each piece whose answer is gone (or never will go): buffers come back here. */
  readonly #retire: (piece: Piece) => void;
  #ready: Piece[] = [];
  /** The first of #ready that is not in a batch. */
  #head = 0;
  readonly #batch: Piece[] = [];
  #sending = false;

  constructor(transport: Transport, structured: boolean, retire: (piece: Piece) => void) {
    this.#transport = transport;
    this.#structured = structured;
    this.#retire = retire;
  }

  push(piece: Piece): void {
    this.#ready.push(piece);
  }

  /** The client's socket takes no more for now. */
  get blocked(): boolean {
    return this.#sending;
  }

  /** Everything that was pushed is gone. */
  get idle(): boolean {
    return this.#ready.length === 0 && this.#batch.length === 0;
  }

  /** Sends what is ready, as far as the socket takes it. True when anything was retired. */
  flush(): boolean {
    let retired = false;
    while (!this.#sending && this.#ready.length > 0) {
      this.#fillBatch();
      if (!this.#transport.send()) {
        this.#sending = true;
        break;
      }
      this.#retireBatch();
      retired = true;
    }
    return retired;
  }

  /** The batch whose send() returned false is gone. */
  drained(): void {
    this.#sending = false;
    this.#retireBatch();
  }

  /** The transport is closed: nothing more goes out. */
  discard(): void {
    this.#retireBatch();
    for (let i = this.#head; i < this.#ready.length; i++) this.#retire(this.#ready[i]);
    this.#ready = [];
    this.#head = 0;
    this.#sending = true;
  }

  #retireBatch(): void {
    for (const piece of this.#batch) this.#retire(piece);
    this.#batch.length = 0;
  }

  #fillBatch(): void {
    const ready = this.#ready;
    let i = this.#head;
    while (i < ready.length) {
      const piece = ready[i];
      const room = this.#write(piece);
      if (room === FULL) break;
      this.#batch.push(piece);
      i++;
      if (room === LAST) break;
    }
    if (i === ready.length) {
      ready.length = 0;
      i = 0;
    }
    this.#head = i;
  }

  #write(piece: Piece): number {
    switch (piece.answer) {
      case Answer.DATA:
        return this.#writeData(piece);
      case Answer.GATHERED:
        return this.#writeGathered(piece);
      case Answer.EXTENTS: {
        const { cookieHigh, cookieLow } = piece.request;
        return this.#writeChunk(
          encodeBlockStatusChunk(cookieHigh, cookieLow, piece.done, piece.contextId, piece.extents ?? []),
        );
      }
      default:
        return this.#writeStatus(piece.request);
    }
  }

  #writeData(piece: Piece): number {
    const transport = this.#transport;
    const { cookieHigh, cookieLow } = piece.request;
    const at = transport.reserve(this.#structured ? DATA_CHUNK_LENGTH : SIMPLE_REPLY_LENGTH);
    if (at < 0) return FULL;
    if (this.#structured) {
      writeDataChunk(transport.headersView, at, piece.done, cookieHigh, cookieLow, piece.offset, piece.length);
    } else {
      writeSimpleReply(transport.headersView, at, 0, cookieHigh, cookieLow);
    }
    if (piece.buffer !== null) transport.appendPayload(piece.buffer, piece.length);
    return MORE;
  }

  #writeGathered(piece: Piece): number {
    const transport = this.#transport;
    const { cookieHigh, cookieLow, offset, length, gather } = piece.request;
    const at = transport.reserve(this.#structured ? DATA_CHUNK_LENGTH : SIMPLE_REPLY_LENGTH);
    if (at < 0) return FULL;
    if (this.#structured) writeDataChunk(transport.headersView, at, true, cookieHigh, cookieLow, offset, length);
    else writeSimpleReply(transport.headersView, at, 0, cookieHigh, cookieLow);
    transport.appendBytes(gather ?? NO_BYTES);
    return LAST;
  }

  #writeStatus(request: Request): number {
    const { command, cookieHigh, cookieLow, error, text } = request;
    const mustBeStructured = command === Command.READ || command === Command.BLOCK_STATUS;
    const transport = this.#transport;
    if (this.#structured && error !== 0 && (mustBeStructured || text !== '')) {
      return this.#writeChunk(
        encodeErrorChunk(cookieHigh, cookieLow, error, text === '' ? NO_BYTES : encodeString(text)),
      );
    }
    if (this.#structured && mustBeStructured) {
      const at = transport.reserve(CHUNK_HEADER_LENGTH);
      if (at < 0) return FULL;
      writeChunkHeader(transport.headersView, at, true, Chunk.NONE, cookieHigh, cookieLow, 0);
      return MORE;
    }
    const at = transport.reserve(SIMPLE_REPLY_LENGTH);
    if (at < 0) return FULL;
    writeSimpleReply(transport.headersView, at, error, cookieHigh, cookieLow);
    return MORE;
  }

  #writeChunk(chunk: Buffer): number {
    const transport = this.#transport;
    if (chunk.length > INLINE_CHUNK) {
      transport.appendBytes(chunk);
      return LAST;
    }
    const at = transport.reserve(chunk.length);
    if (at < 0) return FULL;
    const { buffer, byteOffset } = transport.headersView;
    new Uint8Array(buffer, byteOffset + at, chunk.length).set(chunk);
    return MORE;
  }
}

/** What became of a piece's answer: it waits for the next batch; the batch takes more; the batch ends with it. */
const FULL = 0;
const MORE = 1;
const LAST = 2;
