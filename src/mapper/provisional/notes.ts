/**
 * Notes of provisional blocks: objects that were made for first writes and that no stored map names yet, and blocks that were made zero and
 * of which the stored map does not say so yet. A note must outlive every process of the node, since these were acknowledged, and nothing
 * else tells of them; after a power cut it must count for nothing, since the objects are worth nothing then. So it is written to the kernel and never synced, and says of which start of the machine it is, and of which
 * mount of the objects' file system: with that the page cache ends, too (mounted.ts).
 *
 * A note exists only while the volume's lock has been this node's since before its first record: whoever takes the lock, or learns that it
 * was lost, removes the note first. That a note is there and that the lock is this node's says together that nobody had it in between. It
 * also says of which map it is: not of one that was made under the name meanwhile, or in another store, nor of one that another version of
 * the program, which knows no notes, has shared with a snapshot. And of which tenure of the lock, where the store can tell: others may have had it if it was
 * made this node's again by nobody who knows of notes, as whoever restores a store with its locks does, or a server that answers a dead process late.
 *
 * Everything here is synchronous: a record is there when the call returns, and the callers rely on what they know not changing meanwhile.
 */
import { errnoOf, errnos, messageOf, SystemError } from '../../sys/errno.js';
import type { MapperLog } from '../context.js';
import type { NotedBlock, NotedMap, NotedVolume } from './noted.js';

/** Where notes are kept: bytes by the volume's name. All may throw what the system says. */
export interface NoteStore {
  /** All notes. One that cannot be read is removed, or it throws. */
  load(): Map<string, Buffer>;
  /** Writes in place; makes the note when there is none. */
  write(volume: string, bytes: Uint8Array, at: number): void;
  truncate(volume: string, length: number): void;
  /** No error when there is none. */
  remove(volume: string): void;
}

/**
 * Which mount the objects' file system is of, as a text that may be noted: another one when it is mounted anew; null: not known, or not mounted now.
 * @param before what it was, to this process or an earlier one; null: not known. Answered as it is when nothing has changed
 */
export type MountOf = (before: string | null) => string | null;

/** The head says of which start of the machine, of which map, of which mount and of which tenure of the lock the note is; the rest of it is spaces. */
const HEAD = 128;
/** Bytes of a record, which never lies on two pages: a process that is killed has written all of it or nothing. */
const RECORD = 16;
/** The block's object was made. */
const MADE = 1;
/** The disk did not take it: the stored map counts for the block, and that what was written is gone is to be told. */
const SPOILED = 2;
/** The block was made zero, whatever its stored entry says. */
const ZEROED = 3;

/** The note of one volume: where the records of which blocks are. */
interface Note {
  map: NotedMap;
  /** null: not known. */
  mount: string | null;
  /** Those of blocks of which the objects were made. */
  readonly slots: Map<number, number>;
  /** Those of blocks that were made zero, of which none is among the others. */
  readonly zeroed: Map<number, number>;
  /** Those of spoiled blocks, which may be provisional anew. */
  readonly spoiled: Map<number, number>;
  readonly free: number[];
  /** Slots in the file. */
  end: number;
}

export class Notes {
  readonly #store: NoteStore;
  readonly #boot: string;
  readonly #mount: MountOf;
  readonly #notes = new Map<string, Note>();
  /** The last mount that was known, here or by a note. */
  #known: string | null = null;

  /** @param boot changes when the machine starts */
  constructor(store: NoteStore, boot: string, mount: MountOf = () => null) {
    this.#store = store;
    this.#boot = boot;
    this.#mount = mount;
  }

  /**
   * What an earlier mapper of this start of the machine left, by volume; what is older is removed.
   * @throws Error when that cannot be told: then no note may be made either
   */
  load(log: MapperLog): Map<string, NotedVolume> {
    const found = new Map<string, NotedVolume>();
    for (const [volume, bytes] of this.#store.load()) {
      const noted = this.#parse(volume, bytes, log);
      if (noted.blocks.length + noted.zeroed.length + noted.spoiled.length > 0) found.set(volume, noted);
      else {
        this.#notes.delete(volume);
        this.#store.remove(volume);
      }
    }
    if (found.size > 0)
      log.info(`first writes and trims of ${found.size} volumes were acknowledged and are not in their maps yet`);
    return found;
  }

