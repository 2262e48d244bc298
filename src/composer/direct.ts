/**
 * Reads and writes of one object that nothing stands in the way of, on the short way (xseg/direct.ts): the volume's lease is held, the block
 * has an object that may be read or written in place, and the data blocker is a role of this process that can do it at once. Everything
 * else is declined, and comes as a request. Since it is begun and ended within one call, no operation is in flight: no revoke, zeroing or
 * flush can fall in between.
 */
import { Op } from '../requests/ops.js';
import { EntryFlag, MAX_OBJECT_NAME, type ResolvedMap } from '../requests/resolved-map.js';
import type { DirectRequest, Port } from '../xseg/index.js';
import { isOwn } from './transfer.js';
import { Halt, type Volume } from './volume.js';

/** What the blocker is asked: one object, used for every request. */
class ObjectRequest implements DirectRequest {
  op = 0;
  offset = 0;
  size = 0;
  address = 0;
  hint = 0;
  deadline = 0;
  map: ResolvedMap | null = null;
  block = 0;
  /** Whose data it is. */
  asked: DirectRequest | null = null;
  readonly #name = new Uint8Array(MAX_OBJECT_NAME);

  isNamed(name: Uint8Array): boolean {
    const { map } = this;
    if (map === null || map.nameLength(this.block) !== name.length) return false;
    const own = this.#name;
    map.writeName(this.block, own);
    for (let i = 0; i < name.length; i++) if (own[i] !== name[i]) return false;
    return true;
  }

  targetName(): string | null {
    return this.map?.objectName(this.block) ?? null;
  }

  clear(from: number): void {
    this.asked?.clear(from);
  }

  get meanwhile(): boolean {
    return this.asked?.meanwhile ?? false;
  }

  get mayLend(): boolean {
    return this.asked?.mayLend ?? false;
  }

  lend(fd: number, offset: number): void {
    this.asked?.lend?.(fd, offset);
  }
}

export class DirectTransfer {
  readonly #port: Port;
  readonly #blocker: number;
  readonly #request = new ObjectRequest();

  constructor(port: Port, blockerPort: number) {
    this.#port = port;
    this.#blocker = blockerPort;
  }

  /** Is it a volume of this name that can be served so at all? */
  static isReady(volume: Volume, request: DirectRequest): boolean {
    return (
      volume.state === 'held' && volume.halt === Halt.NONE && !volume.key.assumeV0 && request.isNamed(volume.nameBytes)
    );
  }

  /**
   * Does what was asked of a volume that is ready.
   * @returns false when it is to be asked for by a request
   */
  serve(volume: Volume, asked: DirectRequest): boolean {
    const { op, offset, size } = asked;
    const { map, lease, blockSize } = volume;
    const end = offset + size;
    if (map === null || lease === null || !(offset >= 0 && size > 0 && end <= volume.size)) return false;
    const block = Math.floor(offset / blockSize);
    const within = offset - block * blockSize;
    if (within + size > blockSize || !map.has(block)) return false;
    const flags = map.flags(block);
    const write = op === Op.WRITE;
    if (write) {
      if (lease.readOnly || !isOwn(flags)) return false;
      if (volume.changing.has(block) || volume.zeroRange(block, block) !== undefined) return false;
    } else if (op !== Op.READ || (flags & (EntryFlag.ZERO | EntryFlag.DELETED)) !== 0) return false;
    const hint = volume.hint(block);
    const blocker = this.#port.directTo(this.#blocker);
    if (blocker === null) return false;
    const request = this.#request;
    request.op = op;
    request.offset = within;
    request.size = size;
    request.address = asked.address;
    request.asked = asked;
    request.hint = hint;
    request.deadline = volume.until;
    request.map = map;
    request.block = block;
    const done = blocker(request);
    // A map that the volume has dropped is not kept in memory by this.
    request.map = null;
    request.asked = null;
    if (request.hint !== hint) volume.setHint(block, request.hint);
    if (!done) return false;
    if (write) {
      volume.changed = true;
      volume.written = true;
      volume.dirtyBlocks.add(block);
    }
    return true;
  }
}
