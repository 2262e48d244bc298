/** Are two descriptors the same file? */
import type { FileStatus, FileSystem } from './system.js';

/** False also when that cannot be told. */
export async function isSameFile(system: FileSystem, one: number, other: number): Promise<boolean> {
  try {
    const [a, b] = await Promise.all([system.fstat(one), system.fstat(other)]);
    return isSameStatus(a, b);
  } catch {
    return false;
  }
}

/**
 * The number of an inode alone is not enough: a network file system's server may give it to a new
 * file while the descriptor of the old one still shows it. So length and time are compared too, which one inode shows alike on both.
 */
export function isSameStatus(a: FileStatus, b: FileStatus): boolean {
  return a.ino === b.ino && a.dev === b.dev && a.nlink > 0 && a.size === b.size && a.mtimeMs === b.mtimeMs;
}
