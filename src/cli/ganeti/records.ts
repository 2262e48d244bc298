/**
 * What is noted of Ganeti's disks, so that volumes that Ganeti forgot can be told from others: which instance one was made for, and which volume a
 * disk with reuse_data is. Ganeti tells it to one node, so it lies where every node sees it: a small object beside the maps, which is no map and
 * which `vlmc list` and the original's tools leave out.
 */
import type { ObjectClient } from '../../requests/object-client.js';
import { errnoOf, errnos } from '../../sys/errno.js';

/** Of one disk. */
export interface DiskRecord {
  /** VOL_METADATA, as Ganeti wrote it. */
  readonly metadata?: string;
  /** The volume that the disk is, where it is not called like the disk. */
  readonly volume?: string;
  /** The name that people gave the disk. */
  readonly name?: string;
  readonly uuid?: string;
}

const PREFIX = '.archipelago-ganeti-';
/** A record is one write of whole such pieces, so that a shorter one hides all of a longer one that was there. */
const PIECE = 1024;
const MOST = 4 * PIECE;
/** Names asked for at once. */
const PAGE = 512;

type Objects = Pick<ObjectClient, 'read' | 'write' | 'delete' | 'list'>;

/** The record of a disk; null when there is none, or it cannot be read as one. @param name Ganeti's name of it */
export async function readRecord(maps: Objects, name: string): Promise<DiskRecord | null> {
  let bytes: Buffer;
  try {
    bytes = await maps.read(PREFIX + name, 0, MOST, { uncached: true });
  } catch (error) {
    if (errnoOf(error) === errnos.ENOENT) return null;
    throw error;
  }
  return decodeRecord(bytes);
}

/** Replaces the record of a disk; durable when it resolves. */
export async function writeRecord(maps: Objects, name: string, record: DiskRecord): Promise<void> {
  await maps.write(PREFIX + name, 0, encodeRecord(record), { fua: true });
}

/** There need not be one. */
export async function deleteRecord(maps: Objects, name: string): Promise<void> {
  try {
    await maps.delete(PREFIX + name);
  } catch (error) {
    if (errnoOf(error) !== errnos.ENOENT) throw error;
  }
}

/** Ganeti's names of all disks that have a record. */
export async function recordedNames(maps: Objects): Promise<string[]> {
  const found: string[] = [];
  let cursor: string | null = null;
  do {
    const page = await maps.list(cursor, PAGE);
    for (const object of page.names) if (object.startsWith(PREFIX)) found.push(object.slice(PREFIX.length));
    cursor = page.cursor;
  } while (cursor !== null);
  return found;
}

/** The instance that VOL_METADATA names: Ganeti writes `originstname+NAME`. */
export function instanceOf({ metadata }: DiskRecord): string | null {
  if (metadata === undefined) return null;
  return metadata.startsWith('originstname+') ? metadata.slice('originstname+'.length) : metadata;
}

/** A line of JSON, filled up with line ends. */
export function encodeRecord(record: DiskRecord): Buffer {
  const line = Buffer.from(`${JSON.stringify(record)}\n`, 'utf8');
  const bytes = Buffer.alloc(Math.max(1, Math.ceil(line.length / PIECE)) * PIECE, '\n');
  line.copy(bytes);
  return bytes;
}

export function decodeRecord(bytes: Buffer): DiskRecord | null {
  const end = bytes.indexOf('\n');
  try {
    const value: unknown = JSON.parse(bytes.toString('utf8', 0, end < 0 ? bytes.length : end));
    if (typeof value !== 'object' || value === null || Array.isArray(value)) return null;
    const fields = Object.entries(value).filter(([, field]) => typeof field === 'string');
    return Object.fromEntries(fields) as DiskRecord;
  } catch {
    return null;
  }
}
