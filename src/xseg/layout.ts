/**
 * The one source of truth for where things are in a segment. TypeScript reads it directly; a C header for native peers can be
 * generated from it. All numbers are little endian (native), all offsets below are in 32-bit words unless named bytes.
 *
 *   header | port table | queues (two rings per port) | request table | page table | data heap
 *
 * Each area starts at a page boundary. Change anything here and ABI_VERSION goes up: a join with another version is refused.
 */

export const MAGIC_LOW = 0x47455358; // "XSEG"
export const MAGIC_HIGH = 0x68637261; // "arch"
export const ABI_VERSION = 5;
/** Feature bits a joiner must know; none yet. */
export const FEATURES = 0;

export const HEADER_BYTES = 4096;
/** Words of a lock: the owning process (see lock.ts; 0 = free), the port on whose behalf + 1, two spare. */
export const LOCK_WORDS = 4;

/** Header fields, in words. */
export const H = {
  MAGIC_LOW: 0,
  MAGIC_HIGH: 1,
  ABI: 2,
  FEATURES: 3,
  /** Written last by create: a segment without it is still being made, or its maker died. */
  READY: 4,
  PAGE_SHIFT: 5,
  PORTS: 6,
  /** Ports below this number are static (bound by number), those from it on are handed out. */
  FIRST_DYNAMIC: 7,
  SIZE_LOW: 8,
  SIZE_HIGH: 9,
  REQUESTS: 10,
  QUEUE_CAPACITY: 11,
  PORT_TABLE_PAGE: 12,
  QUEUES_PAGE: 13,
  REQUEST_TABLE_PAGE: 14,
  PAGE_TABLE_PAGE: 15,
  HEAP_PAGE: 16,
  HEAP_PAGES: 17,
  CREATOR_PID: 18,
  CREATED_LOW: 19,
  CREATED_HIGH: 20,
  /** The creator's pid namespace: seen from another one its peers would look dead. */
  PID_NAMESPACE: 21,
  PORTS_LOCK: 24,
  REQUESTS_LOCK: 28,
  HEAP_LOCK: 32,
  /** First free request + 1; the list goes on in R.NEXT. */
  FREE_REQUESTS: 40,
  FREE_REQUEST_COUNT: 41,
  FREE_PAGES: 42,
  /** Counts up when a port found no buffer or record: everybody then gives back what it keeps spare. */
  PRESSURE: 112,
  /** First free block (page + 1) of each order. */
  FREE_BLOCKS: 48,
} as const;

export const PORT_BYTES = 384;
export const PORT_WORDS = PORT_BYTES / 4;
export const PORT_NAME_BYTES = 64;

/**
 * Port fields, in words from the port's record. Cache lines are 16 words: what other processes write when they push to one of the
 * queues is apart from the other queue and from what only the owner writes.
 */
export const P = {
  STATE: 0,
  PID: 1,
  START: 2,
  /** Pid of the owner before this one: whose orphaned requests the present owner waits for. */
  LAST_PID: 3,
  /** Goes up with each bind and each release, so that a reader can tell that it read two owners' fields. */
  GENERATION: 4,
  /** 1 = the owner waits for orphaned requests of LAST_PID to end (settling.ts). */
  SETTLING: 5,
  HEAP_PAGES: 6,
  HEAP_LIMIT: 7,
  REQUESTS: 8,
  REQUEST_LIMIT: 9,

  /** Request queue: positions count up for ever, the slot is position modulo capacity. */
  REQUEST_LOCK: 16,
  REQUEST_TAIL: 20,
  REQUEST_HEAD: 21,
  /** 1 = the owner waits for its doorbell. */
  SLEEPING: 22,
  /** 1 = the queues may miss entries (a producer died, the port was unbound): the owner looks through the request table. */
  SCAN: 23,

  REPLY_LOCK: 32,
  REPLY_TAIL: 36,
  REPLY_HEAD: 37,

  /** bytes 192..255 */
  NAME: 48,

  /** Counters (f64, so word index must be even). */
  SUBMITTED: 64,
  ACCEPTED: 66,
  REPLIED: 68,
  RECEIVED: 70,
} as const;

export const PortState = { FREE: 0, BOUND: 1 } as const;

export const REQUEST_SHIFT = 10;
export const REQUEST_BYTES = 1 << REQUEST_SHIFT;
export const REQUEST_WORDS = REQUEST_BYTES / 4;
export const MAX_TARGET = 256;
export const TARGET_BYTE = 128;
export const MAX_MESSAGE = 512;
export const MESSAGE_BYTE = 384;
export const MAX_NOTE = 120;
export const NOTE_BYTE = 896;

