/**
 * BLOCK_STATUS: which blocks of a range are zero, from the leased map. A range may be the whole of a large volume: entries are fetched as
 * the range is walked, in slices between which others get their turn, and the walk ends where the answer is full.
 */
import { EXTENT_BYTES, ExtentFlag, encodeExtents, type PackedExtent } from '../requests/extents.js';
import { EntryFlag } from '../requests/resolved-map.js';
import type { Operation } from './operation.js';
import type { Transfer } from './transfer.js';
import { Halt } from './volume.js';

/** Blocks looked at in one go: well below a millisecond. */
const SLICE = 16_384;

export class BlockStatus {
  readonly #transfer: Transfer;
  readonly #finish: (operation: Operation) => void;

  /** @param finish takes operations that are over; the length of the answer is in the request's size */
  constructor(transfer: Transfer, finish: (operation: Operation) => void) {
    this.#transfer = transfer;
    this.#finish = finish;
  }

  start(operation: Operation): void {
    if (operation.volume.map) this.#walk(operation, []);
    // Read without a lease: any of it may be data, and the holder may write at any time.
    else this.#answer(operation, [{ length: operation.length, flags: 0 }]);
  }

  /** Goes on at the operation's position. */
  #walk(operation: Operation, extents: PackedExtent[]): void {
    const { volume, request, end } = operation;
    if (volume.halt !== Halt.NONE) volume.stop(operation);
    if (operation.expired) {
      this.#finish(operation);
      return;
    }
    // What could be told before the error is an answer; who asks for the rest gets the error.
    if (operation.errno !== 0) {
      if (extents.length > 0) operation.errno = 0;
      this.#answer(operation, extents);
      return;
    }
    const map = volume.map!;
    const { blockSize } = volume;
    const most = Math.floor(request.dataLength / EXTENT_BYTES);
    for (let looked = 0; operation.position < end; looked++) {
      const block = Math.floor(operation.position / blockSize);
      if (!map.has(block)) {
        this.#transfer.fetchEntry(operation, block, () => this.#walk(operation, extents));
        return;
      }
      if (looked === SLICE) {
        setImmediate(() => this.#walk(operation, extents));
        return;
      }
      const length = Math.min((block + 1) * blockSize, end) - operation.position;
      const flags = map.flags(block) & EntryFlag.ZERO ? ExtentFlag.HOLE | ExtentFlag.ZERO : 0;
      const last = extents.at(-1);
      if (last?.flags === flags) last.length += length;
      else if (extents.length === most) break;
      else extents.push({ length, flags });
      operation.position += length;
    }
    // Nobody was asked who would notice that the lease has run out.
    if (volume.isOver) operation.expire(operation.offset);
    this.#answer(operation, extents);
  }

  #answer(operation: Operation, extents: readonly PackedExtent[]): void {
    const { request } = operation;
    // `serviced` tells how many bytes of extents there are; size carries it to the answer.
    if (operation.errno === 0) request.size = encodeExtents(extents, request.data);
    this.#finish(operation);
  }
}
