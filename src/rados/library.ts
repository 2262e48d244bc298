/**
 * librados' C interface as typed functions. Handles and addresses are plain numbers (user addresses are below 2^48), which is what
 * makes a call cheap; `Bytes` parameters take a Buffer, whose memory librados copies within the call.
 *
 * Loaded on demand: a node without a RADOS store does not need the library.
 */
import koffi from 'koffi';
import { errnos } from '../sys/errno.js';
import type { Native } from '../sys/libc.js';
import { RadosError } from './error.js';

type Bytes = Uint8Array | null;
type Call<A extends unknown[], R = number> = Native<A, R>;
/** An address or a handle. */
type Address = number;
type Id = number | bigint;

/** Functions of librados.so.2, under the names of librados.h without `rados_`. Those marked `blocks` are called by `.async` only. */
export interface Library {
  readonly create: Call<[out: Address, id: string | null]>;
  readonly confReadFile: Call<[cluster: Address, path: string | null]>;
  readonly confSet: Call<[cluster: Address, option: string, value: string]>;
  readonly confGet: Call<[cluster: Address, option: string, room: Address, length: number]>;
  /** blocks */
  readonly connect: Call<[cluster: Address]>;
  /** blocks */
  readonly shutdown: Call<[cluster: Address], void>;
  readonly clusterFsid: Call<[cluster: Address, room: Address, length: number]>;
  readonly instanceId: Call<[cluster: Address], Id>;
  readonly getAddrs: Call<[cluster: Address, out: Address]>;
  /** blocks */
  readonly waitForLatestMap: Call<[cluster: Address]>;
  /** blocks */
  readonly monCommand: Call<
    [
      cluster: Address,
      command: Address,
      count: number,
      input: Address,
      inputLength: number,
      output: Address,
      outputLength: Address,
      status: Address,
      statusLength: Address,
    ]
  >;
  readonly bufferFree: Call<[buffer: Address], void>;

  /** blocks */
  readonly ioctxCreate: Call<[cluster: Address, pool: string, out: Address]>;
  readonly ioctxDestroy: Call<[io: Address], void>;
  readonly ioctxSetNamespace: Call<[io: Address, namespace: string], void>;
  readonly ioctxId: Call<[io: Address], Id>;
  /** By the map of the OSDs that this client has. */
  readonly ioctxPoolName: Call<[io: Address, room: Address, length: number]>;
  readonly setPoolFullTry: Call<[io: Address], void>;

  readonly completionCreate: Call<[argument: Address, callback: Address, out: Address]>;
  readonly completionResult: Call<[completion: Address]>;
  readonly completionRelease: Call<[completion: Address], void>;
  readonly cancel: Call<[io: Address, completion: Address]>;

  readonly aioRead: Call<
    [io: Address, object: string, completion: Address, to: Address, length: number, offset: number]
  >;
  readonly aioWrite: Call<
    [io: Address, object: string, completion: Address, from: Address, length: number, offset: number]
  >;
  readonly aioStat: Call<[io: Address, object: string, completion: Address, size: Address, modified: Address]>;
  readonly aioGetXattr: Call<
    [io: Address, object: string, completion: Address, name: string, room: Address, length: number]
  >;

  readonly writeOpCreate: Call<[]>;
  readonly writeOpRelease: Call<[op: Address], void>;
  readonly writeOpOperate: Call<
    [op: Address, io: Address, completion: Address, object: string, modified: Address, flags: number]
  >;
  readonly opCreate: Call<[op: Address, exclusive: number, category: Address], void>;
  readonly opAssertExists: Call<[op: Address], void>;
  readonly opRemove: Call<[op: Address], void>;
  readonly opWrite: Call<[op: Address, data: Bytes, length: number, offset: number], void>;
  /** opWrite of memory known by its address. */
  readonly opWriteAt: Call<[op: Address, from: Address, length: number, offset: number], void>;
  readonly opWriteFull: Call<[op: Address, data: Bytes, length: number], void>;
  readonly opWriteSame: Call<[op: Address, data: Bytes, dataLength: number, length: number, offset: number], void>;
  readonly opTruncate: Call<[op: Address, size: number], void>;
  readonly opZero: Call<[op: Address, offset: number, length: number], void>;
  readonly opSetXattr: Call<[op: Address, name: string, value: Bytes, length: number], void>;
  readonly opRemoveXattr: Call<[op: Address, name: string], void>;
  readonly opCompareXattr: Call<[op: Address, name: string, how: number, value: Bytes, length: number], void>;
  readonly opSetOmap: Call<
    [op: Address, keys: Address, values: Address, keyLengths: Address, valueLengths: Address, count: number],
    void
  >;
  readonly opRemoveOmap: Call<[op: Address, keys: Address, keyLengths: Address, count: number], void>;
  readonly opExec: Call<
    [op: Address, objectClass: string, method: string, input: Bytes, length: number, result: Address],
    void
  >;

