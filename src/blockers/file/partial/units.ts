/** Which units of a partial object are there. */
import { ABSENT, DURABLE, UNIT, unitsOf, WRITTEN } from './tail.js';

/** Units from `first` to before `end`. */
export interface Run {
  readonly first: number;
  readonly end: number;
}

export class Units {
  /** A byte for each, as in the tail. */
  readonly states: Uint8Array;
  /** Bytes of the content. */
  readonly length: number;
  readonly count: number;
  #absent = 0;
  #written = 0;

  /** @param states as they are stored; kept */
  constructor(length: number, states: Uint8Array) {
    this.length = length;
    this.count = unitsOf(length);
    this.states = states;
    for (const state of states) this.#count(state, 1);
  }

  #count(state: number, by: number): void {
    if (state === ABSENT) this.#absent += by;
    else if (state === WRITTEN) this.#written += by;
  }

  #set(unit: number, state: number): void {
    this.#count(this.states[unit], -1);
    this.states[unit] = state;
    this.#count(state, 1);
  }

  /** Units that are not there. */
  get absent(): number {
    return this.#absent;
  }

  /** Units that are there, but not for good. */
  get written(): number {
    return this.#written;
  }

  has(unit: number): boolean {
    return this.states[unit] !== ABSENT;
  }

  /** Is each of the units from `first` to before `end` there? */
  hasAll(first: number, end: number): boolean {
    for (let unit = first; unit < end; unit++) if (!this.has(unit)) return false;
    return true;
  }

  /** The units that [offset, end), at least a byte, touches. */
  touched(offset: number, end: number): Run {
    return { first: Math.floor(offset / UNIT), end: Math.ceil(end / UNIT) };
  }

  /** Is all of this range of the content there? */
  covers(offset: number, length: number): boolean {
    const end = offset + length;
    if (end > this.length) return false;
    if (this.#absent === 0) return true;
    for (let unit = Math.floor(offset / UNIT); unit * UNIT < end; unit++) if (!this.has(unit)) return false;
    return true;
  }

  /** The units that are not there and of which a change of [offset, end), at least a byte, covers a part only. */
  cut(offset: number, end: number): number[] {
    const first = Math.floor(offset / UNIT);
    const last = Math.floor((end - 1) / UNIT);
    const cut: number[] = [];
    for (const unit of first === last ? [first] : [first, last]) {
      const from = unit * UNIT;
      const isWhole = offset <= from && end >= from + this.lengthOf(unit);
      if (!isWhole && !this.has(unit)) cut.push(unit);
    }
    return cut;
  }

  /** What says the same of the units from `first` on as `states` does, or more, says that now: units are there once they were there. */
  merge(first: number, states: Uint8Array): void {
    for (let i = 0; i < states.length; i++) if (states[i] > this.states[first + i]) this.#set(first + i, states[i]);
  }

  /** Those of these units that are not there, in runs. */
  absentIn({ first, end }: Run): Run[] {
    return this.#runs(
      first,
      end,
      (unit) => !this.has(unit),
      () => false,
    );
  }

  /** Runs that begin and end with units that are WRITTEN, and have none in between that is absent. */
  writtenRuns(): Run[] {
    if (this.#written === 0) return [];
    const isWritten = (unit: number): boolean => this.states[unit] === WRITTEN;
    return this.#runs(0, this.count, isWritten, (unit) => this.states[unit] === DURABLE);
  }

  /** Runs of units of [first, end) that are wanted; units between two of them that may be in a run as well do not end it. */
  #runs(first: number, end: number, isWanted: (unit: number) => boolean, mayBeIn: (unit: number) => boolean): Run[] {
    const runs: Run[] = [];
    for (let unit = first; unit < end; unit++) {
      if (!isWanted(unit)) continue;
      let after = unit + 1;
      for (let next = after; next < end && (isWanted(next) || mayBeIn(next)); next++)
        if (isWanted(next)) after = next + 1;
      runs.push({ first: unit, end: after });
      unit = after;
    }
    return runs;
  }

  /** These are in this state from now on. */
  mark({ first, end }: Run, state: number): void {
    for (let unit = first; unit < end; unit++) if (this.states[unit] < state) this.#set(unit, state);
  }

  /** End, in bytes, of what from `offset` on is alike: there, or not. At most the content's. */
  runEnd(offset: number): number {
    let unit = Math.floor(offset / UNIT);
    const there = this.has(unit);
    while (++unit < this.count && this.has(unit) === there);
    return Math.min(unit * UNIT, this.length);
  }

  /** Bytes of unit `unit`: the last may be shorter. */
  lengthOf(unit: number): number {
    return Math.min(UNIT, this.length - unit * UNIT);
  }
}
