/** Volumes become devices: what the kernel is asked for, what is noted, and each refusal. */
import { describe, expect, it, vi } from 'vitest';
import { readTable } from '../../../src/devices/table.js';
import { MemoryDisk } from '../../../src/nbd/memory-device.js';
import { errnos } from '../../../src/sys/errno.js';
import { eventually } from '../nbd/support.js';
import { current, MiB, Rig } from './operations-rig.js';

vi.mock('../../../src/devices/module.js', async (original) => ({
  ...(await original<typeof import('../../../src/devices/module.js')>()),
  openDriver: async () => current.kernel?.driver,
}));

const noKeeper =
  'no keeper runs: after a restart of the node nobody connects it again: run archipelago devices, or enable archipelago-devices.service';

describe('attaching', () => {
  it('asks the kernel for a device of that size, which waits for the node, and notes it', async () => {
    const rig = await Rig.start('web-root');
    const device = await rig.devices.attach({ volume: 'web-root' });
    expect(device).toMatchObject({ index: 0, path: '/dev/nbd0', volume: 'web-root', size: MiB, connections: 1 });
    expect(device).toMatchObject({ readOnly: false, healthy: false, trouble: noKeeper });
    expect(rig.kernel.request).toMatchObject({
      size: MiB,
      blockSize: 512,
      timeout: 0,
      deadConnTimeout: 100,
      identifier: 'archipelago:seg:web-root',
    });
    expect(rig.table).toEqual([[0, 'web-root', 'attached']]);
    expect(rig.clients()).toBe(1);
    expect(await rig.devices.list()).toEqual([device]);
  });

  it('is done once, however often and by however many at once it is asked for', async () => {
    const rig = await Rig.start('web-root');
    const all = await Promise.all(Array.from({ length: 5 }, () => rig.devices.attach({ volume: 'web-root' })));
    expect(new Set(all.map(({ path }) => path))).toEqual(new Set(['/dev/nbd0']));
    expect(rig.kernel.asked).toEqual([['connect', 0, MiB]]);
    // The others' connections are let go.
    await eventually(() => rig.clients()).toBe(1);
  });

  it('gives twenty volumes twenty devices', async () => {
    const volumes = Array.from({ length: 20 }, (_, i) => `volume-${i}`);
    const rig = await Rig.start(...volumes);
    const devices = await Promise.all(volumes.map((volume) => rig.devices.attach({ volume })));
    expect(new Set(devices.map(({ index }) => index)).size).toBe(20);
    const known = readTable(rig.system.context.runDir).map(({ volume }) => volume);
    expect(known.toSorted()).toEqual(volumes.toSorted());
    for (const { volume, index } of devices) expect(rig.table).toContainEqual([index, volume, 'attached']);
  });

  it('of one that lost its connection connects it again', async () => {
    const rig = await Rig.start('web-root');
    await rig.devices.attach({ volume: 'web-root' });
    await rig.stop();
    rig.kernel.hangUp(0);
    await rig.serve();
    expect((await rig.devices.attach({ volume: 'web-root' })).trouble).toBe(noKeeper);
    expect(rig.kernel.asked.slice(1)).toEqual([['reconnect', 0]]);
    expect(rig.clients()).toBe(1);
  });

  it('with options that differ is refused, naming what there is', async () => {
    const rig = await Rig.start('web-root');
    await rig.devices.attach({ volume: 'web-root', readOnly: true, connections: 2 });
    await expect(rig.devices.attach({ volume: 'web-root' })).rejects.toMatchObject({
      code: 'EEXIST',
      message: 'volume web-root is /dev/nbd0 already, with other options (read-only, 2 connections); detach it first',
    });
    await expect(rig.devices.attach({ volume: 'web-root', connections: 2 })).rejects.toThrow('with other options');
    expect(rig.kernel.asked).toHaveLength(1);
  });

  it('of several connections lets the kernel send a stuck request on another', async () => {
    const rig = await Rig.start('web-root');
    await rig.devices.attach({ volume: 'web-root', connections: 4 });
    expect(rig.kernel.request?.timeout).toBe(30);
    expect(rig.kernel.request?.sockets).toHaveLength(4);
    expect(rig.clients()).toBe(4);
  });

  it('of an export that nobody can write to is read-only, and the same as one that was asked for so or not', async () => {
    const rig = await Rig.start();
    rig.disks.set('snapshot', new MemoryDisk({ size: MiB, info: { readOnly: true } }));
    const device = await rig.devices.attach({ volume: 'snapshot' });
    expect(device.readOnly).toBe(true);
    expect((rig.kernel.request?.flags ?? 0) & 2).toBe(2);
    expect((await rig.devices.attach({ volume: 'snapshot' })).path).toBe(device.path);
  });

  it.each([
    [
      errnos.EPERM,
      /^the kernel does not make a device of web-root: root has not the right CAP_SYS_ADMIN here \(a container\?\)$/,
    ],
    [errnos.ENOMEM, /^the kernel does not make a device of web-root: the kernel refused \(dmesg may tell more\)$/],
  ])('that the kernel refuses (%s) leaves nothing behind', async (errno, message) => {
    const rig = await Rig.start('web-root');
    rig.kernel.refuse('connect', errno);
    await expect(rig.devices.attach({ volume: 'web-root' })).rejects.toMatchObject({ errno, message });
    expect(rig.table).toEqual([]);
    await eventually(() => rig.clients()).toBe(0);
  });

  it.each([
    [{ volume: 'web-root', connections: 17 }, 'EINVAL', /^a device has 1 to 16 connections, not 17$/],
    [{ volume: 'web-root', connections: 1.5 }, 'EINVAL', /^a device has 1 to 16 connections, not 1\.5$/],
    [{ volume: 'web\troot' }, 'EINVAL', /^"web\\troot" is no name of a volume$/],
    [{ volume: '' }, 'EINVAL', /^"" is no name of a volume$/],
    [{ volume: 'missing' }, 'ENOENT', /^there is no export missing: /],
    [
      { volume: 'odd-one' },
      'EINVAL',
      /^volume odd-one has 1000 bytes, which is no multiple of 512: a device would lack its end\. Resize it, or use it without a device$/,
    ],
    [{ volume: 'empty-one' }, 'EINVAL', /^volume empty-one has 0 bytes/],
    [
      { volume: 'single-one', connections: 2 },
      'EOPNOTSUPP',
      /^the endpoint does not offer several connections to single-one; take one$/,
    ],
    [{ volume: 'coarse-one' }, 'EINVAL', /^the export takes blocks of 8192 bytes, a device of at most 4096$/],
  ])('%j is refused', async (options, code, message) => {
    const rig = await Rig.start('web-root');
    rig.disks.set('odd-one', new MemoryDisk({ size: 1000 }));
    rig.disks.set('empty-one', new MemoryDisk({ size: 0 }));
    rig.disks.set('single-one', new MemoryDisk({ size: MiB, info: { multiConn: false } }));
    const blockSize = { minimum: 8192, preferred: 8192, maximum: MiB };
    rig.disks.set('coarse-one', new MemoryDisk({ size: MiB, info: { blockSize } }));
    await expect(rig.devices.attach(options)).rejects.toMatchObject({ code, message });
    expect(rig.table).toEqual([]);
    expect(rig.kernel.asked).toEqual([]);
    await eventually(() => rig.clients()).toBe(0);
  });

  it('is for root, and needs an endpoint', async () => {
    const rig = await Rig.start('web-root');
    await rig.stop();
    await expect(rig.devices.attach({ volume: 'web-root' })).rejects.toMatchObject({ code: 'ENOENT' });
    vi.spyOn(process, 'geteuid').mockReturnValue(1000);
    await expect(rig.devices.attach({ volume: 'web-root' })).rejects.toMatchObject({
      code: 'EPERM',
      message: 'only root may attach volumes as devices; try sudo',
    });
    expect(rig.kernel.asked).toEqual([]);
  });
});
