/** The shared-memory object behind a segment: creating it, joining it, removing it, and refusing what is not a segment of ours. */
import fs from 'node:fs';
import { errnoName, errnoOf, errnos, SystemError } from '../sys/errno.js';
import * as libc from '../sys/libc.js';
import { bellDirectory } from './doorbell.js';
import {
  ABI_VERSION,
  FEATURES,
  type Geometry,
  geometry,
  H,
  HEADER_BYTES,
  MAGIC_HIGH,
  MAGIC_LOW,
  MAX_PORTS,
  MAX_SIZE_MIB,
} from './layout.js';
import { SegmentMemory } from './memory.js';
import { isAlive, pidNamespace, self } from './owner.js';
import type { SegmentSpec } from './spec.js';

const MODE = 0o660;
const MIB = 1 << 20;
/** A heap smaller than this cannot carry a node's requests. */
const MIN_HEAP = 4 * MIB;
/** How long a join waits for a maker that lives, and for one that did not even say who it is. */
const READY_PATIENCE_MS = 20_000;
const UNKNOWN_PATIENCE_MS = 500;

const shmPath = (name: string): string => `/dev/shm/${name}`;

interface Attached {
  readonly memory: SegmentMemory;
  readonly geometry: Geometry;
}

/** Makes the object and its header; READY is still 0. */
export function create(spec: SegmentSpec): Attached {
  const layout = geometry(spec.size, spec.pageShift, spec.ports, spec.firstDynamic);
  if (!isLargeEnough(layout)) throw tooSmall(spec);
  const space = fs.statfsSync('/dev/shm');
  if (space.bavail * space.bsize < spec.size) throw noSpace(spec, Math.floor((space.bavail * space.bsize) / MIB));
  const fd = libc.shmOpen(`/${spec.name}`, libc.O_RDWR | libc.O_CREAT | libc.O_EXCL | libc.O_CLOEXEC, MODE);
  if (fd < 0) throw openError(spec.name, 'create');
  try {
    // The umask of the caller must not keep the group out: other tools of the same group join.
    fs.fchmodSync(fd, MODE);
    reserve(fd, HEADER_BYTES, spec);
    if (libc.ftruncate(fd, spec.size) !== 0) throw openError(spec.name, 'size');
    const memory = SegmentMemory.map(fd, spec.size);
    // Joiners see from here on who is making it.
    writeHeader(memory, layout);
    reserve(fd, spec.size, spec);
    makeBellDirectory(spec.name);
    return { memory, geometry: layout };
  } catch (error) {
    libc.shmUnlink(`/${spec.name}`);
    fs.rmSync(bellDirectory(spec.name), { recursive: true, force: true });
    throw error;
  } finally {
    libc.close(fd);
  }
}

const isLargeEnough = (layout: Geometry): boolean => layout.heapPages * 2 ** layout.pageShift >= MIN_HEAP;

/** Takes the memory now: a page that is missing when it is touched kills the process that touches it, whoever that is. */
function reserve(fd: number, length: number, spec: SegmentSpec): void {
  for (;;) {
    if (libc.fallocate(fd, 0, 0, length) === 0) return;
    const errno = libc.errno();
    if (errno === errnos.EINTR) continue;
    if (errno === errnos.EOPNOTSUPP) return;
    if (errno !== errnos.ENOSPC && errno !== errnos.ENOMEM) throw openError(spec.name, 'reserve', errno);
    const space = fs.statfsSync('/dev/shm');
    throw noSpace(spec, Math.floor((space.bavail * space.bsize) / MIB));
  }
}

function noSpace(spec: SegmentSpec, freeMiB: number): SystemError {
  return new SystemError(
    errnos.ENOSPC,
    `/dev/shm has ${freeMiB} MiB free, the segment needs ${spec.size / MIB}; lower SEGMENT_SIZE or enlarge /dev/shm`,
  );
}

function tooSmall(spec: SegmentSpec): SystemError {
  let needed = Math.ceil(spec.size / MIB);
  while (
    needed < MAX_SIZE_MIB &&
    !isLargeEnough(geometry(needed * MIB, spec.pageShift, spec.ports, spec.firstDynamic))
  ) {
    needed++;
  }
  return new SystemError(
    errnos.EINVAL,
    `SEGMENT_SIZE ${spec.size / MIB} MiB is too small for ${spec.ports} ports; set it to ${needed} or more, or lower SEGMENT_PORTS`,
  );
}