  #parse(volume: string, bytes: Buffer, log: MapperLog): NotedVolume {
    const head = bytes.length < HEAD ? null : this.#decodeHead(bytes.toString('utf8', 0, HEAD));
    if (head === null) return { map: { id: '', epoch: 0 }, blocks: [], zeroed: [], spoiled: [] };
    const { map, mount } = head;
    const note: Note = { ...emptyNote(map, mount), end: Math.floor((bytes.length - HEAD) / RECORD) };
    const blocks: NotedBlock[] = [];
    const zeroed: NotedBlock[] = [];
    const spoiled: NotedBlock[] = [];
    for (let slot = 0; slot < note.end; slot++) {
      const at = HEAD + slot * RECORD;
      const block = bytes.readUIntLE(at + 2, 6);
      const epoch = Number(bytes.readBigUInt64LE(at + 8));
      if (bytes[at] === MADE) {
        blocks.push({ block, epoch });
        note.slots.set(block, slot);
      } else if (bytes[at] === ZEROED) {
        zeroed.push({ block, epoch });
        note.zeroed.set(block, slot);
      } else if (bytes[at] === SPOILED) {
        spoiled.push({ block, epoch });
        note.spoiled.set(block, slot);
      } else note.free.push(slot);
    }
    this.#notes.set(volume, note);
    const now = mount === null ? null : this.#mount(mount);
    this.#known = now ?? mount ?? this.#known;
    if (now === null || now === mount) return { map, blocks, zeroed, spoiled };
    if (blocks.length > 0) {
      log.warn(
        `volume ${volume}: the file system of its objects was mounted anew since its last first writes, and they are gone as after a power cut`,
      );
    }
    this.spoil(volume, blocks);
    this.#moved(volume, note, now);
    const last = new Set(blocks.map(({ block }) => block));
    return { map, blocks: [], zeroed, spoiled: [...spoiled.filter(({ block }) => !last.has(block)), ...blocks] };
  }

  /**
   * Of which mount the objects' file system is now.
   * @param before what it was when what asks for it began; null: it begins now
   * @throws SystemError EIO when it begins while the file system is not mounted that was: its objects would be made on the one below
   */
  mount(before: string | null): string | null {
    if (before !== null) return this.#mount(before);
    const now = this.#mount(this.#known);
    if (now === null && this.#known !== null) throw notMounted();
    this.#known = now;
    return now;
  }

  /**
   * Whether the objects' file system was mounted anew since the first of these was noted: what was not synced is gone then.
   * @throws SystemError EIO when that cannot be told now: it is not mounted, or cannot be looked at
   */
  isElsewhere(volume: string): boolean {
    const mount = this.#notes.get(volume)?.mount ?? null;
    if (mount === null) return false;
    const now = this.#mount(mount);
    if (now === null) throw notMounted();
    return now !== mount;
  }

  /** What was noted was spoiled, since the file system was mounted anew: what is noted next is of this mount. @throws Error */
  moved(volume: string): void {
    const note = this.#notes.get(volume);
    if (note && note.slots.size === 0) this.#moved(volume, note, this.#mount(note.mount));
  }

  #moved(volume: string, note: Note, mount: string | null): void {
    this.#store.write(volume, this.#encodeHead(note.map, mount), 0);
    note.mount = mount;
  }

  #encodeHead({ id, epoch, lock = '' }: NotedMap, mount: string | null): Buffer {
    const head = Buffer.from(`${this.#boot}\n${epoch}\n${id}\n${mount ?? ''}\n${lock}\n`.padEnd(HEAD));
    if (head.length !== HEAD) throw new RangeError(`a note's head of ${head.length} bytes`);
    return head;
  }

  /** null: it is of another start of the machine, or no head. */
  #decodeHead(head: string): { map: NotedMap; mount: string | null } | null {
    // Without the last ones in the notes of earlier versions.
    const [boot, epoch, id, mount = '', tenure = ''] = head.split('\n');
    if (boot !== this.#boot || !/^\d+$/.test(epoch)) return null;
    const lock = tenure.trim();
    return { map: { id, epoch: Number(epoch), ...(lock && { lock }) }, mount: mount.trim() || null };
  }

  /**
   * Notes that the objects of these blocks of that map were made; none of them is noted.
   * @param before of which mount the objects' file system was before they were made
   * @throws Error when that is not possible: then none of them counts as noted
   */
  add(volume: string, map: NotedMap, blocks: readonly NotedBlock[], before: string | null = this.#mount(null)): void {
    const mount = this.#mount(before);
    if (mount !== before) throw new Error('the file system of the objects was mounted anew while they were made');
    this.#add(volume, map, mount, blocks, MADE);
  }

  /**
   * As add, that these blocks were made zero, which is so whatever is mounted.
   * @param blocks with the epochs in the names of the objects that go, 0: none, or another name
   */
  addZeroed(volume: string, map: NotedMap, blocks: readonly NotedBlock[]): void {
    const note = this.#notes.get(volume);
    this.#add(volume, map, note ? note.mount : this.#mount(null), blocks, ZEROED);
  }

  #add(volume: string, map: NotedMap, mount: string | null, blocks: readonly NotedBlock[], state: number): void {
    let note = this.#notes.get(volume);
    if (!note) {
      note = emptyNote(map, mount);
      this.#store.write(volume, this.#encodeHead(map, mount), 0);
      this.#store.truncate(volume, HEAD);
      this.#notes.set(volume, note);
    } else if (!isOfMap(note.map, map) || note.mount !== mount) {
      if (note.slots.size + note.zeroed.size + note.spoiled.size > 0)
        throw new Error(`the note of volume ${volume} is of another map, mount or tenure of the lock`);
      this.#store.write(volume, this.#encodeHead(map, mount), 0);
      note.map = map;
      note.mount = mount;
    }
    const { end } = note;
    const placed = blocks.map((noted) => ({ noted, slot: note.free.pop() ?? note.end++ }));
    try {
      this.#write(
        volume,
        placed.map(({ slot }) => slot),
        (k, out, at) => {
          encodeRecord(out, at, state, blocks[k].block, blocks[k].epoch);
        },
      );
    } catch (error) {
      this.#undo(
        volume,
        note,
        end,
        placed.map(({ slot }) => slot),
      );
      throw error;
    }
    const noted = state === ZEROED ? note.zeroed : note.slots;
    for (const {
      noted: { block },
      slot,
    } of placed)
      noted.set(block, slot);
  }

  /**
   * The map that the note is of is about to have this epoch and id, with what is noted of it as it is.
   * @throws Error: then it must not
   */
  become(volume: string, { id, epoch }: NotedMap): void {
    const note = this.#notes.get(volume);
    if (!note) return;
    const map = { ...note.map, id, epoch };
    this.#store.write(volume, this.#encodeHead(map, note.mount), 0);
    note.map = map;
  }

  /** Some of these records may have been written; they must not be found. @param end slots that the file had before */
  #undo(volume: string, note: Note, end: number, slots: readonly number[]): void {
    try {
      // What was added to the file may have no page to be cleared on: that is what failed.
      if (note.end > end) this.#store.truncate(volume, HEAD + end * RECORD);
      note.end = end;
      const kept = slots.filter((slot) => slot < end);
      if (kept.length > 0) this.#clear(volume, kept);
      note.free.push(...kept);
    } catch {
      // Better no word of what waits for its commit, which this process may still do, than a wrong one.
      this.#empty(volume, note);
    }
  }

  /** That these blocks were made or zeroed is noted no more. @throws Error: then it is noted still */
  drop(volume: string, blocks: readonly number[]): void {
    const note = this.#notes.get(volume);
    if (!note) return;
    this.#drop(volume, note, note.slots, blocks);
    this.#drop(volume, note, note.zeroed, blocks);
  }

  /** The disk did not take the objects of these blocks, which were noted. @throws Error: then they are noted as before */
  spoil(volume: string, blocks: readonly NotedBlock[]): void {
    const note = this.#notes.get(volume);
    const noted = note ? blocks.filter(({ block }) => note.slots.has(block)) : [];
    if (!note || noted.length === 0) return;
    const slots = noted.map(({ block }) => note.slots.get(block)!);
    this.#write(volume, slots, (k, out, at) => encodeRecord(out, at, SPOILED, noted[k].block, noted[k].epoch));
    for (const { block } of noted) {
      // Spoiled once more: one record says so.
      const before = note.spoiled.get(block);
      note.spoiled.set(block, note.slots.get(block)!);
      note.slots.delete(block);
      if (before !== undefined) {
        this.#clear(volume, [before]);
        note.free.push(before);
      }
    }
  }

  /** That these blocks were spoiled does not matter any more. @throws Error: then that is noted still */
  absolve(volume: string, blocks: readonly number[]): void {
    const note = this.#notes.get(volume);
    if (note) this.#drop(volume, note, note.spoiled, blocks);
  }

  #drop(volume: string, note: Note, from: Map<number, number>, blocks: readonly number[]): void {
    const noted = blocks.filter((block) => from.has(block));
    if (noted.length === 0) return;
    if (noted.length === note.slots.size + note.zeroed.size + note.spoiled.size) {
      this.#empty(volume, note);
      return;
    }
    const slots = noted.map((block) => from.get(block)!);
    this.#clear(volume, slots);
    for (const block of noted) from.delete(block);
    note.free.push(...slots);
  }

  #empty(volume: string, note: Note): void {
    this.#store.truncate(volume, HEAD);
    note.slots.clear();
    note.zeroed.clear();
    note.spoiled.clear();
    note.free.length = 0;
    note.end = 0;
  }

  /** Nothing is noted of the volume. @throws Error */
  remove(volume: string): void {
    if (!this.#notes.has(volume)) return;
    this.#store.remove(volume);
    this.#notes.delete(volume);
  }

  #clear(volume: string, slots: readonly number[]): void {
    this.#write(volume, slots, () => {});
  }

  /** Writes records, as few writes as there are runs of slots. @param encode the k-th of them at `at` of `out`, which is zero there */
  #write(volume: string, slots: readonly number[], encode: (k: number, out: Buffer, at: number) => void): void {
    const order = slots.map((slot, k) => ({ slot, k })).sort((a, b) => a.slot - b.slot);
    for (let from = 0; from < order.length; ) {
      let to = from + 1;
      while (to < order.length && order[to].slot === order[to - 1].slot + 1) to++;
      const out = Buffer.alloc((to - from) * RECORD);
      for (let n = from; n < to; n++) encode(order[n].k, out, (n - from) * RECORD);
      this.#store.write(volume, out, HEAD + order[from].slot * RECORD);
      from = to;
    }
  }
}

