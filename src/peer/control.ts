/**
 * The control channel of the processes of a node: JSON lines over a unix socket. The supervisor asks the role processes, the
 * command line asks the supervisor. A question is {id, op, …}; the answer {id, ok, result | errno, message}, before it any
 * number of {id, event}.
 */
import fs from 'node:fs';
import net from 'node:net';
import { errnoOf, errnos, messageOf, SystemError } from '../sys/errno.js';
import { listenWithMode } from '../sys/socket-mode.js';

/** sun_path has 108 bytes, the last is NUL. */
const MAX_SOCKET_PATH = 107;
/** Questions and answers are small; whoever sends more is not one of ours. */
const MAX_LINE = 1 << 20;

export type Message = Record<string, unknown>;

/** Answers a question. What it throws becomes the answer, with errno and message. */
export type ControlHandler = (op: string, params: Message, emit: (event: Message) => void) => Promise<unknown>;

/** Splits a stream into JSON messages. */
function readMessages(socket: net.Socket, onMessage: (message: Message) => void): void {
  let rest = '';
  socket.setEncoding('utf8');
  socket.on('data', (chunk: string) => {
    const lines = (rest + chunk).split('\n');
    rest = lines.pop() ?? '';
    if (rest.length > MAX_LINE) socket.destroy();
    for (const line of lines) {
      let message: unknown;
      try {
        message = JSON.parse(line);
      } catch {
        socket.destroy();
        return;
      }
      if (typeof message === 'object' && message !== null) onMessage(message as Message);
    }
  });
}

export class ControlServer {
  readonly path: string;
  readonly #server: net.Server;
  readonly #sockets = new Set<net.Socket>();

  private constructor(path: string, handler: ControlHandler, onAlone: () => void) {
    this.path = path;
    this.#server = net.createServer((socket) => {
      this.#sockets.add(socket);
      socket.on('close', () => {
        this.#sockets.delete(socket);
        if (this.alone) onAlone();
      });
      socket.on('error', () => socket.destroy());
      readMessages(socket, (message) => void answer(socket, message, handler));
    });
  }

  /**
   * Listens, mode 0660. A socket file that is there is replaced: take a pidfile first.
   * @param onAlone called when the last connection has ended
   * @throws SystemError
   */
  static async listen(path: string, handler: ControlHandler, onAlone = (): void => {}): Promise<ControlServer> {
    if (Buffer.byteLength(path) > MAX_SOCKET_PATH) {
      throw new SystemError(
        errnos.ENAMETOOLONG,
        `${path} is too long for a socket (${MAX_SOCKET_PATH} bytes); shorten RUN_DIR`,
      );
    }
    const control = new ControlServer(path, handler, onAlone);
    fs.rmSync(path, { force: true });
    await new Promise<void>((resolve, reject) => {
      control.#server.once('error', (error) => {
        reject(new SystemError(errnoOf(error), `cannot listen on ${path}: ${messageOf(error)}`, { cause: error }));
      });
      listenWithMode(control.#server, { path }, 0o660, resolve);
    });
    return control;
  }

  /** Nobody is connected. */
  get alone(): boolean {
    return this.#sockets.size === 0;
  }

  /** Ends all connections once what was written is on its way, and removes the socket. */
  close(): void {
    this.#server.close();
    for (const socket of this.#sockets) socket.end();
    fs.rmSync(this.path, { force: true });
  }
}

async function answer(socket: net.Socket, message: Message, handler: ControlHandler): Promise<void> {
  const { id, op, ...params } = message;
  const send = (reply: Message): void => {
    if (socket.writable) socket.write(`${JSON.stringify({ id, ...reply })}\n`);
  };
  try {
    send({ ok: true, result: await handler(String(op), params, (event) => send({ event })) });
  } catch (error) {
    send({ ok: false, errno: errnoOf(error), message: messageOf(error) });
  }
}

interface Pending {
  readonly resolve: (result: unknown) => void;
  readonly reject: (error: Error) => void;
  readonly onEvent: ((event: Message) => void) | undefined;
}

/** One side of a conversation that asks. It keeps its process alive only while an answer is due. */
export class ControlClient {
  readonly #socket: net.Socket;
  readonly #pending = new Map<number, Pending>();
  #nextId = 1;
  /** Resolves when the other side is gone, or end was called. */
  readonly closed: Promise<void>;

  private constructor(socket: net.Socket) {
    this.#socket = socket;
    socket.unref();
    socket.on('error', () => socket.destroy());
    readMessages(socket, (message) => this.#receive(message));
    this.closed = new Promise((resolve) => {
      socket.on('close', () => {
        const error = new SystemError(errnos.ECONNRESET, 'the process went away');
        for (const { reject } of this.#pending.values()) reject(error);
        this.#pending.clear();
        resolve();
      });
    });
  }

  /** @throws SystemError ENOENT, ECONNREFUSED (nobody listens any more), EACCES */
  static connect(path: string): Promise<ControlClient> {
    return new Promise((resolve, reject) => {
      const socket = net.connect(path);
      const fail = (error: Error): void => {
        reject(new SystemError(errnoOf(error), `cannot connect to ${path}: ${messageOf(error)}`, { cause: error }));
      };
      socket.once('error', fail);
      socket.once('connect', () => {
        socket.off('error', fail);
        resolve(new ControlClient(socket));
      });
    });
  }

  #receive(message: Message): void {
    const pending = this.#pending.get(Number(message.id));
    if (!pending) return;
    if (message.event !== undefined) {
      pending.onEvent?.(message.event as Message);
      return;
    }
    this.#forget(Number(message.id));
    if (message.ok === true) pending.resolve(message.result);
    else pending.reject(new SystemError(Number(message.errno), String(message.message)));
  }

  /**
   * Asks and waits for the answer.
   * @param timeoutMs how long; 0 = as long as it takes
   * @throws SystemError the answer's; ECONNRESET when the process goes away, ETIMEDOUT
   */
  call(op: string, params: Message = {}, timeoutMs = 0, onEvent?: (event: Message) => void): Promise<unknown> {
    const id = this.#nextId++;
    return new Promise((resolve, reject) => {
      if (this.#socket.destroyed) {
        reject(new SystemError(errnos.ECONNRESET, 'the process went away'));
        return;
      }
      const timer =
        timeoutMs > 0
          ? setTimeout(() => {
              this.#forget(id);
              reject(new SystemError(errnos.ETIMEDOUT, `no answer to ${op} within ${timeoutMs / 1000} s`));
            }, timeoutMs)
          : undefined;
      this.#pending.set(id, {
        resolve: (result) => {
          clearTimeout(timer);
          resolve(result);
        },
        reject: (error) => {
          clearTimeout(timer);
          reject(error);
        },
        onEvent,
      });
      this.#socket.ref();
      this.#socket.write(`${JSON.stringify({ id, op, ...params })}\n`);
    });
  }

  #forget(id: number): void {
    this.#pending.delete(id);
    if (this.#pending.size === 0) this.#socket.unref();
  }

  /** Waits for the end of the connection, and keeps this process alive for it. */
  async untilClosed(): Promise<void> {
    this.#socket.ref();
    await this.closed;
  }

  end(): void {
    this.#socket.destroy();
  }
}
