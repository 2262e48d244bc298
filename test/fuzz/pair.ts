/** Two ends of a connection in memory, with back-pressure and half-close as a socket has them. */
import { Duplex } from 'node:stream';

class End extends Duplex {
  other!: End;
  /** A write of the other end that waits for this one to be read. */
  #waiting: (() => void) | null = null;

  constructor() {
    super({ allowHalfOpen: true, readableHighWaterMark: 64 * 1024, writableHighWaterMark: 64 * 1024 });
  }

  override _read(): void {
    const waiting = this.#waiting;
    this.#waiting = null;
    waiting?.();
  }

  override _write(chunk: Buffer, _encoding: string, done: (error?: Error | null) => void): void {
    // What is sent to an end that is gone is lost; that it is gone is read.
    if (this.other.destroyed) done();
    else this.other.#take(Buffer.from(chunk), done);
  }

  #take(chunk: Buffer, done: () => void): void {
    if (this.push(chunk)) done();
    else this.#waiting = done;
  }

  override _final(done: () => void): void {
    if (!this.other.destroyed) this.other.push(null);
    done();
  }

  override _destroy(error: Error | null, done: (error: Error | null) => void): void {
    this._read();
    const { other } = this;
    setImmediate(() => {
      if (!other.destroyed && !other.readableEnded) other.push(null);
      other._read();
    });
    done(error);
  }
}

export function pair(): [Duplex, Duplex] {
  const a = new End();
  const b = new End();
  a.other = b;
  b.other = a;
  return [a, b];
}
