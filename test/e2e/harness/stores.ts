/**
 * What a node keeps its objects in: directories, or namespaces of a Ceph cluster. Looked into, and changed, by other means than this project's.
 * ARCHIPELAGO_TEST_STORE runs all tests that do not choose on another store.
 */
import { mkdirSync, readdirSync, readFileSync, rmSync, statSync, utimesSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { cephCluster, makeNamespace, Namespace } from '../../support/ceph.js';
import { OriginalLocks } from './original-locks.js';
import { objectPath } from './store.js';

/** Where maps and blocks are, by the names that ARCHIPELAGO_TEST_STORE takes. */
export const storeKinds = {
  files: { maps: 'files', blocks: 'files' },
  rados: { maps: 'rados', blocks: 'rados' },
  'maps-on-files': { maps: 'files', blocks: 'rados' },
  'blocks-on-files': { maps: 'rados', blocks: 'files' },
} as const;

export type StoreKind = keyof typeof storeKinds;
export type Part = 'maps' | 'blocks';

/** The store of nodes that do not ask for one. */
export function usualStore(): StoreKind {
  const wanted = process.env.ARCHIPELAGO_TEST_STORE ?? 'files';
  if (!(wanted in storeKinds)) {
    throw new Error(`ARCHIPELAGO_TEST_STORE is "${wanted}"; it must be one of: ${Object.keys(storeKinds).join(', ')}`);
  }
  return wanted as StoreKind;
}

/** Whether nodes that do not ask for a store have their maps, or their blocks, on RADOS. */
export const usuallyOnRados = (part: Part): boolean => storeKinds[usualStore()][part] === 'rados';

/**
 * Whether this is a repetition on RADOS of what has run on files. What a scene shows of a store it shows again, in fewer rounds and on smaller
 * volumes where each request goes to a cluster.
 */
export const repeated = usualStore() !== 'files';

/**
 * `it` and `describe` of what no store can make another outcome of: command lines, how a connection is made, what NBD says of bad requests. It runs
 * on files alone: `whateverTheStore(it)('is refused', …)`.
 */
export function whateverTheStore<Define extends (...args: never[]) => unknown>(define: Define): Define {
  return repeated ? ((() => {}) as unknown as Define) : define;
}

export interface FoundObject {
  readonly name: string;
  readonly size: number;
  /** Grows with each change of this object. */
  readonly version: number;
}

/** The store of one blocker. */
export interface Store {
  readonly part: Part;
  readonly onRados: boolean;
  /** The blocker's section of the configuration. */
  readonly settings: Readonly<Record<string, string>>;
  /** All objects by name, locks among them; not what nodes keep for each other (`.archipelago…`). */
  objects(): Promise<FoundObject[]>;
  /** An object's content; null: there is none. */
  read(name: string): Promise<Buffer | null>;
  /** Replaces an object's content, or makes it. */
  write(name: string, content: Buffer | string): Promise<void>;
  /** Makes an object look as if nobody had changed it for so many seconds. */
  age(name: string, seconds: number): Promise<void>;
  /** Missing ones are fine. */
  remove(...names: string[]): Promise<void>;
  /** Who holds the lock of a volume, as the store says; undefined: nobody. */
  holder(volume: string): Promise<string | undefined>;
  /** Volumes, and other targets, whose lock somebody holds. */
  held(): Promise<string[]>;
  /** Takes the lock of a volume as a node of the original does, without waiting. @returns false when somebody has it */
  lockAs(owner: string, volume: string): Promise<boolean>;
  /** Takes the lock away from whoever has it, as `unlock -f` of the original. Resolves to when that was at the earliest, by performance.now(). */
  breakLock(volume: string): Promise<number>;
  /** Puts every file below a directory into the store, under its own name. */
  load(directory: string): Promise<void>;
  /** The store as a directory for programs that know nothing else: its own, or a copy below `parent`. */
  asDirectory(parent: string): Promise<string>;
  /** Removes all of it. */
  dispose(): Promise<void>;
}

/** A blocker's directory, with locks beside the objects or in a directory of their own. */
export class FileStore implements Store {
  readonly onRados = false;

  constructor(
    readonly part: Part,
    readonly directory: string,
    readonly lockDir?: string,
  ) {
    mkdirSync(directory, { recursive: true });
  }

  get settings(): Record<string, string> {
    return { archip_dir: this.directory, ...(this.lockDir ? { lock_dir: this.lockDir } : {}) };
  }

  async objects(): Promise<FoundObject[]> {
    return readdirSync(this.directory, { recursive: true, encoding: 'utf8' })
      .filter((file) => !file.startsWith('.archipelago'))
      .flatMap((file) => {
        // What is removed while we look is not there.
        const stat = statSync(path.join(this.directory, file), { throwIfNoEntry: false });
        return stat?.isFile() ? [{ name: path.basename(file), size: stat.size, version: stat.mtimeMs }] : [];
      });
  }

  async read(name: string): Promise<Buffer | null> {
    try {
      return readFileSync(objectPath(this.directory, name));
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null;
      throw error;
    }
  }

  async write(name: string, content: Buffer | string): Promise<void> {
    const file = objectPath(this.directory, name);
    mkdirSync(path.dirname(file), { recursive: true });
    writeFileSync(file, content);
  }

  async age(name: string, seconds: number): Promise<void> {
    const then = Date.now() / 1000 - seconds;
    utimesSync(objectPath(this.directory, name), then, then);
  }

  async remove(...names: string[]): Promise<void> {
    for (const name of names) rmSync(objectPath(this.directory, name), { force: true });
  }

  async holder(volume: string): Promise<string | undefined> {
    return this.#locks('').look(volume)?.content;
  }

  async held(): Promise<string[]> {
    return readdirSync(this.lockDir ?? this.directory, { recursive: true, encoding: 'utf8' })
      .filter((file) => file.endsWith('_lock'))
      .map((file) => path.basename(file, '_lock'));
  }

  async lockAs(owner: string, volume: string): Promise<boolean> {
    return this.#locks(owner).acquire(volume);
  }

  async breakLock(volume: string): Promise<number> {
    const began = performance.now();
    this.#locks('').release(volume, true);
    return began;
  }

  async load(directory: string): Promise<void> {
    for (const file of readdirSync(directory, { recursive: true, withFileTypes: true })) {
      if (file.isFile()) await this.write(file.name, readFileSync(path.join(file.parentPath, file.name)));
    }
  }

  async asDirectory(): Promise<string> {
    return this.directory;
  }

  async dispose(): Promise<void> {
    for (const directory of [this.directory, this.lockDir])
      if (directory) rmSync(directory, { recursive: true, force: true });
  }

  #locks(owner: string): OriginalLocks {
    return new OriginalLocks(this.directory, this.lockDir, owner);
  }
}

