/** The memory driver: objects in this process's memory. For tests of everything above, and for the kit itself; nothing survives. */
import { createHash } from 'node:crypto';
import type { LockCheck, LockMail, LockPage } from '../../requests/locks.js';
import { errnos, SystemError } from '../../sys/errno.js';
import type { Driver, DriverCapabilities, ListPage, LockHolder, ObjectInfo, ObjectIo } from '../driver.js';
import { checkDeadline } from '../errors.js';
import { checkAddressee } from '../mail.js';
import {
  checkLockTarget,
  checkName,
  checkOwner,
  lockedError,
  missing,
  nameError,
  notLockedError,
  notOwnerError,
} from '../names.js';

/** What several drivers share to be nodes on one store. */
export class MemoryStore {
  readonly objects = new Map<string, Buffer>();
  readonly locks = new Map<string, LockHolder>();
  /** Locks so far. */
  taken = 0;
  /** What is left for an owner, oldest first. */
  readonly mail = new Map<string, LockMail[]>();
}

/** Letters kept for an owner that reads none. */
const MOST_MAIL = 1000;

const EMPTY = Buffer.alloc(0);

/** `bytes`, lengthened with zeros to at least `length`. */
function atLeast(bytes: Buffer, length: number): Buffer {
  return bytes.length >= length ? bytes : Buffer.concat([bytes], length);
}

export class MemoryDriver implements Driver {
  readonly capabilities: DriverCapabilities = {
    durableOnAck: true,
    sparse: false,
    serverSideCopy: true,
    nativeLocks: false,
    maxIo: 4 << 20,
  };
  readonly #store: MemoryStore;
  readonly #owner: string;

  /** @param owner owner string of its locks. @throws SystemError EINVAL */
  constructor(owner = 'memory', store = new MemoryStore()) {
    checkOwner(owner);
    this.#owner = owner;
    this.#store = store;
  }

  async open(): Promise<void> {
    this.#store.mail.delete(this.#owner);
  }
  async close(): Promise<void> {}
  async flush(): Promise<void> {}
  forget(): void {}

