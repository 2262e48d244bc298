/**
 * What Ganeti tells an ExtStorage provider: environment variables, all of them text (ganeti-extstorage-interface(7)). Read and checked here, all
 * at once and before anything is done, so that the actions see numbers and names.
 */
import { errnos, SystemError } from '../../sys/errno.js';

/** How the node's hypervisor reaches the disk. */
export type Access = 'kernelspace' | 'userspace';

/** One call, as the actions see it. What Ganeti did not say is null. */
export interface GanetiCall {
  /** VOL_NAME: Ganeti's name of the disk, `UUID.ext.diskN`, or of a snapshot of it. */
  readonly name: string;
  /** VOL_CNAME: the name that people gave the disk. Not told on every call. */
  readonly givenName: string | null;
  /** VOL_UUID. */
  readonly uuid: string | null;
  /** VOL_SIZE, in bytes: of the disk to be made; on grow the old size. */
  readonly size: number | null;
  /** VOL_NEW_SIZE, in bytes: after grow. */
  readonly newSize: number | null;
  /** VOL_METADATA. */
  readonly metadata: string | null;
  /** VOL_SNAPSHOT_NAME. */
  readonly snapshot: string | null;
  /** VOL_OPEN_EXCLUSIVE: false while a guest moves. */
  readonly exclusive: boolean;
  /** EXTP_ACCESS. */
  readonly access: Access;
  /** EXTP_ORIGIN: the snapshot or image that a new disk starts as. */
  readonly origin: string | null;
  /** EXTP_ORIGIN_SIZE, in bytes: the origin is a map of Pithos without a header (v0), and its volume has this size. */
  readonly originSize: number | null;
  /** EXTP_REUSE_DATA: the disk is the volume that has the disk's given name; none is made, and none is removed. */
  readonly reuseData: boolean;
  /** Parameters that this provider does not know, as the administrator wrote them. */
  readonly unknown: readonly string[];
}

/** What parameters.list says; the others come from Ganeti itself. */
export const PARAMETERS = ['origin', 'origin_size', 'reuse_data'] as const;
const GANETIS = ['provider', 'access'];
const PREFIX = 'EXTP_';
const MiB = 1 << 20;

type Environment = Readonly<Record<string, string | undefined>>;

export interface CallOptions {
  /** Instead of VOL_NAME, from the command line. */
  readonly name?: string;
  /**
   * The disk is there already. What its parameters say of its making does not count any more, right or wrong: they can be changed later
   * (gnt-instance modify), and a disk that cannot be attached for it could not be removed either. Default: no.
   */
  readonly made?: boolean;
}

/**
 * Reads the environment of a call.
 * @throws SystemError EINVAL naming the variable
 */
export function readCall(env: Environment, { name = env.VOL_NAME, made = false }: CallOptions = {}): GanetiCall {
  if (name === undefined || name === '') {
    throw invalid('the environment has no VOL_NAME: this is called by Ganeti, not by hand');
  }
  const known: readonly string[] = [...PARAMETERS, ...GANETIS];
  const unknown = Object.keys(env)
    .filter((key) => key.startsWith(PREFIX))
    .map((key) => key.slice(PREFIX.length).toLowerCase())
    .filter((key) => !known.includes(key));
  const originSize = made ? null : number(env, 'EXTP_ORIGIN_SIZE', 1, -1);
  const origin = made ? null : text(env.EXTP_ORIGIN);
  if (originSize !== null && origin === null) {
    throw invalid('origin_size is the size of a Pithos map that origin names, and there is no origin');
  }
  return {
    name,
    givenName: text(env.VOL_CNAME),
    uuid: text(env.VOL_UUID),
    size: mebibytes(env, 'VOL_SIZE'),
    newSize: mebibytes(env, 'VOL_NEW_SIZE'),
    metadata: env.VOL_METADATA ?? null,
    snapshot: text(env.VOL_SNAPSHOT_NAME),
    exclusive: flag(env, 'VOL_OPEN_EXCLUSIVE', true),
    access: access(env.EXTP_ACCESS),
    origin,
    originSize,
    reuseData: flag(env, 'EXTP_REUSE_DATA', false, made),
    unknown,
  };
}

/** @throws SystemError EINVAL when there is a parameter that this provider does not know */
export function refuseUnknown({ unknown }: Pick<GanetiCall, 'unknown'>): void {
  if (unknown.length === 0) return;
  throw invalid(
    `no such parameter${unknown.length > 1 ? 's' : ''}: ${unknown.join(', ')}; there are ${PARAMETERS.join(', ')}`,
  );
}

/** A value without which an action cannot be done. @throws SystemError EINVAL */
export function required<T>(value: T | null, variable: string, action: string): T {
  if (value !== null) return value;
  throw invalid(`the environment has no ${variable}, which ${action} needs`);
}

const invalid = (message: string): SystemError => new SystemError(errnos.EINVAL, message);

/** Ganeti writes the None of Python as text. */
const isUnset = (value: string | undefined): value is undefined | '' | 'None' =>
  value === undefined || value === '' || value === 'None';

const text = (value: string | undefined): string | null => (isUnset(value) ? null : value);

function mebibytes(env: Environment, variable: string): number | null {
  const value = number(env, variable, MiB);
  if (value === 0) throw invalid(`${variable} is 0: a disk has at least one MiB`);
  return value;
}

/**
 * @param unit bytes that one of what the variable counts is
 * @param none a number that means none
 */
function number(env: Environment, variable: string, unit: number, none?: number): number | null {
  const value = env[variable];
  if (isUnset(value) || (none !== undefined && value === String(none))) return null;
  const bytes = Number(value) * unit;
  if (/^\d+$/.test(value) && Number.isSafeInteger(bytes)) return bytes;
  throw invalid(`${variable} is "${value}", which is no number of ${unit === MiB ? 'MiB' : 'bytes'}`);
}

/** @param lenient the fallback also for what is neither */
function flag(env: Environment, variable: string, fallback: boolean, lenient = false): boolean {
  const value = env[variable];
  if (isUnset(value)) return fallback;
  if (/^(true|yes|on|1)$/i.test(value)) return true;
  if (/^(false|no|off|0)$/i.test(value)) return false;
  if (lenient) return fallback;
  throw invalid(`${variable} is "${value}", which is neither True nor False`);
}

/** Ganeti's own default. */
function access(value: string | undefined): Access {
  if (isUnset(value) || value === 'kernelspace') return 'kernelspace';
  if (value === 'userspace') return 'userspace';
  throw invalid(`access is "${value}": this provider knows kernelspace and userspace`);
}
