/** Operations on the objects of one namespace of a pool. */
import { monotonicMs } from '../sys/clock.js';
import { errnos } from '../sys/errno.js';
import { PATIENT, type Start } from './completions.js';
import type { Connection } from './connection.js';
import { RadosError, radosError } from './error.js';
import { Listing } from './listing.js';
import { allocate, copyFrom, live, numberAt, type Room, takeSlot } from './memory.js';
import { buildOperation, checkText, releaseOperation } from './steps.js';
import type { Done, NamesPage, ObjectStat, OmapPage, Pool, Watch, WatchHandlers, WriteStep } from './types.js';
import { ObjectWatch } from './watch.js';

/** Longest attribute that is read: the largest that Linux file systems and, by default, Ceph's tools have. */
const MOST_XATTR = 64 << 10;

export class RadosPool implements Pool {
  readonly name: string;
  readonly namespace: string;
  readonly id: bigint;
  readonly #connection: Connection;
  readonly #io: number;
  readonly #place: string;
  readonly #listing: Listing;
  readonly #watches = new Set<ObjectWatch>();

  /** @param io librados' handle of the pool; closed with this */
  constructor(connection: Connection, io: number, name: string, namespace: string) {
    const { library } = connection;
    this.#connection = connection;
    this.#io = io;
    this.name = name;
    this.namespace = namespace;
    this.id = BigInt(library.ioctxId(io));
    this.#place = namespace ? `pool ${name}, namespace ${namespace}` : `pool ${name}`;
    if (namespace) library.ioctxSetNamespace(io, namespace);
    // Otherwise librados keeps writes back while the cluster is full, for as long as that takes, instead of passing on ENOSPC.
    library.setPoolFullTry(io);
    this.#listing = new Listing(library, io, connection.blocking, this.#place);
    live.pools++;
  }

