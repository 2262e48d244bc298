/**
 * The way of completions out of librados. It calls back on threads of its own, where no JavaScript can run; the callback it gets is the C
 * library's `putw(int, FILE *)`, and the callback's argument an unbuffered stream over a pipe: the completion's address arrives as the
 * first parameter, so its low 32 bits come out of the pipe, which Node reads. One read takes as many as have ended meanwhile.
 */
import net from 'node:net';
import koffi from 'koffi';
import { errnos } from '../sys/errno.js';
import * as libc from '../sys/libc.js';
import { RadosError } from './error.js';

/** Bytes the pipe is to have: room for 260,000 operations. It is what every user may ask for; where there are too many pipes, it stays 64 KiB. */
const PIPE_BYTES = 1 << 20;
/** Completions that are read at once. */
const BATCH = 16384;
const TOKEN = 4;
const PAGE = 4096;
const UNBUFFERED = 2;
const F_SETPIPE_SZ = 1031;
const F_GETPIPE_SZ = 1032;

const lib = koffi.load('libc.so.6');
const pipe2 = lib.func('int pipe2(uintptr_t fds, int flags)');
const fdopen = lib.func('uintptr_t fdopen(int fd, const char *mode)');
const setvbuf = lib.func('int setvbuf(uintptr_t stream, uintptr_t buffer, int mode, size_t size)');
const fclose = lib.func('int fclose(uintptr_t stream)');

export class CompletionPipe {
  /** Address of the function that librados is to call with a completion. */
  readonly callback = Number(koffi.address(lib.symbol('putw')));
  /** What it is to be called with besides: the stream. */
  readonly argument: number;
  /** Completions that fit. */
  readonly capacity: number;
  /** A second descriptor of the reading end: without it a thread of librados could write to a closed pipe while the process ends. */
  readonly #spareEnd: number;
  readonly #socket: net.Socket;

  /**
   * @param onEnded called with the low 32 bits of the addresses of completions, the first `count` of `tokens`, which is used again
   * @throws RadosError when there are no descriptors left
   */
  constructor(onEnded: (tokens: Uint32Array, count: number) => void) {
    const [readEnd, writeEnd] = makePipe();
    libc.fcntlInt(writeEnd, F_SETPIPE_SZ, 'int', PIPE_BYTES);
    const size = libc.fcntlInt(writeEnd, F_GETPIPE_SZ, 'int', 0);
    // A page is free again only when all of it was read.
    this.capacity = Math.max(size - PAGE, size / 2) / TOKEN;
    this.argument = fdopen(writeEnd, 'w');
    setvbuf(this.argument, 0, UNBUFFERED, 0);
    this.#spareEnd = libc.fcntlInt(readEnd, libc.F_DUPFD_CLOEXEC, 'int', 0);
    const buffer = Buffer.alloc(BATCH * TOKEN);
    const tokens = new Uint32Array(buffer.buffer, buffer.byteOffset, BATCH);
    // @types/node has `onread` for connecting sockets only; the constructor takes it as well.
    const options: net.SocketConstructorOpts & net.ConnectOpts = {
      fd: readEnd,
      readable: true,
      writable: false,
      onread: {
        buffer,
        callback: (length) => {
          // Each is written at once, and so is either there or not.
          if (length % TOKEN !== 0) throw new RadosError(errnos.EIO, `part of a completion: ${length} bytes`);
          onEnded(tokens, length / TOKEN);
          return true;
        },
      },
    };
    this.#socket = new net.Socket(options);
    this.#socket.resume();
    this.#socket.unref();
  }

  /** Keeps the process alive. */
  ref(): void {
    this.#socket.ref();
  }

  /** Lets the process end. */
  unref(): void {
    this.#socket.unref();
  }

  /** Once librados calls back no more. */
  close(): void {
    this.#socket.destroy();
    libc.close(this.#spareEnd);
    fclose(this.argument);
  }
}

/** Descriptors of the reading and the writing end, both closed in programs that this one starts. */
function makePipe(): [number, number] {
  const fds = libc.allocateMemory(8);
  const made = pipe2(fds.address, libc.O_CLOEXEC) === 0;
  const errno = libc.errno();
  const ends: [number, number] = [fds.bytes.readInt32LE(0), fds.bytes.readInt32LE(4)];
  libc.freeMemory(fds);
  if (!made) throw new RadosError(errno, 'cannot make the pipe for completions: too many open files?');
  return ends;
}
