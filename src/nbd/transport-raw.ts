/**
 * The fast transport: libuv only tells that the socket is readable (reading the first bytes into the stage on the way); everything
 * else is recv and sendmsg on the descriptor, with numeric addresses. What the socket does not take at once goes on when libuv
 * says that it is writable again: a write of the first unsent piece through the node socket is how we learn that.
 *
 * Node offers no public way to read an accepted socket into a fixed buffer, so the handle is moved into a socket made with
 * `onread`. Where a socket has no descriptor (`hasDescriptor`), the stream transport serves.
 */
import net from 'node:net';
import type { Duplex } from 'node:stream';
import { errnos, SystemError } from '../sys/errno.js';
import {
  allocateMemory,
  errno,
  freeMemory,
  MSG_DONTWAIT,
  MSG_NOSIGNAL,
  MSG_PEEK,
  memcpy,
  pread,
  recv,
  SO_SNDBUF,
  SOL_SOCKET,
  sendfile,
  sendmsg,
  setsockopt,
} from '../sys/libc.js';
import type { IoBuffer } from './device.js';
import { hasLeft, isHungUp } from './sockets.js';
import { LINGER_MS, type Transport, type TransportEvents } from './transport.js';
import { HEADERS_SIZE, MAX_IOVECS, RECEIVE_SIZE, STAGE_START, WireMemory } from './wire-memory.js';

const FLAGS = MSG_DONTWAIT | MSG_NOSIGNAL;
const TWO_32 = 2 ** 32;
/** Bytes of one batch, so that the buffers of sent replies come back while the rest is sent. */
const BATCH_BYTES = 1024 * 1024;

/**
 * What a unix socket may hold unread (at most net.core.wmem_max): a long reply then takes one or two
 * sends. TCP finds its size itself, and would stop doing so when told.
 */
const SEND_BUFFER = 512 * 1024;

/** Bytes of a file that are copied to learn when the socket takes more. */
const WAITING_BYTES = 4096;
/** Where sendfile reads and writes its position: never in use across turns. */
const fileOffsetMemory = allocateMemory(8);
const fileOffset = new BigInt64Array(fileOffsetMemory.bytes.buffer, fileOffsetMemory.bytes.byteOffset, 1);

interface Handle {
  readonly fd: number;
  reading: boolean;
  readStop(): number;
}
type WithHandle = net.Socket & { _handle: Handle | null };

/** Whether the socket's descriptor can be had. */
export function hasDescriptor(socket: net.Socket): boolean {
  const handle = (socket as WithHandle)._handle;
  return typeof handle?.fd === 'number' && handle.fd >= 0;
}

/** What is looked at of what a client left behind, in bytes: at first, and at most. The kernel keeps no more for a socket. */
const UNREAD_BYTES = 1 << 20;
const MOST_UNREAD_BYTES = 1 << 26;

export class RawTransport implements Transport {
  events!: TransportEvents;
  readonly peer: string;
  readonly stage: Buffer;
  readonly stageView: DataView;
  readonly headersView: DataView;
  readonly pollable = true;
  readonly sendsFiles = true;
  readonly #memory: WireMemory;
  readonly #socket: net.Socket;
  #fd: number;
  #detached = false;
  #lingering = false;
  #error: Error | null = null;

  // The batch: `#count` iovecs, of which `#sent` are gone; owners[i] is null where iovec i is headers.
  #count = 0;
  #sent = 0;
  #bytes = 0;
  #headersUsed = 0;
  readonly #owners: (IoBuffer | null)[] = new Array(MAX_IOVECS).fill(null);
  /** The file that iovec i is the content of, -1: none, and from where on: its memory is for what has to be copied. */
  readonly #files = new Int32Array(MAX_IOVECS).fill(-1);
  readonly #fileOffsets = new Float64Array(MAX_IOVECS);
  /** Bytes of iovec `#sent` that are gone. */
  #partial = 0;
  /** Of a file: bytes that were copied, as its next. */
  #copied = 0;
  #tail: Buffer | null = null;