  read(object: string, address: number, length: number, offset: number, done: Done): void {
    const io = this.#io;
    const { library, completions } = this.#connection;
    if (this.#unusable(object, done)) return;
    if (length === 0) {
      // To the OSD a read of no bytes is one of all of the object, which librados would copy to the address.
      this.#exists(object, done);
      return;
    }
    const completion = completions.take(io, done);
    if (completion === 0) {
      completions.queue(io, (later) => library.aioRead(io, object, later, address, length, offset), done);
      return;
    }
    const result = library.aioRead(io, object, completion, address, length, offset);
    if (result < 0) completions.refused(completion, result);
  }

  write(object: string, address: number, length: number, offset: number, done: Done, deadline = 0): void {
    const io = this.#io;
    const { library, completions } = this.#connection;
    if (this.#unusable(object, done)) return;
    const completion = completions.take(io, done);
    if (completion === 0) {
      // It waits as an operation of librados, which has its copy of the data.
      const operation = library.writeOpCreate();
      live.operations++;
      library.opWriteAt(operation, address, length, offset);
      this.#queue(operation, object, done, deadline);
      return;
    }
    const result = library.aioWrite(io, object, completion, address, length, offset);
    if (result < 0) completions.refused(completion, result);
  }

  begin(object: string, steps: readonly WriteStep[], done: Done, deadline = 0): void {
    if (this.#unusable(object, done)) return;
    const { library, completions } = this.#connection;
    let operation: number;
    try {
      operation = buildOperation(library, steps);
    } catch (error) {
      setImmediate(done, error instanceof RadosError ? -error.errno : -errnos.EINVAL);
      return;
    }
    const completion = completions.take(this.#io, done);
    if (completion === 0) {
      this.#queue(operation, object, done, deadline);
      return;
    }
    const result = library.writeOpOperate(operation, this.#io, completion, object, 0, 0);
    releaseOperation(library, operation);
    if (result < 0) completions.refused(completion, result);
  }

  async operate(object: string, steps: readonly WriteStep[], deadline = 0): Promise<void> {
    const { library } = this.#connection;
    const what = `change (${steps.map((step) => step.do).join(', ')}) ${this.#names(object)}`;
    this.#check(object, what);
    const operation = buildOperation(library, steps);
    const result = await new Promise<number>((resolve) => this.#queue(operation, object, resolve, deadline));
    if (result < 0) throw radosError(result, what);
  }

  async readBytes(object: string, offset: number, length: number): Promise<Buffer> {
    if (length === 0) {
      await this.stat(object);
      return Buffer.alloc(0);
    }
    const room = allocate(length);
    return await this.#fetch(
      `read ${this.#names(object)}`,
      object,
      room,
      (completion) => this.#connection.library.aioRead(this.#io, object, completion, room.address, length, offset),
      (result) => Buffer.from(room.bytes.subarray(0, result)),
    );
  }

  stat(object: string): Promise<ObjectStat> {
    const slot = takeSlot();
    return this.#fetch(
      `stat ${this.#names(object)}`,
      object,
      slot,
      (completion) => this.#connection.library.aioStat(this.#io, object, completion, slot.address, slot.address + 8),
      () => ({ size: numberAt(slot.bytes, 0), modified: Number(slot.bytes.readBigInt64LE(8)) * 1000 }),
    );
  }

  async exec(object: string, objectClass: string, method: string, input: Uint8Array): Promise<Buffer> {
    const { library } = this.#connection;
    for (const text of [objectClass, method]) checkText(text);
    const operation = library.readOpCreate();
    live.operations++;
    const slot = takeSlot();
    // Results: address and length of the output, which librados allocates, then the method's own result.
    library.readOpExec(
      operation,
      objectClass,
      method,
      input,
      input.length,
      slot.address,
      slot.address + 8,
      slot.address + 16,
    );
    const free = (): void => {
      library.bufferFree(numberAt(slot.bytes, 0));
      slot.free();
    };
    return await this.#fetch(
      `call ${objectClass}.${method} on ${this.#names(object)}`,
      object,
      { free: once(free) },
      (completion) => library.readOpOperate(operation, this.#io, completion, object, 0),
      () => copyFrom(numberAt(slot.bytes, 0), numberAt(slot.bytes, 8)),
      operation,
    );
  }

  async getXattr(object: string, name: string): Promise<Buffer> {
    checkText(name);
    const room = allocate(MOST_XATTR);
    return await this.#fetch(
      `read attribute ${name} of ${this.#names(object)}`,
      object,
      room,
      (completion) =>
        this.#connection.library.aioGetXattr(this.#io, object, completion, name, room.address, MOST_XATTR),
      (result) => Buffer.from(room.bytes.subarray(0, result)),
    );
  }

  async omap(object: string, after: string, most: number): Promise<OmapPage> {
    const { library } = this.#connection;
    checkText(after);
    const operation = library.readOpCreate();
    live.operations++;
    const slot = takeSlot();
    // Results: the iterator, whether there is more, the step's own result; then the room that the iterator's entries are read through.
    library.readOpOmap(operation, after, '', most, slot.address, slot.address + 8, slot.address + 12);
    const free = (): void => {
      const iterator = numberAt(slot.bytes, 0);
      if (iterator !== 0) library.omapEnd(iterator);
      slot.free();
    };
    return await this.#fetch(
      `read the omap of ${this.#names(object)}`,
      object,
      { free: once(free) },
      (completion) => library.readOpOperate(operation, this.#io, completion, object, 0),
      () => ({ entries: this.#entries(slot), more: slot.bytes[8] !== 0 }),
      operation,
    );
  }

  async list(cursor: string | null, most: number): Promise<NamesPage> {
    if (this.#connection.closed) throw radosError(-errnos.ENOTCONN, `list ${this.#place}`);
    return await this.#listing.page(cursor, most);
  }

  async watch(object: string, handlers: WatchHandlers): Promise<Watch> {
    const what = `watch ${this.#names(object)}`;
    this.#check(object, what);
    const watch = new ObjectWatch(this.#connection, this.#io, object, handlers, () => this.#watches.delete(watch));
    this.#watches.add(watch);
    const result = await watch.open();
    if (result < 0) throw radosError(result, what);
    return watch;
  }

  async notify(object: string, message: Uint8Array, timeoutMs: number): Promise<void> {
    const { library, completions } = this.#connection;
    const what = `notify the watchers of ${this.#names(object)}`;
    this.#check(object, what);
    // librados counts whole seconds, and takes 0 for its default.
    const timeout = Math.max(1, Math.ceil(timeoutMs / 1000)) * 1000;
    const start: Start = (completion) =>
      library.aioNotify(this.#io, object, completion, message, message.length, timeout, 0, 0);
    const result = await new Promise<number>((resolve) => completions.queue(this.#io, start, resolve, null, PATIENT));
    if (result < 0) throw radosError(result, what);
  }

  /** Ends the watches. */
  async endWatches(): Promise<void> {
    await Promise.all([...this.#watches].map((watch) => watch.end()));
  }

  /** Gives librados' handle back. Nothing may be in flight. */
  close(): void {
    this.#listing.close();
    this.#connection.library.ioctxDestroy(this.#io);
    live.pools--;
  }

  #names(object: string): string {
    return `object ${object} of ${this.#place}`;
  }

  /** Whether nothing can be begun for this object, or no longer; `done` then hears of it. */
  #unusable(object: string, done: Done): boolean {
    if (this.#connection.closed) setImmediate(done, -errnos.ENOTCONN);
    else if (object === '' || object.includes('\0')) setImmediate(done, -errnos.EINVAL);
    else return false;
    return true;
  }

  #check(object: string, what: string): void {
    if (this.#connection.closed) throw radosError(-errnos.ENOTCONN, what);
    if (object === '') throw new RadosError(errnos.EINVAL, `cannot ${what}: the object has no name`);
    checkText(object);
  }

  /** Ends with 0 when the object exists. */
  #exists(object: string, done: Done): void {
    const { library, completions } = this.#connection;
    const slot = takeSlot();
    const start: Start = (completion) => library.aioStat(this.#io, object, completion, slot.address, slot.address + 8);
    completions.queue(this.#io, start, done, () => slot.free());
  }

  /** Begins a write operation when its turn has come, and releases it. */
  #queue(operation: number, object: string, done: Done, deadline: number): void {
    const { library, completions } = this.#connection;
    const start: Start = (completion) => {
      if (deadline !== 0 && monotonicMs() >= deadline) return -errnos.ETIME;
      return library.writeOpOperate(operation, this.#io, completion, object, 0, 0);
    };
    completions.queue(this.#io, start, done, () => releaseOperation(library, operation));
  }

  /** Runs an operation that writes results to `room`, which is freed when librados is done with it, and not before. */
  async #fetch<T>(
    what: string,
    object: string,
    room: Pick<Room, 'free'>,
    start: Start,
    take: (result: number) => T,
    operation = 0,
  ): Promise<T> {
    const { library, completions } = this.#connection;
    const free = (): void => {
      room.free();
      if (operation === 0) return;
      live.operations--;
      library.readOpRelease(operation);
    };
    try {
      this.#check(object, what);
    } catch (error) {
      free();
      throw error;
    }
    return await new Promise<T>((resolve, reject) => {
      const done: Done = (result) => {
        if (result < 0) reject(radosError(result, what));
        else resolve(take(result));
      };
      completions.queue(this.#io, start, done, free);
    });
  }

  #entries(slot: Room): Map<string, Buffer> {
    const { library } = this.#connection;
    const entries = new Map<string, Buffer>();
    const iterator = numberAt(slot.bytes, 0);
    const out = takeSlot();
    for (;;) {
      library.omapNext(iterator, out.address, out.address + 8, out.address + 16, out.address + 24);
      const key = numberAt(out.bytes, 0);
      if (key === 0) break;
      const value = copyFrom(numberAt(out.bytes, 8), numberAt(out.bytes, 24));
      entries.set(copyFrom(key, numberAt(out.bytes, 16)).toString(), value);
    }
    out.free();
    return entries;
  }
}

function once(action: () => void): () => void {
  let did = false;
  return () => {
    if (did) return;
    did = true;
    action();
  };
}
