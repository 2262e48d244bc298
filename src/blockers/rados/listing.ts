/**
 * The names of the objects of a store, page by page, without those that the driver keeps for itself.
 *
 * Ceph lists in an order of its own, that of the names' hashes, and says where a page ended by an object that lives in this process. What
 * is given out instead is the last name: it can be asked for twice, and by a walk that began before a restart. Where a walk goes on is
 * remembered; when that is forgotten, the name is looked for from the beginning.
 */
import type { Pool } from '../../rados/types.js';
import { errnos, SystemError } from '../../sys/errno.js';
import type { ListPage } from '../driver.js';
import { nameError } from '../names.js';
import { isServiceObject } from './registry.js';

/** Names that Ceph is asked for at once. */
const PAGE = 1000;
/** Ends of pages that are remembered: walks under way, and what they may ask for again. */
const MOST_PLACES = 32;

/** A part of the names as Ceph listed it, and the part after it once that was asked for. */
class Part {
  readonly pool: Pool;
  readonly names: readonly string[];
  readonly #cursor: string | null;
  #next: Promise<Part> | null = null;

  private constructor(pool: Pool, names: readonly string[], cursor: string | null) {
    this.pool = pool;
    this.names = names;
    this.#cursor = cursor;
  }

  static async list(pool: Pool, from: string | null): Promise<Part> {
    const { names, cursor } = await pool.list(from, PAGE);
    return new Part(pool, names.filter(isListed), cursor);
  }

  get isLast(): boolean {
    return this.#cursor === null;
  }

  next(): Promise<Part> {
    this.#next ??= Part.list(this.pool, this.#cursor).catch((error) => {
      this.#next = null;
      throw error;
    });
    return this.#next;
  }
}

/**
 * Locks are listed, as the file driver does where they lie among the objects: `vlmc check` looks for those without a volume. Strangers'
 * objects whose names no request could carry are not.
 */
const isListed = (name: string): boolean => !isServiceObject(name) && nameError(name) === null;

/** Before the name at `index` of a part. */
interface Place {
  readonly part: Part;
  readonly index: number;
}

export class Listing {
  /** Where a walk goes on after a name; the longest unused first. */
  readonly #places = new Map<string, Place>();

  /** See Driver.list. @throws SystemError ESTALE when the walk was forgotten and the object it came to has been deleted */
  async page(pool: Pool, cursor: string | null, limit: number): Promise<ListPage> {
    let { part, index } =
      cursor === null ? { part: await Part.list(pool, null), index: 0 } : await this.#after(pool, cursor);
    // Nothing is left of this part: the page begins with the next that has names.
    while (index >= part.names.length && !part.isLast) {
      part = await part.next();
      index = 0;
    }
    const names = part.names.slice(index, index + limit);
    index += names.length;
    // A page may end before the limit: no other part is asked for until somebody wants it.
    if (index >= part.names.length && part.isLast) return { names, cursor: null };
    const last = names[names.length - 1];
    this.#remember(last, { part, index });
    return { names, cursor: last };
  }

  #remember(name: string, place: Place): void {
    this.#places.delete(name);
    this.#places.set(name, place);
    if (this.#places.size > MOST_PLACES) this.#places.delete(this.#places.keys().next().value as string);
  }

  async #after(pool: Pool, name: string): Promise<Place> {
    const known = this.#places.get(name);
    // What an earlier client listed cannot be gone on with by this one.
    if (known?.part.pool === pool) return known;
    for (let part = await Part.list(pool, null); ; part = await part.next()) {
      const index = part.names.indexOf(name);
      if (index >= 0) return { part, index: index + 1 };
      if (part.isLast) break;
    }
    throw new SystemError(
      errnos.ESTALE,
      `the list of pool ${pool.name} cannot go on after ${name}, which was deleted meanwhile: begin it anew`,
    );
  }
}
