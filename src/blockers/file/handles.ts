/**
 * The open files of a store: found by hint (no string is made) or by name, opened on demand, closed in the order of disuse.
 *
 * On a store that several nodes use, another node may delete or replace an object while this one keeps its old file open. A volume
 * changes nodes only through its lock, and who gets it says so (forget): every kept file is then stale, and its name is opened anew
 * before its next use, which on a network file system asks the server and also makes its cached content count no longer. Beside that a
 * handle is checked (fstat: is the file still linked): once a tick when it is asked for by name, once a second by hint.
 */
import fs from 'node:fs';
import path from 'node:path';
import { errnos, type SystemError } from '../../sys/errno.js';
import type { ObjectIo } from '../driver.js';
import { checkDeadline, isErrno } from '../errors.js';
import { DirtyDirectories, FailedObjects } from './durability.js';
import { Handle } from './handle.js';
import { isSameFile } from './identity.js';
import { type OpenedFile, Opener, type OpenMode } from './opener.js';
import { OpeningNow } from './opening-now.js';
import { Partials, type PartialsSettings } from './partial/partials.js';
import { isPithosName } from './paths.js';
import { type Kept, Room } from './room.js';
import { Slots } from './slots.js';
import type { FileSystem } from './system.js';

/** The most files of each kind, cached and dirty. */
const MOST = 8000;
const TICK_MS = 50;
/**
 * Ticks for which a file that is found by its hint needs no check. Hints come from callers that keep what they know of an object while
 * they have the volume to themselves; a check (fstat) costs as much as a small read.
 */
const HINT_TICKS = 20;
/** Exclusive use of a name, and who waits for its end. */
interface Gate {
  readonly waiters: (() => void)[];
}

export class Handles {
  readonly directories: DirtyDirectories;
  readonly failed = new FailedObjects();
  readonly opener: Opener;
  readonly partials: Partials;
  readonly #system: FileSystem;
  readonly #openingNow: OpeningNow;
  readonly #room: Room;
  readonly #byName = new Map<string, Handle>();
  readonly #gates = new Map<string, Gate>();
  readonly #slots = new Slots();
  readonly #dirty = new Set<Handle>();
  /** How often everything was forgotten. */
  #forgotten = 0;
  #tick = 0;
  #lastCheck = 0;
  #timer: NodeJS.Timeout | null = null;

