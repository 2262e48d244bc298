/**
 * Operations that must happen once although their request may be delivered twice: a mapper that dies after it has done one and
 * before it answers leaves the request to its successor.
 *
 * What tells the two apart is in the request's note (Request.note), which outlives the server: the id of what the operation makes or
 * removes, and from when on the name could be in use also the epoch of the map.
 */
import { randomBytes } from 'node:crypto';
import { errnos, SystemError } from '../sys/errno.js';

/** The part of a request that remembers; a Request of src/xseg is one. */
export interface Once {
  note: string;
}

/** For operations that no request asked for. */
export const forOnce = (): Once => ({ note: '' });

export interface Note {
  /** 32 hex digits: the id in the lineage of the map that is made, moved or removed. */
  readonly id: string;
  /** Epoch of the map that is made, noted before it can be seen; null: it is not there yet. */
  readonly epoch: number | null;
}

/** A note from when on what it tells of may have happened. */
export interface Begun extends Note {
  readonly epoch: number;
}

/** A note with a fresh id, for a request that is passed on: whoever gets it takes this id. */
export const newNote = (): string => randomBytes(16).toString('hex');

export const encodeNote = ({ id, epoch }: Note): string => (epoch === null ? id : `${id} ${epoch}`);

/** What a mapper noted once it had begun; null when it had not. @throws SystemError EINVAL for what no server wrote */
export function begun(text: string): Begun | null {
  const note = decodeNote(text);
  return note === null || note.epoch === null ? null : (note as Begun);
}

/** What is noted; null when nothing is. @throws SystemError EINVAL for what no server wrote */
export function decodeNote(text: string): Note | null {
  if (text === '') return null;
  const match = /^([0-9a-f]{32})(?: (\d{1,16}))?$/.exec(text);
  if (!match) throw new SystemError(errnos.EINVAL, `the request's note "${text}" is not one of a mapper`);
  return { id: match[1], epoch: match[2] === undefined ? null : Number(match[2]) };
}
