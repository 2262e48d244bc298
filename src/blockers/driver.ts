/**
 * What a store must do to hold objects: the interface between a blocker peer and a driver (file, rados, memory, …).
 * Nothing here knows volumes or maps. Every driver passes the exported kit (kit.ts).
 *
 * An object is a byte string under a name of 1..255 bytes. It may be shorter than what is asked of it: bytes past its end read
 * as zeros. A missing object is not an empty one: reading it fails with ENOENT.
 *
 * The hot operations (read, write, trim, writeZeroes) take an ObjectIo and finish it by `io.complete`, once, either before the
 * call returns (cached data) or later; they never throw and never block the event loop. The rest return promises that reject
 * with a SystemError.
 */

import type { Fenced, LockCheck, LockMail, LockNews, LockPage } from '../requests/locks.js';
import type { DirectRequest } from '../xseg/index.js';

/** One hot operation on one object. Reused by its owner after `complete`; a driver keeps no reference afterwards. */
export interface ObjectIo {
  /** The object's name. Computed on demand: a driver that recognises `hint` need not ask. */
  readonly name: string;
  /**
   * A number that a driver may leave here to find the object again without its name (0 = none). It comes back with later requests
   * for the same object, may be stale or another object's, and is never trusted without isNamed.
   */
  hint: number;
  /** Is `name` (bytes) the object's name? Costs less than making the string. */
  isNamed(name: Uint8Array): boolean;
  readonly offset: number;
  readonly length: number;
  /** Where the data is or goes: the address in this process, and the same bytes as a Buffer (made on demand). */
  readonly address: number;
  readonly bytes: Buffer;
  /** Durable before complete. */
  readonly fua: boolean;
  /** writeZeroes: keep the space allocated. */
  readonly noHole: boolean;
  /** read: another node may have changed the object; what is kept of it (an open file, a cache) does not count. */
  readonly uncached: boolean;
  /** flushObject: the asker has nothing else under way: the driver may have this thread wait. */
  readonly alone?: boolean;
  /**
   * ms of the monotonic clock from which on the operation must not begin any more (it ends with ETIME), 0 = none. Whoever calls the
   * driver has checked it just now; the driver checks again after all that it waits for before it hands the operation to the system.
   */
  readonly deadline: number;
  /**
   * Ends the operation: 0, or a positive errno. Reads fill all of `bytes`, zeros past the object's end.
   * @param reason what went wrong, in a sentence, where there is more to say than the errno
   */
  complete(errno: number, reason?: string): void;
}

export interface DriverCapabilities {
  /** An acknowledged write survives a power cut: flush has nothing to do. */
  readonly durableOnAck: boolean;
  /** trim gives space back. */
  readonly sparse: boolean;
  /** copy moves no data through this process. */
  readonly serverSideCopy: boolean;
  /** Locks are known to the store itself and can be watched. */
  readonly nativeLocks: boolean;
  /** The largest length of one read or write, in bytes. */
  readonly maxIo: number;
}

export interface ObjectInfo {
  /** Length in bytes. */
  readonly size: number;
  /** Bytes of storage used, where the store can tell, else size. */
  readonly allocated: number;
  /** When it was changed last, ms since the epoch; absent where the store does not tell. */
  readonly modified?: number;
}

export interface LockHolder {
  /** The owner string as stored, e.g. `node1_1002`. */
  readonly owner: string;
  /** When the lock was taken, ms since the epoch; null where the store does not tell. */
  readonly since: number | null;
  /** From whom it took the lock by force, the last first, and has not said that those have ended; absent where the store does not tell. */
  readonly after?: readonly string[];
  /**
   * Another one each time that the lock is taken, by whomever (some ms after it was given back), and the same for as long as it is held, whichever
   * process of the holder asks; at most 128 bytes. Absent where the store cannot tell.
   */
  readonly mark?: string;
}

/**
 * Locks beyond taking and releasing them: noticing their loss, asking for them, breaking them.
 *
 * A store that knows locks itself (RADOS) has two more: `nextNews` wakes whoever waits as soon as a watch hears something, and `fence`
 * makes the store refuse whatever an old holder still sends.
 */
