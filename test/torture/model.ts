/**
 * What a volume may hold. A sector has candidates: the operations that may have been the last on it. As long as all that ran over it had
 * answers one after another there is one; operations at the same time, and those whose answer was lost, leave several, until somebody has
 * looked: what was read once must be read again.
 */
import type { Runs } from './content.js';

/** Counts events: what ended before another began has the smaller number. */
let clock = 0;
export const tick = (): number => ++clock;

export type Change = 'write' | 'zero' | 'trim';

/** A change of some sectors. */
export interface Operation {
  /** What its sectors hold: 0 zeros. */
  readonly tag: number;
  readonly change: Change;
  readonly first: number;
  readonly count: number;
  readonly start: number;
  /** Infinity: it may still happen. */
  end: number;
  /** It had an answer, and so it has happened. */
  done: boolean;
}

const NOTHING: Operation = { tag: 0, change: 'zero', first: 0, count: 0, start: 0, end: 0, done: true };

/** Thrown when a disk holds what it must not. */
export class WrongData extends Error {}

/** A read under way: what each of its sectors may show. */
export interface Reading {
  readonly first: number;
  /** When it began, by the clock of the operations. */
  readonly start: number;
  readonly candidates: (readonly Operation[])[];
  /** Changes that began meanwhile. */
  readonly meanwhile: Operation[];
}

const covers = (op: Operation, sector: number): boolean => op.first <= sector && sector < op.first + op.count;

export class Disk {
  name: string;
  #sectors: Operation[];
  readonly #several = new Map<number, readonly Operation[]>();
  readonly #readings = new Set<Reading>();
  /** Sizes it may have instead, in sectors, after a resize without an answer. */
  #otherSize: number | null = null;

  constructor(name: string, sectors: number | Operation[]) {
    this.name = name;
    this.#sectors = typeof sectors === 'number' ? new Array<Operation>(sectors).fill(NOTHING) : sectors;
  }

  /** Sectors. */
  get size(): number {
    return this.#sectors.length;
  }

  /** A disk of the same content that changes on its own. @throws Error when the content is not certain */
  copy(name: string, size: number): Disk {
    if (this.#several.size > 0) throw new Error(`${this.name}: what is not certain cannot be copied`);
    const sectors = this.#sectors.slice(0, size);
    while (sectors.length < size) sectors.push(NOTHING);
    return new Disk(name, sectors);
  }

  #candidates(sector: number): readonly Operation[] {
    return this.#several.get(sector) ?? [this.#sectors[sector]];
  }

  /** A change is sent: from now on it may have happened. */
  begin(tag: number, change: Change, first: number, count: number): Operation {
    const op: Operation = { tag, change, first, count, start: tick(), end: Number.POSITIVE_INFINITY, done: false };
    for (let s = first; s < first + count; s++) this.#several.set(s, [...this.#candidates(s), op]);
    for (const reading of this.#readings) reading.meanwhile.push(op);
    return op;
  }

  /** A change was answered: it has happened, and what had ended before it began is gone. A trim leaves what it likes. */
  answered(op: Operation): void {
    op.end = tick();
    op.done = true;
    if (op.change === 'trim') return;
    for (let s = op.first; s < op.first + op.count && s < this.size; s++) {
      const left = this.#candidates(s).filter((other) => other === op || other.end > op.start);
      if (left.length === 1) this.#settle(s, left[0]);
      else this.#several.set(s, left);
    }
  }

  /** A change whose answer was lost happens no more; whether it has is not known. */
  over(op: Operation): void {
    op.end = tick();
  }

  #settle(sector: number, op: Operation): void {
    this.#sectors[sector] = op;
    this.#several.delete(sector);
  }

