/**
 * The names of a namespace, page by page. librados' cursors are objects of its own that cannot be written down: they are kept here,
 * each under the string that was given out for it, until it is used, or too many newer ones have been given out.
 */
import { errnos } from '../sys/errno.js';
import { type BlockingCalls, ENDLESS } from './blocking.js';
import { RadosError, radosError } from './error.js';
import { withPool } from './gone.js';
import type { Library } from './library.js';
import { allocate, copyFrom, live, numberAt, type Room, takeSlot } from './memory.js';
import type { NamesPage } from './types.js';

/** Cursors kept: listings under way at a time. */
const MOST_CURSORS = 256;
/** Names asked for at a time. */
const MOST_NAMES = 1000;
/** struct rados_object_list_item: lengths and addresses of name, namespace and locator. */
const ITEM = 48;
const TIMEOUT_MS = 60_000;

export class Listing {
  readonly #library: Library;
  readonly #io: number;
  readonly #blocking: BlockingCalls;
  readonly #place: string;
  readonly #cursors = new Map<string, number>();
  #given = 0;
  #closed = false;

  constructor(library: Library, io: number, blocking: BlockingCalls, place: string) {
    this.#library = library;
    this.#io = io;
    this.#blocking = blocking;
    this.#place = place;
  }

  /** See Pool.list. @throws RadosError ESTALE when the cursor is no longer known */
  async page(cursor: string | null, most: number): Promise<NamesPage> {
    const what = `list ${this.#place}`;
    const start = cursor === null ? this.#begin(what) : this.#cursors.get(cursor);
    if (start === undefined) {
      throw new RadosError(errnos.ESTALE, `cannot ${what}: the listing was interrupted for too long; start it anew`);
    }
    if (cursor !== null) this.#cursors.delete(cursor);
    const finish = this.#own(this.#library.listEnd(this.#io));
    const next = this.#begin(what);
    const count = Math.max(1, Math.min(most, MOST_NAMES));
    const items = allocate(count * ITEM);
    const out = takeSlot();
    out.bytes.writeBigUInt64LE(BigInt(next), 0);
    const free = (): void => {
      items.free();
      out.free();
      this.#free(finish);
    };
    // What has failed can be tried again.
    const giveUp = (): void => {
      free();
      this.#free(next);
      if (cursor === null) this.#free(start);
      else this.#remember(cursor, start);
    };
    const found = await this.#blocking.run<number>(
      what,
      TIMEOUT_MS,
      (done) => this.#library.list.async(this.#io, start, finish, count, 0, 0, items.address, out.address, done),
      (result) => {
        if (result > 0) this.#library.listFree(result, items.address);
        giveUp();
      },
      ENDLESS,
    );
    if (found < 0) {
      giveUp();
      throw radosError(withPool(this.#library, this.#io, found), what);
    }
    const names = found > 0 ? this.#names(items, found) : [];
    free();
    this.#free(start);
    return { names, cursor: this.#keep(next) };
  }

  /** Frees the cursors. No call may be under way. */
  close(): void {
    this.#closed = true;
    for (const cursor of this.#cursors.values()) this.#free(cursor);
    this.#cursors.clear();
  }

  #names(items: Room, count: number): string[] {
    const names: string[] = [];
    for (let at = 0; at < count * ITEM; at += ITEM) {
      names.push(copyFrom(numberAt(items.bytes, at + 8), numberAt(items.bytes, at)).toString());
    }
    this.#library.listFree(count, items.address);
    return names;
  }

  /** The name under which to go on, null at the end. */
  #keep(cursor: number): string | null {
    if (this.#closed || this.#library.listIsEnd(this.#io, cursor) === 1) {
      this.#free(cursor);
      return null;
    }
    const name = `${process.pid}.${++this.#given}`;
    this.#remember(name, cursor);
    return name;
  }

  #remember(name: string, cursor: number): void {
    if (this.#closed) {
      this.#free(cursor);
      return;
    }
    this.#cursors.set(name, cursor);
    if (this.#cursors.size > MOST_CURSORS) {
      const [oldest, abandoned] = this.#cursors.entries().next().value!;
      this.#cursors.delete(oldest);
      this.#free(abandoned);
    }
  }

  #begin(what: string): number {
    const cursor = this.#library.listBegin(this.#io);
    if (cursor === 0) throw radosError(-errnos.ENOENT, what);
    return this.#own(cursor);
  }

  #own(cursor: number): number {
    live.cursors++;
    return cursor;
  }

  #free(cursor: number): void {
    live.cursors--;
    this.#library.listCursorFree(this.#io, cursor);
  }
}
