/** The keeper: devices come back after the node did, have the size of their volumes, and are left alone where they are not to be touched. */
import fs from 'node:fs';
import { describe, expect, it, onTestFinished, vi } from 'vitest';
import { identifierOf } from '../../../src/devices/identifier.js';
import { locked } from '../../../src/devices/lock.js';
import { reconnectEntry } from '../../../src/devices/reconnect.js';
import { setSize } from '../../../src/devices/resize.js';
import { readTable, tablePath, writeTable } from '../../../src/devices/table.js';
import { MemoryDisk } from '../../../src/nbd/memory-device.js';
import { errnos } from '../../../src/sys/errno.js';
import { eventually } from '../nbd/support.js';
import { current, MiB, Rig } from './operations-rig.js';

vi.mock('../../../src/devices/module.js', async (original) => ({
  ...(await original<typeof import('../../../src/devices/module.js')>()),
  openDriver: async () => current.kernel?.driver,
}));

/** Runs the keeper of a rig until the test ends. */
function keep(rig: Rig, idle?: () => void): { ended: Promise<void>; stop(): Promise<void> } {
  const abort = new AbortController();
  const ended = rig.devices.keep(abort.signal, idle === undefined ? {} : { idle });
  const stop = async (): Promise<void> => {
    abort.abort();
    await ended;
  };
  onTestFinished(stop);
  return { ended, stop };
}

const attached = async (...volumes: string[]): Promise<Rig> => {
  const rig = await Rig.start(...volumes);
  for (const volume of volumes) await rig.devices.attach({ volume });
  rig.kernel.asked.length = 0;
  return rig;
};
const lose = async (rig: Rig): Promise<void> => {
  await rig.stop();
  for (const [index] of rig.table) rig.kernel.hangUp(index);
};