  /**
   * Takes the connection out of `accepted`, a paused socket that nothing was read from.
   * @throws Error with code ENOMEM
   */
  constructor(accepted: net.Socket, peer: string) {
    this.peer = peer;
    this.#memory = WireMemory.take();
    this.stage = this.#memory.stage;
    this.stageView = this.#memory.stageView;
    this.headersView = this.#memory.headersView;
    const shell = accepted as WithHandle;
    const handle = shell._handle as Handle;
    this.#fd = handle.fd;
    handle.readStop();
    handle.reading = false;
    shell._handle = null;
    if (peer === 'unix') {
      this.#memory.msghdr[0] = SEND_BUFFER;
      setsockopt(this.#fd, SOL_SOCKET, SO_SNDBUF, this.#memory.msghdrAddress, 4);
      this.#memory.msghdr[0] = 0;
    }
    // Without its handle the accepted socket is an empty shell; destroying it only tells its server that it is gone.
    shell.destroy();
    const options = {
      handle,
      allowHalfOpen: true,
      readable: true,
      writable: true,
      manualStart: true,
      onread: {
        buffer: this.stage.subarray(STAGE_START, STAGE_START + RECEIVE_SIZE),
        callback: (count: number): boolean => {
          if (!this.#lingering) this.events.readable(count);
          return true;
        },
      },
    };
    this.#socket = new net.Socket(options as net.SocketConstructorOpts);
    this.#socket.on('end', () => {
      if (!this.#detached && !this.#lingering) this.events.ended();
    });
    this.#socket.on('error', (error) => {
      this.#error ??= error;
    });
    this.#socket.on('close', () => {
      this.#fd = -1;
      this.#forget();
      if (!this.#detached) this.events.closed(this.#error);
      this.#memory.giveBack();
    });
  }

  receiveStage(limit: number, behind = 0): number {
    return this.#received(recv(this.#fd, this.#memory.address + STAGE_START + behind, limit, FLAGS));
  }

  receiveInto(buffer: IoBuffer, at: number, length: number): number {
    return this.#received(recv(this.#fd, buffer.address + at, length, FLAGS));
  }

  #received(count: number): number {
    if (count > 0) return count;
    if (count === 0) return -1;
    const code = errno();
    if (code === errnos.EAGAIN || code === errnos.EINTR) return 0;
    this.destroy(new SystemError(code, 'receiving from the client failed'));
    return -1;
  }

  copyStaged(from: number, buffer: IoBuffer, at: number, length: number): void {
    memcpy(buffer.address + at, this.#memory.address + from, length);
  }

  pause(): void {
    this.#socket.pause();
  }

  resume(): void {
    if (this.#fd >= 0) this.#socket.resume();
  }

  hasLeft(): boolean {
    return this.#fd >= 0 && hasLeft(this.#fd);
  }

  unread(): Buffer | null {
    for (let room = UNREAD_BYTES; this.#fd >= 0 && room <= MOST_UNREAD_BYTES; room *= 2) {
      const memory = allocateMemory(room, room);
      const count = recv(this.#fd, memory.address, room, FLAGS | MSG_PEEK);
      const bytes = count >= 0 && count < room ? Buffer.from(memory.bytes.subarray(0, count)) : null;
      freeMemory(memory);
      if (bytes !== null || count < 0) return bytes;
    }
    return null;
  }

  mustBeSilent(): boolean {
    // A peer that has closed a TCP connection answers with a reset, and what it sent before is gone; of one that closed its side only nothing tells.
    return this.peer !== 'unix' || this.#fd < 0 || isHungUp(this.#fd);
  }

  reserve(length: number): number {
    const at = this.#headersUsed;
    if (at + length > HEADERS_SIZE) return -1;
    const last = this.#count - 1;
    if (last >= 0 && this.#owners[last] === null) {
      this.#memory.iovecs[last * 4 + 2] += length;
    } else if (!this.#push(null, this.#memory.headersAddress + at, length)) {
      return -1;
    }
    this.#headersUsed = at + length;
    return at;
  }

  appendPayload(buffer: IoBuffer, length: number): boolean {
    return this.#push(buffer, buffer.address, length);
  }

  appendFile(fd: number, offset: number, buffer: IoBuffer, length: number): boolean {
    const i = this.#count;
    if (!this.#push(buffer, buffer.address, length)) return false;
    this.#files[i] = fd;
    this.#fileOffsets[i] = offset;
    return true;
  }

  #push(owner: IoBuffer | null, address: number, length: number): boolean {
    const i = this.#count;
    // Headers leave room for the payload that follows them: a reply is never cut between the two.
    if (i >= MAX_IOVECS - (owner === null ? 1 : 0) || (owner === null && this.#bytes >= BATCH_BYTES)) return false;
    const { iovecs } = this.#memory;
    iovecs[i * 4] = address % TWO_32;
    iovecs[i * 4 + 1] = Math.floor(address / TWO_32);
    iovecs[i * 4 + 2] = length;
    iovecs[i * 4 + 3] = 0;
    this.#owners[i] = owner;
    this.#count = i + 1;
    this.#bytes += length;
    return true;
  }

  appendBytes(bytes: Buffer): void {
    this.#tail = bytes;
  }

  send(): boolean {
    const { msghdr, iovecsAddress, msghdrAddress, iovecs } = this.#memory;
    while (this.#sent < this.#count) {
      if (this.#fd < 0) return false;
      const isFile = this.#files[this.#sent] >= 0;
      let count: number;
      if (isFile) count = this.#sendFile();
      else {
        const first = iovecsAddress + this.#sent * 16;
        msghdr[4] = first % TWO_32;
        msghdr[5] = Math.floor(first / TWO_32);
        msghdr[6] = this.#inMemory();
        count = sendmsg(this.#fd, msghdrAddress, FLAGS);
      }
      if (isFile && count === 0) {
        if (!this.#copyFile()) return false;
        continue;
      }
      if (count < 0) {
        const code = errno();
        if (code === errnos.EINTR) continue;
        if (code === errnos.EAGAIN) {
          if (!isFile || this.#copyFile(WAITING_BYTES)) this.#waitWritable();
        } else if (isFile && (code === errnos.EINVAL || code === errnos.ENOSYS)) {
          // Not to such a socket, or not from such a file.
          if (this.#copyFile()) continue;
        } else this.destroy(new SystemError(code, 'sending to the client failed'));
        return false;
      }
      let left = count;
      while (left > 0) {
        const length = iovecs[this.#sent * 4 + 2];
        if (left < length) {
          this.#advance(left);
          break;
        }
        left -= length;
        this.#sent++;
        this.#partial = 0;
      }
    }
    if (this.#tail !== null) {
      this.#write(this.#tail);
      this.#tail = null;
      return false;
    }
    this.#forget();
    return true;
  }

  /** Moves the start of the first unsent iovec by `count` bytes. */
  #advance(count: number): void {
    const { iovecs } = this.#memory;
    const i = this.#sent * 4;
    const address = iovecs[i + 1] * TWO_32 + iovecs[i] + count;
    iovecs[i] = address % TWO_32;
    iovecs[i + 1] = Math.floor(address / TWO_32);
    iovecs[i + 2] -= count;
    this.#partial += count;
  }

  /** How many iovecs there are before the next file. */
  #inMemory(): number {
    let end = this.#sent + 1;
    while (end < this.#count && this.#files[end] < 0) end++;
    return end - this.#sent;
  }

  /** As sendmsg, of the file that is next; 0: it has ended. */
  #sendFile(): number {
    const i = this.#sent;
    fileOffset[0] = BigInt(this.#fileOffsets[i] + this.#partial);
    return sendfile(this.#fd, this.#files[i], fileOffsetMemory.address, this.#memory.iovecs[i * 4 + 2]);
  }

  /**
   * Copies what is left of the file that is next, or its next bytes, to the memory that belongs to it; zeros where it has ended.
   * @returns false: the connection is lost, as the file cannot be read
   */
  #copyFile(most = Number.POSITIVE_INFINITY): boolean {
    const i = this.#sent;
    const { iovecs } = this.#memory;
    const left = iovecs[i * 4 + 2];
    const count = Math.min(most, left);
    const owner = this.#owners[i] as IoBuffer;
    for (let done = 0; done < count; ) {
      const at = this.#partial + done;
      const n = pread(this.#files[i], owner.address + at, count - done, this.#fileOffsets[i] + at);
      if (n < 0) {
        if (errno() === errnos.EINTR) continue;
        this.destroy(new SystemError(errno(), 'reading what is to be sent failed'));
        return false;
      }
      if (n === 0) {
        owner.bytes.fill(0, at, this.#partial + count);
        break;
      }
      done += n;
    }
    if (count === left) this.#files[i] = -1;
    else this.#copied = count;
    return true;
  }

  #waitWritable(): void {
    const { iovecs, headers, headersAddress } = this.#memory;
    const i = this.#sent * 4;
    const owner = this.#owners[this.#sent];
    const length = iovecs[i + 2];
    if (this.#copied > 0 && owner !== null) {
      // The head of a file: the rest of it goes on as a file.
      const head = owner.bytes.subarray(this.#partial, this.#partial + this.#copied);
      this.#advance(this.#copied);
      this.#copied = 0;
      this.#write(head);
      return;
    }
    let rest: Buffer;
    if (owner === null) {
      const at = iovecs[i + 1] * TWO_32 + iovecs[i] - headersAddress;
      rest = headers.subarray(at, at + length);
    } else {
      rest = owner.bytes.subarray(this.#partial, this.#partial + length);
    }
    this.#sent++;
    this.#partial = 0;
    this.#write(rest);
  }

  #write(bytes: Buffer): void {
    this.#socket.write(bytes, (error) => {
      if (!error && this.#fd >= 0 && this.send()) this.events.drained();
    });
  }

  #forget(): void {
    this.#owners.fill(null, 0, this.#count);
    this.#files.fill(-1, 0, this.#count);
    this.#copied = 0;
    this.#count = 0;
    this.#sent = 0;
    this.#partial = 0;
    this.#bytes = 0;
    this.#headersUsed = 0;
    this.#tail = null;
  }

  hasUnread(): boolean {
    return recv(this.#fd, this.#memory.address + STAGE_START, 1, FLAGS | MSG_PEEK) > 0;
  }

  detach(): Duplex {
    this.#detached = true;
    this.#fd = -1;
    // The stage stays: the handle knows its address until it is closed.
    return this.#socket;
  }

  end(): void {
    this.#lingering = true;
    this.#socket.end(() => {
      const late = setTimeout(() => this.#socket.destroy(), LINGER_MS);
      late.unref();
      this.#socket.once('close', () => clearTimeout(late));
    });
    // Ended on both sides it destroys itself.
    this.#socket.resume();
  }

  destroy(error?: Error): void {
    if (error) this.#error ??= error;
    this.#fd = -1;
    this.#socket.destroy();
  }
}
