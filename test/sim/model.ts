/**
 * What the volumes may hold: for every unit of every volume the values that it may have now, and those that it may have after a power
 * cut. A unit is the smallest thing that is written as a whole; its value is a number that only one write has ever written, 0 = zeros.
 */

/** A unit's past: what it may be after a cut, oldest first; the last acknowledged, and what is under way, last. */
interface Cell {
  readonly values: number[];
  /** How many older values are no longer possible: positions below count all that ever were. */
  first: number;
  /** Position of the last value that a reader must see, or a later one. */
  acked: number;
  /** A change of it is under way. */
  busy: boolean;
  /** That change is a trim which is acknowledged; a read finds out what it left. */
  trimmed: boolean;
}

const cell = (value: number): Cell => ({ values: [value], first: 0, acked: 0, busy: false, trimmed: false });

/** What a flush that begins now has to make durable: a position for each unit. */
export type Capture = readonly number[];

export class Violation extends Error {}

/**
 * What a read or a snapshot may hold, from when it is asked for until its answer: what was acknowledged before is in it or something
 * later, what is under way meanwhile is in it or not, and what is asked for after the answer is not. It has a list of its own: a change
 * that becomes durable meanwhile leaves no older value for a cut, but a snapshot that was asked for before it may well be without it.
 */
export class View {
  readonly #possible: number[][];
  /** Units whose trim was acknowledged before, and which have one of two values until a read finds out which. */
  readonly #trimmed: Set<number>;
  #isOpen = true;

  constructor(possible: readonly (readonly number[])[], trimmed: Iterable<number> = []) {
    this.#possible = possible.map((values) => [...values]);
    this.#trimmed = new Set(trimmed);
  }

  get units(): number {
    return this.#possible.length;
  }