function makeBellDirectory(name: string): void {
  const directory = bellDirectory(name);
  try {
    fs.rmSync(directory, { recursive: true, force: true });
    fs.mkdirSync(directory);
    fs.chmodSync(directory, 0o2770);
  } catch (error) {
    const errno = errnoOf(error);
    throw new SystemError(errno, `cannot make the doorbells' directory ${directory}: ${errnoName(errno)}`, {
      cause: error,
    });
  }
}

function writeHeader(memory: SegmentMemory, layout: Geometry): void {
  const { u32 } = memory;
  const page = 1 << layout.pageShift;
  u32[H.ABI] = ABI_VERSION;
  u32[H.FEATURES] = FEATURES;
  u32[H.PAGE_SHIFT] = layout.pageShift;
  u32[H.PORTS] = layout.ports;
  u32[H.FIRST_DYNAMIC] = layout.firstDynamic;
  memory.set64(H.SIZE_LOW, layout.size);
  u32[H.REQUESTS] = layout.requests;
  u32[H.QUEUE_CAPACITY] = layout.queueCapacity;
  u32[H.PORT_TABLE_PAGE] = layout.portTable / page;
  u32[H.QUEUES_PAGE] = layout.queues / page;
  u32[H.REQUEST_TABLE_PAGE] = layout.requestTable / page;
  u32[H.PAGE_TABLE_PAGE] = layout.pageTable / page;
  u32[H.HEAP_PAGE] = layout.heap / page;
  u32[H.HEAP_PAGES] = layout.heapPages;
  u32[H.CREATOR_PID] = self.pid;
  u32[H.PID_NAMESPACE] = pidNamespace();
  memory.set64(H.CREATED_LOW, Date.now());
  u32[H.MAGIC_HIGH] = MAGIC_HIGH;
  Atomics.store(memory.i32, H.MAGIC_LOW, MAGIC_LOW);
}

/** Maps an existing segment after checking that it is one, whole, of this version. */
export function attach(name: string): Attached {
  const fd = libc.shmOpen(`/${name}`, libc.O_RDWR | libc.O_CLOEXEC, 0);
  if (fd < 0) {
    const errno = libc.errno();
    // The C library says EINVAL for a directory.
    if (errno === errnos.EINVAL || errno === errnos.EISDIR) throw foreign(name, 'it is not a file');
    throw openError(name, 'join', errno);
  }
  try {
    const layout = checkHeader(name, fd);
    return { memory: SegmentMemory.map(fd, layout.size), geometry: layout };
  } finally {
    libc.close(fd);
  }
}

/** Reads the header through the descriptor, so that nothing foreign is ever mapped. */
function checkHeader(name: string, fd: number): Geometry {
  const { u32, size } = awaitReady(name, fd);
  if (u32[H.MAGIC_LOW] !== MAGIC_LOW || u32[H.MAGIC_HIGH] !== MAGIC_HIGH) {
    throw foreign(name, 'it has another signature');
  }
  if (u32[H.ABI] !== ABI_VERSION) {
    throw foreign(
      name,
      `its layout has version ${u32[H.ABI]}, this program version ${ABI_VERSION}: stop the other version first`,
    );
  }
  if ((u32[H.FEATURES] & ~FEATURES) !== 0) {
    throw foreign(name, `it uses features ${u32[H.FEATURES]} that are not known here`);
  }
  if (u32[H.READY] !== 1) throw foreign(name, 'its maker did not finish it');
  const claimed = u32[H.SIZE_HIGH] * 2 ** 32 + u32[H.SIZE_LOW];
  if (claimed !== size) throw foreign(name, `it says ${claimed} bytes but has ${size}`);
  if (size > MAX_SIZE_MIB * MIB) throw foreign(name, `${size} bytes are more than can be mapped`);
  const pageShift = u32[H.PAGE_SHIFT];
  if (pageShift < 12 || pageShift > 16) throw foreign(name, `its page shift is ${pageShift}`);
  const ports = u32[H.PORTS];
  if (ports < 2 || ports > MAX_PORTS || u32[H.FIRST_DYNAMIC] < 1 || u32[H.FIRST_DYNAMIC] >= ports) {
    throw foreign(name, `it says ${ports} ports, dynamic ones from ${u32[H.FIRST_DYNAMIC]}`);
  }
  const layout = geometry(size, pageShift, ports, u32[H.FIRST_DYNAMIC]);
  const page = 1 << pageShift;
  const same =
    isLargeEnough(layout) &&
    u32[H.REQUESTS] === layout.requests &&
    u32[H.QUEUE_CAPACITY] === layout.queueCapacity &&
    u32[H.PORT_TABLE_PAGE] === layout.portTable / page &&
    u32[H.QUEUES_PAGE] === layout.queues / page &&
    u32[H.REQUEST_TABLE_PAGE] === layout.requestTable / page &&
    u32[H.PAGE_TABLE_PAGE] === layout.pageTable / page &&
    u32[H.HEAP_PAGE] === layout.heap / page &&
    u32[H.HEAP_PAGES] === layout.heapPages;
  if (!same) throw foreign(name, 'its header does not agree with itself');
  const namespace = pidNamespace();
  if (u32[H.PID_NAMESPACE] !== 0 && namespace !== 0 && u32[H.PID_NAMESPACE] !== namespace) {
    throw new SystemError(
      errnos.EPROTO,
      `segment ${name} was made in another pid namespace (a container?), whose processes cannot be seen from here; ` +
        'run all peers and tools of a node in one pid namespace, or give each its own /dev/shm',
    );
  }
  return layout;
}