  readonly readOpCreate: Call<[]>;
  readonly readOpRelease: Call<[op: Address], void>;
  readonly readOpOperate: Call<[op: Address, io: Address, completion: Address, object: string, flags: number]>;
  readonly readOpExec: Call<
    [
      op: Address,
      objectClass: string,
      method: string,
      input: Bytes,
      length: number,
      output: Address,
      outputLength: Address,
      result: Address,
    ],
    void
  >;
  readonly readOpOmap: Call<
    [op: Address, after: string, prefix: string, most: number, iterator: Address, more: Address, result: Address],
    void
  >;
  readonly omapNext: Call<[iterator: Address, key: Address, value: Address, keyLength: Address, valueLength: Address]>;
  readonly omapEnd: Call<[iterator: Address], void>;

  readonly listBegin: Call<[io: Address]>;
  readonly listEnd: Call<[io: Address]>;
  readonly listIsEnd: Call<[io: Address, cursor: Address]>;
  readonly listCursorFree: Call<[io: Address, cursor: Address], void>;
  /** blocks */
  readonly list: Call<
    [
      io: Address,
      start: Address,
      finish: Address,
      most: number,
      filter: Address,
      filterLength: number,
      items: Address,
      next: Address,
    ]
  >;
  readonly listFree: Call<[count: number, items: Address], void>;

  readonly aioWatch: Call<
    [
      io: Address,
      object: string,
      completion: Address,
      handle: Address,
      notified: bigint,
      failed: bigint,
      seconds: number,
      argument: Address,
    ]
  >;
  readonly aioUnwatch: Call<[io: Address, handle: Id, completion: Address]>;
  readonly watchCheck: Call<[io: Address, handle: Id]>;
  readonly aioWatchFlush: Call<[cluster: Address, completion: Address]>;
  readonly aioNotify: Call<
    [
      io: Address,
      object: string,
      completion: Address,
      message: Bytes,
      length: number,
      timeoutMs: number,
      reply: Address,
      replyLength: Address,
    ]
  >;
  readonly notifyAck: Call<[io: Address, object: string, notification: Id, handle: Id, reply: Bytes, length: number]>;
}

const NAME = 'librados.so.2';
let loaded: Library | null = null;

/**
 * Loads librados, once. @param name of the shared library
 * @throws RadosError ENOSYS that names the package when it is not installed or is too old
 */
export function loadLibrary(name: string = NAME): Library {
  if (name !== NAME) return bindAll(name);
  loaded ??= bindAll(name);
  return loaded;
}

function bindAll(name: string): Library {
  try {
    return declarations(name);
  } catch (error) {
    throw new RadosError(
      errnos.ENOSYS,
      `cannot load ${name}, which a rados_blocker needs: install the package librados2, version 16 or newer ` +
        `(apt-get install librados2). ${(error as Error).message}`,
      { cause: error },
    );
  }
}

/** Types: `p` is an address or handle, `s` a string, `b` bytes, `n` a size or offset, `i` an int, `q` an id of 64 bits. */
const types: Record<string, string> = {
  p: 'uintptr_t',
  s: 'const char *',
  b: 'const void *',
  n: 'uint64_t',
  i: 'int',
  q: 'uint64_t',
  u: 'uint32_t',
  y: 'uint8_t',
  v: 'void',
};

