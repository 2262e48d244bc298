/** Where the commands read and write: the process's streams, or a test's. */
import { errnoOf, errnos } from '../../sys/errno.js';

/** The part of a stream that writing text or bytes needs. */
export interface Sink {
  readonly isTTY?: boolean;
  write(chunk: string | Uint8Array, done?: (error?: Error | null) => void): boolean;
}

export interface Io {
  readonly stdin: AsyncIterable<Uint8Array>;
  readonly stdout: Sink;
  readonly stderr: Sink;
  readonly env: Readonly<Record<string, string | undefined>>;
}

/** The reader of stdout went away (`vlmc list | head -1`): nothing is left to do, and that is no error. */
export class OutputClosed extends Error {
  constructor() {
    super('the reader of the output has gone');
    this.name = 'OutputClosed';
  }
}

/** Writes to stdout and waits until it is taken, so that long output neither piles up in memory nor is cut at exit. */
export function print(io: Io, chunk: string | Uint8Array): Promise<void> {
  return new Promise((resolve, reject) => {
    io.stdout.write(chunk, (error) => {
      if (!error) resolve();
      else reject(errnoOf(error) === errnos.EPIPE ? new OutputClosed() : error);
    });
  });
}

/** Prints a value as JSON, one document. */
export function printJson(io: Io, value: unknown): Promise<void> {
  return print(io, `${JSON.stringify(value, null, 2)}\n`);
}

/** Colours are for terminals, and only where nobody said no (NO_COLOR, no-color.org). */
export function paint(io: Io, sink: Sink, colour: 'red' | 'green' | 'yellow', text: string): string {
  if (!sink.isTTY || io.env.NO_COLOR) return text;
  return `\x1b[${{ red: 31, green: 32, yellow: 33 }[colour]}m${text}\x1b[0m`;
}

/** An error on stderr, red on a terminal. */
export function printError(io: Io, message: string): void {
  io.stderr.write(`${paint(io, io.stderr, 'red', message)}\n`);
}

/** A remark on stderr, yellow on a terminal. */
export function printWarning(io: Io, message: string): void {
  io.stderr.write(`${paint(io, io.stderr, 'yellow', message)}\n`);
}

/** The streams of this process. */
export function processIo(): Io {
  // print() reports what its own write met; without a listener the same error would end the process a second way.
  process.stdout.on('error', () => {});
  return { stdin: process.stdin, stdout: process.stdout, stderr: process.stderr, env: process.env };
}
