/** Names of volumes on the command line: the original's rules and first words, plus which rule was broken. */
import { errnos } from '../../sys/errno.js';
import { CliError } from '../common/exit.js';

/** Shortest name in bytes: file blockers refuse shorter ones. */
export const MIN_NAME = 6;
/** Longest name of a new volume in bytes: its objects' names must fit a map entry. */
export const MAX_NEW_NAME = 82;
/** Longest name of anything there is, in bytes: a file's name. */
const MAX_NAME = 255;

/** A name that a command is given for something that exists: legacy names are fine. @throws CliError */
export function checkName(name: string): void {
  if (Buffer.byteLength(name) < MIN_NAME) throw new CliError(`Name should have at least len ${MIN_NAME}`);
  const why = unusable(name) ?? (Buffer.byteLength(name) > MAX_NAME ? `it is longer than ${MAX_NAME} bytes` : null);
  if (why) throw invalid('volume', name, why);
}

/** The name of a volume to be made. @throws CliError */
export function checkNewVolume(name: string): void {
  if (Buffer.byteLength(name) < MIN_NAME) throw new CliError(`Name should have at least len ${MIN_NAME}`);
  const why = reserved(name);
  if (why) throw invalid('volume', name, why);
}

/** The new name of a volume. @throws CliError */
export function checkNewName(name: string): void {
  if (Buffer.byteLength(name) < MIN_NAME) throw new CliError(`New name should have at least len ${MIN_NAME}`);
  const why = reserved(name);
  if (why) throw invalid('new', name, why);
}

/** The name of a snapshot to be made. @throws CliError */
export function checkNewSnapshot(name: string): void {
  const why = Buffer.byteLength(name) < MIN_NAME ? `it has less than ${MIN_NAME} bytes` : reserved(name);
  if (why) throw invalid('snapshot', name, why);
}

function invalid(kind: 'volume' | 'snapshot' | 'new', name: string, why: string): CliError {
  const words = { volume: 'volume name', snapshot: 'snapshot name', new: 'new name' }[kind];
  return new CliError(`Invalid ${words}: ${JSON.stringify(name)}: ${why}`, errnos.EINVAL);
}

function unusable(name: string): string | null {
  if (name.includes('/') || name.includes('\0')) return 'it contains a slash or a NUL byte';
  if (/[\n\r]/.test(name)) return 'it contains a line break';
  return null;
}

function reserved(name: string): string | null {
  const length = Buffer.byteLength(name);
  if (length > MAX_NEW_NAME) return `it has ${length} bytes, the limit is ${MAX_NEW_NAME}`;
  if (name.startsWith('archip_')) return 'names that start with archip_ are those of old volumes';
  if (name.endsWith('_lock')) return 'names that end in _lock are those of locks';
  if (/_[0-9a-f]{16}/.test(name)) return 'names with _ and 16 hexadecimal digits are those of objects';
  return unusable(name);
}
