/** Disk images as files: sparse, and filled with bytes of a generator so that a moved, doubled or stale page is noticed. */
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { open } from 'node:fs/promises';

const CHUNK = 1 << 20;

/** A range of an image that is filled; what is in none of them is a hole. */
export interface Stretch {
  readonly offset: number;
  readonly length: number;
  readonly seed: number;
}

/** Bytes that differ everywhere: a linear congruential generator's words. */
export function generated(length: number, seed: number): Buffer {
  const bytes = Buffer.alloc(Math.ceil(length / 4) * 4);
  let state = seed;
  for (let i = 0; i < bytes.length; i += 4) {
    state = (Math.imul(state, 1664525) + 1013904223) | 0;
    bytes.writeInt32LE(state, i);
  }
  return bytes.subarray(0, length);
}

/** Writes an image of `size` bytes; resolves to its SHA-256. */
export async function writeImage(file: string, size: number, ...stretches: readonly Stretch[]): Promise<string> {
  const handle = await open(file, 'w');
  try {
    await handle.truncate(size);
    for (const { offset, length, seed } of stretches) {
      for (let done = 0; done < length; done += CHUNK) {
        await handle.write(generated(Math.min(CHUNK, length - done), seed + done), 0, undefined, offset + done);
      }
    }
  } finally {
    await handle.close();
  }
  return hashFile(file);
}

/** SHA-256 of a file. */
export function hashFile(file: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const hash = createHash('sha256');
    createReadStream(file, { highWaterMark: 4 * CHUNK })
      .on('data', (chunk) => hash.update(chunk))
      .on('error', reject)
      .on('end', () => resolve(hash.digest('hex')));
  });
}
