/** The general transport: any duplex stream (TLS, pipes, sockets without a descriptor). Bytes pass through node's buffers. */

import type net from 'node:net';
import type { Duplex } from 'node:stream';
import { errnos, SystemError } from '../sys/errno.js';
import type { IoBuffer } from './device.js';
import { descriptorOf, hasLeft, isHungUp } from './sockets.js';
import { LINGER_MS, type Transport, type TransportEvents } from './transport.js';
import { HEADERS_SIZE, RECEIVE_SIZE, STAGE_SIZE, STAGE_START } from './wire-memory.js';

/** Bytes of one batch, as in the raw transport. */
const BATCH_BYTES = 1024 * 1024;

/**
 * How often a batch that is on its way is looked after, in ms. Node's TLS may lose a write on a connection that was reset (when the write
 * before was one of TLS itself: a ticket, an update of keys); while nothing is read for want of memory it would never hear of the end.
 */
const LOOK_MS = 1000;

export class StreamTransport implements Transport {
  events!: TransportEvents;
  readonly peer: string;
  readonly stage = Buffer.allocUnsafeSlow(STAGE_START + STAGE_SIZE);
  readonly stageView = new DataView(this.stage.buffer);
  readonly #headers = Buffer.allocUnsafeSlow(HEADERS_SIZE);
  readonly headersView = new DataView(this.#headers.buffer);
  readonly pollable = false;
  readonly sendsFiles = false;
  readonly #stream: Duplex;
  #error: Error | null = null;
  #gone = false;
  #ended = false;

  // What came in and was not taken yet: one chunk of the stream at a time, the stream is paused while there is one.
  #chunk: Buffer | null = null;
  #chunkAt = 0;
  #wanted = false;

  // The batch, in order; adjacent headers are one piece.
  #pieces: Buffer[] = [];
  #headersStart = 0;
  #headersUsed = 0;
  #bytes = 0;
  #sending = false;
  readonly #look = setInterval(() => this.#lookAfter(), LOOK_MS).unref();

  constructor(stream: Duplex, peer: string) {
    this.peer = peer;
    this.#stream = stream;
    stream.pause();
    stream.on('data', this.#onData);
    stream.on('end', this.#onEnd);
    stream.on('close', this.#onClose);
    stream.on('error', (error) => {
      this.#error ??= error;
      // A TLS socket tells of a broken record and stays open.
      stream.destroy();
    });
  }

  readonly #onData = (chunk: Buffer): void => {
    this.#chunk = this.#chunk === null ? chunk : Buffer.concat([this.#chunk.subarray(this.#chunkAt), chunk]);
    this.#chunkAt = 0;
    this.#offer();
  };

  readonly #onEnd = (): void => {
    this.#ended = true;
    if (this.#chunk === null) this.events.ended();
  };

  readonly #onClose = (): void => {
    this.#gone = true;
    clearInterval(this.#look);
    this.#chunk = null;
    this.#pieces = [];
    this.events.closed(this.#error);
  };

  #lookAfter(): void {
    const fd = this.#sending ? descriptorOf(this.#stream as net.Socket) : -1;
    if (fd >= 0 && isHungUp(fd)) this.destroy(new SystemError(errnos.ECONNRESET, 'the client is gone'));
  }

  /** Tells of waiting bytes until they are taken or the owner pauses; reads on when they are taken. */
  #offer(): void {
    while (this.#wanted && this.#chunk !== null && !this.#gone) {
      this.events.readable(this.receiveStage(RECEIVE_SIZE));
    }
    if (this.#ended && this.#chunk === null) this.events.ended();
    else if (this.#wanted && !this.#gone) this.#stream.resume();
    else this.#stream.pause();
  }

  receiveStage(limit: number, behind = 0): number {
    return this.#take(this.stage, STAGE_START + behind, limit);
  }

  receiveInto(buffer: IoBuffer, at: number, length: number): number {
    return this.#take(buffer.bytes, at, length);
  }

  #take(target: Buffer, at: number, limit: number): number {
    if (this.#chunk === null) return this.#gone ? -1 : 0;
    const count = Math.min(limit, this.#chunk.length - this.#chunkAt);
    this.#chunk.copy(target, at, this.#chunkAt, this.#chunkAt + count);
    this.#chunkAt += count;
    if (this.#chunkAt === this.#chunk.length) this.#chunk = null;
    return count;
  }

  copyStaged(from: number, buffer: IoBuffer, at: number, length: number): void {
    this.stage.copy(buffer.bytes, at, from, from + length);
  }

  pause(): void {
    this.#wanted = false;
    this.#stream.pause();
  }

  resume(): void {
    if (this.#gone || this.#wanted) return;
    this.#wanted = true;
    // Later, so that the owner's own call ends before readable() comes.
    setImmediate(() => this.#offer());
  }

  hasLeft(): boolean {
    if (this.#ended || this.#gone) return true;
    const fd = descriptorOf(this.#stream as net.Socket);
    return fd >= 0 && hasLeft(fd);
  }

  unread(): Buffer | null {
    return this.#ended ? Buffer.from(this.#chunk?.subarray(this.#chunkAt) ?? []) : null;
  }

  mustBeSilent(): boolean {
    return false;
  }

  reserve(length: number): number {
    const at = this.#headersUsed;
    if (at + length > HEADERS_SIZE || this.#bytes >= BATCH_BYTES) return -1;
    this.#headersUsed = at + length;
    this.#bytes += length;
    return at;
  }

  appendPayload(buffer: IoBuffer, length: number): boolean {
    this.appendBytes(buffer.bytes.subarray(0, length));
    return true;
  }

  appendFile(): boolean {
    throw new Error('a stream sends no files');
  }

  appendBytes(bytes: Buffer): void {
    this.#closeHeaders();
    this.#pieces.push(bytes);
    this.#bytes += bytes.length;
  }

  #closeHeaders(): void {
    if (this.#headersUsed > this.#headersStart) {
      this.#pieces.push(this.#headers.subarray(this.#headersStart, this.#headersUsed));
      this.#headersStart = this.#headersUsed;
    }
  }

  send(): boolean {
    this.#closeHeaders();
    const pieces = this.#pieces;
    this.#pieces = [];
    if (pieces.length === 0) return true;
    const last = pieces.length - 1;
    this.#sending = true;
    this.#stream.cork();
    for (let i = 0; i < last; i++) this.#stream.write(pieces[i]);
    this.#stream.write(pieces[last], (error) => {
      this.#sending = false;
      if (error || this.#gone) return;
      this.#headersStart = 0;
      this.#headersUsed = 0;
      this.#bytes = 0;
      this.events.drained();
    });
    this.#stream.uncork();
    return false;
  }

  hasUnread(): boolean {
    return this.#chunk !== null || this.#stream.readableLength > 0;
  }

  detach(): Duplex {
    this.#gone = true;
    clearInterval(this.#look);
    // The listener of errors stays: none may be left without one.
    this.#stream.off('data', this.#onData).off('end', this.#onEnd).off('close', this.#onClose);
    return this.#stream;
  }

  end(): void {
    const stream = this.#stream;
    stream.off('data', this.#onData).off('end', this.#onEnd);
    stream.once('end', () => stream.destroy());
    stream.end(() => {
      if (stream.readableEnded) stream.destroy();
      const late = setTimeout(() => stream.destroy(), LINGER_MS);
      late.unref();
      stream.once('close', () => clearTimeout(late));
    });
    stream.resume();
  }

  destroy(error?: Error): void {
    if (error) this.#error ??= error;
    this.#stream.destroy();
  }
}
