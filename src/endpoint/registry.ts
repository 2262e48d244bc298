/**
 * Which volumes are mapped on this node: remembered in RUN_DIR, so that a restarted endpoint serves them again.
 */
import fs from 'node:fs';
import path from 'node:path';
import { errnos, messageOf, SystemError } from '../sys/errno.js';
import { replaceFile } from './replace-file.js';

export interface Mapping {
  readonly id: number;
  readonly name: string;
  readonly readOnly: boolean;
  readonly assumeV0: boolean;
  /** Bytes, -1 = not given. */
  readonly v0Size: number;
  /** Every write of its clients is durable before its answer. */
  readonly writeThrough: boolean;
  /** It has a unix socket of its own, on which it is the only export. */
  readonly ownSocket: boolean;
  /** When it was mapped, ms since the epoch. */
  readonly since: number;
}

const FILE = 'mapped.json';

export class Registry {
  readonly #path: string;
  #mappings = new Map<string, Mapping>();

  private constructor(file: string) {
    this.#path = file;
  }

  /** Reads the registry of a run directory. @throws SystemError EIO naming the file when it is not one */
  static load(runDir: string): Registry {
    const registry = new Registry(path.join(runDir, FILE));
    let text: string;
    try {
      text = fs.readFileSync(registry.#path, 'utf8');
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return registry;
      throw error;
    }
    try {
      for (const mapping of JSON.parse(text) as Mapping[]) {
        const { id, name, readOnly, assumeV0, v0Size, writeThrough = false, ownSocket = false } = mapping;
        if (typeof name !== 'string' || typeof id !== 'number') throw new Error('an entry has no name or id');
        if (typeof readOnly !== 'boolean' || typeof assumeV0 !== 'boolean' || typeof v0Size !== 'number') {
          throw new Error(`the entry of ${name} lacks an option`);
        }
        // Files of version 1.0 lack these two.
        if (typeof writeThrough !== 'boolean' || typeof ownSocket !== 'boolean') {
          throw new Error(`an option of ${name} is neither true nor false`);
        }
        registry.#mappings.set(name, { ...mapping, writeThrough, ownSocket });
      }
    } catch (error) {
      throw new SystemError(
        errnos.EIO,
        `${registry.#path} is damaged (${messageOf(error)}); remove it and map the volumes again`,
      );
    }
    return registry;
  }

  get(name: string): Mapping | undefined {
    return this.#mappings.get(name);
  }

  all(): Mapping[] {
    return sorted(this.#mappings);
  }

  /** Adds a mapping with the smallest free id. @throws Error of the file; then nothing has changed */
  add(mapping: Omit<Mapping, 'id'>): Mapping {
    const used = new Set(this.all().map(({ id }) => id));
    let id = 0;
    while (used.has(id)) id++;
    const added = { ...mapping, id };
    this.#save(new Map(this.#mappings).set(mapping.name, added));
    return added;
  }

  /** @throws Error of the file; then nothing has changed */
  remove(name: string): void {
    const left = new Map(this.#mappings);
    left.delete(name);
    this.#save(left);
  }

  /** Replaces the file in one step, and then what is known: a crash or an error leaves the old or the new mappings in both. */
  #save(mappings: Map<string, Mapping>): void {
    replaceFile(this.#path, `${JSON.stringify(sorted(mappings), null, 1)}\n`);
    this.#mappings = mappings;
  }
}

const sorted = (mappings: Map<string, Mapping>): Mapping[] => [...mappings.values()].sort((a, b) => a.id - b.id);