describe('the keeper', () => {
  it('connects all devices again when the node is back, and says so once', async () => {
    const rig = await attached('web-root', 'web-data');
    keep(rig);
    await lose(rig);
    const lost = (): string[] => rig.system.said.filter((line) => line.includes('are lost'));
    const inVain = (): string[] => lost().filter((line) => line.includes('; cannot connect to'));
    await eventually(() => new Set(inVain().map((line) => line.split(' ')[0])).size).toBe(2);
    await rig.serve();
    await eventually(() => [rig.kernel.connections(0), rig.kernel.connections(1)]).toEqual([1, 1]);
    await eventually(() => rig.system.said.filter((line) => line.endsWith('is connected'))).toEqual([
      expect.stringMatching(/^\/dev\/nbd\d \(web-(root|data)\) is connected$/),
      expect.stringMatching(/^\/dev\/nbd\d \(web-(root|data)\) is connected$/),
    ]);
    await eventually(() => rig.clients()).toBe(2);
    expect(lost()).toContain('/dev/nbd0 (web-root): 1 of 1 connections are lost');
    expect(new Set(rig.system.said).size).toBe(rig.system.said.length);
  });

  it('adopts what a lost table does not have, and connects that again too', async () => {
    const rig = await attached('web-root');
    fs.rmSync(tablePath(rig.system.context.runDir));
    keep(rig);
    await eventually(() => rig.table).toEqual([[0, 'web-root', 'attached']]);
    await lose(rig);
    await rig.serve();
    await eventually(() => rig.kernel.connections(0)).toBe(1);
  });

  it('makes a damaged table anew of what the kernel tells, unless that does not tell whose all are', async () => {
    const rig = await attached('web-root');
    const file = tablePath(rig.system.context.runDir);
    fs.writeFileSync(file, '{"devices": [');
    // Whoever only looks sees what there is, and changes nothing.
    expect(await rig.devices.list()).toMatchObject([{ index: 0, volume: 'web-root' }]);
    expect(fs.readFileSync(file, 'utf8')).toBe('{"devices": [');
    keep(rig);
    await eventually(() => fs.readFileSync(file, 'utf8')).toContain('"attached"');
    expect(rig.system.said).toContainEqual(
      expect.stringMatching(/devices\.json\.damaged now; devices are found again$/),
    );
    rig.system.connect(7);
    fs.writeFileSync(file, '');
    await expect(rig.devices.list()).rejects.toThrow(/devices\.json is damaged \(.*; remove it/);
    await eventually(() => rig.system.said).toContainEqual(
      expect.stringMatching(/^the devices cannot be looked after: .* is damaged/),
    );
    expect(fs.readFileSync(file, 'utf8')).toBe('');
  });

  it('leaves devices alone that were detached by force, or are another node’s', async () => {
    const rig = await attached('web-root');
    rig.kernel.open.add(0);
    rig.system.process(11, 'dd', { 3: '/dev/nbd0' });
    await rig.devices.detach('web-root', { force: true });
    rig.system.connect(1, { backend: identifierOf('other', 'web-root') });
    keep(rig);
    rig.disks.get('web-root')?.resize(2 * MiB);
    // One that is this node's shows that it has been round.
    rig.disks.set('web-data', new MemoryDisk({ size: MiB }));
    await rig.devices.attach({ volume: 'web-data' });
    rig.disks.get('web-data')?.resize(3 * MiB);
    await eventually(() => rig.kernel.asked.at(-1)).toEqual(['resize', 2, 3 * MiB]);
    expect(rig.kernel.asked.filter(([, index]) => index !== 2)).toEqual([['disconnect', 0]]);
  });

  it('has sizes follow, in whole sectors', async () => {
    const rig = await attached('web-root');
    keep(rig);
    rig.disks.get('web-root')?.resize(2 * MiB + 100);
    await eventually(() => rig.kernel.asked).toEqual([['resize', 0, 2 * MiB]]);
    await eventually(() => rig.system.said).toContain(`/dev/nbd0 (web-root) has ${2 * MiB} bytes now, not ${MiB}`);
    expect((await rig.devices.list())[0].size).toBe(2 * MiB);
  });

  it('tells what the kernel refuses, and of a volume that is there no more', async () => {
    const rig = await attached('web-root');
    rig.kernel.refuse('resize', errnos.EINVAL);
    keep(rig);
    rig.disks.get('web-root')?.resize(2 * MiB);
    await eventually(() => rig.system.said.join('\n')).toContain(
      'the kernel does not change the size of /dev/nbd0 (web-root): the kernel refused (dmesg may tell more)',
    );
    rig.disks.delete('web-root');
    await eventually(() => rig.system.said).toContain(
      '/dev/nbd0: the endpoint does not know the volume web-root any more',
    );
  });

  it('ends when there is no device any more, where it is told to', async () => {
    const rig = await attached('web-root');
    let idle = 0;
    const { ended } = keep(rig, () => idle++);
    await rig.devices.detach('web-root');
    await ended;
    expect(idle).toBe(1);
  });
});

describe('sizes', () => {
  it('that were asked for before another changed them are not set', async () => {
    const rig = await attached('web-root');
    // It was told 2 MiB of a device of 1 MiB, and meanwhile vlmc resize made both 4 MiB.
    expect((await rig.devices.resize('web-root', 4 * MiB))?.size).toBe(4 * MiB);
    const entry = await setSize(rig.system.context, rig.kernel.driver, 'web-root', 2 * MiB, MiB);
    expect(entry?.size).toBe(4 * MiB);
    expect(rig.kernel.asked).toEqual([['resize', 0, 4 * MiB]]);
  });

  it('of a connection that was made before another changed them are not set', async () => {
    const rig = await attached('web-root');
    await lose(rig);
    await rig.serve();
    const { context } = rig.system;
    const [entry] = readTable(context.runDir);
    let connecting: Promise<unknown> = Promise.resolve();
    await locked(context.runDir, async () => {
      connecting = reconnectEntry(context, rig.kernel.driver, entry);
      // It was told 1 MiB, and waits for the lock. What is done here is what vlmc resize does.
      await eventually(() => rig.clients()).toBe(1);
      rig.disks.get('web-root')?.resize(4 * MiB);
      await rig.kernel.resize(0, entry.identifier, 4 * MiB);
      writeTable(context.runDir, [{ ...entry, size: 4 * MiB }]);
    });
    await connecting;
    expect(rig.kernel.connections(0)).toBe(1);
    expect(rig.kernel.asked.filter(([operation]) => operation === 'resize')).toEqual([['resize', 0, 4 * MiB]]);
    expect((await rig.devices.list())[0].size).toBe(4 * MiB);
  });

  it('are of a volume with a device, and for root', async () => {
    const rig = await attached('web-root');
    expect(await rig.devices.resize('web-data', MiB)).toBeNull();
    rig.kernel.refuse('resize', errnos.EPERM);
    await expect(rig.devices.resize('web-root', 2 * MiB)).rejects.toThrow(
      'the kernel does not change the size of /dev/nbd0 (web-root): root has not the right CAP_SYS_ADMIN here (a container?)',
    );
    vi.spyOn(process, 'geteuid').mockReturnValue(1000);
    await expect(rig.devices.resize('web-root', 2 * MiB)).rejects.toMatchObject({
      code: 'EPERM',
      message: 'only root may change the size of a device; try sudo',
    });
    await expect(rig.devices.reconnect()).rejects.toThrow('only root may connect devices again; try sudo');
    await expect(rig.devices.keep(new AbortController().signal)).rejects.toThrow(
      'only root may keep devices connected; try sudo',
    );
  });
});
