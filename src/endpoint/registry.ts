/**
 * Which volumes are mapped on this node: remembered in RUN_DIR, so that a restarted endpoint serves them again.
 */
import fs from 'node:fs';
import path from 'node:path';
import { errnos, messageOf, SystemError } from '../sys/errno.js';

export interface Mapping {
  readonly id: number;
  readonly name: string;
  readonly readOnly: boolean;
  readonly assumeV0: boolean;
  /** Bytes, -1 = not given. */
  readonly v0Size: number;
  /** When it was mapped, ms since the epoch. */
  readonly since: number;
}

const FILE = 'mapped.json';

export class Registry {
  readonly #path: string;
  readonly #mappings = new Map<string, Mapping>();

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
        if (typeof mapping.name !== 'string' || typeof mapping.id !== 'number')
          throw new Error('an entry has no name or id');
        registry.#mappings.set(mapping.name, mapping);
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
    return [...this.#mappings.values()].sort((a, b) => a.id - b.id);
  }

  /** Adds a mapping with the smallest free id. */
  add(mapping: Omit<Mapping, 'id'>): Mapping {
    const used = new Set(this.all().map(({ id }) => id));
    let id = 0;
    while (used.has(id)) id++;
    const added = { ...mapping, id };
    this.#mappings.set(mapping.name, added);
    this.#save();
    return added;
  }

  remove(name: string): void {
    this.#mappings.delete(name);
    this.#save();
  }

  /** Replaces the file in one step: a crash leaves the old one or the new one. */
  #save(): void {
    const temporary = `${this.#path}.new`;
    const fd = fs.openSync(temporary, 'w', 0o660);
    try {
      fs.writeFileSync(fd, `${JSON.stringify(this.all(), null, 1)}\n`);
      fs.fsyncSync(fd);
    } finally {
      fs.closeSync(fd);
    }
    fs.renameSync(temporary, this.#path);
  }
}
