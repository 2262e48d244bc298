/** The names of the objects of a store, without those that the driver keeps for itself. */
import type { Pool } from '../../rados/types.js';
import type { ListPage } from '../driver.js';
import { nameError } from '../names.js';
import { isServiceObject } from './registry.js';

/** Pages asked for in a row when they hold nothing of ours: whoever asked hears something in time, and asks on. */
const MOST_PAGES = 16;

/**
 * Locks are listed, as the file driver does where they lie among the objects: `vlmc check` looks for those without a volume. Strangers'
 * objects whose names no request could carry are not.
 */
export async function listNames(pool: Pool, cursor: string | null, limit: number): Promise<ListPage> {
  let at = cursor;
  for (let pages = 1; ; pages++) {
    const page = await pool.list(at, limit);
    const names = page.names.filter((name) => !isServiceObject(name) && nameError(name) === null);
    at = page.cursor;
    if (names.length > 0 || at === null || pages === MOST_PAGES) return { names, cursor: at };
  }
}
