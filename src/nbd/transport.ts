/**
 * How bytes come from and go to one client, whichever way the connection is made. Two kinds: raw (system calls on the socket's
 * descriptor, straight into and out of the device's buffers) and stream (node streams: TLS, and whatever has no descriptor).
 *
 * Receiving is pull: the owner asks for what it can take, and pauses when it can take nothing. Sending is by batches: the owner
 * reserves headers, appends payloads, calls send, and starts the next batch when that one is gone.
 */
import type { Duplex } from 'node:stream';
import type { IoBuffer } from './device.js';

/** Milliseconds that a peer has for closing its side after ours. */
export const LINGER_MS = 1000;

/** What a transport tells its owner. */
export interface TransportEvents {
  /** `staged` new bytes, RECEIVE_SIZE at most, lie in the stage from STAGE_START on; more may be had by receive*. Not called while paused. */
  readable(staged: number): void;
  /** The peer sends no more; answers may still reach it. */
  ended(): void;
  /** The batch whose send() returned false is gone. */
  drained(): void;
  /** The connection is over: nothing is received or sent any more, no memory of the batch is in use. Called once. */
  closed(error: Error | null): void;
}

export interface Transport {
  /** Who events go to; set before the first resume(). */
  events: TransportEvents;
  /** For logs: `unix` or `address:port`. */
  readonly peer: string;
  /** Where staged bytes lie: STAGE_START bytes of carry, then the stage. */
  readonly stage: Buffer;
  readonly stageView: DataView;
  /** Where reserve() gives room. */
  readonly headersView: DataView;
  /** appendFile may be called. */
  readonly sendsFiles: boolean;
  /** receive* may be called without readiness being told: the poller may ask. */
  readonly pollable: boolean;

  /**
   * Receives into the stage, from STAGE_START + `behind`, at most `limit` bytes. Bytes; 0 when there are none now; -1 when it has ended.
   */
  receiveStage(limit: number, behind?: number): number;
  /** Receives into buffer[at .. at+length). Bytes; 0 when there are none now; -1 when it has ended. */
  receiveInto(buffer: IoBuffer, at: number, length: number): number;
  /** Copies `length` staged bytes from offset `from` of the stage into buffer[at ..). */
  copyStaged(from: number, buffer: IoBuffer, at: number, length: number): void;
  /** No readable() until resume(): the client is held back by its socket. */
  pause(): void;
  resume(): void;
  /** Whether the peer sends no more or is gone, as far as that can be told while paused: what it sent before may be unread still. */
  hasLeft(): boolean;

  /** What the peer, which has left, had sent and nobody received, to be asked while paused; null: that cannot be told. */
  unread(): Buffer | null;
  /** The peer has left, and to answer it may end the connection before all was received. */
  mustBeSilent(): boolean;

  /** Room for `length` header bytes in this batch: their offset in headersView, or -1 when the batch is full. */
  reserve(length: number): number;
  /** Appends buffer[0 .. length) to the batch without copying; false when the batch is full. It must stay until the batch is gone. */
  appendPayload(buffer: IoBuffer, length: number): boolean;
  /**
   * As appendPayload, of `length` bytes of an open file from `offset` on, which is not copied; the buffer is for what cannot be sent so. What
   * the file has no more when it is sent are zeros.
   */
  appendFile(fd: number, offset: number, buffer: IoBuffer, length: number): boolean;
  /** Appends JavaScript bytes without copying, as the last of the batch. */
  appendBytes(bytes: Buffer): void;
  /** Sends the batch: true when it is gone, false when drained() will follow. Between, nothing may be appended. */
  send(): boolean;

  /** Whether bytes of the peer lie there that nobody has received: before TLS there may be none. To be asked while paused. */
  hasUnread(): boolean;
  /**
   * Gives up the connection, paused and with no batch on its way: the stream under it, for TLS to go on with. No event comes and
   * nothing else may be called any more.
   */
  detach(): Duplex;

  /**
   * Ends sending after what was sent, then closes when the peer does, LINGER_MS later at most. What it still sends is forgotten: a close
   * over bytes that nobody read would reset the connection, and what is on its way to the peer with it.
   */
  end(): void;
  /** Closes now. */
  destroy(error?: Error): void;
}
