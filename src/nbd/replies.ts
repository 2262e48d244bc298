/**
 * Answers on their way out: finished pieces wait here, are written as simple replies or chunks into the transport's batch when it
 * has room, and are retired when the batch is gone. A client that does not read stops here: nothing is written, the pieces keep
 * their buffers, and the limits on requests in flight stop the reading of its socket.
 */
import {
  chunkHeaderLength,
  encodeBlockStatusChunk,
  encodeErrorChunk,
  HOLE_PAYLOAD,
  writeChunkHeader,
  writeDataChunk,
  writeHoleChunk,
  writeSimpleReply,
} from './codec.js';
import { Chunk, Command, SIMPLE_REPLY_LENGTH } from './constants.js';
import { encodeString } from './handshake-codec.js';
import { Answer, type Piece, type Request } from './requests.js';
import type { ReplyStyle } from './session.js';
import type { Transport } from './transport.js';

/** Chunks up to this long are copied among the headers; longer ones end the batch. */
const INLINE_CHUNK = 4 * 1024 + 256;
const NO_BYTES = Buffer.alloc(0);
/** Places at the head of the queue that are worth being taken out. */
const COMPACT = 256;

export class Replies {
  readonly #transport: Transport;
  readonly #structured: boolean;
  readonly #extended: boolean;
  /** Bytes of a chunk's header. */
  readonly #header: number;
  /** Called for each piece whose answer is gone (or never will go): buffers come back here. */
  readonly #retire: (piece: Piece) => void;
  #ready: Piece[] = [];
  /** The first of #ready that is not in a batch. */
  #head = 0;
  readonly #batch: Piece[] = [];
  #sending = false;
  #muted = false;

  constructor(transport: Transport, { structured, extended }: ReplyStyle, retire: (piece: Piece) => void) {
    this.#transport = transport;
    this.#structured = structured;
    this.#extended = extended;
    this.#header = chunkHeaderLength(extended);
    this.#retire = retire;
  }

  push(piece: Piece): void {
    this.#ready.push(piece);
  }

  /** What was pushed last, as long as it is not on its way: it may still be changed. */
  get newest(): Piece | undefined {
    return this.#ready.at(-1);
  }

  /** The client's socket takes no more for now. */
  get blocked(): boolean {
    return this.#sending;
  }

  /** Everything that was pushed is gone. */
  get idle(): boolean {
    return this.#ready.length === 0 && this.#batch.length === 0;
  }

  /** Nothing more is sent: answers are given up as they come. */
  mute(): void {
    this.#muted = true;
  }

  /** Sends what is ready, as far as the socket takes it. True when anything was retired. */
  flush(): boolean {
    if (this.#muted && !this.#sending) return this.#giveUp();
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
    this.#giveUp();
    this.#sending = true;
  }

  /** True when there was something. */
  #giveUp(): boolean {
    const ready = this.#ready;
    const head = this.#head;
    this.#ready = [];
    this.#head = 0;
    for (let i = head; i < ready.length; i++) this.#retire(ready[i]);
    return head < ready.length;
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
    } else if (i >= COMPACT && i * 2 >= ready.length) {
      // Under load the queue may never be empty: what is gone must not stay in it.
      ready.splice(0, i);
      i = 0;
    }
    this.#head = i;
  }

  #write(piece: Piece): number {
    const { request, done } = piece;
    switch (piece.answer) {
      case Answer.DATA:
        return this.#writeData(piece);
      case Answer.HOLE:
        return this.#writeHole(piece);
      case Answer.GATHERED:
        return this.#writeGathered(request);
      case Answer.EXTENTS:
        return this.#writeChunk(
          encodeBlockStatusChunk(this.#extended, done, request, piece.contextId, piece.extents ?? []),
        );
      case Answer.FAILED:
        return this.#writeError(request, done, piece.error, piece.text, piece.offset);
      default:
        return this.#writeStatus(request);
    }
  }

  #writeData(piece: Piece): number {
    const { request, done, offset, length } = piece;
    if (request.streamed) return this.#writeStreamed(piece);
    const at = this.#writeDataHeader(request, done, offset, length);
    if (at < 0) return FULL;
    this.#append(piece);
    return MORE;
  }

  /** The data of a piece; false when the batch is full. */
  #append({ buffer, file, fileOffset, length }: Piece): boolean {
    if (buffer === null) return true;
    if (file >= 0) return this.#transport.appendFile(file, fileOffset, buffer, length);
    return this.#transport.appendPayload(buffer, length);
  }

  /** The header of the whole before the first piece, nothing before the others. What comes last is no data: it could still fail. */
  #writeStreamed(piece: Piece): number {
    const { request, offset } = piece;
    if (offset === request.offset && this.#writeDataHeader(request, false, offset, request.length) < 0) return FULL;
    return this.#append(piece) ? MORE : FULL;
  }

  #writeGathered(request: Request): number {
    const at = this.#writeDataHeader(request, true, request.offset, request.length);
    if (at < 0) return FULL;
    this.#transport.appendBytes(request.gather ?? NO_BYTES);
    return LAST;
  }

  /** What comes before `length` bytes of data; negative when the batch is full. */
  #writeDataHeader(request: Request, done: boolean, offset: number, length: number): number {
    const transport = this.#transport;
    const at = transport.reserve(this.#structured ? this.#header + 8 : SIMPLE_REPLY_LENGTH);
    if (at < 0) return at;
    const { headersView } = transport;
    if (this.#structured) writeDataChunk(headersView, at, this.#extended, done, request, offset, length);
    else writeSimpleReply(headersView, at, 0, request.cookieHigh, request.cookieLow);
    return at;
  }

  #writeHole({ request, done, offset, length }: Piece): number {
    const at = this.#transport.reserve(this.#header + HOLE_PAYLOAD);
    if (at < 0) return FULL;
    writeHoleChunk(this.#transport.headersView, at, this.#extended, done, request, offset, length);
    return MORE;
  }

  #writeStatus(request: Request): number {
    const { command, error, text } = request;
    const transport = this.#transport;
    const mustBeChunk = this.#extended || command === Command.READ || command === Command.BLOCK_STATUS;
    if (this.#structured && error !== 0 && (mustBeChunk || text !== '')) {
      return this.#writeError(request, true, error, text, null);
    }
    if (this.#structured && mustBeChunk) {
      const at = transport.reserve(this.#header);
      if (at < 0) return FULL;
      writeChunkHeader(transport.headersView, at, this.#extended, true, Chunk.NONE, request, 0);
      return MORE;
    }
    const at = transport.reserve(SIMPLE_REPLY_LENGTH);
    if (at < 0) return FULL;
    writeSimpleReply(transport.headersView, at, error, request.cookieHigh, request.cookieLow);
    return MORE;
  }

  #writeError(request: Request, done: boolean, error: number, text: string, offset: number | null): number {
    const bytes = text === '' ? NO_BYTES : encodeString(text);
    return this.#writeChunk(encodeErrorChunk(this.#extended, done, request, error, bytes, offset));
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
