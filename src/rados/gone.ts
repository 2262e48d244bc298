/**
 * Is a pool gone? librados says of its objects what it says of one that is missing; but who reads a missing object may take it for zeros.
 */
import { errnos } from '../sys/errno.js';
import { allocateMemory } from '../sys/libc.js';
import type { Library } from './library.js';

/** Longer than Ceph's names of pools. */
const name = allocateMemory(4096);

/**
 * The result of an operation on a pool's object: ENODEV instead of ENOENT when the pool was deleted, by the map of the OSDs that this
 * client has. Does not wait. @param io librados' handle of the pool
 */
export function withPool(library: Library, io: number, result: number): number {
  if (result !== -errnos.ENOENT) return result;
  const found = library.ioctxPoolName(io, name.address, name.bytes.length);
  return found === -errnos.ENOENT ? -errnos.ENODEV : result;
}
