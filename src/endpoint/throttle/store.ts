/**
 * Which volumes have limits of their own: remembered in a file of the node. A volume is known by its id, which it keeps when it is renamed;
 * one whose map has none (of another program, or of version 0 or 1) by its name.
 */
import fs from 'node:fs';
import { errnos, messageOf, SystemError } from '../../sys/errno.js';
import { replaceFile } from '../replace-file.js';
import { type OwnLimits, parseChanges } from './rates.js';

/** A volume, by what it is known. */
export interface VolumeKey {
  /** 32 hex digits; null: its map has none. */
  readonly id: string | null;
  /** With an id: the last name that it was seen by. */
  readonly name: string;
}

/** A line of the file. */
export interface StoredLimits extends VolumeKey {
  readonly limits: OwnLimits;
}

export const keyOf = ({ id, name }: VolumeKey): string => (id === null ? `name ${name}` : `id ${id}`);

/** The file is there and says nothing that can be used. */
export class DamagedLimits extends SystemError {
  constructor(file: string, why: string) {
    super(errnos.EIO, `${file} is damaged (${why}); remove it and set the limits of volumes again`);
    this.name = 'DamagedLimits';
  }
}

export class LimitsStore {
  readonly #path: string;
  #entries = new Map<string, StoredLimits>();
  /** Of the file that #entries are of. */
  #stamp = '';

  /**
   * Reads the file.
   * @param damaged called when it is damaged, and nothing is set then; without it that is thrown
   * @throws SystemError EIO naming the file when it is damaged; Error of the file system when it cannot be read
   */
  constructor(file: string, damaged?: (error: DamagedLimits) => void) {
    this.#path = file;
    try {
      this.reload();
    } catch (error) {
      if (damaged === undefined || !(error instanceof DamagedLimits)) throw error;
      damaged(error);
    }
  }

  get(volume: VolumeKey): OwnLimits {
    return this.#entries.get(keyOf(volume))?.limits ?? {};
  }

  /** In the order of names. */
  all(): StoredLimits[] {
    return sorted(this.#entries);
  }

  get count(): number {
    return this.#entries.size;
  }

  /** Keeps these limits of a volume; none: forgets it. @throws Error of the file; then nothing has changed */
  set(volume: VolumeKey, limits: OwnLimits): void {
    const entries = new Map(this.#entries);
    const { id, name } = volume;
    if (Object.keys(limits).length === 0) {
      if (!entries.delete(keyOf(volume))) return;
    } else entries.set(keyOf(volume), { id, name, limits });
    replaceFile(this.#path, `${JSON.stringify(sorted(entries), null, 1)}\n`);
    this.#entries = entries;
    this.#stamp = this.#look();
  }

  /** Reads the file again when it is another than before. True: it was. @throws SystemError EIO: the old limits stay */
  reload(): boolean {
    const stamp = this.#look();
    if (stamp === this.#stamp) return false;
    this.#entries = stamp === '' ? new Map() : this.#read();
    this.#stamp = stamp;
    return true;
  }

  /** What tells one file from the next; '': there is none. */
  #look(): string {
    const stat = fs.statSync(this.#path, { throwIfNoEntry: false, bigint: true });
    return stat === undefined ? '' : `${stat.ino} ${stat.mtimeNs} ${stat.size}`;
  }

  #read(): Map<string, StoredLimits> {
    const entries = new Map<string, StoredLimits>();
    const text = fs.readFileSync(this.#path, 'utf8');
    try {
      for (const entry of JSON.parse(text) as StoredLimits[]) {
        const { id, name } = entry;
        if (typeof name !== 'string' || !(id === null || /^[0-9a-f]{32}$/.test(id))) {
          throw new Error('an entry has no name, or no id');
        }
        entries.set(keyOf(entry), { id, name, limits: stored(entry.limits) });
      }
    } catch (error) {
      throw new DamagedLimits(this.#path, messageOf(error));
    }
    return entries;
  }
}

/** Bursts were compared with rates when they were set, beside a configuration that may be another now: buckets make do with any. */
const stored = (limits: unknown): OwnLimits =>
  Object.fromEntries(Object.entries(parseChanges(limits)).filter(([, value]) => value !== null));

const sorted = (entries: Map<string, StoredLimits>): StoredLimits[] =>
  [...entries.values()].sort((a, b) => (a.name < b.name ? -1 : 1));
