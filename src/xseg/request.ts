/**
 * A request: a fixed-size record in the segment, seen through one JavaScript object per record and process. The objects are made
 * once and reused with their records, so a request costs no allocation.
 *
 * The fields in the segment belong to the asker until it submits, to the server until it answers, and to the asker again after
 * that. `onReply`, `context` belong to the asker in this process; `serving` to the server.
 */
import { errnos, SystemError } from '../sys/errno.js';
import {
  MAX_MESSAGE,
  MAX_NOTE,
  MAX_TARGET,
  MESSAGE_BYTE,
  NOTE_BYTE,
  R,
  REQUEST_BYTES,
  REQUEST_WORDS,
  RequestState,
  Resend,
  Status,
  TARGET_BYTE,
} from './layout.js';
import type { SegmentMemory } from './memory.js';

/** What a request needs of its segment; the segment implements it. */
export interface RequestHost {
  readonly memory: SegmentMemory;
  respond(request: Request): void;
  isDataInHeap(offset: number, length: number): boolean;
  /** Reports a mistake of this process; nothing is thrown at who made it. */
  complain(message: string): void;
}

export class Request {
  /** Index in the request table. */
  readonly index: number;
  /** Asker's side: called once when the answer is there. */
  onReply: ((request: Request) => void) | null = null;
  /** Asker's side: whatever onReply needs. */
  context: unknown = null;
  /** Server's side: whatever it needs while it works. */
  serving: unknown = null;
  /** Server's side: accepted by this process and not answered yet. Kept by the segment. */
  owed = false;
  /** Asker's side: in its port's store of records at hand. Kept by the port. */
  spare = false;
  /** First word of the record in the segment. */
  readonly word: number;

  readonly #host: RequestHost;
  readonly #memory: SegmentMemory;
  readonly #u32: Uint32Array;
  readonly #byte: number;

  constructor(host: RequestHost, index: number, tableByte: number) {
    this.#host = host;
    this.#memory = host.memory;
    this.#u32 = host.memory.u32;
    this.index = index;
    this.#byte = tableByte + index * REQUEST_BYTES;
    this.word = tableByte / 4 + index * REQUEST_WORDS;
  }

  get op(): number {
    return this.#u32[this.word + R.OP];
  }
  set op(value: number) {
    this.#u32[this.word + R.OP] = value;
  }
  get flags(): number {
    return this.#u32[this.word + R.FLAGS];
  }
  set flags(value: number) {
    this.#u32[this.word + R.FLAGS] = value;
  }
  /** Positive errno of a failed request. */
  get errno(): number {
    return this.#u32[this.word + R.ERRNO];
  }
  /** Did the server succeed? Valid in onReply. */
  get served(): boolean {
    return this.#u32[this.word + R.STATUS] === Status.SERVED;
  }
  /** Port of the asker. */
  get src(): number {
    return this.#u32[this.word + R.SRC];
  }
  /** Port of the server. */
  get dst(): number {
    return this.#u32[this.word + R.DST];
  }
  get offset(): number {
    return this.#memory.get64(this.word + R.OFFSET);
  }
  set offset(value: number) {
    this.#memory.set64(this.word + R.OFFSET, value);
  }
  get size(): number {
    return this.#memory.get64(this.word + R.SIZE);
  }
  set size(value: number) {
    this.#memory.set64(this.word + R.SIZE, value);
  }
  get serviced(): number {
    return this.#memory.get64(this.word + R.SERVICED);
  }
  /** Size of a v0 map's volume in bytes, -1 = not given. */
  get v0Size(): number {
    return this.#memory.get64(this.word + R.V0_SIZE);
  }
  set v0Size(value: number) {
    this.#memory.set64(this.word + R.V0_SIZE, value);
  }
  /** See ObjectIo.hint: comes back from the server with the answer. */
  get hint(): number {
    return this.#memory.get64(this.word + R.HINT);
  }
  set hint(value: number) {
    this.#memory.set64(this.word + R.HINT, value);
  }

  /**
   * When it is too late to begin with this request, ms of the monotonic clock (sys/clock.ts); 0 = never. A blocker answers ETIME then: the
   * lock under which it was sent may be another node's by now.
   */
  get deadline(): number {
    return this.#memory.f64[(this.word + R.DEADLINE) / 2];
  }
  set deadline(value: number) {
    this.#memory.f64[(this.word + R.DEADLINE) / 2] = value;
  }

