/**
 * A client's connection in its transmission phase: sends requests, finds the request for each reply, ends all of them when the
 * connection does. Requests of one turn of the event loop go out in one write.
 */
import type { Duplex } from 'node:stream';
import { errnos, SystemError } from '../sys/errno.js';
import { Pending, type PendingOptions } from './client-pending.js';
import { ReplyParser } from './client-replies.js';
import { writeExtendedRequest, writeRequest } from './codec.js';
import { Command, CommandFlag, commandName, EXTENDED_REQUEST_LENGTH, REQUEST_LENGTH, WireError } from './constants.js';
import { DisconnectedError } from './errors.js';
import type { ReplyStyle } from './session.js';

/** How much a client asks for at a time. What is beyond waits its turn; a single request always goes. */
export interface ClientLimits {
  /** Requests in flight; default: no limit. */
  readonly maxInFlight?: number;
  /** Bytes of reads and writes in flight; default: no limit. */
  readonly maxInFlightBytes?: number;
}

/** One request as it is sent. */
export interface Request extends PendingOptions {
  readonly flags: number;
}

interface Waiting {
  readonly request: Request;
  readonly pending: Pending;
}

const TWO_32 = 2 ** 32;

/** A server that does not close after DISC is left after this time. */
const GOODBYE_MS = 10_000;

export class ClientChannel {
  readonly style: ReplyStyle;
  /** Resolves to the reason when the connection is over; never rejects. */
  readonly closed: Promise<Error>;
  readonly #stream: Duplex;
  readonly #parser: ReplyParser;
  readonly #inFlight = new Map<number, Pending>();
  readonly #maxInFlight: number;
  readonly #maxBytes: number;
  #bytes = 0;
  #waiting: Waiting[] = [];
  #cookie = 0;
  #corked = false;
  #over: Error | null = null;
  /** Why no more requests are taken. */
  #leaving: string | null = null;
  #tellClosed!: (reason: Error) => void;
  #idle: (() => void) | null = null;

