/** What content-addressed objects are named by: the SHA-256 of their content without the zeros at its end. */
import { createHash, webcrypto } from 'node:crypto';

/** Up to this length the digest is computed at once; beyond, on the thread pool. */
const SMALL = 64 * 1024;

/** `bytes` without the zero bytes at their end. */
export function withoutTrailingZeros(bytes: Buffer): Buffer {
  let end = bytes.length;
  // Eight at a time: blocks are megabytes, and mostly their end is empty.
  while (end >= 8 && bytes.readInt32LE(end - 4) === 0 && bytes.readInt32LE(end - 8) === 0) end -= 8;
  while (end > 0 && bytes[end - 1] === 0) end--;
  return bytes.subarray(0, end);
}

/** SHA-256 in lower-case hex. */
export async function sha256(bytes: Buffer): Promise<string> {
  if (bytes.length <= SMALL) return createHash('sha256').update(bytes).digest('hex');
  return Buffer.from(await webcrypto.subtle.digest('SHA-256', bytes)).toString('hex');
}
