/** The shared-memory object behind a segment: creating it, joining it, removing it, and refusing what is not a segment of ours. */
import fs from 'node:fs';
import { errnoName, errnos, SystemError } from '../sys/errno.js';
import * as libc from '../sys/libc.js';
import { bellDirectory } from './doorbell.js';
import { ABI_VERSION, FEATURES, type Geometry, geometry, H, HEADER_BYTES, MAGIC_HIGH, MAGIC_LOW } from './layout.js';
import { SegmentMemory } from './memory.js';
import { self } from './owner.js';
import type { SegmentSpec } from './spec.js';

const MODE = 0o660;
/** A heap smaller than this cannot carry a node's requests. */
const MIN_HEAP = 4 << 20;
const READY_PATIENCE_MS = 1000;

const shmPath = (name: string): string => `/dev/shm/${name}`;

interface Attached {
  readonly memory: SegmentMemory;
  readonly geometry: Geometry;
}

/** Makes the object and its header; READY is still 0. */
export function create(spec: SegmentSpec): Attached {
  const layout = geometry(spec.size, spec.pageShift, spec.ports, spec.firstDynamic);
  if (layout.heapPages * 2 ** spec.pageShift < MIN_HEAP) {
    const needed = Math.ceil((layout.heap + MIN_HEAP + (1 << 20)) / (1 << 20));
    throw new SystemError(
      errnos.EINVAL,
      `SEGMENT_SIZE ${spec.size / (1 << 20)} MiB is too small for ${spec.ports} ports; set it to ${needed} or more`,
    );
  }
  const space = fs.statfsSync('/dev/shm');
  const available = space.bavail * space.bsize;
  if (available < spec.size) {
    throw new SystemError(
      errnos.ENOSPC,
      `/dev/shm has ${Math.floor(available / (1 << 20))} MiB free, the segment needs ${spec.size / (1 << 20)}; ` +
        'lower SEGMENT_SIZE or enlarge /dev/shm',
    );
  }
  const fd = libc.shmOpen(`/${spec.name}`, libc.O_RDWR | libc.O_CREAT | libc.O_EXCL | libc.O_CLOEXEC, MODE);
  if (fd < 0) throw openError(spec.name, 'create');
  try {
    // The umask of the caller must not keep the group out: other tools of the same group join.
    fs.fchmodSync(fd, MODE);
    if (libc.ftruncate(fd, spec.size) !== 0) throw openError(spec.name, 'size');
    fs.rmSync(bellDirectory(spec.name), { recursive: true, force: true });
    fs.mkdirSync(bellDirectory(spec.name));
    fs.chmodSync(bellDirectory(spec.name), 0o2770);
    const memory = SegmentMemory.map(fd, spec.size);
    writeHeader(memory, layout);
    return { memory, geometry: layout };
  } catch (error) {
    libc.shmUnlink(`/${spec.name}`);
    throw error;
  } finally {
    libc.close(fd);
  }
}

function writeHeader(memory: SegmentMemory, layout: Geometry): void {
  const { u32 } = memory;
  const page = 1 << layout.pageShift;
  u32[H.MAGIC_LOW] = MAGIC_LOW;
  u32[H.MAGIC_HIGH] = MAGIC_HIGH;
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
  memory.set64(H.CREATED_LOW, Date.now());
}

/** Maps an existing segment after checking that it is one, whole, of this version. */
export function attach(name: string): Attached {
  const fd = libc.shmOpen(`/${name}`, libc.O_RDWR | libc.O_CLOEXEC, 0);
  if (fd < 0) throw openError(name, 'join');
  try {
    const { size } = fs.fstatSync(fd);
    if (size < HEADER_BYTES) throw foreign(name, `it has only ${size} bytes`);
    const memory = SegmentMemory.map(fd, size - (size % 8));
    return { memory, geometry: checkHeader(name, memory, size) };
  } finally {
    libc.close(fd);
  }
}

function checkHeader(name: string, memory: SegmentMemory, size: number): Geometry {
  const { u32 } = memory;
  awaitReady(memory);
  if (u32[H.MAGIC_LOW] !== MAGIC_LOW || u32[H.MAGIC_HIGH] !== MAGIC_HIGH)
    throw foreign(name, 'it has another signature');
  if (u32[H.ABI] !== ABI_VERSION) {
    throw foreign(
      name,
      `its layout has version ${u32[H.ABI]}, this program version ${ABI_VERSION}: stop the other version first`,
    );
  }
  if ((u32[H.FEATURES] & ~FEATURES) !== 0)
    throw foreign(name, `it uses features ${u32[H.FEATURES]} that are not known here`);
  if (u32[H.READY] !== 1) throw foreign(name, 'its maker did not finish it');
  if (memory.get64(H.SIZE_LOW) !== size)
    throw foreign(name, `it says ${memory.get64(H.SIZE_LOW)} bytes but has ${size}`);
  const pageShift = u32[H.PAGE_SHIFT];
  if (pageShift < 12 || pageShift > 16) throw foreign(name, `its page shift is ${pageShift}`);
  const layout = geometry(size, pageShift, u32[H.PORTS], u32[H.FIRST_DYNAMIC]);
  const page = 1 << pageShift;
  const same =
    u32[H.REQUESTS] === layout.requests &&
    u32[H.QUEUE_CAPACITY] === layout.queueCapacity &&
    u32[H.PORT_TABLE_PAGE] === layout.portTable / page &&
    u32[H.QUEUES_PAGE] === layout.queues / page &&
    u32[H.REQUEST_TABLE_PAGE] === layout.requestTable / page &&
    u32[H.PAGE_TABLE_PAGE] === layout.pageTable / page &&
    u32[H.HEAP_PAGE] === layout.heap / page &&
    u32[H.HEAP_PAGES] === layout.heapPages;
  if (!same) throw foreign(name, 'its header does not agree with itself');
  return layout;
}

/** A segment that is being made this very moment becomes ready within milliseconds. */
function awaitReady(memory: SegmentMemory): void {
  const pause = new Int32Array(new SharedArrayBuffer(4));
  const deadline = Date.now() + READY_PATIENCE_MS;
  const making = (): boolean =>
    memory.u32[H.READY] !== 1 && (memory.u32[H.MAGIC_LOW] === MAGIC_LOW || memory.u32[H.MAGIC_LOW] === 0);
  while (making() && Date.now() < deadline) Atomics.wait(pause, 0, 0, 5);
}

export function unlinkSegment(name: string): void {
  const result = libc.shmUnlink(`/${name}`);
  const errno = libc.errno();
  fs.rmSync(bellDirectory(name), { recursive: true, force: true });
  if (result !== 0) throw openError(name, 'destroy', errno);
}

function foreign(name: string, why: string): SystemError {
  return new SystemError(
    errnos.EPROTO,
    `${shmPath(name)} is not a segment that this program can use: ${why}. If no node uses it, remove it: xseg posix:${name}: destroy`,
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
  return new SystemError(errno, `cannot ${what} segment ${shmPath(name)}: ${errnoName(errno)}`);
}
