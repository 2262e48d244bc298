/**
 * Who is at a store. Each process that has it open holds a shared lock (flock) of its directory, whatever it makes of copies. What needs that nobody
 * is there holds it alone, and keeps others from opening the store meanwhile. The kernel gives the lock back when a process ends.
 */
import fs from 'node:fs';
import { errnos, SystemError } from '../../../sys/errno.js';
import type { FileMarks, FileSystem } from '../system.js';

/** Gives a lock back. */
export type Release = () => Promise<void>;

/**
 * For as long as the store is open.
 * @param root the store's directory
 * @throws SystemError EBUSY while another process has the store for itself; the system's error
 */
export const shareStore = (system: FileSystem, root: string): Promise<Release> =>
  locked(
    system,
    root,
    (marks, fd) => marks.share?.(fd) ?? true,
    `the store ${root} is being worked on by a command that needs it for itself (archipelago complete): wait for its end`,
  );

/**
 * For work on a store that nobody has open.
 * @param root the store's directory
 * @throws SystemError EBUSY when a process has it; the system's error
 */
export const ownStore = (system: FileSystem, root: string): Promise<Release> =>
  locked(
    system,
    root,
    (marks, fd) => marks.lock(fd),
    `a process has the store ${root} open: stop every node that uses it (archipelago stop)`,
  );

async function locked(
  system: FileSystem,
  root: string,
  lock: (marks: FileMarks, fd: number) => boolean,
  refusal: string,
): Promise<Release> {
  const { marks } = system;
  // A modelled disk has no other processes.
  if (marks?.share === undefined) return async () => {};
  const fd = await system.open(root, fs.constants.O_RDONLY | fs.constants.O_DIRECTORY, 0);
  try {
    if (!lock(marks, fd)) throw new SystemError(errnos.EBUSY, refusal);
  } catch (error) {
    await system.close(fd).catch(() => {});
    throw error;
  }
  return () => system.close(fd);
}
