/** What `archipelago stop` says of devices. */
import { expect, it } from 'vitest';
import { requireNoDevices } from '../../../src/cli/archipelago/attached.js';

it('devices stand in the way of stopping, by their names', () => {
  const device = (n: number) => ({ volume: `volume${n}`, path: `/dev/nbd${n}` });
  expect(() => requireNoDevices([])).not.toThrow();
  expect(() => requireNoDevices([device(1), device(7)])).toThrow(
    'Cannot stop: volumes are mapped or have clients (volume1 on /dev/nbd1, volume7 on /dev/nbd7); unmap them first, or use -f: ' +
      'requests to devices then wait until the node runs again',
  );
  expect(() => requireNoDevices(Array.from({ length: 8 }, (_, n) => device(n)))).toThrow(
    /volume4 on \/dev\/nbd4 and 3 more\)/,
  );
});
