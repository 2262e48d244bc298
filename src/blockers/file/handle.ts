/** One open file of the store: its descriptor with the count of those using it, and whether it is dirty. */
import { errnos, type SystemError } from '../../sys/errno.js';
import { isErrno } from '../errors.js';
import { type FailedObjects, Syncable } from './durability.js';
import type { OpenedFile } from './opener.js';
import type { Partial } from './partial/partial.js';
import type { Run } from './partial/units.js';
import { NativeError } from './pool.js';
import type { FileSystem } from './system.js';

/**
 * A descriptor is closed when it is retired and nobody uses it, never before: asynchronous work holds a reference (retain). Work
 * that ends within one turn of the event loop needs none.
 */
export class Handle extends Syncable {
  readonly name: string;
  readonly nameBytes: Uint8Array;
  readonly path: string;
  readonly fd: number;
  /** False for a file that could only be opened for reading. */
  readonly writable: boolean;
  /** What ObjectIo.hint is for this file; 0 while it must not be found that way. */
  hint = 0;
  slot = -1;
  /** Used since the eviction last looked. */
  used = true;
  /** The cache waits for its sync, to close it. */
  evicting = false;
  /** Somebody has the name to himself (Handles.exclusive). */
  held = false;
  /** Another node may have made the name another file's: looked at before the next use; has no hint until then. */
  stale = false;
  /** The disk may not have all of the content: it was written, by whomever, after the last sync that made it clean. Holes do not count. */
  unwritten = true;
  /** Tick of the last check that this is still the object's file (handles.ts). */
  checkedTick = -1;
  /** What is there of its content, where that was not all from the beginning. */
  partial: Partial | null;
  /** Its attributes have changed: only fsync makes that durable. */
  #isUnsynced = false;
  readonly #writingOut = new Set<Promise<void>>();
  #references = 0;
  #retired = false;
  #idle: (() => void)[] = [];
  readonly #system: FileSystem;
  readonly #dirtySet: Set<Handle>;
  readonly #failed: FailedObjects;
  readonly #closed: () => void;
  readonly #becameIdle: () => void;

  constructor(
    file: OpenedFile & { name: string },
    shared: { system: FileSystem; dirty: Set<Handle>; failed: FailedObjects; closed: () => void; idle: () => void },
  ) {
    super();
    this.name = file.name;
    this.nameBytes = Buffer.from(file.name, 'utf8');
    this.path = file.path;
    this.fd = file.fd;
    this.writable = file.writable;
    this.#system = shared.system;
    this.#dirtySet = shared.dirty;
    this.#failed = shared.failed;
    this.#closed = shared.closed;
    this.#becameIdle = shared.idle;
    this.partial = file.partial ?? null;
    this.partial?.attach(this);
    // Its mark may have been made just now.
    this.#isUnsynced = this.partial?.owesBase ?? false;
  }

  get idle(): boolean {
    return this.#references === 0;
  }

  retain(): void {
    this.#references++;
  }

