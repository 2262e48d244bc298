/** Block status: what of a device's extents may go on the wire. */
import { MAX_EXTENTS } from './constants.js';
import type { Extent } from './device.js';

/**
 * Extents fit for the wire: neighbours with the same status are one, none is empty, none goes past the request's end (which keeps
 * those of compact requests within 32 bits), at most as many as a chunk may carry, only the first when one was asked for.
 * Null when that leaves none.
 * @param length of the request, in bytes
 * @param wide 64-bit flags can be told; otherwise extents that differ only above 32 bits are the same
 */
export function clampExtents(
  extents: readonly Extent[] | null,
  length: number,
  one: boolean,
  wide: boolean,
): Extent[] | null {
  if (extents === null) return null;
  const out: Extent[] = [];
  let last: Extent | null = null;
  let left = length;
  for (const extent of extents) {
    if (left <= 0) break;
    if (!(extent.length > 0)) continue;
    const clamped = Math.min(extent.length, left);
    const flagsHigh = wide ? (extent.flagsHigh ?? 0) : 0;
    if (last !== null && last.flags === extent.flags && last.flagsHigh === flagsHigh) last.length += clamped;
    else {
      if (out.length >= (one ? 1 : MAX_EXTENTS)) break;
      last = { length: clamped, flags: extent.flags, flagsHigh };
      out.push(last);
    }
    left -= clamped;
  }
  return out.length > 0 ? out : null;
}
