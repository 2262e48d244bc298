/**
 * TRIM and WRITE_ZEROES. Whole blocks are an edit of the map (the entry becomes ZERO, the mapper deletes the own object); parts of a
 * block are holes punched into its object.
 *
 * A range becomes ZERO only when no write is in flight into it: the volume's writes are counted in two generations that take turns;
 * zeroing starts the other generation and waits until the old one is empty, while new writes into the range wait for its end.
 */

import { Flag, Op } from '../requests/ops.js';
import { CHUNK_ENTRIES, EntryFlag } from '../requests/resolved-map.js';
import { errnoOf, errnos, SystemError } from '../sys/errno.js';
import type { Port } from '../xseg/index.js';
import type { MapperClient } from './mapper-client.js';
import type { Operation } from './operation.js';
import type { Transfer } from './transfer.js';
import { isOwn } from './transfer.js';
import { Halt, type Volume } from './volume.js';

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
        operation.rejected(error);
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
    const whole = first < wholeEnd;
    const head = [...split(offset, whole ? first * blockSize : end, blockSize)];
    const tail = whole ? [...split(wholeEnd * blockSize, end, blockSize)] : [];
    requireGoing(volume);
    if (operation.request.flags & Flag.FAST_ZERO) await this.#refuseSlow(volume, [...head, ...tail]);
    for (const part of head) await this.#zeroPart(operation, part);
    if (whole) await this.#zeroBlocks(volume, first, wholeEnd);
    for (const part of tail) await this.#zeroPart(operation, part);
  }

  /**
   * FAST_ZERO promises to be quick or to do nothing: whole blocks and parts of own blocks are quick, a part of a shared block is not. No
   * block becomes a shared one meanwhile, since a revoke waits for this operation.
   * @throws SystemError EOPNOTSUPP
   */
  async #refuseSlow(volume: Volume, parts: readonly Part[]): Promise<void> {
    const map = volume.map!;
    for (const { block } of parts) {
      while (!map.has(block)) await this.#fetch(volume, block);
      const flags = map.flags(block);
      if (isOwn(flags) || flags & EntryFlag.ZERO) continue;
      throw new SystemError(errnos.EOPNOTSUPP, 'zeroing a part of a shared block means copying it first');
    }
  }

  /** Zeros a part of one block. */
  async #zeroPart(operation: Operation, part: Part): Promise<void> {
    const { volume, request } = operation;
    const { block } = part;
    const map = volume.map!;
    // After anything was waited for everything is looked at again: the whole block may become zero at any time.
    while (volume.zeroRange(block, block) || !map.has(block) || !isOwn(map.flags(block))) {
      requireGoing(volume);
      if (volume.zeroRange(block, block)) await volume.zeroing;
      else if (!map.has(block)) await this.#fetch(volume, block);
      // A trim is a hint: it does not make a copy of a shared block. Zeros that were asked for are written.
      else if (map.flags(block) & EntryFlag.ZERO || request.op === Op.TRIM) {
        requireGood(volume);
        return;
      } else await this.#makeOwn(volume, block);
    }
    requireGoing(volume);
    const generation = volume.generation;
    volume.writes[generation]++;
    try {
      await this.#port.call(
        this.#blocker,
        {
          op: request.op,
          target: map.objectName(block),
          offset: part.offset,
          size: part.length,
          flags: request.flags & Flag.FUA,
          deadline: volume.until,
        },
        { wait: true },
      );
      volume.dirtyBlocks.add(block);
    } catch (error) {
      // The object of an own entry may be missing (a crash before its first data): it reads as zeros already.
      if (errnoOf(error) !== errnos.ENOENT) throw error;
    } finally {
      leaveWrites(volume, generation);
    }
  }

  async #fetch(volume: Volume, block: number): Promise<void> {
    await this.#mapper.fetchChunk(volume, volume.map!, Math.floor(block / CHUNK_ENTRIES));
    // Entries that are not durable yet may come this way.
    volume.mapDirty = true;
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
    if (this.#isZero(volume, first, end)) {
      requireGood(volume);
      return;
    }
    const range = { first, end, waiters: [] as Operation[] };
    volume.zeroRanges.push(range);
    const turn = volume.zeroing.then(() => this.#zeroInTurn(volume, first, end));
    const leave = (): void => {
      volume.zeroRanges.splice(volume.zeroRanges.indexOf(range), 1);
    };
    const over = turn.then(leave, leave);
    volume.zeroing = over;
    try {
      await turn;
    } finally {
      await over;
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
      requireGoing(volume);
      await this.#mapper.makeZero(volume, offset, Math.min(end * volume.blockSize, volume.size) - offset);
      absolve(volume, first, end);
    } catch (error) {
      // The objects may still be the volume's, with what was written to them.
      volume.keepDirty(first, end);
      throw error;
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

/**
 * Blocks first .. end-1 are zero: what their own objects had need not be durable any more, also where a flush has failed with it. The mapper may
 * delete these a little later, and the disk would be asked for what it did not take once more.
 */
function absolve({ map, dirtyNames }: Volume, first: number, end: number): void {
  for (let block = first; block < end && dirtyNames.size > 0; block++) {
    if (map?.has(block) && isOwn(map.flags(block))) dirtyNames.delete(map.objectName(block));
  }
}

/** Before anything is sent. @throws SystemError ETIME when the lease has run out, EIO when the lock was lost */
function requireGoing(volume: Volume): void {
  if (volume.halt === Halt.LOST) throw new SystemError(errnos.EIO, volume.lost ?? '');
  if (volume.halt === Halt.EXPIRED) throw ranOut(volume);
}

/** Before the map alone is taken for an answer: no blocker is asked then, who would notice that the lease has run out. */
function requireGood(volume: Volume): void {
  requireGoing(volume);
  if (volume.isOver) throw ranOut(volume);
}

const ranOut = ({ key }: Volume): SystemError =>
  new SystemError(errnos.ETIME, `the lease of volume ${key.name} has run out`);

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
