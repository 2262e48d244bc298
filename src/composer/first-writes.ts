/**
 * First writes: blocks that are zero or shared are made writable by the mapper before they are written. A client has many requests in flight, and each
 * block would be a request of its own to the mapper, in another process, and from there to the blocker. So the zero blocks that are asked for in one
 * turn of the event loop are one request for all, which makes their objects by one, too. A shared block is always asked for by itself: its copy may take
 * milliseconds, and an answer for several would come with the last of them.
 */
import { EntryFlag } from '../requests/resolved-map.js';
import type { MapperClient } from './mapper-client.js';
import type { Volume } from './volume.js';

/** Blocks made writable by one request. */
export const CHANGE_BLOCKS = 64;

interface Wish {
  /** Blocks first .. end-1. */
  readonly first: number;
  readonly end: number;
  readonly done: (error: unknown) => void;
}

export class FirstWrites {
  readonly #mapper: MapperClient;
  /** What was asked for in this turn. */
  #gathered = new Map<Volume, Wish[]>();

  constructor(mapper: MapperClient) {
    this.#mapper = mapper;
  }

  /**
   * Makes blocks first .. end-1 writable, at most CHANGE_BLOCKS, all of which are loaded, and marked as changing by the caller.
   * @param done called when the volume's map has them, with null, or with why they could not be made
   */
  add(volume: Volume, first: number, end: number, done: (error: unknown) => void): void {
    const wish = { first, end, done };
    if (!isZero(volume, first, end)) {
      this.#askForOne(volume, wish);
      return;
    }
    // After all that is delivered in this turn.
    if (this.#gathered.size === 0) queueMicrotask(() => this.#send());
    const wishes = this.#gathered.get(volume);
    if (wishes) wishes.push(wish);
    else this.#gathered.set(volume, [wish]);
  }

  #send(): void {
    const gathered = this.#gathered;
    this.#gathered = new Map();
    for (const [volume, wishes] of gathered) {
      for (let from = 0; from < wishes.length; ) {
        let to = from + 1;
        for (let blocks = sizeOf(wishes[from]); to < wishes.length; to++) {
          blocks += sizeOf(wishes[to]);
          if (blocks > CHANGE_BLOCKS) break;
        }
        if (to - from === 1) this.#askForOne(volume, wishes[from]);
        else this.#askForAll(volume, wishes.slice(from, to));
        from = to;
      }
    }
  }

  #askForOne(volume: Volume, wish: Wish): void {
    const { first, end, done } = wish;
    const offset = first * volume.blockSize;
    const size = Math.min(end * volume.blockSize, volume.size) - offset;
    this.#mapper.makeWritable(volume, offset, size, end - first).then((segments) => {
      take(volume, [wish], (k) => segments[k].target);
      done(null);
    }, done);
  }

  #askForAll(volume: Volume, wishes: readonly Wish[]): void {
    const blocks = wishes.flatMap(({ first, end }) => Array.from({ length: end - first }, (_, k) => first + k));
    this.#mapper.makeOwn(volume, blocks).then(
      (targets) => {
        take(volume, wishes, (k) => targets[k]);
        for (const { done } of wishes) done(null);
      },
      () => {
        // One of them is in trouble, and the others are not to suffer with it: each is told what is wrong with its own.
        for (const wish of wishes) this.#askForOne(volume, wish);
      },
    );
  }
}

function isZero({ map }: Volume, first: number, end: number): boolean {
  for (let block = first; block < end; block++) if ((map!.flags(block) & EntryFlag.ZERO) === 0) return false;
  return true;
}

const sizeOf = ({ first, end }: Wish): number => end - first;

/** Takes the blocks' objects into the volume's map. @param targetOf the object of the k-th block of all */
function take(volume: Volume, wishes: readonly Wish[], targetOf: (k: number) => string): void {
  const map = volume.map!;
  volume.mapDirty = true;
  let k = 0;
  for (const { first, end } of wishes) {
    for (let block = first; block < end; block++) map.set(block, EntryFlag.WRITABLE | EntryFlag.ARCHIP, targetOf(k++));
    volume.entriesChanged(first, end);
  }
}
