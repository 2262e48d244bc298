/**
 * A disk with a file system that is as unkind as POSIX allows: the content of a file and the names that lead to it become durable
 * separately, each only by its own sync. What was not synced is there after a power cut, or is not, in any combination that keeps the
 * order of the changes of one name; a rename is there as a whole or not at all.
 */
import path from 'node:path';
import { errnos, SystemError } from '../../src/sys/errno.js';
import { FileInode, type Loss } from './inode.js';
import { mix, Random } from './random.js';

export class DirectoryInode {
  readonly id: number;
  readonly directory = true as const;
  nlink = 1;
  readonly entries = new Map<string, Inode>();
  /** What is on the disk. */
  readonly base = new Map<string, Inode>();

  constructor(id: number) {
    this.id = id;
  }
}

export type Inode = FileInode | DirectoryInode;

interface EntryChange {
  readonly directory: DirectoryInode;
  readonly name: string;
  /** null: the name is gone. */
  readonly inode: Inode | null;
}

/** Changes of names that are on the disk together or not at all. */
interface EntryOperation {
  readonly seq: number;
  readonly changes: readonly EntryChange[];
}

const key = ({ directory, name }: EntryChange): string => `${directory.id}/${name}`;

export const fail = (errno: number, file: string): SystemError => new SystemError(errno, file);

export class Disk {
  readonly root: DirectoryInode;
  #log: EntryOperation[] = [];
  #seq = 0;
  #nextId: number;

  constructor(root = new DirectoryInode(1), nextId = 2) {
    this.root = root;
    this.#nextId = nextId;
  }

  /** The number of the last change: what a sync that begins now has to cover. */
  get seq(): number {
    return this.#seq;
  }

