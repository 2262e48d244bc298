/**
 * The marks of an interrupted removal. A removal marks own entries run by run, each run's durably before the next; a kernel that stops
 * leaves each sector of the map data old or new. Other marks were not made by it: a flipped bit must not cost a volume.
 */
import * as v2 from '../../../mapper/formats/v2.js';
import { EntryFlag, type MapEntry } from '../entries.js';

const OWN = EntryFlag.WRITABLE | EntryFlag.ARCHIP;
/** Entries in 512 bytes, which are written whole or not at all. */
const SECTOR_ENTRIES = 512 / v2.ENTRY_SIZE;

export class RemovalMarks {
  /** Entries that are written and made durable together, and those of them that reach the disk together. */
  readonly #run: number;
  readonly #sector: number;
  /** The first run with an own entry that is not marked. */
  #unmarkedRun = Number.POSITIVE_INFINITY;
  /** The last own entry, and whether it is marked. */
  #last: { readonly index: number; readonly marked: boolean } | null = null;
  count = 0;
  /** The first block that is marked where a removal would not have done that, or the other way round; null: there is none. */
  odd: number | null = null;

  constructor(blockSize: number) {
    const most = v2.entriesPerObject(blockSize);
    this.#run = Math.min(v2.RUN_ENTRIES, most);
    this.#sector = Math.min(SECTOR_ENTRIES, most);
  }

  /** Looks at an entry; they come in the order of blocks. */
  note({ index, flags, object }: MapEntry): void {
    const marked = (flags & EntryFlag.DELETED) !== 0;
    const own = object !== '' && (flags & OWN) === OWN;
    const run = Math.floor(index / this.#run);
    if (marked) this.count++;
    if (marked && (!own || this.#unmarkedRun < run)) this.odd ??= index;
    if (!own) return;
    if (!marked) this.#unmarkedRun = Math.min(this.#unmarkedRun, run);
    const last = this.#last;
    const together = last?.index === index - 1 && index % this.#sector !== 0;
    if (together && last.marked !== marked) this.odd ??= index;
    this.#last = { index, marked };
  }
}