const notMounted = (): SystemError =>
  new SystemError(errnos.EIO, 'the file system of the objects is not mounted as it was');

const emptyNote = (map: NotedMap, mount: string | null): Note => ({
  map,
  mount,
  slots: new Map(),
  zeroed: new Map(),
  spoiled: new Map(),
  free: [],
  end: 0,
});

const isOfMap = (noted: NotedMap, map: NotedMap): boolean =>
  noted.id === map.id && noted.epoch >= map.epoch && noted.lock === map.lock;

function encodeRecord(out: Buffer, at: number, state: number, block: number, epoch: number): void {
  out[at] = state;
  out.writeUIntLE(block, at + 2, 6);
  out.writeBigUInt64LE(BigInt(epoch), at + 8);
}

/**
 * The notes in a store, and what was found in it.
 * @throws SystemError when they cannot be read: what they tell of was acknowledged, and must not be missing, nor be found later
 */
export function openNotes(
  store: NoteStore,
  boot: string,
  log: MapperLog,
  mount?: MountOf,
): { notes: Notes; found: Map<string, NotedVolume> } {
  const notes = new Notes(store, boot, mount);
  try {
    return { notes, found: notes.load(log) };
  } catch (error) {
    throw new SystemError(
      errnoOf(error),
      `the notes of first writes cannot be read: ${messageOf(error)}; make RUN_DIR/provisional readable for the mapper`,
      { cause: error },
    );
  }
}