  /** @throws SystemError ENOENT, ENOTDIR */
  #parent(file: string): { directory: DirectoryInode; name: string } {
    const parts = file.split('/').filter((part) => part !== '');
    const name = parts.pop() ?? '';
    let directory = this.root;
    for (const part of parts) {
      const next = directory.entries.get(part);
      if (!next) throw fail(errnos.ENOENT, file);
      if (!next.directory) throw fail(errnos.ENOTDIR, file);
      directory = next;
    }
    return { directory, name };
  }

  /** @throws SystemError ENOENT */
  find(file: string): Inode {
    if (file === '/') return this.root;
    const { directory, name } = this.#parent(file);
    const inode = directory.entries.get(name);
    if (!inode) throw fail(errnos.ENOENT, file);
    return inode;
  }

  exists(file: string): boolean {
    const { directory, name } = this.#parent(file);
    return directory.entries.has(name);
  }

  #apply(...changes: EntryChange[]): void {
    const seq = ++this.#seq;
    for (const { directory, name, inode } of changes) {
      const old = directory.entries.get(name);
      if (old && !old.directory) old.nlink--;
      if (inode) {
        directory.entries.set(name, inode);
        if (!inode.directory) inode.nlink++;
      } else directory.entries.delete(name);
    }
    this.#log.push({ seq, changes });
  }

  create(file: string): FileInode {
    const { directory, name } = this.#parent(file);
    if (directory.entries.has(name)) throw fail(errnos.EEXIST, file);
    const inode = new FileInode(this.#nextId++);
    this.#apply({ directory, name, inode });
    return inode;
  }

  mkdir(file: string): void {
    const { directory, name } = this.#parent(file);
    if (directory.entries.has(name)) throw fail(errnos.EEXIST, file);
    this.#apply({ directory, name, inode: new DirectoryInode(this.#nextId++) });
  }

  link(from: string, to: string): void {
    const inode = this.find(from);
    const { directory, name } = this.#parent(to);
    if (directory.entries.has(name)) throw fail(errnos.EEXIST, to);
    this.#apply({ directory, name, inode });
  }

  rename(from: string, to: string): void {
    const inode = this.find(from);
    const source = this.#parent(from);
    const target = this.#parent(to);
    // Two names of one file: POSIX has it do nothing.
    if (target.directory.entries.get(target.name) === inode) return;
    this.#apply({ ...target, inode }, { ...source, inode: null });
  }

  unlink(file: string): void {
    if (this.find(file).directory) throw fail(errnos.EISDIR, file);
    this.#apply({ ...this.#parent(file), inode: null });
  }

  write(file: FileInode, bytes: Uint8Array, at: number): void {
    file.write(++this.#seq, bytes, at);
  }

  zero(file: FileInode, at: number, length: number): void {
    file.zero(++this.#seq, at, length);
  }

  truncate(file: FileInode, size: number): void {
    file.truncate(++this.#seq, size);
  }

  mark(file: FileInode, mark: Buffer | null): void {
    file.setMark(++this.#seq, mark);
  }

  /** The names in a directory as they were at `seq` are on the disk, and with them what had to come before. */
  syncDirectory(directory: DirectoryInode, seq: number): void {
    this.#persist(
      (operation) => operation.seq <= seq && operation.changes.some((change) => change.directory === directory),
    );
  }

  /** Everything below a directory as it was at `seq` is on the disk: each store has a file system of its own. */
  syncAll(top: DirectoryInode, seq: number): void {
    const below = this.#below(top);
    this.#persist(
      (operation) => operation.seq <= seq && operation.changes.some(({ directory }) => below.has(directory)),
    );
    for (const inode of below) if (!inode.directory) inode.sync(seq, true);
  }

  #persist(wanted: (operation: EntryOperation) => boolean): void {
    const needed = new Set<string>();
    const now = new Set<EntryOperation>();
    for (let i = this.#log.length - 1; i >= 0; i--) {
      const operation = this.#log[i];
      if (!wanted(operation) && !operation.changes.some((change) => needed.has(key(change)))) continue;
      now.add(operation);
      for (const change of operation.changes) needed.add(key(change));
    }
    if (now.size === 0) return;
    for (const operation of this.#log) {
      if (now.has(operation)) {
        for (const { directory, name, inode } of operation.changes) {
          if (inode) directory.base.set(name, inode);
          else directory.base.delete(name);
        }
      }
    }
    this.#log = this.#log.filter((operation) => !now.has(operation));
  }

  /** Every file and directory that has, or on the disk had, a name below this one. */
  #below(top: DirectoryInode): Set<Inode> {
    const seen = new Set<Inode>();
    const visit = (inode: Inode): void => {
      if (seen.has(inode)) return;
      seen.add(inode);
      if (!inode.directory) return;
      for (const child of inode.entries.values()) visit(child);
      for (const child of inode.base.values()) visit(child);
    };
    visit(top);
    return seen;
  }

  /** The disk after the power was cut now: a new one, this one goes on. @param seed decides what is left of what was not synced */
  cut(seed: number, tear: boolean): Disk {
    const random = new Random(seed);
    const mode = random.below(8);
    const entryLoss: Loss = mode === 0 || mode === 1 ? 'all' : mode === 2 || mode === 3 ? 'none' : 'some';
    const contentLoss: Loss = mode === 0 || mode === 2 ? 'all' : mode === 1 || mode === 4 ? 'none' : 'some';
    const kept: EntryOperation[] = [];
    const blocked = new Set<string>();
    const survives = random.pick([0.2, 0.5, 0.9]);
    for (const operation of this.#log) {
      const keep = entryLoss === 'none' || (entryLoss === 'some' && random.chance(survives));
      if (keep && !operation.changes.some((change) => blocked.has(key(change)))) kept.push(operation);
      else for (const change of operation.changes) blocked.add(key(change));
    }
    const changed = new Map<DirectoryInode, Map<string, Inode | null>>();
    for (const { changes } of kept) {
      for (const { directory, name, inode } of changes) {
        const names = changed.get(directory) ?? new Map<string, Inode | null>();
        changed.set(directory, names.set(name, inode));
      }
    }
    const survivors = new Map<Inode, Inode>();
    const survivor = (inode: Inode): Inode => {
      let copy = survivors.get(inode);
      if (copy) return copy;
      if (!inode.directory) {
        // Its own numbers, so that one file's fate does not hang on how many there are.
        copy = inode.survivor(new Random(mix(seed, inode.id)), contentLoss, tear);
        survivors.set(inode, copy);
        return copy;
      }
      const directory = new DirectoryInode(inode.id);
      survivors.set(inode, directory);
      const names = new Map<string, Inode | null>(inode.base);
      for (const [name, child] of changed.get(inode) ?? []) names.set(name, child);
      for (const [name, child] of names) {
        if (!child) continue;
        const kid = survivor(child);
        directory.entries.set(name, kid);
        directory.base.set(name, kid);
        if (!kid.directory) kid.nlink++;
      }
      return directory;
    };
    return new Disk(survivor(this.root) as DirectoryInode, this.#nextId);
  }

  /** The disk and the kernel's cache as they are now, for processes that are started after all others were killed. */
  clone(): Disk {
    const clones = new Map<Inode, Inode>();
    const clone = (inode: Inode): Inode => {
      let copy = clones.get(inode);
      if (copy) return copy;
      if (!inode.directory) {
        copy = inode.clone();
        copy.nlink = inode.nlink;
        clones.set(inode, copy);
        return copy;
      }
      const directory = new DirectoryInode(inode.id);
      directory.nlink = inode.nlink;
      clones.set(inode, directory);
      for (const [name, child] of inode.entries) directory.entries.set(name, clone(child));
      for (const [name, child] of inode.base) directory.base.set(name, clone(child));
      return directory;
    };
    const copy = new Disk(clone(this.root) as DirectoryInode, this.#nextId);
    copy.#seq = this.#seq;
    copy.#log = this.#log.map(({ seq, changes }) => ({
      seq,
      changes: changes.map(({ directory, name, inode }) => ({
        directory: clone(directory) as DirectoryInode,
        name,
        inode: inode && clone(inode),
      })),
    }));
    return copy;
  }

  /** Makes a file and its directories, all of it on the disk. */
  install(file: string, bytes: Uint8Array): void {
    for (let dir = 1, parts = file.split('/'); dir < parts.length - 1; dir++) {
      const directory = parts.slice(0, dir + 1).join('/');
      if (!this.exists(directory)) this.mkdir(directory);
    }
    this.write(this.create(file), bytes, 0);
    this.syncAll(this.root, this.seq);
  }

  /** Every file's path with its names' order settled: for comparing two disks. */
  paths(): string[] {
    const out: string[] = [];
    const visit = (inode: Inode, at: string): void => {
      if (!inode.directory) out.push(`${at} ${inode.size}`);
      else for (const [name, child] of inode.entries) visit(child, path.posix.join(at, name));
    };
    visit(this.root, '/');
    return out.sort();
  }
}