  #get(name: string): Buffer {
    checkName(name);
    const bytes = this.#store.objects.get(name);
    if (bytes === undefined) throw missing(name);
    return bytes;
  }

  read(io: ObjectIo): void {
    const { name } = io;
    const bytes = this.#store.objects.get(name);
    if (bytes === undefined) {
      io.complete(nameError(name)?.errno ?? errnos.ENOENT);
      return;
    }
    const copied = bytes.copy(io.bytes, 0, Math.min(io.offset, bytes.length), io.offset + io.length);
    io.bytes.fill(0, copied, io.length);
    io.complete(0);
  }

  write(io: ObjectIo): void {
    const { name } = io;
    const bad = nameError(name);
    if (bad) {
      io.complete(bad.errno);
      return;
    }
    const old = this.#store.objects.get(name) ?? EMPTY;
    const bytes = io.length === 0 ? old : atLeast(old, io.offset + io.length);
    io.bytes.copy(bytes, io.offset, 0, io.length);
    this.#store.objects.set(name, bytes);
    io.complete(0);
  }

  trim(io: ObjectIo): void {
    const { name } = io;
    const bytes = this.#store.objects.get(name);
    bytes?.fill(0, Math.min(io.offset, bytes.length), Math.min(io.offset + io.length, bytes.length));
    io.complete(nameError(name)?.errno ?? 0);
  }

  writeZeroes(io: ObjectIo): void {
    const { name } = io;
    if (io.noHole && nameError(name) === null) {
      const end = io.length === 0 ? 0 : io.offset + io.length;
      this.#store.objects.set(name, atLeast(this.#store.objects.get(name) ?? EMPTY, end));
    }
    this.trim(io);
  }

  async reset(name: string, _durable = true, deadline = 0): Promise<void> {
    checkName(name);
    checkDeadline(deadline);
    this.#store.objects.set(name, EMPTY);
  }

  async copy(
    source: string,
    target: string,
    size: number,
    options: { exclusive: boolean; deadline?: number },
  ): Promise<void> {
    checkName(target);
    checkDeadline(options.deadline ?? 0);
    const bytes = this.#get(source);
    if (options.exclusive && this.#store.objects.has(target)) {
      throw new SystemError(errnos.EEXIST, `object ${target} exists already`);
    }
    this.#store.objects.set(target, Buffer.from(bytes.subarray(0, size)));
  }

  async delete(name: string, deadline = 0): Promise<void> {
    checkDeadline(deadline);
    this.#get(name);
    this.#store.objects.delete(name);
  }

  async info(name: string): Promise<ObjectInfo> {
    const { length } = this.#get(name);
    return { size: length, allocated: length };
  }

  async truncate(name: string, size: number, deadline = 0): Promise<void> {
    checkDeadline(deadline);
    const bytes = this.#get(name);
    this.#store.objects.set(name, atLeast(Buffer.from(bytes.subarray(0, size)), size));
  }

  async hash(name: string, size: number): Promise<string> {
    checkName(`${name}_hash`);
    const memo = this.#store.objects.get(`${name}_hash`)?.toString('latin1', 0, 64);
    if (memo !== undefined && /^[0-9a-f]{64}$/.test(memo)) return memo;
    const bytes = this.#get(name).subarray(0, size);
    let end = bytes.length;
    while (end > 0 && bytes[end - 1] === 0) end--;
    const content = Buffer.from(bytes.subarray(0, end));
    const digest = createHash('sha256').update(content).digest('hex');
    if (!this.#store.objects.has(digest)) this.#store.objects.set(digest, content);
    this.#store.objects.set(`${name}_hash`, Buffer.from(digest, 'latin1'));
    return digest;
  }

  async list(cursor: string | null, limit: number): Promise<ListPage> {
    const after = [...this.#store.objects.keys()].sort().filter((name) => cursor === null || name > cursor);
    const names = after.slice(0, limit);
    return { names, cursor: names.length < after.length ? names[names.length - 1] : null };
  }

  async acquire(target: string): Promise<void> {
    checkLockTarget(target);
    const holder = this.#store.locks.get(target);
    if (holder && holder.owner !== this.#owner) throw lockedError(target, holder.owner, holder.since);
    if (!holder) this.#take(target);
  }

  #take(target: string): void {
    this.#store.locks.set(target, { owner: this.#owner, since: Date.now(), mark: String(this.#store.taken++) });
  }

  async release(target: string, force: boolean): Promise<void> {
    checkLockTarget(target);
    const holder = this.#store.locks.get(target);
    if (!holder) throw notLockedError(target);
    if (!force && holder.owner !== this.#owner) throw notOwnerError(target, holder.owner);
    this.#store.locks.delete(target);
  }

  async lockHolder(target: string): Promise<LockHolder | null> {
    checkLockTarget(target);
    return this.#store.locks.get(target) ?? null;
  }

  async breakLock(target: string): Promise<LockHolder | null> {
    checkLockTarget(target);
    const before = this.#store.locks.get(target) ?? null;
    if (before?.owner !== this.#owner) this.#take(target);
    return before;
  }

  async checkLocks(names: readonly string[]): Promise<LockCheck> {
    const lost = names.flatMap((name) => {
      checkLockTarget(name);
      const holder = this.#store.locks.get(name) ?? null;
      return holder?.owner === this.#owner ? [] : [{ name, holder }];
    });
    const mail = this.#store.mail.get(this.#owner) ?? [];
    this.#store.mail.delete(this.#owner);
    return { lost, mail };
  }

  async sendMail(to: string, mail: LockMail): Promise<void> {
    checkAddressee(to);
    const letters = this.#store.mail.get(to) ?? [];
    // Nobody may ever read it.
    this.#store.mail.set(to, [...letters.slice(-MOST_MAIL), mail]);
  }

  async listLocks(cursor: string | null, limit: number): Promise<LockPage> {
    const own = [...this.#store.locks].filter(
      ([name, { owner }]) => owner === this.#owner && (cursor === null || name > cursor),
    );
    own.sort(([a], [b]) => (a < b ? -1 : 1));
    const locks = own.slice(0, limit).map(([name, holder]) => ({ name, ...holder }));
    return { locks, cursor: locks.length < own.length ? locks[locks.length - 1].name : null };
  }
}
