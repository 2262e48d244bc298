/** Reads and writes that try the short way first, as the endpoint does, and count where it led to the end. */
import { Op } from '../../../src/requests/ops.js';
import { SystemError } from '../../../src/sys/errno.js';
import type { Port, Request } from '../../../src/xseg/index.js';
import { PORTS } from './volume-client.js';

export class DirectClient {
  /** Done within the call. */
  served = 0;
  /** Declined, and done by a request. */
  sent = 0;
  readonly #port: Port;
  /** The composer's handles, by volumes. */
  readonly #hints = new Map<string, number>();

  constructor(port: Port) {
    this.#port = port;
  }

  async write(name: string, offset: number, data: Uint8Array): Promise<void> {
    await this.#run(Op.WRITE, name, offset, data.length, (bytes) => bytes.set(data));
  }

  async read(name: string, offset: number, length: number): Promise<Buffer> {
    // What is left of it shows.
    return await this.#run(Op.READ, name, offset, length, (bytes) => bytes.fill(0xa5));
  }

  async #run(op: number, name: string, offset: number, size: number, prepare: (b: Buffer) => void): Promise<Buffer> {
    const port = this.#port;
    const at = port.allocate(Math.max(1, size));
    const { memory } = port.segment;
    const bytes = memory.bytes.subarray(at, at + size);
    try {
      prepare(bytes);
      if (!this.#direct(op, name, offset, bytes, memory.base + at)) {
        await this.#send(op, name, offset, at, size);
        this.sent++;
      } else this.served++;
      const result = Buffer.from(bytes);
      // Others have their turn, also when nothing was waited for.
      await new Promise((resolve) => setImmediate(resolve));
      return result;
    } finally {
      port.free(at);
    }
  }

  #direct(op: number, name: string, offset: number, bytes: Buffer, address: number): boolean {
    const composer = this.#port.directTo(PORTS.composer);
    if (composer === null) return false;
    return composer({
      op,
      offset,
      size: bytes.length,
      address,
      hint: this.#hints.get(name) ?? 0,
      deadline: 0,
      isNamed: (other) => Buffer.from(name).equals(other),
      clear: (from) => void bytes.fill(0, from),
    });
  }

  #send(op: number, name: string, offset: number, at: number, size: number): Promise<void> {
    const request = this.#port.getRequest() as Request;
    request.setData(at, size);
    request.op = op;
    request.target = name;
    request.offset = offset;
    request.size = size;
    return new Promise((resolve, reject) => {
      request.onReply = () => {
        const { served, errno, message } = request;
        this.#hints.set(name, request.hint);
        this.#port.putRequest(request);
        if (served) resolve();
        else reject(new SystemError(errno, message));
      };
      this.#port.submit(request, PORTS.composer);
    });
  }
}