function declarations(name: string): Library {
  const lib = koffi.load(name);
  const bind = <A extends unknown[], R>(symbol: string, parameters: string, result = 'i'): Native<A, R> => {
    const list = [...parameters].map((letter) => types[letter]).join(', ');
    return lib.func(`${types[result]} rados_${symbol}(${list})`) as unknown as Native<A, R>;
  };
  return {
    create: bind('create', 'ps'),
    confReadFile: bind('conf_read_file', 'ps'),
    confSet: bind('conf_set', 'pss'),
    confGet: bind('conf_get', 'pspn'),
    connect: bind('connect', 'p'),
    shutdown: bind('shutdown', 'p', 'v'),
    clusterFsid: bind('cluster_fsid', 'ppn'),
    instanceId: bind('get_instance_id', 'p', 'q'),
    getAddrs: bind('getaddrs', 'pp'),
    waitForLatestMap: bind('wait_for_latest_osdmap', 'p'),
    monCommand: bind('mon_command', 'ppnpnpppp'),
    bufferFree: bind('buffer_free', 'p', 'v'),

    ioctxCreate: bind('ioctx_create', 'psp'),
    ioctxDestroy: bind('ioctx_destroy', 'p', 'v'),
    ioctxSetNamespace: bind('ioctx_set_namespace', 'ps', 'v'),
    ioctxId: bind('ioctx_get_id', 'p', 'q'),
    ioctxPoolName: bind('ioctx_get_pool_name', 'ppu'),
    setPoolFullTry: bind('set_pool_full_try', 'p', 'v'),

    completionCreate: bind('aio_create_completion2', 'ppp'),
    completionResult: bind('aio_get_return_value', 'p'),
    completionRelease: bind('aio_release', 'p', 'v'),
    cancel: bind('aio_cancel', 'pp'),

    aioRead: bind('aio_read', 'psppnn'),
    aioWrite: bind('aio_write', 'psppnn'),
    aioStat: bind('aio_stat', 'psppp'),
    aioGetXattr: bind('aio_getxattr', 'pspspn'),

    writeOpCreate: bind('create_write_op', '', 'p'),
    writeOpRelease: bind('release_write_op', 'p', 'v'),
    writeOpOperate: bind('aio_write_op_operate', 'pppspi'),
    opCreate: bind('write_op_create', 'pip', 'v'),
    opAssertExists: bind('write_op_assert_exists', 'p', 'v'),
    opRemove: bind('write_op_remove', 'p', 'v'),
    opWrite: bind('write_op_write', 'pbnn', 'v'),
    opWriteAt: bind('write_op_write', 'ppnn', 'v'),
    opWriteFull: bind('write_op_write_full', 'pbn', 'v'),
    opWriteSame: bind('write_op_writesame', 'pbnnn', 'v'),
    opTruncate: bind('write_op_truncate', 'pn', 'v'),
    opZero: bind('write_op_zero', 'pnn', 'v'),
    opSetXattr: bind('write_op_setxattr', 'psbn', 'v'),
    opRemoveXattr: bind('write_op_rmxattr', 'ps', 'v'),
    opCompareXattr: bind('write_op_cmpxattr', 'psybn', 'v'),
    opSetOmap: bind('write_op_omap_set2', 'pppppn', 'v'),
    opRemoveOmap: bind('write_op_omap_rm_keys2', 'pppn', 'v'),
    opExec: bind('write_op_exec', 'pssbnp', 'v'),

    readOpCreate: bind('create_read_op', '', 'p'),
    readOpRelease: bind('release_read_op', 'p', 'v'),
    readOpOperate: bind('aio_read_op_operate', 'pppsi'),
    readOpExec: bind('read_op_exec', 'pssbnppp', 'v'),
    readOpOmap: bind('read_op_omap_get_vals2', 'pssnppp', 'v'),
    omapNext: bind('omap_get_next2', 'ppppp'),
    omapEnd: bind('omap_get_end', 'p', 'v'),

    listBegin: bind('object_list_begin', 'p', 'p'),
    listEnd: bind('object_list_end', 'p', 'p'),
    listIsEnd: bind('object_list_is_end', 'pp'),
    listCursorFree: bind('object_list_cursor_free', 'pp', 'v'),
    list: bind('object_list', 'pppnpnpp'),
    listFree: bind('object_list_free', 'np', 'v'),

    aioWatch: bind('aio_watch2', 'psppqqup'),
    aioUnwatch: bind('aio_unwatch', 'pqp'),
    watchCheck: bind('watch_check', 'pq'),
    aioWatchFlush: bind('aio_watch_flush', 'pp'),
    aioNotify: bind('aio_notify', 'pspbinpp'),
    notifyAck: bind('notify_ack', 'psqqbi'),
  };
}