/** Request fields, in words from the request's record. */
export const R = {
  STATE: 0,
  STATUS: 1,
  OP: 2,
  FLAGS: 3,
  ERRNO: 4,
  SRC: 5,
  DST: 6,
  /** Order of the asker's submits: what is found in the table is delivered in this order. */
  SERIAL: 7,
  OFFSET: 8,
  SIZE: 10,
  SERVICED: 12,
  V0_SIZE: 14,
  /** Byte offset of the data in the segment; 0 = none. */
  DATA: 16,
  DATA_LENGTH: 18,
  TARGET_LENGTH: 19,
  HINT: 20,
  MESSAGE_LENGTH: 22,
  NEXT: 24,
  /** Pid of the dead asker of an ORPHANED request. */
  ORPHAN_OF: 25,
  /** f64, ms of the monotonic clock; 0 = none. */
  DEADLINE: 26,
  /** 1 = was accepted before, by an owner that went without answering. */
  REDELIVERED: 28,
  /** See Resend. */
  RESEND: 29,
  NOTE_LENGTH: 30,
} as const;

/** What becomes of an accepted request whose server goes without answering. */
export const Resend = {
  /** Its successor gets it as it is. */
  NO: 0,
  /** The asker wants to send it anew: the server may have begun to write its answer over the request's data. */
  WANTED: 1,
  /** The asker has to: that is what this answer means. */
  DUE: 2,
} as const;

/**
 * Life of a request record. Every change that two processes may race for (accept, answer, withdraw, orphan, free) is a
 * compare-and-exchange on this word, so each has one winner.
 */
export const RequestState = {
  FREE: 0,
  /** Belongs to the port in SRC, which fills it. */
  HELD: 1,
  /** In the request queue of DST. */
  SUBMITTED: 2,
  /** DST works on it. */
  ACCEPTED: 3,
  /** In the reply queue of SRC. */
  REPLIED: 4,
  /** DST works on it but the asker is gone: whoever answers frees the record. */
  ORPHANED: 5,
} as const;

/** Outcome of a request (the original's state bits). */
export const Status = { NONE: 0, SERVED: 1, FAILED: 2 } as const;

/**
 * Page table: three words a page: block state, next and previous free block (page + 1). The second word of an allocated block is 1
 * while its port keeps it spare.
 */
export const PAGE_WORDS = 3;
/** Block state of an allocated block's first page: ALLOCATED | order << 24 | owner port. */
export const PAGE_ALLOCATED = 0x80000000;
/** Block state of a free block's first page: FREE | order << 24. Other pages hold 0. */
export const PAGE_FREE = 0x40000000;
/** Owner of blocks whose port died while a living peer still works on them. */
export const ORPHAN_OWNER = 0xffff;
export const MAX_PORTS = 0xfff0;
/** The largest single allocation, in bytes. */
export const MAX_ALLOCATION = 4 << 20;
/** The largest segment in MiB: one Buffer maps all of it, and offsets in it fit 32 bits. */
export const MAX_SIZE_MIB = 4095;

/** Sizes and places of all areas of a segment with these parameters, in bytes. */
export interface Geometry {
  readonly size: number;
  readonly pageShift: number;
  readonly ports: number;
  readonly firstDynamic: number;
  readonly requests: number;
  readonly queueCapacity: number;
  readonly portTable: number;
  readonly queues: number;
  readonly requestTable: number;
  readonly pageTable: number;
  readonly heap: number;
  readonly heapPages: number;
}

/** Lays out a segment. heapPages can come out negative for one that is too small: the caller refuses it. */
export function geometry(size: number, pageShift: number, ports: number, firstDynamic: number): Geometry {
  const page = 1 << pageShift;
  const align = (bytes: number): number => Math.ceil(bytes / page) * page;
  const requests = powerOfTwo(Math.min(Math.max((size / (1 << 20)) * 16, 256), 16384));
  const queueCapacity = Math.min(1024, requests);
  const portTable = align(HEADER_BYTES);
  const queues = portTable + align(ports * PORT_BYTES);
  const requestTable = queues + align(ports * 2 * queueCapacity * 4);
  const pageTable = requestTable + align(requests * REQUEST_BYTES);
  const left = size - pageTable;
  const heapPages = Math.floor((left - page) / (page + PAGE_WORDS * 4));
  const heap = pageTable + align(Math.max(heapPages, 0) * PAGE_WORDS * 4);
  return {
    size,
    pageShift,
    ports,
    firstDynamic,
    requests,
    queueCapacity,
    portTable,
    queues,
    requestTable,
    pageTable,
    heap,
    heapPages,
  };
}

/** The largest power of two that is not above n. */
function powerOfTwo(n: number): number {
  return 1 << Math.floor(Math.log2(n));
}
