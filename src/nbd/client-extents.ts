/** Block status over a range of any length: asks again where an answer ends, and merges what belongs together. */
import { errnos, SystemError } from '../sys/errno.js';
import type { NbdClient } from './client.js';
import type { Extent } from './device.js';

/** An extent and where it begins. */
export interface ExtentAt {
  /** Byte of the export. */
  readonly offset: number;
  /** Bytes. */
  readonly length: number;
  /** As the meta context defines them; base:allocation: 1 hole, 2 reads as zeros. */
  readonly flags: number;
  /** Upper half of 64-bit flags (extended headers). */
  readonly flagsHigh: number;
}

/** Longest range of one request without extended headers: the most that 32 bits hold at any block size. */
const COMPACT_LENGTH = 2 ** 32 - 64 * 1024;

/** See NbdClient.extents. */
export async function* extentsOf(
  client: NbdClient,
  options: { context?: string; offset?: number; length?: number },
): AsyncGenerator<ExtentAt, void, void> {
  const context = options.context ?? client.contexts[0]?.name;
  if (context === undefined) {
    throw new SystemError(errnos.EINVAL, 'block status: no meta context was chosen, or the server has none');
  }
  const start = options.offset ?? 0;
  const end = start + (options.length ?? Math.max(0, client.size - start));
  let current: ExtentAt | null = null;
  for (let at = start; at < end; ) {
    const length = client.extended ? end - at : Math.min(end - at, COMPACT_LENGTH);
    const answer = await client.blockStatus(at, length, { contexts: [context] });
    for (const extent of answer.get(context) as Extent[]) {
      // The last one may go on behind the range.
      const next: ExtentAt = {
        offset: at,
        length: Math.min(extent.length, end - at),
        flags: extent.flags,
        flagsHigh: extent.flagsHigh ?? 0,
      };
      at += next.length;
      if (current === null) current = next;
      else if (current.flags === next.flags && current.flagsHigh === next.flagsHigh) {
        current = {
          offset: current.offset,
          length: current.length + next.length,
          flags: next.flags,
          flagsHigh: next.flagsHigh,
        };
      } else {
        yield current;
        current = next;
      }
    }
  }
  if (current !== null) yield current;
}
