/**
 * Doorbells: a FIFO per port that wakes a sleeping owner in another process. Opened read-write and non-blocking by the owner, so
 * that it never sees end-of-file, and read through libuv. One byte per ring; what it says does not matter.
 */
import fs from 'node:fs';
import net from 'node:net';
import path from 'node:path';
import { errnoName, errnoOf, errnos, SystemError } from '../sys/errno.js';
import * as libc from '../sys/libc.js';

/** Directory of a segment's doorbells. */
export const bellDirectory = (segmentName: string): string => path.join('/dev/shm', `${segmentName}.bells`);

const bellPath = (segmentName: string, port: number): string => path.join(bellDirectory(segmentName), String(port));

const MODE = 0o660;

/** The owner's side: calls back on every ring until closed. */
export class Doorbell {
  readonly #socket: net.Socket;
  readonly #path: string;
  /** The FIFO itself: its name may be a successor's by the time it is removed. */
  readonly #inode: number;

  /** @throws SystemError when the FIFO cannot be made */
  constructor(segmentName: string, port: number, onRing: () => void) {
    this.#path = bellPath(segmentName, port);
    const fd = makeFifo(this.#path);
    this.#inode = fs.fstatSync(fd).ino;
    const buffer = Buffer.alloc(64);
    // @types/node has `onread` for connecting sockets only; the constructor takes it as well.
    const options: net.SocketConstructorOpts & net.ConnectOpts = {
      fd,
      readable: true,
      writable: false,
      onread: {
        buffer,
        callback: () => {
          onRing();
          return true;
        },
      },
    };
    this.#socket = new net.Socket(options);
    this.#socket.on('error', () => this.#socket.destroy());
    this.#socket.resume();
  }

  /** Lets the process end although the bell is open. */
  unref(): void {
    this.#socket.unref();
  }

  ref(): void {
    this.#socket.ref();
  }

  close(): void {
    if (fs.lstatSync(this.#path, { throwIfNoEntry: false })?.ino === this.#inode)
      fs.rmSync(this.#path, { force: true });
    this.#socket.destroy();
  }
}

/**
 * A new FIFO, open. What a dead owner left is replaced and not used: it may be another user's, and whoever still has it open gets
 * EPIPE and looks for the new one.
 */
function makeFifo(file: string): number {
  try {
    fs.rmSync(file, { force: true });
    if (libc.mkfifo(file, MODE) !== 0) throw new SystemError(libc.errno(), errnoName(libc.errno()));
    // The umask of the owner must not keep the group from ringing.
    fs.chmodSync(file, MODE);
    return fs.openSync(file, fs.constants.O_RDWR | fs.constants.O_NONBLOCK);
  } catch (error) {
    const errno = errnoOf(error);
    throw new SystemError(errno, `cannot make the doorbell ${file}: ${errnoName(errno)}`, { cause: error });
  }
}

const ringByte = libc.allocateMemory(1);

/** The ringers' side: keeps the descriptors of the bells it rang. */
export class Ringer {
  readonly #segmentName: string;
  readonly #fds = new Map<number, number>();

  constructor(segmentName: string) {
    this.#segmentName = segmentName;
  }

  /** Rings a port's bell. false: nobody is there; a successor looks at its queues when it starts. */
  ring(port: number): boolean {
    const known = this.#fds.get(port);
    if (known !== undefined) {
      if (this.#write(known)) return true;
      // The owner is gone, and its successor may have made another FIFO.
      this.forget(port);
    }
    const flags = libc.O_WRONLY | libc.O_NONBLOCK | libc.O_CLOEXEC;
    const fd = libc.open(bellPath(this.#segmentName, port), flags, 'uint32_t', 0);
    if (fd < 0) return false;
    this.#fds.set(port, fd);
    return this.#write(fd);
  }

  /** EAGAIN counts as rung: the FIFO is full of rings that nobody read yet, which wakes the owner as well. */
  #write(fd: number): boolean {
    return libc.write(fd, ringByte.address, 1) === 1 || libc.errno() === errnos.EAGAIN;
  }

  /** Forgets a port's descriptor. */
  forget(port: number): void {
    const fd = this.#fds.get(port);
    if (fd === undefined) return;
    libc.close(fd);
    this.#fds.delete(port);
  }

  close(): void {
    for (const port of [...this.#fds.keys()]) this.forget(port);
  }
}
