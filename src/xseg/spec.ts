/** Segment specs: `posix:<name>:<ports>:<dynports>:<size MiB>:<page shift>`, or `posix:<name>:` for one that exists. */
import { errnos, SystemError } from '../sys/errno.js';
import { MAX_PORTS, MAX_SIZE_MIB } from './layout.js';

export interface SegmentSpec {
  readonly type: 'posix';
  /** Name below /dev/shm, without slash. */
  readonly name: string;
  /** Number of ports, static and dynamic together. */
  readonly ports: number;
  /** Ports below this number are static, the others are handed out. */
  readonly firstDynamic: number;
  /** Size of the segment in bytes. */
  readonly size: number;
  readonly pageShift: number;
}

/** The original's defaults (libxseg: posix:globalxseg:64:128:256:12), with this project's segment name. */
export const DEFAULT_SPEC: SegmentSpec = {
  type: 'posix',
  name: 'archipelago',
  ports: 128,
  firstDynamic: 64,
  size: 256 << 20,
  pageShift: 12,
};

/**
 * Parses a spec. Missing fields take the defaults. The two port counts may come in either order (both are in use): the larger is
 * the total.
 * @throws SystemError EINVAL naming the field
 */
export function parseSpec(text: string): SegmentSpec {
  const bad = (why: string): SystemError =>
    new SystemError(
      errnos.EINVAL,
      `bad segment spec "${text}": ${why}; expected posix:NAME:PORTS:DYNPORTS:SIZE_MIB:PAGE_SHIFT or posix:NAME:`,
    );
  const [type, name, ...numbers] = text.split(':');
  if (type !== 'posix') throw bad(`type "${type}" is not known, only posix is`);
  if (!name || !/^[\w.+-]{1,200}$/.test(name) || name === '.' || name === '..')
    throw bad('the name is empty or not plain');
  if (numbers.length > 4) throw bad('too many fields');
  const field = (index: number, what: string, fallback: number, min: number, max: number): number => {
    const value = numbers[index];
    if (value === undefined || value === '') return fallback;
    if (!/^\d{1,9}$/.test(value) || Number(value) < min || Number(value) > max) {
      throw bad(`${what} "${value}" is not a number from ${min} to ${max}`);
    }
    return Number(value);
  };
  const a = field(0, 'port count', DEFAULT_SPEC.ports, 2, MAX_PORTS);
  const b = field(1, 'dynamic port count', Math.min(DEFAULT_SPEC.firstDynamic, a - 1), 1, MAX_PORTS);
  if (a === b) throw bad(`the two port counts are both ${a}: there would be no dynamic ports`);
  return {
    type,
    name,
    ports: Math.max(a, b),
    firstDynamic: Math.min(a, b),
    size: field(2, 'size', DEFAULT_SPEC.size >>> 20, 1, MAX_SIZE_MIB) * (1 << 20),
    pageShift: field(3, 'page shift', DEFAULT_SPEC.pageShift, 12, 16),
  };
}

/** The full spec as text. */
export function formatSpec(spec: SegmentSpec): string {
  return `${spec.type}:${spec.name}:${spec.ports}:${spec.firstDynamic}:${spec.size / (1 << 20)}:${spec.pageShift}`;
}
