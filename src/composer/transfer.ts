/**
 * Reads and writes: splitting a volume's range into objects and asking the data blocker for each. The hot path: one block, its entry
 * loaded (and writable), is one sub-request and no allocation.
 *
 * An operation first gets what it needs of the map (prepare), then moves its data (run). Between the two nothing can change: a
 * revoke waits for operations in flight, and zeroing waits for writes.
 */

import { Flag, Op } from '../requests/ops.js';
import { CHUNK_ENTRIES, EntryFlag } from '../requests/resolved-map.js';
import { monotonicMs } from '../sys/clock.js';
import { errnoOf, errnos, messageOf } from '../sys/errno.js';
import type { Port, Request } from '../xseg/index.js';
import { CHANGE_BLOCKS, FirstWrites } from './first-writes.js';
import type { MapperClient } from './mapper-client.js';
import type { Operation } from './operation.js';
import { Halt, type Volume } from './volume.js';

/** Sub-requests of one operation in flight at a time. */
const WINDOW = 64;
/** By how much clocks of two processes may seem to differ, ms. A refusal well before its deadline is no refusal but a store's own error. */
const CLOCK_SLACK_MS = 500;

export class Transfer {
  readonly #port: Port;
  readonly #blocker: number;
  readonly #mapper: MapperClient;
  readonly #firstWrites: FirstWrites;
  readonly #finish: (operation: Operation) => void;
  /** The block a sub-request is for, by its record's index. */
  readonly #blocks: Float64Array;
  /** The volume's map version when it was sent. */
  readonly #versions: Float64Array;
  /** Operations that found no request record free. */
  readonly #starved: Operation[] = [];
  /** The segment will call when there may be records again. */
  #listening = false;
  readonly #onReply = (sub: Request): void => this.#answered(sub);

  /** @param finish takes operations that are over, with their outcome in errno and message */
  constructor(port: Port, blockerPort: number, mapper: MapperClient, finish: (operation: Operation) => void) {
    this.#port = port;
    this.#blocker = blockerPort;
    this.#mapper = mapper;
    this.#firstWrites = new FirstWrites(mapper);
    this.#finish = finish;
    this.#blocks = new Float64Array(port.segment.geometry.requests);
    this.#versions = new Float64Array(port.segment.geometry.requests);
  }

  /** Starts (or goes on with) an operation: its map entries first. */
  readonly start = (operation: Operation): void => {
    if (operation.volume.halt !== Halt.NONE) operation.volume.stop(operation);
    if (operation.errno !== 0) this.#finish(operation);
    else if (this.#prepare(operation)) {
      this.#enter(operation);
      this.#run(operation);
    }
  };

  /** Loads the entry of a block and what lies in one chunk with it, then calls next; for operations that move no data. */
  fetchEntry(operation: Operation, block: number, next: (operation: Operation) => void): void {
    this.#fetch(operation, Math.floor(block / CHUNK_ENTRIES), next);
  }

