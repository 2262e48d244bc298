/**
 * TRIM and WRITE_ZEROES. Whole blocks are an edit of the map (the entry becomes ZERO, the mapper deletes the own object); parts of a
 * block are holes punched into its object.
 *
 * A range becomes ZERO only when no write is in flight into it: the volume's writes are counted in two generations that take turns;
 * zeroing starts the other generation and waits until the old one is empty, while new writes into the range wait for its end.
 */

import { Flag, Op } from '../requests/ops.js';
import { CHUNK_ENTRIES, EntryFlag } from '../requests/resolved-map.js';
import { errnoOf, errnos, messageOf, SystemError } from '../sys/errno.js';
import type { Port } from '../xseg/index.js';
import type { MapperClient } from './mapper-client.js';
import type { Operation } from './operation.js';
import type { Transfer } from './transfer.js';
import { isOwn } from './transfer.js';
import type { Volume } from './volume.js';

interface Part {
  readonly block: number;
  /** Range within the block, bytes. */
  readonly offset: number;
  readonly length: number;
}

export class Zeroing {
  readonly #port: Port;
  readonly #blocker: number;
  readonly #mapper: MapperClient;
  readonly #transfer: Transfer;

  constructor(port: Port, blockerPort: number, mapper: MapperClient, transfer: Transfer) {
    this.#port = port;
    this.#blocker = blockerPort;
    this.#mapper = mapper;
    this.#transfer = transfer;
  }

  /** Runs a TRIM, or a WRITE_ZEROES without NO_HOLE; `finish` gets it with its outcome. */
  start(operation: Operation, finish: (operation: Operation) => void): void {
    this.#run(operation).then(
      () => finish(operation),
      (error: unknown) => {
        operation.failed(errnoOf(error), messageOf(error));
        finish(operation);
      },
    );
  }

  async #run(operation: Operation): Promise<void> {
    const { volume, offset, end } = operation;
    const { blockSize, size } = volume;
    const first = Math.ceil(offset / blockSize);
    // The volume's last block may be short: reaching the volume's end is having it whole.
    const wholeEnd = end === size ? Math.ceil(size / blockSize) : Math.floor(end / blockSize);
    if (first >= wholeEnd) {
      for (const part of split(offset, end, blockSize)) await this.#zeroPart(operation, part);
      return;
    }
    for (const part of split(offset, Math.min(first * blockSize, end), blockSize))
      await this.#zeroPart(operation, part);
    await this.#zeroBlocks(volume, first, wholeEnd);
    for (const part of split(wholeEnd * blockSize, end, blockSize)) await this.#zeroPart(operation, part);
  }

  async #load(volume: Volume, block: number): Promise<number> {
    const map = volume.map!;
    if (!map.has(block)) await this.#mapper.fetchChunk(volume, map, Math.floor(block / CHUNK_ENTRIES));
    return map.flags(block);
  }

  /** Zeros a part of one block. */
  async #zeroPart(operation: Operation, part: Part): Promise<void> {
    const { volume, request } = operation;
    await this.#noZeroing(volume, part.block);
    const flags = await this.#load(volume, part.block);
    if (flags & EntryFlag.ZERO) return;
    if (!isOwn(flags)) {
      // A trim is a hint: it does not make a copy of a shared block. Zeros that were asked for are written.
      if (request.op === Op.TRIM) return;
      if (request.flags & Flag.FAST_ZERO) {
        throw new SystemError(errnos.EOPNOTSUPP, 'zeroing a part of a shared block means copying it first');
      }
      await this.#makeOwn(volume, part.block);
    }
    const generation = volume.generation;
    volume.writes[generation]++;
    try {
      await this.#port.call(
        this.#blocker,
        {
          op: request.op,
          target: volume.map!.objectName(part.block),
          offset: part.offset,
          size: part.length,
          flags: request.flags & Flag.FUA,
        },
        { wait: true },
      );
      volume.dirtyBlocks.add(part.block);
    } catch (error) {
      // The object of an own entry may be missing (a crash before its first data): it reads as zeros already.
      if (errnoOf(error) !== errnos.ENOENT) throw error;
    } finally {
      leaveWrites(volume, generation);
    }
  }

  /** Waits until no zeroing covers the block. */
  async #noZeroing(volume: Volume, block: number): Promise<void> {
    while (volume.zeroRange(block, block)) await volume.zeroing;
  }

  async #makeOwn(volume: Volume, block: number): Promise<void> {
    const offset = block * volume.blockSize;
    const size = Math.min(volume.blockSize, volume.size - offset);
    const [segment] = await this.#mapper.makeWritable(volume, offset, size, 1);
    volume.mapDirty = true;
    volume.map!.set(block, EntryFlag.WRITABLE | EntryFlag.ARCHIP, segment.target);
    volume.entriesChanged(block, block + 1);
  }

  async #zeroBlocks(volume: Volume, first: number, end: number): Promise<void> {
    if (this.#isZero(volume, first, end)) return;
    const range = { first, end, waiters: [] as Operation[] };
    volume.zeroRanges.push(range);
    const turn = volume.zeroing.then(() => this.#zeroInTurn(volume, first, end));
    const over = (): void => {
      volume.zeroRanges.splice(volume.zeroRanges.indexOf(range), 1);
    };
    volume.zeroing = turn.then(over, over);
    try {
      await turn;
    } finally {
      await volume.zeroing;
      this.#transfer.resumeAfterZeroing(range.waiters);
    }
  }

  async #zeroInTurn(volume: Volume, first: number, end: number): Promise<void> {
    const old = volume.generation;
    volume.generation = 1 - old;
    if (volume.writes[old] > 0) {
      await new Promise<void>((resolve) => {
        volume.onWritesDone = resolve;
      });
    }
    const offset = first * volume.blockSize;
    try {
      await this.#mapper.makeZero(volume, offset, Math.min(end * volume.blockSize, volume.size) - offset);
    } finally {
      // Even when it failed half-way entries may have changed: they are fetched again.
      volume.map!.forget(first, end - first);
      volume.entriesChanged(first, end);
      volume.mapDirty = true;
    }
  }

  /** Are all entries of the range known to be ZERO? Then there is nothing to do. */
  #isZero(volume: Volume, first: number, end: number): boolean {
    const map = volume.map!;
    for (let block = first; block < end; block++) {
      if (!map.has(block) || (map.flags(block) & EntryFlag.ZERO) === 0 || volume.changing.has(block)) return false;
    }
    return volume.zeroRange(first, end - 1) === undefined;
  }
}

/** A write of a generation is over; wakes the zeroing that waits for the last one. */
export function leaveWrites(volume: Volume, generation: number): void {
  volume.writes[generation]--;
  if (volume.writes[generation] > 0 || generation === volume.generation) return;
  const done = volume.onWritesDone;
  volume.onWritesDone = null;
  done?.();
}

function* split(offset: number, end: number, blockSize: number): Generator<Part> {
  for (let at = offset; at < end; ) {
    const block = Math.floor(at / blockSize);
    const length = Math.min((block + 1) * blockSize, end) - at;
    yield { block, offset: at - block * blockSize, length };
    at += length;
  }
}