/** The lock that the original takes, on the object `<volume>_lock`. */
const LOCK = { name: 'RadosLock', cookie: 'foo' } as const;

interface LockInfo {
  readonly lockers: readonly { readonly name: string; readonly description: string }[];
}

/** A namespace of a pool of the tests' cluster. */
export class RadosStore implements Store {
  readonly onRados = true;
  readonly #ceph: Namespace;

  constructor(
    readonly part: Part,
    readonly conf: string,
    readonly namespace: string,
  ) {
    this.#ceph = new Namespace(conf, namespace);
  }

  get settings(): Record<string, string> {
    const { conf, namespace } = this;
    return { type: 'rados_blocker', pool: this.part, namespace, conf, cephx_id: this.#ceph.user };
  }

  async objects(): Promise<FoundObject[]> {
    return (await this.#ceph.list(this.part)).filter(({ name }) => !name.startsWith('.archipelago'));
  }

  read(name: string): Promise<Buffer | null> {
    return this.#ceph.read(this.part, name);
  }

  async write(name: string, content: Buffer | string): Promise<void> {
    await this.#ceph.write(this.part, name, Buffer.from(content));
  }

  async age(name: string, seconds: number): Promise<void> {
    await this.#ceph.age(this.part, name, seconds);
  }

  async remove(...names: string[]): Promise<void> {
    await this.#ceph.remove(this.part, ...names);
  }

  async holder(volume: string): Promise<string | undefined> {
    const locker = (await this.#lockInfo(volume))?.lockers[0];
    return locker && (locker.description.split(' ')[0] || locker.name);
  }

  /** A lock object outlives its lock. */
  async held(): Promise<string[]> {
    const objects = (await this.#ceph.list(this.part)).filter(({ name }) => name.endsWith('_lock'));
    const targets = objects.map(({ name }) => name.slice(0, -'_lock'.length));
    const holders = await Promise.all(targets.map((target) => this.holder(target)));
    return targets.filter((_, i) => holders[i] !== undefined);
  }

  async lockAs(owner: string, volume: string): Promise<boolean> {
    const words = ['--lock-cookie', LOCK.cookie, '--lock-description', owner, '--lock-type', 'exclusive'];
    return (await this.#ceph.tryRados(this.part, [...words, 'lock', 'get', `${volume}_lock`, LOCK.name])).code === 0;
  }

  async breakLock(volume: string): Promise<number> {
    const locker = (await this.#lockInfo(volume))?.lockers[0];
    if (!locker) throw new Error(`nobody has the lock of ${volume}`);
    return this.#ceph.breakLock(this.part, `${volume}_lock`, LOCK.name, locker.name, LOCK.cookie);
  }

  async load(directory: string): Promise<void> {
    await this.#ceph.load(this.part, directory);
  }

  async asDirectory(parent: string): Promise<string> {
    const directory = path.join(parent, this.part);
    rmSync(directory, { recursive: true, force: true });
    mkdirSync(directory);
    await this.#ceph.save(this.part, directory);
    return directory;
  }

  async dispose(): Promise<void> {
    await this.#ceph.empty(this.part);
  }

  async #lockInfo(volume: string): Promise<LockInfo | null> {
    const outcome = await this.#ceph.tryRados(this.part, ['lock', 'info', `${volume}_lock`, LOCK.name]);
    return outcome.code === 0 ? (JSON.parse(outcome.stdout) as LockInfo) : null;
  }
}

/** The stores of a node, or of nodes that share them. */
export interface Stores {
  readonly maps: Store;
  readonly blocks: Store;
}

/** Makes stores: directories below `dir`, or a new namespace of the run's cluster, which is started for it. */
export async function makeStores(kind: StoreKind, dir: string, lockDir?: string): Promise<Stores> {
  const places = storeKinds[kind];
  let namespace: { conf: string; name: string } | undefined;
  const make = async (part: Part): Promise<Store> => {
    if (places[part] === 'files')
      return new FileStore(part, path.join(dir, part), part === 'maps' ? lockDir : undefined);
    namespace ??= { conf: await cephCluster(), name: makeNamespace() };
    return new RadosStore(part, namespace.conf, namespace.name);
  };
  return { maps: await make('maps'), blocks: await make('blocks') };
}
