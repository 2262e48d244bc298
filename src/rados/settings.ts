/** How a connection is configured: the cluster's file, what the caller wants, and what this project wants unless they say otherwise. */
import { errnos } from '../sys/errno.js';
import { RadosError, radosError } from './error.js';
import type { Library } from './library.js';
import { allocate } from './memory.js';
import type { ClusterOptions } from './types.js';

/** Used where neither the file nor the caller has another value than librados' own. */
const defaults: Readonly<Record<string, string>> = {
  // A cluster that does not answer is told within half a minute; librados' own limits are 5 minutes and none.
  client_mount_timeout: '30',
  rados_mon_op_timeout: '30',
  // After an OSD's restart its operations go on after 4 s instead of 15: librados looks twice a second for what got no answer.
  objecter_timeout: '1',
  objecter_tick_interval: '0.5',
};

/**
 * Never otherwise: when librados has as much in flight as these say, it stops the thread that begins the next operation, which here is
 * the event loop. Completions has limits of its own.
 */
const forced: Readonly<Record<string, string>> = {
  objecter_inflight_ops: String(1 << 20),
  objecter_inflight_op_bytes: String(2 ** 40),
};

const LONGEST = 4096;

/** The value of a setting, '' when librados does not know it. */
export function getSetting(library: Library, handle: number, name: string): string {
  const room = allocate(LONGEST);
  try {
    if (library.confGet(handle, name, room.address, LONGEST) < 0) return '';
    return room.bytes.toString('utf8', 0, room.bytes.indexOf(0));
  } finally {
    room.free();
  }
}

/** A setting that is a number of seconds, in milliseconds. */
export const getMilliseconds = (library: Library, handle: number, name: string): number =>
  (Number.parseFloat(getSetting(library, handle, name)) || 30) * 1000;

/** @throws RadosError when the file cannot be used, or a setting is not one that librados takes */
export function configure(library: Library, handle: number, options: ClusterOptions): void {
  const builtIn = new Map(Object.keys(defaults).map((name) => [name, getSetting(library, handle, name)]));
  const read = library.confReadFile(handle, options.conf);
  if (read < 0) {
    const file = options.conf ?? 'of Ceph ($CEPH_CONF, /etc/ceph/ceph.conf, ~/.ceph/ceph.conf)';
    if (read === -errnos.EINVAL) throw radosError(read, `use the configuration ${file}`, 'it is not well-formed');
    throw radosError(read, `read the configuration ${file}`);
  }
  for (const [name, value] of Object.entries(defaults)) {
    if (getSetting(library, handle, name) === builtIn.get(name)) set(library, handle, name, value);
  }
  for (const [name, value] of Object.entries(options.settings ?? {})) set(library, handle, name, value);
  for (const [name, value] of Object.entries(forced)) set(library, handle, name, value);
}

function set(library: Library, handle: number, name: string, value: string): void {
  const result = library.confSet(handle, name, value);
  if (result >= 0) return;
  const why = result === -errnos.ENOENT ? 'librados does not know this setting' : 'librados does not take this value';
  throw new RadosError(-result, `cannot set ${name} to ${value} for Ceph: ${why}`);
}
