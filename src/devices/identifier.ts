/** What this node calls its devices towards the kernel: by it they are known again, and nobody else's device is touched. */

const PREFIX = 'archipelago';

export const identifierOf = (segment: string, volume: string): string => `${PREFIX}:${segment}:${volume}`;

/** The volume of an identifier; null: it is not one of this node. */
export function volumeOf(segment: string, identifier: string | null): string | null {
  const prefix = identifierOf(segment, '');
  return identifier?.startsWith(prefix) && identifier.length > prefix.length ? identifier.slice(prefix.length) : null;
}
