/** Volumes in words: the descriptions that clients show (NBD_INFO_DESCRIPTION and NBD_OPT_LIST). */
import { formatTime } from './names.js';

/** What is told of the lineage of a volume or snapshot. */
export interface Lineage {
  readonly readOnly: boolean;
  readonly created?: number | null;
  readonly parent?: string | null;
}

/** E.g. `volume`, `clone of debian-12`, `snapshot of web-root taken 2026-11-19T03:00:00Z`. */
export function kindOf({ readOnly, created, parent }: Lineage): string {
  if (!readOnly) return parent ? `clone of ${parent}` : 'volume';
  if (!parent) return created ? `snapshot or image of ${formatTime(created)}` : 'snapshot or image';
  return created ? `snapshot of ${parent} taken ${formatTime(created)}` : `snapshot of ${parent}`;
}

/** kindOf, and how large it is. */
export function describeVolume(info: Lineage & { readonly size: number; readonly blockSize: number }): string {
  return `${kindOf(info)}, ${info.size} bytes in blocks of ${info.blockSize}`;
}
