/** A connection to a cluster: one client instance, with its own addresses and threads. */
import { monotonicMs } from '../sys/clock.js';
import { errnos } from '../sys/errno.js';
import { allocateMemory } from '../sys/libc.js';
import { BlockingCalls, runBeside } from './blocking.js';
import { type CompletionCalls, Completions } from './completions.js';
import type { Connection } from './connection.js';
import { type RadosError, radosError } from './error.js';
import { withPool } from './gone.js';
import { type Library, loadLibrary } from './library.js';
import { allocate, copyFrom, live, numberAt, packStrings, stringAt, takeSlot } from './memory.js';
import { RadosPool } from './pool.js';
import { configure, getMilliseconds, getSetting } from './settings.js';
import type { Cluster, ClusterOptions, Pool } from './types.js';

/** How much longer than its own limit a blocking call of librados may take before it is given up. */
const GRACE_MS = 10_000;
/** How long operations have to end that librados was told to give up. */
const CANCEL_MS = 2000;
/** How long operations in flight are waited for when the caller of `close` does not say. */
const PATIENCE_MS = 5000;
const FSID_LENGTH = 64;

/**
 * Connects. Loads librados when it is not loaded yet.
 * @throws RadosError ENOSYS librados is not installed, ETIMEDOUT no monitor answers, EACCES the key is refused, ENOENT the
 *   configuration or the key is missing
 */
export async function connect(options: ClusterOptions): Promise<Cluster> {
  const library = loadLibrary();
  const slot = takeSlot();
  const created = library.create(slot.address, options.id);
  const handle = numberAt(slot.bytes, 0);
  slot.free();
  const client = `client.${options.id ?? 'admin'}`;
  if (created < 0) throw radosError(created, `make a client of Ceph for ${client}`);
  const blocking = new BlockingCalls();
  let over = false;
  const shutdown = (): void => {
    if (!over) void runBeside((done) => library.shutdown.async(handle, done));
    over = true;
  };
  try {
    configure(library, handle, options);
    const limit = getMilliseconds(library, handle, 'client_mount_timeout') + GRACE_MS;
    const result = await blocking.run<number>(
      `connect to Ceph as ${client}`,
      limit,
      (done) => library.connect.async(handle, done),
      shutdown,
    );
    if (result < 0) throw connectError(library, handle, result, client, options.conf);
    return new RadosCluster(library, handle, blocking, client);
  } catch (error) {
    // A call that was given up still uses the handle; it is shut down when that returns.
    if (await blocking.idle(0)) shutdown();
    throw error;
  }
}

class RadosCluster implements Cluster {
  readonly instanceId: bigint;
  readonly addresses: readonly string[];
  readonly fsid: string;
  readonly #connection: Connection;
  readonly #client: string;
  readonly #monitorLimit: number;
  readonly #pools = new Set<RadosPool>();
  #closing: Promise<void> | null = null;

  constructor(library: Library, handle: number, blocking: BlockingCalls, client: string) {
    this.#client = client;
    this.instanceId = BigInt(library.instanceId(handle));
    this.addresses = addressesOf(library, handle);
    this.fsid = fsidOf(library, handle);
    this.#monitorLimit = getMilliseconds(library, handle, 'rados_mon_op_timeout') + GRACE_MS;
    const completions = new Completions(completionCalls(library));
    this.#connection = { library, handle, completions, blocking, closed: false };
    live.clusters++;
  }

  get inFlight(): { count: number; oldestSince: number } {
    const { count, oldestSince } = this.#connection.completions;
    return { count, oldestSince };
  }

