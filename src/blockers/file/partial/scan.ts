/** Finds the partial objects of a store by looking at each object, whatever the store's other files say, and changes nothing. */
import fs from 'node:fs';
import { errnos, SystemError } from '../../../sys/errno.js';
import { fileError, isErrno } from '../../errors.js';
import { ListedStore, listNames } from '../listing.js';
import { candidatePaths } from '../paths.js';
import type { FileMarks, FileStatus, FileSystem } from '../system.js';
import { storedOf } from './stored.js';
import { mayHaveTail, UNIT } from './tail.js';
import { Units } from './units.js';

/** Names asked for at a time. */
const PAGE = 1000;
/** Bytes of the unit of FileStatus.blocks. */
const SECTOR = 512;

/** An object that has a tail. */
export interface FoundPartial {
  readonly name: string;
  readonly file: string;
  /** Bytes that its file takes. */
  readonly space: number;
  /** Bytes that a whole copy takes at most. */
  readonly whole: number;
  /** The file that the rest of it comes from; null: nothing is missing. */
  readonly base: FileStatus | null;
}

/** Something that keeps an object from being read as a whole. */
export interface Problem {
  readonly object: string;
  readonly reason: string;
}

export interface Scan {
  /** All objects of the store. */
  readonly objects: number;
  readonly partial: readonly FoundPartial[];
  readonly problems: readonly Problem[];
}

/**
 * Looks at all objects of a store.
 * @param root the store's directory
 * @param basePath where a base is, by its name
 * @param looked called after each page with how many objects were looked at
 * @throws the system's error; of single objects it is told as a problem
 */
export async function scanStore(
  system: FileSystem,
  root: string,
  basePath: (base: string) => string,
  looked: (objects: number) => void = () => {},
): Promise<Scan> {
  const { marks } = system;
  if (marks === undefined) return { objects: 0, partial: [], problems: [] };
  const reader = { system, marks, stamp: marks.stamp(root) };
  const listed = new ListedStore(system, root);
  const partial: FoundPartial[] = [];
  const problems: Problem[] = [];
  let objects = 0;
  for (let cursor: string | null = null; ; ) {
    const page = await listNames(listed, cursor, PAGE);
    for (const name of page.names) {
      try {
        const files = candidatePaths(root, name);
        // Where others are at the store it may be completed in the middle of the first look.
        const found = await look(reader, files, name, basePath).catch(() => look(reader, files, name, basePath));
        if (found !== null) partial.push(found);
      } catch (error) {
        problems.push({ object: name, reason: fileError('it cannot be looked at', error).message });
      }
    }
    objects += page.names.length;
    looked(objects);
    cursor = page.cursor;
    if (cursor === null) return { objects, partial, problems };
  }
}

interface Reader {
  readonly system: FileSystem;
  readonly marks: FileMarks;
  readonly stamp: string;
}

/** null: it is an object like any other, or gone. @throws Unreadable; the system's error */
async function look(
  reader: Reader,
  files: readonly string[],
  name: string,
  basePath: (base: string) => string,
): Promise<FoundPartial | null> {
  const { system } = reader;
  for (const file of files) {
    const stats = await statOf(system, file);
    if (stats === null) continue;
    if (reader.marks.at(file) === null && !mayHaveTail(stats.size)) return null;
    const fd = await system.open(file, fs.constants.O_RDONLY, 0);
    try {
      const stored = await storedOf(reader, fd, name);
      if (stored === null) return null;
      const { absent, count } = new Units(stored.tail.length, stored.tail.states);
      const base = absent === 0 ? null : await statOf(system, basePath(stored.tail.base));
      if (absent > 0 && base === null)
        throw new SystemError(errnos.EIO, `${basePath(stored.tail.base)}, which it is a copy of, is missing`);
      const whole = (count - absent) * UNIT + Math.min(absent * UNIT, (base?.blocks ?? 0) * SECTOR);
      return { name, file, space: stats.blocks * SECTOR, whole, base };
    } finally {
      await system.close(fd);
    }
  }
  return null;
}

async function statOf(system: FileSystem, file: string): Promise<FileStatus | null> {
  try {
    return await system.stat(file);
  } catch (error) {
    if (isErrno(error, errnos.ENOENT)) return null;
    throw error;
  }
}