export interface LockService {
  /**
   * Looks in the store, never in a cache, whether this owner still holds these locks, and reads its mail. Rejects only when the store
   * cannot be asked: then nothing is known.
   * @param poll one of many looks: where the store itself would have told of a change, an answer of the last half second will do
   */
  checkLocks(names: readonly string[], poll?: boolean): Promise<LockCheck>;
  /**
   * Resolves as soon as there is something to look at (mail; a lock that this owner holds, or was refused lately, changed hands), else
   * after `ms`, or when the driver closes. Absent: the store tells nothing by itself, and is asked now and then.
   */
  nextNews?(ms: number): Promise<LockNews>;
  /**
   * From then on the store takes nothing more from the clients of the node whose owner string this is (the part before the last `_` is
   * the node's name): what is still under way of theirs is refused. Absent: the store cannot refuse anybody.
   * @throws EACCES when this node may not do that, with the way out; ENOENT when the store does not know that node's clients
   */
  fence?(owner: string): Promise<Fenced>;
  /**
   * Makes the lock this owner's whoever has it, in one step: at no time is it free. Resolves to who had it (null: nobody). It does not
   * wait until the old holder knows: the mapper does.
   */
  breakLock(target: string): Promise<LockHolder | null>;
  /** Leaves a message for another owner; fine when nobody ever reads it. */
  sendMail(to: string, mail: LockMail): Promise<void>;
  /** A page of the locks of this owner, complete over all pages for locks that exist throughout. */
  listLocks(cursor: string | null, limit: number): Promise<LockPage>;
}

export interface ListPage {
  readonly names: string[];
  /** Pass to the next call; null at the end. */
  readonly cursor: string | null;
}

/**
 * Where a method takes `deadline` (see ObjectIo.deadline; absent: 0), it rejects with ETIME, and has changed nothing, when the object would
 * be changed later than that.
 */
export interface Driver extends LockService {
  readonly capabilities: DriverCapabilities;

  /** Makes the store usable. Rejects with a sentence that names the directory, pool or setting at fault. */
  open(): Promise<void>;
  /** Finishes what runs, then lets go of the store. */
  close(): Promise<void>;

  read(io: ObjectIo): void;
  /** Writes in place; creates the object when missing. */
  write(io: ObjectIo): void;
  /**
   * A read or a write that can be done within the call, without waiting: all of it, as read and write would. False: not done, or in part; it
   * comes again as an operation. Drivers that always have to wait do without.
   */
  direct?(request: DirectRequest): boolean;
  /** The range reads as zeros afterwards; a missing object stays missing (success). Never lengthens the object. */
  trim(io: ObjectIo): void;
  /** The range reads as zeros afterwards; creates the object when missing if noHole. */
  writeZeroes(io: ObjectIo): void;

  /**
   * Makes every acknowledged change durable (of these objects, or of all when names is null), directory entries too; also what an
   * earlier process acknowledged before it was killed.
   * @param deadline of who asks; no driver needs it, as nothing but what is acknowledged already becomes durable
   */
  flush(names: readonly string[] | null, deadline?: number): Promise<void>;
  /** As flush of this one object, as a hot operation; flush is used where this is missing. */
  flushObject?(io: ObjectIo): void;

  /**
   * Nothing that is kept of the store (open files, caches) counts any more before it was compared with the store: another node may have
   * deleted and made anew any object. What begins after the call sees the objects as they are.
   */
  forget(): void;

  /** Makes the object exist and be empty, whatever it was. durable: its directory entry and size survive a power cut. */
  reset(name: string, durable: boolean, deadline?: number): Promise<void>;
  /**
   * Makes `target` exactly a copy of `source`, at most `size` bytes, replacing what target was. Sparse stays sparse.
   * @param durable content and directory entry survive a power cut once it resolves
   * @param deadline with one, the source is not to be changed in place afterwards: the copy may read it for as long as it lives
   * @throws ENOENT when the source is missing: never a target of zeros; EEXIST with `exclusive` when target exists
   */
  copy(
    source: string,
    target: string,
    size: number,
    options: { durable: boolean; exclusive: boolean; deadline?: number },
  ): Promise<void>;
  /** Removes the object. @throws ENOENT when missing */
  delete(name: string, deadline?: number): Promise<void>;
  /** @throws ENOENT when missing */
  info(name: string): Promise<ObjectInfo>;
  /** Cuts or extends (with zeros) the object to `size` bytes. @throws ENOENT when missing */
  truncate(name: string, size: number, deadline?: number): Promise<void>;
  /**
   * Content-addresses an object (ondisk: blocker hashing): its first `size` bytes without trailing zeros are stored under their
   * SHA-256 in hex, remembered in `<name>_hash`. Resolves to the 64 hex characters.
   */
  hash(name: string, size: number, deadline?: number): Promise<string>;
  /** A page of the names in the store, in no particular order, complete over all pages for objects that exist throughout. */
  list(cursor: string | null, limit: number): Promise<ListPage>;

  /**
   * Takes the exclusive lock `target` for this driver's owner string; idempotent for the same owner; does not wait.
   * @throws EBUSY naming the holder
   */
  acquire(target: string): Promise<void>;
  /** @throws ENOENT when not locked, EPERM naming the holder when another owner has it and force is false */
  release(target: string, force: boolean): Promise<void>;
  /** Who holds the lock, or null. */
  lockHolder(target: string): Promise<LockHolder | null>;
}
