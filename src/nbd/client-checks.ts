/**
 * What a client must not ask of an export (protocol document, "Transmission flags" and "Block size constraints"): commands and flags that
 * were not offered, ranges past the end, off the minimum block size or longer than the maximum. A server need not answer such a request,
 * it may as well disconnect.
 */
import { errnos, SystemError } from '../sys/errno.js';
import type { Abilities } from './client.js';
import type { ExportInfo } from './client-handshake.js';
import { Command, CommandFlag, commandName } from './constants.js';

const needs = new Map<number, keyof Abilities>([
  [Command.WRITE, 'write'],
  [Command.FLUSH, 'flush'],
  [Command.TRIM, 'trim'],
  [Command.CACHE, 'cache'],
  [Command.WRITE_ZEROES, 'writeZeroes'],
  [Command.RESIZE, 'resize'],
]);
const writing: ReadonlySet<number> = new Set([Command.WRITE, Command.TRIM, Command.WRITE_ZEROES, Command.RESIZE]);

/**
 * @param size of the export, as this client knows it, in bytes
 * @throws SystemError EPERM on a read-only export, EOPNOTSUPP for what was not offered, EINVAL (ENOSPC for what writes) for the range
 */
export function checkRequest(
  { command, flags, offset, length }: { command: number; flags: number; offset: number; length: number },
  info: ExportInfo,
  can: Abilities,
  size: number,
): void {
  const name = commandName(command);
  if (writing.has(command) && !can.write) throw new SystemError(errnos.EPERM, `${name}: the export is read-only`);
  const ability = needs.get(command);
  if (ability !== undefined && !can[ability]) {
    throw new SystemError(errnos.EOPNOTSUPP, `${name}: the export does not offer it`);
  }
  checkFlag(name, flags, CommandFlag.DF, can.df, 'df');
  checkFlag(name, flags, CommandFlag.FAST_ZERO, can.fastZero, 'fastZero');
  if (command === Command.FLUSH || command === Command.RESIZE) return;
  const what = `${name} of ${length} bytes at ${offset}`;
  if (offset + length > size) {
    const errno = command === Command.WRITE || command === Command.WRITE_ZEROES ? errnos.ENOSPC : errnos.EINVAL;
    throw new SystemError(errno, `${what}: the export has ${size} bytes`);
  }
  if (info.blockSize === null) return;
  const { minimum, maximum } = info.blockSize;
  if (minimum > 1 && (offset % minimum !== 0 || length % minimum !== 0)) {
    throw new SystemError(errnos.EINVAL, `${what}: offset and length must be multiples of ${minimum}`);
  }
  const payload = command === Command.READ || command === Command.WRITE;
  if (payload && maximum > 0 && length > maximum) {
    throw new SystemError(errnos.EINVAL, `${what}: the server takes ${maximum} bytes at a time; use several requests`);
  }
}

function checkFlag(name: string, flags: number, flag: number, offered: boolean, option: string): void {
  if ((flags & flag) !== 0 && !offered) {
    throw new SystemError(errnos.EOPNOTSUPP, `${name}: the export does not offer ${option}`);
  }
}
