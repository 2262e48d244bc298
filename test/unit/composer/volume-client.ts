/** Operations on volumes by requests of a client's port, for tests that have a whole stack in their process. */
import { Flag, Op } from '../../../src/requests/ops.js';
import { decodeInfo, encodeClone, encodeCreate, encodeName } from '../../../src/requests/structs.js';
import { errnoOf, errnos } from '../../../src/sys/errno.js';
import type { Port } from '../../../src/xseg/index.js';

const ZERO = 'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855';

/** Where each peer is in such a stack. */
export const PORTS = { composer: 500, blockerb: 1000, mapper: 1001, blockerm: 1002, client: 1 } as const;

/** All reject with what the peer answered. */
export abstract class VolumeClient {
  abstract readonly client: Port;

  /** Bytes of a volume; null: there is none. */
  async sizeOf(name: string): Promise<number | null> {
    try {
      return decodeInfo((await this.client.call(PORTS.mapper, { op: Op.INFO, target: name, capacity: 8 })).data).size;
    } catch (error) {
      if (errnoOf(error) === errnos.ENOENT) return null;
      throw error;
    }
  }

  /** A blank volume with any block size, the way image services make them. */
  async create(name: string, size: number, blockSize: number): Promise<void> {
    const objects = Array.from({ length: Math.ceil(size / blockSize) }, () => ({ name: ZERO, readOnly: true }));
    const data = encodeCreate({ blockSize, readOnly: false, objects });
    await this.client.call(PORTS.mapper, { op: Op.CREATE, target: name, size, data });
  }

  async clone(name: string, parent: string, size = 0): Promise<void> {
    await this.client.call(PORTS.mapper, { op: Op.CLONE, target: name, data: encodeClone({ parent, size }) });
  }

  async snapshot(name: string, target: string): Promise<void> {
    await this.client.call(PORTS.composer, { op: Op.SNAPSHOT, target: name, data: encodeName(target) });
  }

  async rename(name: string, target: string): Promise<void> {
    await this.client.call(PORTS.mapper, { op: Op.RENAME, target: name, data: encodeName(target) });
  }

  async resize(name: string, size: number): Promise<void> {
    await this.client.call(PORTS.mapper, { op: Op.TRUNCATE, target: name, offset: size, flags: Flag.FORCE });
  }

  async remove(name: string): Promise<void> {
    await this.client.call(PORTS.composer, { op: Op.DELETE, target: name });
  }

  async close(name: string): Promise<void> {
    await this.client.call(PORTS.composer, { op: Op.CLOSE, target: name });
  }

  async flush(name: string): Promise<void> {
    await this.client.call(PORTS.composer, { op: Op.FLUSH, target: name, size: 0 });
  }

  async read(name: string, offset: number, length: number): Promise<Buffer> {
    const init = { op: Op.READ, target: name, offset, size: length, capacity: length };
    return (await this.client.call(PORTS.composer, init)).data;
  }
}
