/** What a letter about a lock is, wherever it is left: JSON with fields of known kinds. */
import type { LockMail } from '../requests/locks.js';
import { errnos, SystemError } from '../sys/errno.js';
import { checkOwner } from './names.js';

const kinds: readonly string[] = ['want', 'broken', 'gone'] satisfies LockMail['kind'][];

/** The value as a letter, without fields that letters have not; null when it is none. */
export function toMail(value: unknown): LockMail | null {
  if (typeof value !== 'object' || value === null) return null;
  const { kind, name, from, id } = value as Record<string, unknown>;
  const sound =
    typeof kind === 'string' &&
    kinds.includes(kind) &&
    typeof name === 'string' &&
    typeof from === 'string' &&
    typeof id === 'string';
  return sound ? { kind: kind as LockMail['kind'], name, from, id } : null;
}

/** Checks whom a letter goes to: owners' names become those of files. @throws SystemError EINVAL */
export function checkAddressee(owner: string): void {
  checkOwner(owner);
  if (owner === '.' || owner === '..' || owner.includes('/')) {
    throw new SystemError(
      errnos.EINVAL,
      `lock owner ${JSON.stringify(owner)} cannot get mail: its name is not that of a file`,
    );
  }
}