  /**
   * Server's side: was it accepted before, by an owner of this port that went without answering? Then it may have been done, wholly
   * or in part.
   */
  get redelivered(): boolean {
    return this.#u32[this.word + R.REDELIVERED] !== 0;
  }

  /**
   * What a server wrote down about this request, for its successor should it die before it answers; also for its asker, and from its
   * asker. Empty at first. Latin-1, at most MAX_NOTE characters; it is as good as the memory: the machine's end is its end.
   */
  get note(): string {
    const start = this.#byte + NOTE_BYTE;
    const length = Math.min(this.#u32[this.word + R.NOTE_LENGTH], MAX_NOTE);
    return length === 0 ? '' : this.#memory.bytes.toString('latin1', start, start + length);
  }
  set note(text: string) {
    if (text.length > MAX_NOTE) throw new RangeError(`a note of ${text.length} characters; ${MAX_NOTE} fit`);
    // A note that is half written when its writer dies is none.
    this.#u32[this.word + R.NOTE_LENGTH] = 0;
    this.#memory.bytes.write(text, this.#byte + NOTE_BYTE, MAX_NOTE, 'latin1');
    Atomics.store(this.#u32, this.word + R.NOTE_LENGTH, text.length);
  }

  /**
   * Asker's side: send it anew rather than have it redelivered, because its answer is written over its data. Such a request comes back
   * unserved with `mustResend` when its server goes; the asker restores the data and submits it again.
   */
  wantResend(): void {
    this.#u32[this.word + R.RESEND] = Resend.WANTED;
  }
  get mustResend(): boolean {
    return this.#u32[this.word + R.RESEND] === Resend.DUE;
  }

  /** Segment offset of the data, 0 when there is none. */
  get dataOffset(): number {
    return this.#memory.get64(this.word + R.DATA);
  }
  get dataLength(): number {
    return this.#u32[this.word + R.DATA_LENGTH];
  }
  /** Points the request at `length` bytes of the heap. The bytes stay whoever allocated them. */
  setData(offset: number, length: number): void {
    this.#memory.set64(this.word + R.DATA, offset);
    this.#u32[this.word + R.DATA_LENGTH] = length;
  }
  /** Address of the data in this process. */
  get dataAddress(): number {
    return this.#memory.base + this.dataOffset;
  }
  /** The data as a view on the segment; makes a Buffer, so not for the hot path. */
  get data(): Buffer {
    return this.#memory.bytes.subarray(this.dataOffset, this.dataOffset + this.dataLength);
  }
  /** Is the data range really in the heap? A server asks this before it touches data of a request. */
  get hasValidData(): boolean {
    return this.#host.isDataInHeap(this.dataOffset, this.dataLength);
  }

  /** Server's side: is the asker gone? The answer will go nowhere, so work that only serves it can be given up. */
  get orphaned(): boolean {
    return this.#u32[this.word + R.STATE] === RequestState.ORPHANED;
  }

  /** Bytes of the target's name, at most MAX_TARGET. */
  get targetLength(): number {
    return Math.min(this.#u32[this.word + R.TARGET_LENGTH], MAX_TARGET);
  }
  /** The target's name. Names are bytes; they are seen as UTF-8. */
  get target(): string {
    const start = this.#byte + TARGET_BYTE;
    return this.#memory.bytes.toString('utf8', start, start + this.targetLength);
  }
  /** @throws SystemError ENAMETOOLONG when it is longer than MAX_TARGET bytes */
  set target(name: string) {
    const length = Buffer.byteLength(name);
    if (length > MAX_TARGET) throw tooLong(length);
    this.#memory.bytes.write(name, this.#byte + TARGET_BYTE, MAX_TARGET, 'utf8');
    this.#u32[this.word + R.TARGET_LENGTH] = length;
  }
  /** Sets the target from bytes, for names that are kept as bytes. @throws SystemError ENAMETOOLONG */
  setTargetBytes(name: Uint8Array): void {
    if (name.length > MAX_TARGET) throw tooLong(name.length);
    this.#memory.bytes.set(name, this.#byte + TARGET_BYTE);
    this.#u32[this.word + R.TARGET_LENGTH] = name.length;
  }

  /** Sets the target to what `source` writes into the record: no string, no copy. @throws SystemError ENAMETOOLONG */
  writeTarget(source: { writeName(i: number, target: Uint8Array, at: number): number }, i: number): void {
    const length = source.writeName(i, this.#memory.bytes, this.#byte + TARGET_BYTE);
    if (length > MAX_TARGET) throw tooLong(length);
    this.#u32[this.word + R.TARGET_LENGTH] = length;
  }
  /** Is the target exactly these bytes? Compares in place. */
  hasTarget(name: Uint8Array): boolean {
    if (this.#u32[this.word + R.TARGET_LENGTH] !== name.length) return false;
    const { bytes } = this.#memory;
    const start = this.#byte + TARGET_BYTE;
    for (let i = 0; i < name.length; i++) if (bytes[start + i] !== name[i]) return false;
    return true;
  }

  /** Do the fields that lead to memory stay within bounds? Asked once, when a server accepts. */
  get isSound(): boolean {
    const u32 = this.#u32;
    if (u32[this.word + R.TARGET_LENGTH] > MAX_TARGET) return false;
    return u32[this.word + R.DATA_LENGTH] === 0 || this.hasValidData;
  }

  /** What went wrong, in a sentence; empty when the server said nothing. */
  get message(): string {
    const start = this.#byte + MESSAGE_BYTE;
    const length = Math.min(this.#u32[this.word + R.MESSAGE_LENGTH], MAX_MESSAGE);
    return this.#memory.bytes.toString('utf8', start, start + length);
  }

  /** Clears what the last use left; the asker calls it (through Port.getRequest). */
  reset(): void {
    const u32 = this.#u32;
    const w = this.word;
    u32[w + R.STATUS] = Status.NONE;
    u32[w + R.OP] = 0;
    u32[w + R.FLAGS] = 0;
    u32[w + R.ERRNO] = 0;
    u32[w + R.OFFSET] = 0;
    u32[w + R.OFFSET + 1] = 0;
    u32[w + R.SIZE] = 0;
    u32[w + R.SIZE + 1] = 0;
    u32[w + R.DATA] = 0;
    u32[w + R.DATA + 1] = 0;
    u32[w + R.DATA_LENGTH] = 0;
    u32[w + R.TARGET_LENGTH] = 0;
    u32[w + R.SERVICED] = 0;
    u32[w + R.SERVICED + 1] = 0;
    u32[w + R.HINT] = 0;
    u32[w + R.HINT + 1] = 0;
    u32[w + R.V0_SIZE] = 0xffffffff;
    u32[w + R.V0_SIZE + 1] = 0xffffffff;
    u32[w + R.MESSAGE_LENGTH] = 0;
    u32[w + R.DEADLINE] = 0;
    u32[w + R.DEADLINE + 1] = 0;
    u32[w + R.REDELIVERED] = 0;
    u32[w + R.RESEND] = 0;
    u32[w + R.NOTE_LENGTH] = 0;
    this.onReply = null;
    this.context = null;
  }

  /** Answers: done. @param serviced bytes that were serviced */
  succeed(serviced: number): void {
    if (!this.#mayAnswer()) return;
    this.#u32[this.word + R.STATUS] = Status.SERVED;
    this.#memory.set64(this.word + R.SERVICED, serviced);
    this.#host.respond(this);
  }

  /** Answers: failed. @param errno positive errno @param message a sentence for the administrator, cut to MAX_MESSAGE bytes */
  fail(errno: number, message = '', serviced = 0): void {
    if (!this.#mayAnswer()) return;
    const w = this.word;
    this.#u32[w + R.STATUS] = Status.FAILED;
    this.#u32[w + R.ERRNO] = errno > 0 ? errno : errnos.EIO;
    this.#memory.set64(w + R.SERVICED, serviced);
    this.#u32[w + R.MESSAGE_LENGTH] =
      message === '' ? 0 : this.#memory.bytes.write(message, this.#byte + MESSAGE_BYTE, MAX_MESSAGE, 'utf8');
    this.#host.respond(this);
  }

  /** An answer to what was answered, or was taken away with its port, must not touch a record that may be another's by now. */
  #mayAnswer(): boolean {
    if (this.owed) return true;
    this.#host.complain(`request ${this.index} (op ${this.op}) was answered twice, or after its port was closed`);
    return false;
  }
}

function tooLong(length: number): SystemError {
  return new SystemError(errnos.ENAMETOOLONG, `a target has at most ${MAX_TARGET} bytes, not ${length}`);
}
