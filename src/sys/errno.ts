/** errno numbers, their names, and the error class that carries one. A leaf module. */
import os from 'node:os';

/** Linux errno values by name: `errnos.ENOENT === 2`. Node leaves out the one by which Ceph says that a client is blocklisted. */
export const errnos = { ...os.constants.errno, ESHUTDOWN: 108 };

const names = new Map<number, string>();
for (const [name, value] of Object.entries(errnos)) if (!names.has(value)) names.set(value, name);
// EWOULDBLOCK and ENOTSUP are aliases on Linux; say the name that man pages use.
names.set(errnos.EAGAIN, 'EAGAIN');
names.set(errnos.EOPNOTSUPP, 'EOPNOTSUPP');

/** The name of an errno number, e.g. `ENOENT`; `E<number>` when unknown. */
export function errnoName(errno: number): string {
  return names.get(errno) ?? `E${errno}`;
}

/**
 * An error of the system or of a peer: `code` is the errno's name (as Node's own errors have it), `errno` its positive number,
 * the message a sentence that names the thing and the way out.
 */
export class SystemError extends Error {
  readonly errno: number;
  readonly code: string;
  constructor(errno: number, message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = 'SystemError';
    this.errno = errno;
    this.code = errnoName(errno);
  }
}

/** The positive errno of any thrown value: a SystemError's, a Node error's, else EIO. */
export function errnoOf(error: unknown): number {
  const e = error as { errno?: unknown; code?: unknown } | null | undefined;
  if (typeof e?.errno === 'number' && e.errno !== 0) return Math.abs(e.errno);
  if (typeof e?.code === 'string') return (errnos as Record<string, number>)[e.code] ?? errnos.EIO;
  return errnos.EIO;
}

/** The message of any thrown value. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
