/**
 * The lock class of Ceph's OSDs: what its methods take, and what a lock is stored as. librados has functions for it, but they block
 * their thread; a method called as any other operation does not.
 *
 * A lock of the name N is the attribute `lock.N` of its object, in the form that `get_info` answers with too.
 */
import { readAddress, writeAddress } from './addresses.js';
import { malformed, Reader, Writer } from './ceph-encoding.js';

export const CLASS = 'lock';

export const LockType = { NONE: 0, EXCLUSIVE: 1, SHARED: 2, EPHEMERAL: 3 } as const;
export type LockType = (typeof LockType)[keyof typeof LockType];

/** Taking a lock that this client instance has succeeds. */
export const MAY_RENEW = 1;

/** Kind of a client among the parties that can have a lock. */
const CLIENT = 8;
const kinds = new Map<number, string>([
  [1, 'mon'],
  [2, 'mds'],
  [4, 'osd'],
  [CLIENT, 'client'],
  [16, 'mgr'],
]);

/** Most lockers of one lock that are believed. */
const MOST_LOCKERS = 4096;

export interface Locker {
  /** Kind of party, as Ceph numbers them, and its number: which client instance it is. */
  readonly kind: number;
  readonly id: bigint;
  readonly cookie: string;
  /** ms since the epoch; 0: never. */
  readonly expires: number;
  /** Where it is, as `osd blocklist add` takes it; '' when that is not known. */
  readonly address: string;
  readonly description: string;
}

export interface LockState {
  readonly type: number;
  readonly tag: string;
  readonly lockers: readonly Locker[];
}

/** As Ceph names it: `client.4123`. */
export function lockerName({ kind, id }: Pick<Locker, 'kind' | 'id'>): string {
  return `${kinds.get(kind) ?? `kind${kind}`}.${id}`;
}

/** A locker that is a client. */
export function clientLocker(id: bigint, cookie: string, address: string, description: string): Locker {
  return { kind: CLIENT, id, cookie, address, description, expires: 0 };
}

export interface LockRequest {
  readonly name: string;
  readonly type: LockType;
  readonly cookie: string;
  readonly tag: string;
  readonly description: string;
  readonly flags: number;
}

/** Input of the method `lock`, of a lock that never expires. */
export function encodeLock({ name, type, cookie, tag, description, flags }: LockRequest): Buffer {
  return new Writer()
    .struct((op) => {
      op.string(name).u8(type).string(cookie).string(tag).string(description);
      op.u32(0).u32(0).u8(flags);
    })
    .finish();
}

/** Input of the method `unlock`. */
export function encodeUnlock(name: string, cookie: string): Buffer {
  return new Writer().struct((op) => op.string(name).string(cookie)).finish();
}

/** Input of the method `break_lock`. */
export function encodeBreak(name: string, { kind, id, cookie }: Pick<Locker, 'kind' | 'id' | 'cookie'>): Buffer {
  return new Writer().struct((op) => op.string(name).u8(kind).i64(id).string(cookie)).finish();
}

/** Input of the method `get_info`. */
export function encodeGetInfo(name: string): Buffer {
  return new Writer().struct((op) => op.string(name)).finish();
}

/** Name of the attribute that the lock is stored as. */
export const attributeOf = (name: string): string => `lock.${name}`;

/** A lock as it is stored. */
export function encodeState({ type, tag, lockers }: LockState): Buffer {
  return new Writer()
    .struct((state) => {
      state.u32(lockers.length);
      for (const { kind, id, cookie, expires, address, description } of lockers) {
        state.struct((key) => key.u8(kind).i64(id).string(cookie));
        state.struct((info) => {
          info.u32(Math.floor(expires / 1000)).u32((expires % 1000) * 1e6);
          writeAddress(info, address);
          info.string(description);
        });
      }
      state.u8(type).string(tag);
    })
    .finish();
}

/** The answer of `get_info`, and the stored lock. @throws SystemError EBADMSG */
export function decodeState(bytes: Uint8Array): LockState {
  const state = new Reader(bytes).struct();
  const count = state.u32();
  if (count > MOST_LOCKERS) throw malformed(`a lock of ${count} lockers`);
  const lockers: Locker[] = [];
  for (let i = 0; i < count; i++) {
    const key = state.struct();
    const kind = key.u8();
    const id = key.i64();
    const cookie = key.string();
    const info = state.struct();
    const expires = info.u32() * 1000 + Math.floor(info.u32() / 1e6);
    lockers.push({ kind, id, cookie, expires, address: readAddress(info), description: info.string() });
  }
  return { lockers, type: state.u8(), tag: state.string() };
}
