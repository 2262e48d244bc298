/** Block status: what of a device's extents may go on the wire. */
import { MAX_EXTENTS } from './constants.js';
import type { Extent } from './device.js';

/**
 * Extents fit for the wire: none empty, none past the request's end, at most as many as a chunk may carry, only the first when one was
 * asked for. Null when that leaves none.
 * @param length of the request, in bytes
 */
export function clampExtents(extents: Extent[] | null, length: number, one: boolean): Extent[] | null {
  if (extents === null) return null;
  const out: Extent[] = [];
  let left = length;
  for (const extent of extents) {
    if (left <= 0 || out.length >= (one ? 1 : MAX_EXTENTS)) break;
    if (!(extent.length > 0)) continue;
    const clamped = Math.min(extent.length, left);
    out.push({ length: clamped, flags: extent.flags });
    left -= clamped;
  }
  return out.length > 0 ? out : null;
}