  release(): void {
    if (--this.#references > 0) return;
    const idle = this.#idle;
    if (idle.length > 0) {
      this.#idle = [];
      for (const wake of idle) wake();
    }
    if (this.#references > 0) return;
    if (this.#retired) this.#close();
    else this.#becameIdle();
  }

  /** Resolves when nobody uses the descriptor. */
  async whenIdle(): Promise<void> {
    while (this.#references > 0) await new Promise<void>((resolve) => this.#idle.push(resolve));
  }

  /** Content was written: as markDirty. */
  markWritten(): void {
    this.unwritten = true;
    this.markDirty();
  }

  /** Content has changed: the next flush has to sync it. Called before the change is acknowledged. */
  markDirty(): void {
    if (this.dirty) return;
    this.dirty = true;
    this.#dirtySet.add(this);
  }

  /** Nothing of it needs to become durable any more: the file is deleted or replaced. */
  forgetDirty(): void {
    this.dirty = false;
    this.#dirtySet.delete(this);
  }

  /** Closes the descriptor as soon as nobody uses it. */
  retire(): void {
    if (this.#retired) return;
    this.#retired = true;
    this.#dirtySet.delete(this);
    if (this.#references === 0) this.#close();
  }

  #close(): void {
    this.partial?.dispose();
    // Its errors come after everything that was to be durable has been synced: there is nothing left to report them for.
    const closed = (): void => this.#closed();
    this.#system.close(this.fd).then(closed, closed);
  }

  /**
   * Has the disk take a range of the content: nothing is durable by that. The kernel tells each descriptor of a failure once, whichever call
   * asks: what this one hears no sync would hear any more, so the object has failed as by a sync.
   */
  async writeOut(offset: number, length: number): Promise<void> {
    const call = this.#system.writeOut?.(this.fd, offset, length).catch((error: unknown) => {
      if (isErrno(error, errnos.EINVAL, errnos.ENOSYS, errnos.EOPNOTSUPP, errnos.EINTR)) return;
      this.#fail(error);
    });
    if (call === undefined) return;
    this.#writingOut.add(call);
    await call;
    this.#writingOut.delete(call);
  }

  /** May syncNow be called: is it dirty, with no sync under way, and nothing that may hear of a failure in its place? */
  get canSyncNow(): boolean {
    const isPlain = (this.partial === null || this.partial.units.written === 0) && !this.#isUnsynced;
    return isPlain && this.dirty && !this.isSyncing && !this.#retired && this.#writingOut.size === 0;
  }

  /** Syncs by this thread. @throws SystemError EIO as sync rejects with */
  syncNow(): void {
    const system = this.#system;
    this.dirty = false;
    this.#dirtySet.delete(this);
    while (system.fdatasyncNow?.(this.fd) !== 0) {
      const errno = system.errno();
      if (errno !== errnos.EINTR) throw this.#failed.add(this.name, this.path, new NativeError('fdatasync', errno));
    }
    this.unwritten = false;
  }

  protected override async perform(sync: (call: () => Promise<void>) => Promise<void>): Promise<void> {
    // Not with a place among the syncs: the directory's sync takes one itself.
    if (this.partial?.owesBase && !this.#retired) await this.#syncBase(this.partial);
    await sync(() => this.#fdatasync());
  }

  async #syncBase(partial: Partial): Promise<void> {
    this.retain();
    try {
      await partial.syncBase();
    } catch (error) {
      // Another time there may be a descriptor for it.
      if (this.#retired || isErrno(error, errnos.EMFILE, errnos.ENFILE, errnos.ENOMEM)) throw error;
      // As a sync that fails.
      this.dirty = false;
      this.#dirtySet.delete(this);
      throw this.#fail(error);
    } finally {
      this.release();
    }
    partial.owesBase = false;
  }

  /** The content, and the attributes if they have changed. */
  async #syncFile(): Promise<void> {
    const attributes = this.#isUnsynced;
    await (attributes ? this.#system.fsync(this.fd) : this.#system.fdatasync(this.fd));
    if (attributes) this.#isUnsynced = false;
  }

  /** The content of these units is durable. */
  async #settle(partial: Partial, units: readonly Run[]): Promise<void> {
    // What a sync before this one did not get to the disk this one has not, either.
    if (units.length === 0 || this.#failed.has(this.name)) return;
    const errno = partial.settle(units);
    if (errno !== 0) throw new NativeError('pwrite', errno);
    await this.#system.fdatasync(this.fd);
    await partial.settled();
  }

  /** What was changed until now is durable. */
  #clean(): void {
    this.#dirtySet.delete(this);
    this.unwritten = false;
  }

  async #fdatasync(): Promise<void> {
    // Deleted or replaced while it waited for its turn: there is nothing left to make durable, and maybe no descriptor.
    if (this.#retired) return;
    this.retain();
    try {
      const { partial } = this;
      const settling = partial?.toSettle() ?? [];
      await this.#syncFile();
      // One that runs beside it may have heard of the failure first: who asked for the sync looks at what has failed afterwards.
      if (this.#writingOut.size > 0) await Promise.all(this.#writingOut);
      if (partial !== null) await this.#settle(partial, settling);
      if (!this.dirty) this.#clean();
    } catch (error) {
      if (!this.dirty) this.#dirtySet.delete(this);
      throw this.#fail(error);
    } finally {
      this.release();
    }
  }

  #fail(error: unknown): SystemError {
    this.partial?.failed();
    return this.#failed.add(this.name, this.path, error);
  }
}