  /** As it is now, for a look at it after a cut. */
  freeze(): View {
    return new View(this.#possible);
  }

  /** The change of a unit to this value begins. */
  begin(unit: number, value: number): void {
    if (this.#isOpen) this.#possible[unit]?.push(value);
  }

  /** What the trim of a unit left is known. */
  settle(unit: number, value: number): void {
    if (this.#trimmed.delete(unit)) this.#possible[unit] = [value];
  }

  /** The answer is there. */
  close(): void {
    this.#isOpen = false;
  }

  /** @throws Violation */
  check(read: readonly number[], what: string): void {
    read.forEach((value, unit) => {
      const possible = this.#possible[unit];
      if (!possible.includes(value)) {
        throw new Violation(`${what}: unit ${unit} reads ${value}, not ${possible.join(' or ')}`);
      }
    });
  }
}

export class VolumeModel {
  name: string;
  readonly unit: number;
  cells: Cell[];
  /** Never written: a snapshot, or a map of an old format. */
  readOnly: boolean;
  /** Its map is of an old format. */
  frozen = false;
  /** Data operations under way. */
  users = 0;
  /** An operation on the volume as a whole is under way. */
  changing = false;
  /** Of reads and snapshots that are under way. */
  readonly #views = new Set<View>();

  constructor(name: string, unit: number, values: readonly number[], readOnly = false) {
    this.name = name;
    this.unit = unit;
    this.cells = values.map(cell);
    this.readOnly = readOnly;
  }

  get size(): number {
    return this.cells.length * this.unit;
  }

  /** As it is now, for a look at it after a cut. */
  freeze(): VolumeModel {
    const copy = new VolumeModel(this.name, this.unit, [], this.readOnly);
    copy.cells = this.cells.map((old) => ({ ...old, values: [...old.values] }));
    copy.frozen = this.frozen;
    return copy;
  }

  /** As processes must find it that are started after all others were killed: what was acknowledged is not undone by that. */
  freezeAcknowledged(): VolumeModel {
    const copy = this.freeze();
    for (const target of copy.cells) dropBefore(target, target.acked);
    return copy;
  }

  /** May units [first, end) be changed now? */
  isFree(first: number, end: number): boolean {
    for (let i = first; i < end; i++) if (this.cells[i].busy) return false;
    return true;
  }

  /** A change of units begins: each may have its new value from now on. */
  begin(first: number, values: readonly number[]): void {
    values.forEach((value, i) => {
      const target = this.cells[first + i];
      target.values.push(value);
      target.busy = true;
      for (const view of this.#views) view.begin(first + i, value);
    });
  }

  /** The change is acknowledged. @param durable nothing older may come back */
  end(first: number, count: number, durable: boolean): void {
    for (let i = first; i < first + count; i++) {
      const target = this.cells[i];
      target.acked = target.first + target.values.length - 1;
      target.busy = false;
      target.trimmed = false;
      if (durable) dropBefore(target, target.acked);
    }
  }

  /** A trim is acknowledged. What it left is the same for all who ask from now on, and not known before endTrim. */
  answerTrim(first: number, count: number): void {
    for (let i = first; i < first + count; i++) this.cells[i].trimmed = true;
  }

  /** A trim was acknowledged, and a read says which of the units became zeros; the others stayed as they were. */
  endTrim(first: number, read: readonly number[], durable: boolean): void {
    read.forEach((value, i) => {
      const target = this.cells[first + i];
      const before = target.values[target.acked - target.first];
      if (value !== 0 && value !== before) {
        throw new Violation(`${this.name}: unit ${first + i} reads ${value} after a trim of ${before}`);
      }
      if (value !== 0) target.values.push(before);
      for (const view of this.#views) view.settle(first + i, value);
    });
    this.end(first, read.length, durable);
  }

  capture(): Capture {
    return this.cells.map(({ acked }) => acked);
  }

  /** What was captured is durable. */
  flushed(capture: Capture): void {
    capture.forEach((position, i) => {
      const target = this.cells[i];
      if (target) dropBefore(target, position);
    });
  }

  /** A read or a snapshot of all is asked for now. The view is closed by its answer, and ended by `check`. */
  view(): View {
    const trimmed = this.cells.flatMap((one, i) => (one.trimmed ? [i] : []));
    const view = new View(
      this.cells.map(({ values, acked, first }) => values.slice(acked - first)),
      trimmed,
    );
    this.#views.add(view);
    return view;
  }

  /** What was read is what the view may hold. @throws Violation */
  check(view: View, read: readonly number[], what: string): void {
    this.#views.delete(view);
    view.check(read, `${what} ${this.name}`);
  }

  /** Each unit must have one of the values that a cut may leave. @throws Violation */
  checkSurvivor(read: readonly number[], extra: (i: number) => readonly number[] = () => []): void {
    read.forEach((value, i) => {
      const possible = [...(this.cells[i]?.values ?? []), ...extra(i)];
      if (!possible.includes(value)) {
        throw new Violation(`after the cut ${this.name}: unit ${i} reads ${value}, not ${possible.join(' or ')}`);
      }
    });
  }

  resize(units: number): void {
    while (this.cells.length > units) this.cells.pop();
    while (this.cells.length < units) this.cells.push(cell(0));
  }
}

function dropBefore(target: Cell, position: number): void {
  const gone = position - target.first;
  if (gone <= 0) return;
  target.values.splice(0, gone);
  target.first = position;
}

/** An operation on whole volumes that is under way: after a cut it is done, or not. */
export type Change =
  | { readonly kind: 'make'; readonly volume: VolumeModel }
  | { readonly kind: 'snapshot'; readonly source: string; readonly name: string; readonly view: View }
  | { readonly kind: 'remove'; readonly name: string }
  | { readonly kind: 'rename'; readonly name: string; readonly target: string }
  | { readonly kind: 'resize'; readonly name: string; readonly units: number }
  | { readonly kind: 'upgrade'; readonly name: string };

export class Model {
  readonly unit: number;
  readonly volumes = new Map<string, VolumeModel>();
  /** Every name that ever was one of a volume. */
  readonly names = new Set<string>();
  readonly changes = new Set<Change>();
  #nextValue: { value: number };

  constructor(unit: number, nextValue = { value: 1 }) {
    this.unit = unit;
    this.#nextValue = nextValue;
  }

  /** `count` values that were never written. */
  fresh(count: number): number[] {
    return Array.from({ length: count }, () => this.#nextValue.value++);
  }

  add(volume: VolumeModel): void {
    this.volumes.set(volume.name, volume);
    this.names.add(volume.name);
  }

  freeze(): Model {
    return this.#copy((volume) => volume.freeze());
  }

  /** See VolumeModel. */
  freezeAcknowledged(): Model {
    return this.#copy((volume) => volume.freezeAcknowledged());
  }

  #copy(freeze: (volume: VolumeModel) => VolumeModel): Model {
    const copy = this.empty();
    for (const volume of this.volumes.values()) copy.add(freeze(volume));
    for (const change of this.changes) {
      if (change.kind === 'make') copy.changes.add({ ...change, volume: change.volume.freeze() });
      else if (change.kind === 'snapshot') copy.changes.add({ ...change, view: change.view.freeze() });
      else copy.changes.add(change);
    }
    return copy;
  }

  /** Another life of the same names and values. */
  empty(): Model {
    // Each life numbers its writes on from here, whatever the others do.
    const copy = new Model(this.unit, { value: this.#nextValue.value });
    for (const name of this.names) copy.names.add(name);
    return copy;
  }
}

/** Bytes of units with these values. */
export function encode(values: readonly number[], unit: number): Buffer {
  const out = Buffer.alloc(values.length * unit);
  const words = new Uint32Array(out.buffer, out.byteOffset, out.length / 4);
  for (let i = 0; i < values.length; i++) words.fill(values[i], (i * unit) / 4, ((i + 1) * unit) / 4);
  return out;
}

/** Values of units; a unit that is not of one write is a violation. @throws Violation */
export function decode(bytes: Buffer, unit: number, what: string): number[] {
  const values: number[] = [];
  for (let at = 0; at < bytes.length; at += unit) {
    const value = bytes.readUInt32LE(at);
    for (let k = at + 4; k < at + unit; k += 4) {
      const other = bytes.readUInt32LE(k);
      if (other !== value)
        throw new Violation(`${what}: unit ${at / unit} is torn: ${value} and, at byte ${k}, ${other}`);
    }
    values.push(value);
  }
  return values;
}
