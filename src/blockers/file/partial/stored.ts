/** What of a partial object is on the disk, read from its open file. */
import { errnos, SystemError } from '../../../sys/errno.js';
import { readFully } from '../copy.js';
import type { PartialContext } from './partial.js';
import {
  DURABLE,
  decodeMark,
  decodeTail,
  hasOddLength,
  isTail,
  type Tail,
  tailLength,
  tailOf,
  tailOffset,
} from './tail.js';

/** Of a partial object. */
export interface Stored {
  /** Units of an earlier stamp that are there, and not for good, are absent in it. */
  readonly tail: Tail;
  /** The units that are there, and not for good, are there by now. */
  readonly isCurrent: boolean;
}

/** Nobody can tell what is there of an object. */
export class Unreadable extends SystemError {
  constructor(why: string) {
    super(errnos.EIO, why);
  }
}

type Reader = Pick<PartialContext, 'system' | 'marks' | 'stamp'>;

/** null: it is an object like any other. @param name of the object, for errors @throws Unreadable; the system's error */
export async function storedOf(reader: Reader, fd: number, name = ''): Promise<Stored | null> {
  const mark = reader.marks.get(fd);
  if (mark === null) {
    await checkPlain(reader, fd, name);
    return null;
  }
  const length = decodeMark(mark);
  const tail = length === null ? null : decodeTail(await readTail(reader, fd, length), length);
  if (tail === null) {
    throw new Unreadable(
      `object ${name}: it is a copy that is not complete, and its state cannot be read: start the version that made it and stop it in order`,
    );
  }
  const isCurrent = tail.stamp === reader.stamp;
  if (!isCurrent) for (const [i, state] of tail.states.entries()) if (state !== DURABLE) tail.states[i] = 0;
  return { tail, isCurrent };
}

/** A file that was copied without its attributes would read as zeros where it is not complete. */
async function checkPlain(reader: Reader, fd: number, name: string): Promise<void> {
  if (!(await endsWithTail(reader, fd, reader.marks.status(fd).size))) return;
  throw new Unreadable(
    `object ${name}: it is a copy that is not complete, and its file has lost its attributes: copy the store with them (cp -a, rsync -aHX, tar --xattrs)`,
  );
}

/** @param size of the file, bytes */
export async function endsWithTail(reader: Pick<Reader, 'system'>, fd: number, size: number): Promise<boolean> {
  const offset = hasOddLength(size) ? tailOf(size) : null;
  return offset !== null && isTail(await readTail(reader, fd, offset));
}

const readTail = ({ system }: Pick<Reader, 'system'>, fd: number, length: number): Promise<Buffer> =>
  readFully(system, fd, tailLength(length), tailOffset(length));
