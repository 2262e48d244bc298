/** Devices of the kernel stand in the way of stopping a node, also those that the endpoint knows nothing of: it may be what does not run. */
import type { Device } from '../../devices/types.js';
import { errnos, SystemError } from '../../sys/errno.js';

const SHOWN = 5;

/** @throws SystemError EBUSY naming volumes and devices */
export function requireNoDevices(devices: readonly Pick<Device, 'volume' | 'path'>[]): void {
  if (devices.length === 0) return;
  const names = devices.slice(0, SHOWN).map(({ volume, path }) => `${volume} on ${path}`);
  const shown = devices.length > SHOWN ? `${names.join(', ')} and ${devices.length - SHOWN} more` : names.join(', ');
  throw new SystemError(
    errnos.EBUSY,
    `Cannot stop: volumes are mapped or have clients (${shown}); unmap them first, or use -f: requests to devices then wait until the node runs again`,
  );
}
