/** Whole objects: reading all of one, and the steps that make one what another is. */
import type { Pool, WriteStep } from '../../rados/types.js';
import { errnos, SystemError } from '../../sys/errno.js';

/** Most of an object that is read at once. */
const PIECE = 8 << 20;
/**
 * The largest object that is copied or hashed: it is written by one operation, all or nothing, and OSDs refuse operations of more than
 * 90 MB (osd_max_write_size).
 */
export const MAX_WHOLE = 64 << 20;
/** Zeros of this length, at a multiple of it, are left out of a copy: what the OSDs' disks allocate is as large or smaller. */
const HOLE = 64 << 10;
const ZEROS = Buffer.alloc(HOLE);

/**
 * Up to `size` bytes of an object, fewer when it is shorter.
 * @throws RadosError ENOENT; SystemError EFBIG when there is more than can be written at once
 */
export async function readWhole(pool: Pool, object: string, size: number): Promise<Buffer> {
  const pieces: Buffer[] = [];
  for (let at = 0; ; ) {
    const wanted = Math.min(PIECE, Math.min(size, MAX_WHOLE + 1) - at);
    const piece = await pool.readBytes(object, at, wanted);
    pieces.push(piece);
    at += piece.length;
    if (piece.length < PIECE) break;
  }
  const bytes = pieces.length === 1 ? pieces[0] : Buffer.concat(pieces);
  if (bytes.length > MAX_WHOLE) {
    throw new SystemError(
      errnos.EFBIG,
      `object ${object} is longer than the ${MAX_WHOLE} bytes that can be written at once`,
    );
  }
  return bytes;
}

function isHole(bytes: Buffer, at: number): boolean {
  const end = Math.min(at + HOLE, bytes.length);
  return bytes.compare(ZEROS, 0, end - at, at, end) === 0;
}

/** The steps that make an object these bytes, whatever it was; EEXIST with exclusive. Long zeros take no space. */
export function contentSteps(bytes: Buffer, exclusive: boolean): WriteStep[] {
  const runs: WriteStep[] = [];
  let end = 0;
  for (let at = 0; at < bytes.length; ) {
    if (isHole(bytes, at)) {
      at += HOLE;
      continue;
    }
    end = at + HOLE;
    while (end < bytes.length && !isHole(bytes, end)) end += HOLE;
    end = Math.min(end, bytes.length);
    runs.push({ do: 'write', data: bytes.subarray(at, end), offset: at });
    at = end;
  }
  const steps: WriteStep[] = [{ do: 'create', exclusive }];
  if (!exclusive) steps.push({ do: 'truncate', size: 0 });
  steps.push(...runs);
  if (end < bytes.length) steps.push({ do: 'truncate', size: bytes.length });
  return steps;
}