  startReading(first: number, count: number): Reading {
    const candidates = Array.from({ length: count }, (_, i) => this.#candidates(first + i));
    const reading = { first, start: tick(), candidates, meanwhile: [] };
    this.#readings.add(reading);
    return reading;
  }

  forget(reading: Reading): void {
    this.#readings.delete(reading);
  }

  /**
   * What a reading showed.
   * @throws WrongData
   */
  read(reading: Reading, runs: Runs): void {
    this.#readings.delete(reading);
    const seen = matchReading(this.name, reading, runs);
    if (reading.meanwhile.length > 0) return;
    seen.forEach((op, i) => {
      // Nothing has begun since, and all had ended before the store was asked: this is what it is. One that ended while the answer was on
      // its way may have changed what was read already.
      const s = reading.first + i;
      const may = reading.candidates[i];
      const over = may.every((o) => o.end < reading.start);
      if (may.length > 1 && over && this.#several.get(s) === may) this.#settle(s, op);
    });
  }

  /** A resize is sent: until it is known how it ended, what it cuts off may be gone. */
  beginResize(size: number): void {
    this.#otherSize = size;
    if (size < this.size) this.begin(0, 'zero', size, this.size - size);
  }

  /** How a resize ended. @throws WrongData when it is neither size */
  resized(size: number): void {
    if (size !== this.size && size !== this.#otherSize) {
      const may = this.#otherSize === null ? '' : ` or ${this.#otherSize}`;
      throw new WrongData(`${this.name}: has ${size} sectors, and must have ${this.size}${may}`);
    }
    this.#otherSize = null;
    for (let s = size; s < this.size; s++) this.#several.delete(s);
    this.#sectors.length = Math.min(size, this.size);
    while (this.#sectors.length < size) this.#sectors.push(NOTHING);
    this.quiet();
  }

  /** Nothing is under way any more: what has no answer has happened or never will. */
  quiet(): void {
    for (const candidates of this.#several.values()) {
      for (const op of candidates) if (op.end === Number.POSITIVE_INFINITY) op.end = tick();
    }
  }
}

/**
 * What a reading saw, sector by sector: of several operations with the same data the latest.
 * @throws WrongData when a sector shows what it must not
 */
export function matchReading(name: string, reading: Reading, runs: Runs): Operation[] {
  const { first, candidates, meanwhile } = reading;
  const seen: Operation[] = [];
  for (const [tag, sectors] of runs) {
    for (let i = 0; i < sectors; i++) {
      const s = first + seen.length;
      const may = candidates[seen.length];
      const op = meanwhile.findLast((o) => o.tag === tag && covers(o, s)) ?? may?.findLast((o) => o.tag === tag);
      if (!op) throw new WrongData(wrong(name, s, tag, [...(may ?? []), ...meanwhile.filter((o) => covers(o, s))]));
      seen.push(op);
    }
  }
  return seen;
}

function wrong(name: string, sector: number, tag: number, may: readonly Operation[]): string {
  const told = may.map((o) => `${o.change} ${o.tag} (${o.start} to ${o.end})`).join(', ');
  return `${name}: sector ${sector} holds ${tag === 0 ? 'zeros' : `the data of operation ${tag}`}, and may hold: ${told}`;
}

/**
 * A snapshot is one moment: what it shows began before it, and what it lacks ended after it.
 * @param seen what each sector shows
 * @throws WrongData when there is no such moment
 */
export function oneMoment(name: string, reading: Reading, seen: readonly Operation[]): void {
  let shown: Operation = NOTHING;
  let lacking: Operation | null = null;
  seen.forEach((op, i) => {
    if (op.change === 'write' && op.start > shown.start) shown = op;
    const s = reading.first + i;
    const others = [...reading.candidates[i], ...reading.meanwhile.filter((o) => covers(o, s))];
    for (const other of others) {
      if (
        other.change === 'write' &&
        other.done &&
        other.start > op.end &&
        (lacking === null || other.end < lacking.end)
      )
        lacking = other;
    }
  });
  const missed = lacking as Operation | null;
  if (missed === null || missed.end > shown.start) return;
  throw new WrongData(
    `${name}: is no single moment: it shows operation ${shown.tag}, which began (${shown.start}) after operation ${missed.tag} ` +
      `had been answered (${missed.end}), and lacks that`,
  );
}