  async pool(name: string, namespace = ''): Promise<Pool> {
    const { library, handle, blocking } = this.#connection;
    const what = `open pool ${name}`;
    this.#check(what);
    if (name.includes('\0') || namespace.includes('\0')) throw radosError(-errnos.EINVAL, what, 'the name has a NUL');
    const slot = takeSlot();
    const giveBack = (result: number): void => {
      if (result >= 0) library.ioctxDestroy(numberAt(slot.bytes, 0));
      slot.free();
    };
    const result = await blocking.run<number>(
      what,
      this.#monitorLimit,
      (done) => library.ioctxCreate.async(handle, name, slot.address, done),
      giveBack,
    );
    if (result >= 0 && this.#connection.closed) {
      giveBack(result);
      this.#check(what);
    }
    const io = numberAt(slot.bytes, 0);
    slot.free();
    if (result === -errnos.ENOENT) {
      const make = `ceph osd pool create ${name} && ceph osd pool application enable ${name} archipelago`;
      throw radosError(result, what, `the cluster has no such pool; make it: ${make}`);
    }
    if (result < 0) throw radosError(result, what);
    const pool = new RadosPool(this.#connection, io, name, namespace);
    this.#pools.add(pool);
    return pool;
  }

  async monitorCommand(command: Readonly<Record<string, unknown>>): Promise<Buffer> {
    const { library, handle, blocking } = this.#connection;
    const what = `run the monitors' command ${JSON.stringify(command)} as ${this.#client}`;
    this.#check(what);
    const text = packStrings([Buffer.from(JSON.stringify(command))]);
    const out = takeSlot();
    const at = out.address;
    const giveBack = (): void => {
      for (const offset of [0, 16]) library.bufferFree(numberAt(out.bytes, offset));
      text.room.free();
      out.free();
    };
    const result = await blocking.run<number>(
      what,
      this.#monitorLimit,
      (done) => library.monCommand.async(handle, text.pointers, 1, 0, 0, at, at + 8, at + 16, at + 24, done),
      giveBack,
    );
    const output = copyFrom(numberAt(out.bytes, 0), numberAt(out.bytes, 8));
    const said = copyFrom(numberAt(out.bytes, 16), numberAt(out.bytes, 24)).toString();
    giveBack();
    if (result < 0) throw radosError(result, what, said);
    return output;
  }

  async waitForLatestMap(): Promise<void> {
    const { library, handle, blocking } = this.#connection;
    const what = 'get the newest map of the OSDs';
    this.#check(what);
    const result = await blocking.run<number>(what, this.#monitorLimit, (done) =>
      library.waitForLatestMap.async(handle, done),
    );
    if (result < 0) throw radosError(result, what);
  }

  close(patienceMs = PATIENCE_MS): Promise<void> {
    this.#closing ??= this.#close(patienceMs);
    return this.#closing;
  }

  async #close(patienceMs: number): Promise<void> {
    const { completions, blocking } = this.#connection;
    this.#connection.closed = true;
    const watches = Promise.all([...this.#pools].map((pool) => pool.endWatches()));
    // What a watch does last, it begins when it is being ended: so the watches first, then all that is in flight.
    const quiet = async (until: number): Promise<boolean> =>
      (await within(leftOf(until), watches)) && (await completions.idle(leftOf(until)));
    const deadline = monotonicMs() + patienceMs;
    if (!(await quiet(deadline))) {
      completions.cancel();
      await quiet(monotonicMs() + CANCEL_MS);
    }
    if (completions.count === 0 && (await blocking.idle(leftOf(deadline)))) {
      await this.#shutdown();
      return;
    }
    // librados' threads may still use all of it: it is given back when they have ended what they do, if ever.
    completions.abandon();
    const atLast = async (): Promise<void> => {
      await completions.idle(Number.POSITIVE_INFINITY);
      await blocking.idle(Number.POSITIVE_INFINITY);
      await this.#shutdown();
    };
    void atLast();
  }

  /** Gives everything back. Nothing is in flight any more. */
  async #shutdown(): Promise<void> {
    const { library, handle, completions } = this.#connection;
    await new Promise<number>((resolve) =>
      completions.queue(0, (completion) => library.aioWatchFlush(handle, completion), resolve),
    );
    for (const pool of this.#pools) pool.close();
    this.#pools.clear();
    await runBeside((done) => library.shutdown.async(handle, done));
    completions.close();
    live.clusters--;
  }

  #check(what: string): void {
    if (this.#connection.closed) throw radosError(-errnos.ENOTCONN, what);
  }
}

/** Where librados writes the address of a completion it made; read at once. */
const made = allocateMemory(8);
const madeWords = new Uint32Array(made.bytes.buffer, made.bytes.byteOffset, 2);

const leftOf = (deadline: number): number => Math.max(0, deadline - monotonicMs());

/** Whether a promise resolves to something but false in time. */
async function within(limitMs: number, promise: Promise<unknown>): Promise<boolean> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<boolean>((resolve) => {
    timer = setTimeout(resolve, limitMs, false);
  });
  const result = await Promise.race([promise, late]);
  clearTimeout(timer);
  return result !== false;
}

function completionCalls(library: Library): CompletionCalls {
  return {
    create: (callback, argument) => {
      library.completionCreate(argument, callback, made.address);
      return madeWords[1] * 2 ** 32 + madeWords[0];
    },
    result: (completion, io) => {
      const result = library.completionResult(completion);
      return io === 0 ? result : withPool(library, io, result);
    },
    release: library.completionRelease,
    cancel: library.cancel,
  };
}

function addressesOf(library: Library, handle: number): string[] {
  const slot = takeSlot();
  const result = library.getAddrs(handle, slot.address);
  const text = numberAt(slot.bytes, 0);
  slot.free();
  if (result < 0) throw radosError(result, "read this client's addresses");
  const addresses = stringAt(text).split(',').filter(Boolean);
  library.bufferFree(text);
  return addresses;
}

function fsidOf(library: Library, handle: number): string {
  const room = allocate(FSID_LENGTH);
  const length = library.clusterFsid(handle, room.address, FSID_LENGTH);
  const fsid = room.bytes.toString('latin1', 0, Math.max(0, length));
  room.free();
  if (length < 0) throw radosError(length, "read the cluster's fsid");
  return fsid;
}

/** Why connecting failed, in terms of what the administrator gave. */
function connectError(
  library: Library,
  handle: number,
  result: number,
  client: string,
  conf: string | null,
): RadosError {
  const file = conf ?? 'the configuration of Ceph';
  const monitors = getSetting(library, handle, 'mon_host');
  const keyring = getSetting(library, handle, 'keyring');
  const what = `connect to Ceph as ${client}`;
  switch (-result) {
    case errnos.ETIMEDOUT: {
      const limit = getSetting(library, handle, 'client_mount_timeout');
      const said = `no monitor of ${monitors} (mon_host of ${file}) has let it in within ${limit} s: do they run, can they be reached?`;
      return radosError(result, what, said);
    }
    case errnos.EACCES:
    case errnos.EPERM:
      return radosError(
        result,
        what,
        `there is no key for it in ${keyring} that the cluster takes; compare with \`ceph auth get ${client}\``,
      );
    case errnos.ENOENT:
      if (monitors === '') return radosError(result, what, `${file} names no monitors (mon_host)`);
      return radosError(
        result,
        what,
        `there is no key for it in ${keyring}; get it by \`ceph auth get ${client} -o FILE\``,
      );
    default:
      return radosError(result, what, `monitors ${monitors}, keyring ${keyring}, configuration ${file}`);
  }
}
