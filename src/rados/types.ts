/**
 * What this project uses of librados, as typed functions: a cluster connection, a pool with its namespace, operations on objects, watches.
 * Nothing here knows blockers or volumes. All I/O is asynchronous inside librados; nothing blocks the event loop.
 *
 * Errors are RadosError: `errno` positive as elsewhere, a message that says what was done to which object of which pool, and Ceph's words
 * where it has some.
 */

export interface ClusterOptions {
  /** Path of ceph.conf; null: librados' own search path. */
  readonly conf: string | null;
  /** CephX user without `client.`; null: librados' default (admin). */
  readonly id: string | null;
  /** Settings that win over the file's, e.g. `{ rados_mon_op_timeout: '10' }`. */
  readonly settings?: Readonly<Record<string, string>>;
}

/** One connection: one client instance to Ceph, which holds locks, is watched for, and can be blocklisted as a whole. */
export interface Cluster {
  /** Global id of this client instance; with `client.` before it the locker that Ceph's lock class knows. */
  readonly instanceId: bigint;
  /** This client's addresses, as `osd blocklist add` takes them. */
  readonly addresses: readonly string[];
  readonly fsid: string;
  /** Operations in flight, and since when the oldest has been, ms of the monotonic clock (0: none). */
  readonly inFlight: { readonly count: number; readonly oldestSince: number };

  /** @throws RadosError ENOENT when the pool does not exist */
  pool(name: string, namespace?: string): Promise<Pool>;
  /**
   * A command for the monitors, e.g. `{ prefix: 'osd blocklist', blocklistop: 'add', addr }`. Resolves to its output.
   * Bounded by rados_mon_op_timeout (ETIMEDOUT).
   */
  monitorCommand(command: Readonly<Record<string, unknown>>): Promise<Buffer>;
  /** Resolves once this client has the newest map of the OSDs: what it asks for next, no OSD executes by an older map. */
  waitForLatestMap(): Promise<void>;
  /**
   * Ends: new operations are refused, those in flight are waited for up to `patienceMs` (then they end with ECANCELED and librados is
   * left to itself), watches end. Repeatable.
   */
  close(patienceMs?: number): Promise<void>;
}

/** A change of one object, one of several that are made together, all or none, in this order. */
export type WriteStep =
  /** Makes the object exist. exclusive: EEXIST when it does. */
  | { readonly do: 'create'; readonly exclusive: boolean }
  | { readonly do: 'assertExists' }
  | { readonly do: 'remove' }
  | { readonly do: 'write'; readonly data: Uint8Array; readonly offset: number }
  /** Replaces all of the object. */
  | { readonly do: 'writeFull'; readonly data: Uint8Array }
  /** Writes `data` over and over; `length` is a multiple of its length. */
  | { readonly do: 'writeSame'; readonly data: Uint8Array; readonly offset: number; readonly length: number }
  | { readonly do: 'truncate'; readonly size: number }
  /** The range reads as zeros; neither makes nor lengthens an object. */
  | { readonly do: 'zero'; readonly offset: number; readonly length: number }
  | { readonly do: 'setXattr'; readonly name: string; readonly value: Uint8Array }
  | { readonly do: 'removeXattr'; readonly name: string }
  /** ECANCELED unless the attribute has this value; an empty value is also that of a missing attribute. */
  | { readonly do: 'compareXattr'; readonly name: string; readonly value: Uint8Array }
  | { readonly do: 'setOmap'; readonly entries: ReadonlyMap<string, Uint8Array> }
  | { readonly do: 'removeOmap'; readonly keys: readonly string[] }
  /** Runs a method of an object class in the OSD. */
  | { readonly do: 'exec'; readonly class: string; readonly method: string; readonly input: Uint8Array };

export interface ObjectStat {
  readonly size: number;
  /** ms since the epoch; whole seconds. */
  readonly modified: number;
}

export interface OmapPage {
  readonly entries: ReadonlyMap<string, Buffer>;
  readonly more: boolean;
}

export interface NamesPage {
  readonly names: string[];
  /** Pass to the next call; null at the end. */
  readonly cursor: string | null;
}

/** Called with bytes (a read) or 0 when done, with a negative errno when failed. Never within the call that began the operation. */
export type Done = (result: number) => void;

export interface Pool {
  readonly name: string;
  readonly namespace: string;
  readonly id: bigint;

  /*
   * The hot ones. They take addresses of memory that stays where it is until `done`; write copies it at the call. They never throw.
   *
   * A change that has to wait for its turn, because too much is in flight, ends with ETIME when its deadline (ms of the monotonic clock;
   * 0: none) has passed by then. Otherwise the deadline is the caller's to look at, in the turn of the call.
   */
  read(object: string, address: number, length: number, offset: number, done: Done): void;
  write(object: string, address: number, length: number, offset: number, done: Done, deadline?: number): void;
  /** The steps' data is copied at the call. */
  begin(object: string, steps: readonly WriteStep[], done: Done, deadline?: number): void;

  /** As `begin`. @throws RadosError of the step that failed; ENOENT, EEXIST, ECANCELED as they say */
  operate(object: string, steps: readonly WriteStep[], deadline?: number): Promise<void>;
  /** Up to `length` bytes from `offset` on; fewer at the object's end. @throws RadosError ENOENT */
  readBytes(object: string, offset: number, length: number): Promise<Buffer>;
  /** @throws RadosError ENOENT */
  stat(object: string): Promise<ObjectStat>;
  /** A method of an object class that reads. @throws RadosError of the method */
  exec(object: string, objectClass: string, method: string, input: Uint8Array): Promise<Buffer>;
  /** @throws RadosError ENODATA when the attribute is missing, ENOENT when the object is */
  getXattr(object: string, name: string): Promise<Buffer>;
  /** Entries after `after` ('' = from the first), at most `most`. @throws RadosError ENOENT */
  omap(object: string, after: string, most: number): Promise<OmapPage>;
  /** A page of the names of this namespace; complete over all pages for objects that exist throughout. */
  list(cursor: string | null, most: number): Promise<NamesPage>;

  /** Watches an object, which must exist. @throws RadosError ENOENT */
  watch(object: string, handlers: WatchHandlers): Promise<Watch>;
  /**
   * Tells all who watch the object, and waits until they have confirmed, at most `timeoutMs`.
   * @throws RadosError ENOENT when the object is missing; ETIMEDOUT when somebody has not confirmed in time (the others have heard)
   */
  notify(object: string, message: Uint8Array, timeoutMs: number): Promise<void>;
}

export interface WatchHandlers {
  /** Somebody notified. It is confirmed once the handler returns; `message` is a copy. */
  notified(message: Buffer, by: bigint): void;
  /** The watch is broken (the cluster did not hear of this client for too long, or the object is gone): watch again. */
  failed(errno: number): void;
}

export interface Watch {
  /** ms since the watch was last known to be alive; negative: it is broken. */
  age(): number;
  /** Ends it; no handler is called afterwards. Repeatable. */
  end(): Promise<void>;
}
