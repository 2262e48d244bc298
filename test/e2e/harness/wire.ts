/**
 * The NBD protocol by hand, for what no proper client does: wrong bytes, halves of requests, connections that vanish. Written from the
 * protocol document and on purpose without the project's own codec, so that a mistake there cannot hide itself.
 */
import net from 'node:net';

export const NBDMAGIC = Buffer.from('4e42444d41474943', 'hex');
export const IHAVEOPT = Buffer.from('49484156454f5054', 'hex');
const REQUEST_MAGIC = 0x25609513;
const SIMPLE_REPLY_MAGIC = 0x67446698;
const OPTION_REPLY_MAGIC = 0x3e889045565a9n;
const OPT_GO = 7;
const REP_ACK = 1;

export const Command = { READ: 0, WRITE: 1, DISC: 2, FLUSH: 3 } as const;

/** A connection read by amounts. */
export class Wire {
  readonly socket: net.Socket;
  #received = Buffer.alloc(0);
  #ended = false;
  #wake: () => void = () => {};

  private constructor(socket: net.Socket) {
    this.socket = socket;
    socket.on('data', (chunk) => {
      this.#received = Buffer.concat([this.#received, chunk]);
      this.#wake();
    });
    const end = (): void => {
      this.#ended = true;
      this.#wake();
    };
    // A reset is an end too: what matters is that the server let go.
    socket.on('error', end).on('end', end).on('close', end);
  }

  static connect(path: string): Promise<Wire> {
    return new Promise((resolve, reject) => {
      const socket = net.connect(path);
      socket.once('error', reject);
      socket.once('connect', () => {
        socket.removeListener('error', reject);
        resolve(new Wire(socket));
      });
    });
  }

  /** Connects and negotiates `volume` with OPT_GO, simple replies. */
  static async open(path: string, volume: string): Promise<Wire> {
    const wire = await Wire.connect(path);
    await wire.greet();
    wire.send(option(OPT_GO, goPayload(volume)));
    for (;;) {
      const reply = await wire.take(20);
      if (reply.readBigUInt64BE(0) !== OPTION_REPLY_MAGIC) throw new Error('bad option reply magic');
      const type = reply.readUInt32BE(12);
      const data = await wire.take(reply.readUInt32BE(16));
      if (type === REP_ACK) return wire;
      if (type >= 0x80000000) throw new Error(`OPT_GO failed: ${type - 0x80000000} ${data.toString()}`);
    }
  }

  /** Takes the server's greeting and answers it with the fixed-newstyle and no-zeroes flags. */
  async greet(): Promise<void> {
    const greeting = await this.take(18);
    if (!greeting.subarray(0, 8).equals(NBDMAGIC)) throw new Error('no NBD greeting');
    this.send(Buffer.from([0, 0, 0, 3]));
  }

  send(bytes: Buffer): void {
    this.socket.write(bytes);
  }

  /** The next `length` bytes. @throws when the server ends the connection first */
  async take(length: number): Promise<Buffer> {
    await this.#until(() => this.#received.length >= length || this.#ended);
    if (this.#received.length < length) throw new Error('the server ended the connection');
    const bytes = this.#received.subarray(0, length);
    this.#received = this.#received.subarray(length);
    return bytes;
  }

  /** Resolves when the server has ended the connection, whatever it sent before. */
  ended(): Promise<void> {
    return this.#until(() => this.#ended);
  }

  /** The errno of the next simple reply. */
  async reply(): Promise<number> {
    const reply = await this.take(16);
    if (reply.readUInt32BE(0) !== SIMPLE_REPLY_MAGIC) throw new Error('bad reply magic');
    return reply.readUInt32BE(4);
  }

  /** Ends the connection without a word. */
  vanish(): void {
    this.socket.destroy();
  }

  async #until(condition: () => boolean): Promise<void> {
    while (!condition()) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
  }
}

/** An option request. */
export function option(number: number, payload: Buffer): Buffer {
  const head = Buffer.alloc(16);
  IHAVEOPT.copy(head);
  head.writeUInt32BE(number, 8);
  head.writeUInt32BE(payload.length, 12);
  return Buffer.concat([head, payload]);
}

function goPayload(volume: string): Buffer {
  const name = Buffer.from(volume);
  const payload = Buffer.alloc(4 + name.length + 2);
  payload.writeUInt32BE(name.length, 0);
  name.copy(payload, 4);
  return payload;
}

/** A request's header. */
export function request(command: number, offset: number, length: number, cookie = 1n, flags = 0): Buffer {
  const bytes = Buffer.alloc(28);
  bytes.writeUInt32BE(REQUEST_MAGIC, 0);
  bytes.writeUInt16BE(flags, 4);
  bytes.writeUInt16BE(command, 6);
  bytes.writeBigUInt64BE(cookie, 8);
  bytes.writeBigUInt64BE(BigInt(offset), 16);
  bytes.writeUInt32BE(length, 24);
  return bytes;
}