  /** @param received bytes that came after the handshake's last message */
  constructor(stream: Duplex, received: readonly Buffer[], style: ReplyStyle, limits: ClientLimits) {
    this.#stream = stream;
    this.style = style;
    this.#maxInFlight = limits.maxInFlight ?? Number.POSITIVE_INFINITY;
    this.#maxBytes = limits.maxInFlightBytes ?? Number.POSITIVE_INFINITY;
    this.closed = new Promise((resolve) => {
      this.#tellClosed = resolve;
    });
    this.#parser = new ReplyParser(style, {
      get: (cookie) => this.#inFlight.get(cookie),
      delete: (cookie) => this.#ended(cookie),
    });
    stream.on('data', this.#onData);
    stream.on('error', (error) => this.fail(new DisconnectedError(error.message, { cause: error })));
    stream.on('end', () => this.#onEnd());
    stream.on('close', () => this.#onEnd());
    for (const bytes of received) this.#onData(bytes);
    if (stream.destroyed || stream.readableEnded) this.#onEnd();
    else stream.resume();
  }

  readonly #onData = (bytes: Buffer): void => {
    if (this.#over !== null) return;
    try {
      this.#parser.push(bytes);
    } catch (error) {
      this.fail(error as Error);
    }
  };

  #onEnd(): void {
    this.fail(this.#leaving === null ? new DisconnectedError() : new DisconnectedError(this.#leaving));
  }

  /**
   * Sends a request, at once or when the limits allow it.
   * @throws (as rejection) NbdError what the server answers; DisconnectedError; ProtocolError; SystemError EINVAL or EOVERFLOW for
   *   numbers that do not fit into the request
   */
  request(request: Request): Promise<Pending> {
    return new Promise((resolve, reject) => {
      const pending = new Pending(request, resolve, reject);
      if (this.#over !== null || this.#leaving !== null) {
        reject(this.#over ?? new DisconnectedError(this.#leaving as string));
        return;
      }
      checkFields(request, this.style.extended);
      if (this.#waiting.length > 0 || !this.#room(pending.cost)) this.#waiting.push({ request, pending });
      else this.#send(request, pending);
    });
  }

  #room(bytes: number): boolean {
    const count = this.#inFlight.size;
    return count === 0 || (count < this.#maxInFlight && this.#bytes + bytes <= this.#maxBytes);
  }

  #send(request: Request, pending: Pending): void {
    do {
      this.#cookie = (this.#cookie + 1) >>> 0;
    } while (this.#inFlight.has(this.#cookie));
    this.#inFlight.set(this.#cookie, pending);
    this.#bytes += pending.cost;
    const { command, offset, payload } = request;
    const counted = this.style.extended && payload !== undefined;
    this.#write({
      command,
      flags: request.flags | (counted ? CommandFlag.PAYLOAD_LEN : 0),
      cookieHigh: 0,
      cookieLow: this.#cookie,
      offset,
      // With extended headers the length of a request that has a payload is the payload's.
      length: counted ? payload.length : request.length,
    });
    if (payload !== undefined && payload.length > 0) this.#stream.write(payload);
  }

  #write(header: Parameters<typeof writeRequest>[2]): void {
    const { extended } = this.style;
    const bytes = Buffer.allocUnsafe(extended ? EXTENDED_REQUEST_LENGTH : REQUEST_LENGTH);
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    if (extended) writeExtendedRequest(view, 0, header);
    else writeRequest(view, 0, header);
    if (!this.#corked) {
      this.#corked = true;
      this.#stream.cork();
      process.nextTick(() => {
        this.#corked = false;
        this.#stream.uncork();
      });
    }
    this.#stream.write(bytes);
  }

  #ended(cookie: number): void {
    const pending = this.#inFlight.get(cookie);
    if (pending === undefined) return;
    this.#inFlight.delete(cookie);
    this.#bytes -= pending.cost;
    while (this.#waiting.length > 0 && this.#room(this.#waiting[0].pending.cost)) {
      const { request, pending: next } = this.#waiting.shift() as Waiting;
      this.#send(request, next);
    }
    // The protocol document leaves a client nothing else to do then.
    if (pending.error?.wire === WireError.ESHUTDOWN) void this.disconnect('the server is shutting down');
    if (this.#inFlight.size === 0) this.#idle?.();
  }

  /** Drops the connection. */
  destroy(reason: Error = new DisconnectedError('this client was destroyed')): void {
    this.fail(reason);
  }

  /** Ends everything, now. Later calls change nothing. */
  fail(reason: Error): void {
    if (this.#over !== null) return;
    this.#over = reason;
    this.#stream.destroy();
    this.#parser.stop();
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const pending of this.#inFlight.values()) pending.reject(reason);
    for (const { pending } of waiting) pending.reject(reason);
    this.#inFlight.clear();
    this.#idle?.();
    this.#tellClosed(reason);
  }

  /**
   * Takes no more requests, waits for what is in flight, says DISC, and resolves when the server has closed the connection (or was
   * given 10 s for it). Does nothing when the connection is over.
   * @param why what later requests are told
   */
  async disconnect(why = 'this client has disconnected'): Promise<void> {
    if (this.#over !== null) return;
    const first = this.#leaving === null;
    this.#leaving ??= why;
    if (first) {
      if (this.#inFlight.size > 0) {
        await new Promise<void>((resolve) => {
          this.#idle = resolve;
        });
      }
      if (this.#over === null) {
        const header = { command: Command.DISC, flags: 0, cookieHigh: 0, cookieLow: 0, offset: 0, length: 0 };
        this.#write(header);
        const timer = setTimeout(() => this.#onEnd(), GOODBYE_MS);
        this.closed.then(() => clearTimeout(timer));
      }
    }
    await this.closed;
  }
}

/** A number that does not fit would be cut to another one, and the request be about other bytes. @throws SystemError */
export function checkFields(
  { flags, command, offset, length }: Pick<Request, 'flags' | 'command' | 'offset' | 'length'>,
  extended: boolean,
): void {
  const what = commandName(command);
  const whole = [flags, command, offset, length].every((value) => Number.isInteger(value) && value >= 0);
  if (!whole || flags > 0xffff || command > 0xffff || offset >= TWO_32 * TWO_32 || length >= TWO_32 * TWO_32) {
    throw new SystemError(
      errnos.EINVAL,
      `${what} of ${length} bytes at ${offset}: offset and length must be whole numbers of bytes, not negative`,
    );
  }
  if (!extended && length >= TWO_32) {
    throw new SystemError(
      errnos.EOVERFLOW,
      `${what} of ${length} bytes at ${offset}: without extended headers, which this server lacks, a request is shorter than 4 GiB; use several`,
    );
  }
}