  /**
   * @param settings.limit files kept open
   * @param settings.dirtyFiles files beyond that that may be open while dirty: closing one takes a sync, and a guest that writes
   *   everywhere must not pay one for each write
   */
  constructor(settings: {
    system: FileSystem;
    root: string;
    umask: number;
    pithosMigrate: boolean;
    limit: number;
    dirtyFiles?: number;
    partials: PartialsSettings;
  }) {
    this.#system = settings.system;
    this.directories = new DirtyDirectories(
      settings.system,
      (work) => this.retrying(work),
      () => this.opener.changes.local,
    );
    const byName = this.#byName;
    const kept: Kept = {
      get size() {
        return byName.size;
      },
      victim: () => this.#slots.victim(),
      drop: (handle) => this.drop(handle),
      isKept: (name) => byName.has(name),
      hasBases: () => this.partials.exist,
    };
    this.#room = new Room(kept, {
      limit: Math.min(Math.max(settings.limit, 4), MOST),
      dirtyLimit: Math.min(settings.dirtyFiles ?? descriptorLimit() >> 2, MOST),
    });
    this.opener = new Opener(settings, this.directories);
    this.#openingNow = new OpeningNow(settings.system, settings.root);
    this.partials = new Partials(settings.partials, {
      opener: this.opener,
      directories: this.directories,
      failed: this.failed,
      retrying: (work) => this.retrying(work),
    });
  }

  get openFiles(): number {
    return this.#room.opened;
  }

  get dirtyFiles(): number {
    return this.#dirty.size;
  }

  /**
   * The open file behind an operation's hint, or null. A hint that belongs to another object (a caller that mixed them up) would put
   * bytes where they must never be, so the name is compared as well: some 50 ns.
   */
  recall(io: Pick<ObjectIo, 'hint' | 'isNamed'>): Handle | null {
    const handle = this.#slots.at(io.hint);
    if (handle === undefined || !io.isNamed(handle.nameBytes)) return null;
    if (this.#tick - handle.checkedTick >= HINT_TICKS && !this.#check(handle)) return null;
    handle.used = true;
    return handle;
  }

  /** The open file of a name that nobody has to itself, or null. */
  lookup(name: string): Handle | null {
    const handle = this.#byName.get(name);
    if (handle === undefined || handle.hint === 0) return null;
    if (handle.checkedTick !== this.#tick && !this.#check(handle)) return null;
    handle.used = true;
    return handle;
  }

  /** As lookup, and opens the file, or looks at it again, where that waits for nothing and nobody; null: on the other way. */
  openNow(name: string): Handle | null {
    const known = this.lookup(name);
    if (known !== null || this.#gates.has(name)) return known;
    const present = this.#byName.get(name);
    // What somebody uses goes on being used as it is.
    if (present !== undefined && !(present.stale && present.idle)) return null;
    if (present === undefined && !this.#room.makeNow()) return null;
    const file = this.#openingNow.open(name, (fd) => this.partials.isMarked(fd));
    if (file === null) return null;
    if (present === undefined) return this.#keep(name, file);
    if (!this.#openingNow.isStill(present, file)) return null;
    present.stale = false;
    this.#checked(present);
    this.#slots.renew(present);
    return present;
  }

  /**
   * Makes an object that is not there, and nothing is in it, where that waits for nothing and nobody; null: on the other way.
   * @throws SystemError ETIME after the deadline
   */
  createNow(name: string, deadline: number): Handle | null {
    if (this.#byName.has(name) || this.#gates.has(name)) return null;
    if (!this.opener.changes.isImmediate(deadline) || !this.#room.makeNow()) return null;
    try {
      const file = this.opener.createNow(name, deadline);
      return file && this.#keep(name, file);
    } catch (error) {
      if (isErrno(error, errnos.EMFILE, errnos.ENFILE)) return null;
      throw error;
    }
  }

  /** A file that was opened within the call is the one that later operations on the name find, from now on. */
  #keep(name: string, file: OpenedFile): Handle {
    this.#room.count();
    const handle = this.adopt(name, file);
    handle.held = false;
    this.#slots.renew(handle);
    return handle;
  }

  /** Is a file kept open for the name, up to date or not? */
  isKept(name: string): boolean {
    return this.#byName.has(name);
  }

  /**
   * The open file of a name, opening it when need be; waits while somebody has the name to himself.
   * The handle is retained: the caller releases it.
   */
  async use(name: string, mode: OpenMode, deadline = 0): Promise<Handle> {
    for (;;) {
      const handle = this.lookup(name);
      if (handle && (handle.writable || mode === 'read')) {
        handle.retain();
        return handle;
      }
      const gate = this.#gates.get(name);
      if (gate) {
        await new Promise<void>((resolve) => gate.waiters.push(resolve));
        continue;
      }
      return await this.exclusive(name, async () => {
        const opened = await this.openOwn(name, mode, deadline);
        opened.retain();
        return opened;
      });
    }
  }

  /**
   * Runs work that must not meet other operations on the object: waits for those that run, holds back those that come.
   * The work gets the open file, if there is one, and may replace it (adopt) or let it go (drop).
   */
  async exclusive<T>(name: string, work: (handle: Handle | null) => Promise<T>): Promise<T> {
    for (let gate = this.#gates.get(name); gate; gate = this.#gates.get(name)) {
      const { waiters } = gate;
      await new Promise<void>((resolve) => waiters.push(resolve));
    }
    const gate: Gate = { waiters: [] };
    this.#gates.set(name, gate);
    const forgotten = this.#forgotten;
    try {
      let handle = this.#byName.get(name) ?? null;
      if (handle && !handle.stale && !this.#check(handle)) handle = null;
      if (handle) {
        handle.held = true;
        handle.hint = 0;
        await handle.whenIdle();
        if (handle.stale) handle = await this.#lookAgain(handle);
      }
      return await work(handle);
    } finally {
      this.#gates.delete(name);
      const handle = this.#byName.get(name);
      if (handle) {
        handle.held = false;
        // What was opened or looked at before that counts no more.
        if (this.#forgotten !== forgotten) this.#suspect(handle);
        if (handle.hint === 0 && !handle.stale) this.#slots.renew(handle);
      }
      for (const wake of gate.waiters) wake();
      this.#room.changed();
    }
  }

  /**
   * Inside exclusive: opens the object's file and makes it the one that later operations find.
   * @throws SystemError ETIME when it would have to be created after the deadline
   */
  async openOwn(name: string, mode: OpenMode, deadline = 0): Promise<Handle> {
    const present = this.#byName.get(name);
    if (present) {
      if (present.writable || mode === 'read') return present;
      this.drop(present);
    }
    return this.adopt(name, await this.withDescriptor(() => this.#open(name, mode, deadline)));
  }

  /**
   * Inside exclusive: as openOwn for an object that is to be made anew: what is partial is replaced, not completed.
   * @returns also whether there is nothing in it yet
   */
  async openToReset(name: string, deadline: number): Promise<{ handle: Handle; isNew: boolean }> {
    const present = this.#byName.get(name);
    const isOwn = present?.writable && present.partial === null && !this.#isBase(present.fd);
    if (present && isOwn) return { handle: present, isNew: false };
    checkDeadline(deadline);
    if (present) {
      present.forgetDirty();
      this.drop(present);
    }
    for (;;) {
      const file = await this.withDescriptor(() => this.opener.open(name, 'create', deadline));
      const isNew = file.isNew ?? false;
      if (isNew || !(await this.#isAnothers(file.fd))) return { handle: this.adopt(name, file), isNew };
      // Whoever may still have it goes on with a file that has no name.
      const base = this.partials.baseOf(file.fd);
      await this.#system.close(file.fd).finally(() => this.descriptorClosed());
      await this.opener.changes.unlink(file.path, deadline);
      this.directories.mark(path.dirname(file.path));
      await this.partials.gone(name, base);
    }
  }

  async #open(name: string, mode: OpenMode, deadline = 0): Promise<OpenedFile> {
    return await this.partials.inspect(name, await this.opener.open(name, mode, deadline));
  }

  /**
   * Opens the object's file for one use, beside what is kept of it, so that what is read is what the store has now. What is kept is
   * looked at again when it turns out to be another file. The handle is retained and closes when it is released.
   */
  async openApart(name: string): Promise<Handle> {
    let file: OpenedFile;
    try {
      file = await this.withDescriptor(() => this.#open(name, 'read'));
    } catch (error) {
      this.#suspect(this.#byName.get(name));
      throw error;
    }
    const handle = this.#newHandle(name, file);
    handle.retain();
    handle.retire();
    const kept = this.#byName.get(name);
    if (kept && !kept.stale) {
      kept.retain();
      if (!(await isSameFile(this.#system, kept.fd, file.fd))) this.#suspect(kept);
      kept.release();
    }
    return handle;
  }

  /** Is a file, of which nobody else knows yet, a partial object's, or one's base? It is closed when that cannot be told. */
  async #isAnothers(fd: number): Promise<boolean> {
    return this.#isBase(fd) || (await this.#isPartial(fd));
  }

  #isBase(fd: number): boolean {
    return this.#system.links(fd) > 1;
  }

  /** Is a file, of which nobody else knows yet, a partial object's? It is closed when that cannot be told. */
  async #isPartial(fd: number): Promise<boolean> {
    try {
      return await this.partials.isPartial(fd);
    } catch (error) {
      await this.#system.close(fd).finally(() => this.descriptorClosed());
      throw error;
    }
  }

  /** Every open file is looked at again before its next use: another node may have deleted or replaced any. */
  forget(): void {
    this.#forgotten++;
    for (const handle of this.#byName.values()) this.#suspect(handle);
  }

  #suspect(handle: Handle | undefined): void {
    if (handle === undefined) return;
    handle.stale = true;
    handle.hint = 0;
    handle.partial?.forget();
  }

  /** Inside exclusive: opens the name anew. The file that is open stays if it is still the name's, else the new one takes its place. */
  async #lookAgain(old: Handle): Promise<Handle | null> {
    const { name } = old;
    old.stale = false;
    let file: OpenedFile | null = null;
    try {
      // One descriptor for a moment, whatever the limits: waiting for room here could go round in a circle.
      file = await this.retrying(() => this.opener.open(name, 'read'));
    } catch (error) {
      if (!isErrno(error, errnos.ENOENT)) {
        old.stale = true;
        throw error;
      }
    }
    if (file && file.path === old.path && (await isSameFile(this.#system, old.fd, file.fd))) {
      await this.#system.close(file.fd).catch(() => {});
      this.#checked(old);
      return old;
    }
    if (this.#check(old)) {
      // It is linked elsewhere (an old Pithos path): what was written to it is somebody's. A failure is remembered.
      if (old.needsSync) await old.sync().catch(() => {});
      this.drop(old);
    }
    if (file === null) return null;
    const found = await this.partials.inspect(name, file);
    this.#room.count();
    return this.adopt(name, found);
  }

  #newHandle(name: string, file: OpenedFile): Handle {
    return new Handle(
      { name, ...file },
      {
        system: this.#system,
        dirty: this.#dirty,
        failed: this.failed,
        closed: this.#room.closed,
        idle: this.#room.changed,
      },
    );
  }

  /** Inside exclusive: makes an open file the one that later operations on the name find. */
  adopt(name: string, file: OpenedFile): Handle {
    const old = this.#byName.get(name);
    if (old) this.drop(old);
    const handle = this.#newHandle(name, file);
    handle.held = true;
    this.#slots.put(handle);
    this.#byName.set(name, handle);
    this.#checked(handle);
    // What a process left of a partial object is this one's from now on: the next flush makes it durable, or that of the process after this one.
    if (file.writable && (file.partial?.units.written ?? 0) > 0) file.partial?.takeOver();
    return handle;
  }

  /** Makes the name forget its file; the descriptor closes when nobody uses it. What was dirty stays the caller's care. */
  drop(handle: Handle): void {
    if (this.#byName.get(handle.name) !== handle) return;
    this.#byName.delete(handle.name);
    this.#slots.take(handle);
    handle.retire();
  }

  /** See Room.during. */
  withDescriptor<T>(open: () => Promise<T>): Promise<T> {
    return this.#room.during(open);
  }

  /** See Room.retrying. */
  retrying<T>(work: () => Promise<T>): Promise<T> {
    return this.#room.retrying(work);
  }

  /** A descriptor counted by withDescriptor is closed. */
  descriptorClosed(): void {
    this.#room.closed();
  }

  /** Makes files durable: these names' or all. @throws SystemError EIO */
  async sync(names: readonly string[] | null): Promise<void> {
    const pending: Promise<void>[] = [];
    if (names === null) for (const handle of this.#dirty) pending.push(handle.sync());
    else {
      for (const name of names) {
        const handle = this.#byName.get(name);
        if (handle?.needsSync) pending.push(handle.sync());
      }
    }
    for (const outcome of await Promise.allSettled(pending)) {
      if (outcome.status === 'rejected') throw outcome.reason as SystemError;
    }
    this.shrink();
    this.failed.check(names);
  }

  /** Closes what was only kept because it was dirty. */
  shrink(): void {
    this.#room.shrink();
  }

  /** Is this descriptor the one that later operations on the name find? */
  isOpen(name: string, fd: number): boolean {
    return this.#byName.get(name)?.fd === fd;
  }

  /** Resolves when no file is in use. */
  async whenIdle(): Promise<void> {
    await Promise.all([...this.#byName.values()].map((handle) => handle.whenIdle()));
  }

  /** Closes everything; what is dirty has been synced before. */
  async close(): Promise<void> {
    if (this.#timer) clearInterval(this.#timer);
    this.#timer = null;
    for (const handle of [...this.#byName.values()]) this.drop(handle);
    await this.#room.whenEmpty();
  }

  /** False when the handle's file is no longer the object's: then it is dropped. */
  #check(handle: Handle): boolean {
    try {
      const links = this.#system.links(handle.fd);
      // What is a partial object's base keeps a name when its own is gone.
      if (links === 0 || (this.partials.exist && !this.#isStillThere(handle))) {
        handle.forgetDirty();
        this.drop(handle);
        return false;
      }
    } catch (error) {
      // A network file system's stale handle: the object has to be opened again, and what was not synced is gone.
      if (handle.needsSync) this.failed.add(handle.name, handle.path, error);
      this.drop(handle);
      return false;
    }
    this.#checked(handle);
    return true;
  }

  /** Is the file at its place still? True where that cannot be told at once. */
  #isStillThere(handle: Handle): boolean {
    const calls = this.#system.changesNow;
    // One at an old path may be moved while it is open: whoever drops it looks whether it has another name.
    if (!calls || isPithosName(handle.name)) return true;
    return calls.stat(handle.path)?.ino === calls.fstat(handle.fd).ino;
  }

  /** The handle's file is the object's now: it was opened or checked. Starts the clock. */
  #checked(handle: Handle): void {
    handle.checkedTick = this.#tick;
    this.#lastCheck = this.#tick;
    this.#timer ??= setInterval(() => this.#onTick(), TICK_MS).unref();
  }

  #onTick(): void {
    this.#tick++;
    // By now every check is too old to count: the next use makes one, and starts the clock again.
    if (this.#tick - this.#lastCheck < HINT_TICKS || !this.#timer) return;
    clearInterval(this.#timer);
    this.#timer = null;
  }
}

/** Descriptors this process may have open. */
function descriptorLimit(): number {
  const [, soft] = /^Max open files\s+(\d+)/m.exec(fs.readFileSync('/proc/self/limits', 'latin1')) ?? [];
  return soft === undefined ? 1024 : Number(soft);
}