  #isLoaded(operation: Operation, resume: (operation: Operation) => void): boolean {
    const { volume } = operation;
    const map = volume.map!;
    const last = Math.floor((operation.end - 1) / volume.blockSize);
    for (let block = Math.floor(operation.offset / volume.blockSize); block <= last; block++) {
      if (map.has(block)) continue;
      this.#fetch(operation, Math.floor(block / CHUNK_ENTRIES), resume);
      return false;
    }
    return true;
  }

  #prepare(operation: Operation): boolean {
    if (!this.#isLoaded(operation, this.start)) return false;
    if (operation.request.op === Op.READ) return true;
    const { volume } = operation;
    const map = volume.map!;
    const first = Math.floor(operation.offset / volume.blockSize);
    const last = Math.floor((operation.end - 1) / volume.blockSize);
    const zeroing = volume.zeroRange(first, last);
    if (zeroing) {
      zeroing.waiters.push(operation);
      return false;
    }
    for (let block = first; block <= last; block++) {
      if (isOwn(map.flags(block))) continue;
      const waiters = volume.changing.get(block);
      if (waiters) waiters.push(operation);
      else this.#makeWritable(operation, block, last);
      return false;
    }
    return true;
  }

  /** Reads take no part in the write barrier: entries may have been dropped by a zeroing while the read was under way. */
  readonly #runOn = (operation: Operation): void => {
    if (operation.errno !== 0) this.#finish(operation);
    else this.#run(operation);
  };

  #fetch(operation: Operation, chunk: number, resume: (operation: Operation) => void): void {
    const { volume } = operation;
    operation.next = resume;
    const waiters = volume.fetching.get(chunk);
    if (waiters) {
      waiters.push(operation);
      return;
    }
    volume.fetching.set(chunk, [operation]);
    this.#mapper.fetchChunk(volume, volume.map!, chunk).then(
      () => {
        // Entries that are not durable yet may come this way: of a copy-up that has not answered, of who had the lease before.
        volume.mapDirty = true;
        this.#resume(volume.fetching, chunk, null);
      },
      (error: unknown) => this.#resume(volume.fetching, chunk, error),
    );
  }

  /** Asks for copies of `block` and of those after it that need one, up to `last`. */
  #makeWritable(operation: Operation, block: number, last: number): void {
    const { volume } = operation;
    const map = volume.map!;
    let end = block;
    while (end <= last && end - block < CHANGE_BLOCKS && !isOwn(map.flags(end)) && !volume.changing.has(end)) {
      volume.changing.set(end, []);
      end++;
    }
    operation.next = this.start;
    volume.changing.get(block)!.push(operation);
    this.#firstWrites.add(volume, block, end, (error) => {
      // Only who asked has failed: others that wait for one of these blocks may want none of those that are in trouble.
      if (error !== null) operation.rejected(error);
      for (let changed = block; changed < end; changed++) this.#resume(volume.changing, changed, null);
    });
  }

  #resume(waiting: Map<number, Operation[]>, key: number, error: unknown): void {
    const operations = waiting.get(key) ?? [];
    waiting.delete(key);
    for (const operation of operations) {
      if (error !== null) operation.rejected(error);
      (operation.next ?? this.start)(operation);
    }
  }

  /** Lets operations go on that waited for a zeroing range. */
  resumeAfterZeroing(operations: readonly Operation[]): void {
    for (const operation of operations) this.start(operation);
  }

  #enter(operation: Operation): void {
    if (operation.request.op === Op.READ || operation.barrier >= 0) return;
    operation.barrier = operation.volume.generation;
    operation.volume.writes[operation.barrier]++;
  }

  #run(operation: Operation): void {
    const { volume, request } = operation;
    const map = volume.map!;
    const { blockSize } = volume;
    const op = request.op;
    const flags = request.flags & (Flag.FUA | Flag.NO_HOLE);
    const data = request.dataOffset;
    while (operation.position < operation.end && operation.pending < WINDOW && operation.errno === 0) {
      if (volume.halt !== Halt.NONE) {
        volume.stop(operation);
        break;
      }
      const { position } = operation;
      const block = Math.floor(position / blockSize);
      const within = position - block * blockSize;
      const length = Math.min(blockSize - within, operation.end - position);
      const at = data + (position - operation.offset);
      if (op === Op.READ && !map.has(block)) {
        if (operation.pending === 0) this.#fetch(operation, Math.floor(block / CHUNK_ENTRIES), this.#runOn);
        return;
      }
      if (op === Op.READ && map.flags(block) & EntryFlag.ZERO) {
        // No blocker is asked, who would notice that the lease has run out.
        if (volume.isOver) {
          operation.expire(position);
          break;
        }
        if (request.flags & Flag.MAY_BE_HOLE && position === operation.offset && isHole(operation)) {
          request.flags |= Flag.HOLE;
          break;
        }
        this.#port.segment.memory.bytes.fill(0, at, at + length);
        operation.position += length;
        continue;
      }
      if (op === Op.READ && map.flags(block) & EntryFlag.DELETED) {
        // Its object may be there still, but not what was written to it last: the removal waits for no commit.
        operation.failed(
          errnos.EIO,
          `block ${block} of volume ${volume.key.name} is marked deleted, by a removal that was interrupted, or its entry is damaged; ` +
            `see vlmc check ${volume.key.name}`,
        );
        break;
      }
      const sub = this.#port.getRequest();
      if (!sub) {
        if (operation.pending === 0) this.#starve(operation);
        return;
      }
      sub.op = op;
      sub.flags = flags;
      sub.offset = within;
      sub.size = length;
      if (op !== Op.WRITE_ZEROES) sub.setData(at, length);
      sub.hint = volume.hint(block);
      sub.deadline = volume.until;
      sub.writeTarget(map, block);
      sub.onReply = this.#onReply;
      sub.context = operation;
      this.#blocks[sub.index] = block;
      this.#versions[sub.index] = volume.mapVersion;
      try {
        this.#port.submit(sub, this.#blocker);
      } catch (error) {
        this.#port.putRequest(sub);
        if (errnoOf(error) !== errnos.EAGAIN) operation.failed(errnoOf(error), messageOf(error));
        else if (operation.pending === 0) this.#starve(operation);
        if (operation.errno === 0) return;
        break;
      }
      operation.pending++;
      operation.position += length;
    }
    if (operation.pending === 0) this.#finish(operation);
  }

  /** A volume is halted: its operations that wait for a request record end now. */
  halted(volume: Volume): void {
    const ending = this.#starved.filter((operation) => operation.volume === volume);
    for (const operation of ending) this.#starved.splice(this.#starved.indexOf(operation), 1);
    for (const operation of ending) this.#run(operation);
  }

  /** Waits for a request record: of this port (an answer goes on with it), or one that another peer gives back. */
  #starve(operation: Operation): void {
    this.#starved.push(operation);
    this.#listen();
  }

  #listen(): void {
    if (this.#listening) return;
    this.#listening = true;
    this.#port.segment.whenAvailable(() => {
      this.#listening = false;
      // Until one finds nothing again, which listens.
      while (this.#starved.length > 0 && !this.#listening) this.#run(this.#starved.shift()!);
    });
  }

  #answered(sub: Request): void {
    const operation = sub.context as Operation;
    const { volume } = operation;
    const block = this.#blocks[sub.index];
    if (sub.served) {
      if (this.#versions[sub.index] === volume.mapVersion) volume.setHint(block, sub.hint);
      if (sub.op !== Op.READ && (sub.flags & Flag.FUA) === 0) volume.dirtyBlocks.add(block);
    } else this.#subFailed(operation, sub, block);
    this.#port.putRequest(sub);
    operation.pending--;
    if (operation.position < operation.end && operation.errno === 0) this.#run(operation);
    else if (operation.pending === 0) this.#finish(operation);
    if (this.#starved.length > 0) this.#run(this.#starved.shift()!);
  }

  #subFailed(operation: Operation, sub: Request, block: number): void {
    const { volume } = operation;
    const { errno } = sub;
    if (errno === errnos.ETIME && sub.deadline !== 0 && monotonicMs() > sub.deadline - CLOCK_SLACK_MS) {
      operation.expire(block * volume.blockSize + sub.offset);
      return;
    }
    if (sub.op === Op.READ && errno === errnos.ENOENT) {
      const map = volume.map!;
      // A missing object is zeros only under an own entry: there a crash came between the entry and the first data. An entry that
      // is unknown or ZERO now was not when the read was sent: the block became zero meanwhile.
      if (!map.has(block) || map.flags(block) & EntryFlag.ZERO || isOwn(map.flags(block))) {
        sub.data.fill(0);
        return;
      }
      const name = map.objectName(block);
      operation.failed(
        errnos.EIO,
        `object ${name} of volume ${volume.key.name} (block ${block}) is missing; see vlmc check ${volume.key.name}`,
      );
      return;
    }
    operation.failed(errno === errnos.ENOENT ? errnos.EIO : errno, sub.message);
  }
}

/** Own object: may be written in place. */
export function isOwn(flags: number): boolean {
  return (flags & (EntryFlag.WRITABLE | EntryFlag.ZERO | EntryFlag.DELETED)) === EntryFlag.WRITABLE;
}

/** Does all of a range lie in ZERO entries? */
function isHole({ volume, offset, end }: Operation): boolean {
  const map = volume.map!;
  const last = Math.floor((end - 1) / volume.blockSize);
  for (let block = Math.floor(offset / volume.blockSize); block <= last; block++) {
    if (!map.has(block) || (map.flags(block) & EntryFlag.ZERO) === 0) return false;
  }
  return true;
}