interface Header {
  readonly u32: Uint32Array;
  readonly size: number;
}

/** The header of a segment that is ready, or that nobody is making any more. */
function awaitReady(name: string, fd: number): Header {
  const pause = new Int32Array(new SharedArrayBuffer(4));
  const began = Date.now();
  for (;;) {
    const stat = fs.fstatSync(fd);
    if (!stat.isFile()) throw foreign(name, 'it is not a file');
    const u32 = new Uint32Array(HEADER_BYTES / 4);
    const whole = fs.readSync(fd, new Uint8Array(u32.buffer), 0, HEADER_BYTES, 0) === HEADER_BYTES;
    const waited = Date.now() - began;
    if (whole && (u32[H.READY] === 1 || (u32[H.MAGIC_LOW] !== 0 && u32[H.MAGIC_LOW] !== MAGIC_LOW))) {
      return { u32, size: stat.size };
    }
    const known = whole && u32[H.MAGIC_LOW] === MAGIC_LOW && u32[H.ABI] === ABI_VERSION;
    const isMaking = known
      ? isAlive(u32[H.CREATOR_PID], 0) && waited < READY_PATIENCE_MS
      : waited < UNKNOWN_PATIENCE_MS;
    if (!isMaking) {
      if (!whole) throw foreign(name, `it has only ${stat.size} bytes`);
      return { u32, size: stat.size };
    }
    Atomics.wait(pause, 0, 0, 5);
  }
}

/** Removes the name and the doorbells. Who may not remove the segment leaves its bells alone. */
export function unlinkSegment(name: string): void {
  const result = libc.shmUnlink(`/${name}`);
  const errno = libc.errno();
  if (result === 0 || errno === errnos.ENOENT) fs.rmSync(bellDirectory(name), { recursive: true, force: true });
  if (result !== 0) throw openError(name, 'destroy', errno);
}

function foreign(name: string, why: string): SystemError {
  return new SystemError(
    errnos.EPROTO,
    `${shmPath(name)} is not a segment that this program can use: ${why}. If no node uses it, remove it: xseg posix:${name}: destroy --force`,
  );
}

function openError(name: string, what: string, errno = libc.errno()): SystemError {
  if (errno === errnos.ENOENT) {
    return new SystemError(errno, `there is no segment ${name} to ${what}; start the node (archipelago start)`);
  }
  if (errno === errnos.EEXIST) {
    return new SystemError(
      errno,
      `segment ${name} exists already; stop its node or remove it: xseg posix:${name}: destroy`,
    );
  }
  const hint =
    errno === errnos.EACCES || errno === errnos.EPERM
      ? '; run as the account that made it, as a member of its group (GROUP in [ARCHIPELAGO]), or as root'
      : '';
  return new SystemError(errno, `cannot ${what} segment ${shmPath(name)}: ${errnoName(errno)}${hint}`);
}
