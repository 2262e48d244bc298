/**
 * One connection on standard input and output: what inetd and its likes, and libnbd's nbd_connect_command, give a server. Either both are
 * one socket, or each is a pipe (or a socket) of its own.
 */
import fs from 'node:fs';
import net from 'node:net';
import { Duplex } from 'node:stream';
import { errnos, messageOf, SystemError } from '../sys/errno.js';
import { duplicate } from './sockets.js';

/** Whether two descriptors are the same socket. */
export function isSameSocket(a: number, b: number): boolean {
  const [one, other] = [fs.fstatSync(a), fs.fstatSync(b)];
  return one.isSocket() && other.isSocket() && one.dev === other.dev && one.ino === other.ino;
}

/**
 * The connection of two descriptors. They are duplicated: Node's own streams of them may exist, as long as nobody uses them.
 * @throws SystemError EINVAL when one of them is a terminal or a file
 */
export function stdioConnection(input = 0, output = 1): Duplex {
  if (isSameSocket(input, output)) {
    return new net.Socket({ fd: duplicate(input), readable: true, writable: true, allowHalfOpen: true } as object);
  }
  const reader = half(input, 'standard input', { readable: true, writable: false });
  try {
    return new PipePair(reader, half(output, 'standard output', { readable: false, writable: true }));
  } catch (error) {
    reader.destroy();
    throw error;
  }
}

function half(fd: number, what: string, ways: { readable: boolean; writable: boolean }): net.Socket {
  const stat = fs.fstatSync(fd);
  if (!stat.isFIFO() && !stat.isSocket()) {
    throw new SystemError(
      errnos.EINVAL,
      `${what} is neither a pipe nor a socket; start this from inetd, a socket unit, or a client that runs a command`,
    );
  }
  const copy = duplicate(fd);
  try {
    return new net.Socket({ fd: copy, ...ways, allowHalfOpen: true } as net.SocketConstructorOpts);
  } catch (error) {
    fs.closeSync(copy);
    throw new SystemError(errnos.EINVAL, `${what} cannot be used: ${messageOf(error)}`, { cause: error });
  }
}

/** Two streams of one direction each as one. Nothing is kept: what cannot be taken further holds back where it comes from. */
class PipePair extends Duplex {
  readonly #input: net.Socket;
  readonly #output: net.Socket;

  constructor(input: net.Socket, output: net.Socket) {
    super({ allowHalfOpen: true });
    this.#input = input;
    this.#output = output;
    input.on('data', (chunk) => {
      if (!this.push(chunk)) input.pause();
    });
    input.on('end', () => this.push(null));
    for (const stream of [input, output]) stream.on('error', (error) => this.destroy(error));
    input.pause();
  }

  override _read(): void {
    this.#input.resume();
  }

  override _write(chunk: Buffer, _encoding: BufferEncoding, done: (error?: Error | null) => void): void {
    this.#output.write(chunk, done);
  }

  override _writev(chunks: { chunk: Buffer; encoding: BufferEncoding }[], done: (error?: Error | null) => void): void {
    this.#output.cork();
    const last = chunks.length - 1;
    for (const [i, { chunk }] of chunks.entries()) this.#output.write(chunk, i === last ? done : undefined);
    this.#output.uncork();
  }

  override _final(done: (error?: Error | null) => void): void {
    this.#output.end(() => done());
  }

  override _destroy(error: Error | null, done: (error?: Error | null) => void): void {
    this.#input.destroy();
    this.#output.destroy();
    done(error);
  }
}
