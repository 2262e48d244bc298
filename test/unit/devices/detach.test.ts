/** Devices end: in which order, what is lost when, and each refusal. */
import fs from 'node:fs';
import path from 'node:path';
import { describe, expect, it, vi } from 'vitest';
import { readTable, tablePath } from '../../../src/devices/table.js';
import { errnos, SystemError } from '../../../src/sys/errno.js';
import { eventually } from '../nbd/support.js';
import { current, MiB, Rig } from './operations-rig.js';

vi.mock('../../../src/devices/module.js', async (original) => ({
  ...(await original<typeof import('../../../src/devices/module.js')>()),
  openDriver: async () => current.kernel?.driver,
}));

const attached = async (): Promise<Rig> => {
  const rig = await Rig.start('web-root');
  await rig.devices.attach({ volume: 'web-root' });
  rig.kernel.asked.length = 0;
  return rig;
};
const away = async (rig: Rig): Promise<void> => {
  await rig.stop();
};
const forget = (rig: Rig): void => fs.rmSync(tablePath(rig.system.context.runDir));
const told = 'the node does not answer, so that it was told neither to flush nor of the end';

describe('detaching', () => {
  it('flushes what it holds alone, then ends the device, and forgets it', async () => {
    const rig = await attached();
    rig.kernel.before = (operation) => {
      rig.opened.push(operation);
      // From here on no keeper connects it again, whatever becomes of this process.
      expect(rig.table).toEqual([[0, 'web-root', 'leaving']]);
    };
    const device = await rig.devices.detach('/dev/nbd0');
    expect(device).toMatchObject({ path: '/dev/nbd0', volume: 'web-root', size: MiB, trouble: null });
    expect(rig.opened).toEqual(['open /dev/nbd0 alone', 'flush', 'disconnect', 'close']);
    expect(rig.table).toEqual([]);
    await eventually(() => rig.clients()).toBe(0);
    await expect(rig.devices.detach('web-root')).rejects.toMatchObject({
      code: 'ENOENT',
      message: 'web-root is no device of this node, and no volume that has one',
    });
  });

  it('is for root', async () => {
    const rig = await attached();
    vi.spyOn(process, 'geteuid').mockReturnValue(1000);
    await expect(rig.devices.detach('web-root')).rejects.toMatchObject({
      code: 'EPERM',
      message: 'only root may detach devices; try sudo',
    });
  });

  it.each([
    [
      'mounted on /mnt',
      (rig: Rig) => rig.system.process('self', 'x', {}, ['36 35 43:0 / /mnt rw - ext4 /dev/nbd0 rw']),
    ],
    [
      'swap space; swapoff /dev/nbd0 ends that',
      (rig: Rig) => rig.system.write('proc', 'swaps', 'Filename Type\n/dev/nbd0 partition 1 0 -2\n'),
    ],
    [
      'held by device-mapper vg-root (dm-0)',
      (rig: Rig) => {
        rig.system.write('sys', 'block/nbd0/holders/dm-0/x', '');
        rig.system.write('sys', 'block/dm-0/dm/name', 'vg-root\n');
      },
    ],
  ])('one that is %s is refused, also by force', async (use, begin) => {
    const rig = await attached();
    begin(rig);
    for (const force of [false, true]) {
      await expect(rig.devices.detach('web-root', { force })).rejects.toMatchObject({
        code: 'EBUSY',
        message: `/dev/nbd0 (web-root) is in use: it is ${use}`,
      });
    }
    expect(rig.kernel.asked).toEqual([]);
    expect(rig.table).toEqual([[0, 'web-root', 'attached']]);
  });

  it('one that something holds of which nothing tells is refused, also by force', async () => {
    const rig = await attached();
    rig.onOpen = () => {
      throw new SystemError(errnos.EBUSY, 'busy');
    };
    for (const force of [false, true]) {
      await expect(rig.devices.detach('web-root', { force })).rejects.toMatchObject({
        code: 'EBUSY',
        message:
          '/dev/nbd0 (web-root) is in use: it is used by something that holds it alone and that neither /proc nor /sys tells of (a target of LIO, ZFS, DRBD?)',
      });
    }
    rig.onOpen = () => {
      throw new SystemError(errnos.EIO, 'bad');
    };
    await expect(rig.devices.detach('web-root')).rejects.toMatchObject({
      code: 'EIO',
      message: 'cannot open /dev/nbd0: bad',
    });
    expect(rig.kernel.asked).toEqual([]);
  });

  it('one that is open is refused after a moment, naming all; by force it goes when it is closed', async () => {
    const rig = await attached();
    for (let pid = 11; pid < 17; pid++) rig.system.process(pid, `p${pid}`, { 3: '/dev/nbd0' });
    await expect(rig.devices.detach('web-root')).rejects.toMatchObject({
      code: 'EBUSY',
      message: expect.stringMatching(/is in use: it is open in process 1\d \(p1\d\), .*, and 1 more$/) as string,
    });
    rig.kernel.open.add(0);
    const { trouble } = await rig.devices.detach('web-root', { force: true });
    expect(trouble).toMatch(/^it was detached and goes when nobody uses it any more; it is open in process 11 \(p11\)/);
    expect(rig.table).toEqual([[0, 'web-root', 'leaving']]);
    expect((await rig.devices.list())[0].trouble).toMatch(/^it was detached by force and goes as soon as/);
    await expect(rig.devices.attach({ volume: 'web-root' })).rejects.toMatchObject({
      code: 'EBUSY',
      message:
        'volume web-root is still /dev/nbd0, which was detached by force; it goes when those who have it open close it',
    });
    rig.kernel.gone(0);
    expect((await rig.devices.attach({ volume: 'web-root' })).path).toBe('/dev/nbd0');
  });

  it('waits for who looks at a new device for a moment', async () => {
    const rig = await attached();
    rig.system.process(11, 'udevd', { 3: '/dev/nbd0' });
    const detached = rig.devices.detach('web-root');
    setTimeout(() => fs.rmSync(path.join(rig.system.roots.proc, '11'), { recursive: true }), 100);
    expect((await detached).trouble).toBeNull();
  });

  it('what cannot be flushed stays, and is lost by force alone', async () => {
    const rig = await attached();
    rig.onSync = () => {
      throw new SystemError(errnos.EIO, 'input/output error');
    };
    const why = 'what was written to /dev/nbd0 (web-root) could not be flushed: input/output error';
    await expect(rig.devices.detach('web-root')).rejects.toThrow(why);
    expect(rig.table).toEqual([[0, 'web-root', 'attached']]);
    expect(rig.opened.at(-1)).toBe('close');
    const { trouble } = await rig.devices.detach('web-root', { force: true });
    expect(trouble).toContain(why);
    expect(rig.table).toEqual([]);
  });

  it('by force does not wait for a flush for ever', async () => {
    const rig = await attached();
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
    rig.onSync = () => {
      setImmediate(() => {
        vi.advanceTimersByTime(30_000);
        vi.useRealTimers();
      });
      return new Promise(() => {});
    };
    expect((await rig.devices.detach('web-root', { force: true })).trouble).toMatch(
      /^what was written to \/dev\/nbd0 \(web-root\) could not be flushed: the node took longer than 30 s/,
    );
    expect(rig.table).toEqual([]);
  });

  it('that the kernel refuses leaves the device to the keeper', async () => {
    const rig = await attached();
    rig.kernel.refuse('disconnect', errnos.EINVAL);
    await expect(rig.devices.detach('web-root')).rejects.toThrow(
      /^the kernel does not end \/dev\/nbd0: the kernel refused \(dmesg may tell more\)$/,
    );
    expect(rig.table).toEqual([[0, 'web-root', 'attached']]);
  });
});

describe('detaching without a node', () => {
  it('after it came back, while no keeper ran, connects the device and flushes it', async () => {
    const rig = await attached();
    await away(rig);
    rig.kernel.hangUp(0);
    await rig.serve();
    rig.system.write('sys', 'block/nbd0/inflight', '0 3');
    expect((await rig.devices.detach('web-root')).trouble).toBeNull();
    expect(rig.kernel.asked).toEqual([
      ['reconnect', 0],
      ['disconnect', 0],
    ]);
    expect(rig.opened).toContain('flush');
  });

  it('says what could not be told', async () => {
    const rig = await attached();
    await away(rig);
    expect((await rig.devices.detach('web-root')).trouble).toBe(told);
    expect(rig.opened).not.toContain('flush');
    expect(rig.table).toEqual([]);
  });

  it.each([
    ['       0        1\n', '1 write to /dev/nbd0 (web-root) waits for it'],
    ['       2        3\n', '3 writes to /dev/nbd0 (web-root) wait for it'],
  ])('loses writes that wait by force alone', async (inflight, waits) => {
    const rig = await attached();
    await away(rig);
    rig.system.write('sys', 'block/nbd0/inflight', inflight);
    await expect(rig.devices.detach('web-root')).rejects.toMatchObject({
      code: 'EBUSY',
      message: `the node does not answer, and ${waits}; start it, or lose them by force`,
    });
    expect(rig.kernel.asked).toEqual([]);
    expect((await rig.devices.detach('web-root', { force: true })).trouble).toBe(told);
  });

  it('does not wait for a flush that nobody serves, where nothing tells of the connections', async () => {
    const rig = await attached();
    forget(rig);
    await away(rig);
    rig.onSync = () => new Promise(() => {});
    expect((await rig.devices.detach('web-root')).trouble).toBe(told);
    expect(rig.table).toEqual([]);
  });

  it('refuses what something holds of which nothing tells', async () => {
    const rig = await attached();
    await away(rig);
    rig.onOpen = () => {
      throw new SystemError(errnos.EBUSY, 'busy');
    };
    await expect(rig.devices.detach('web-root')).rejects.toMatchObject({ code: 'EBUSY', message: /holds it alone/ });
    expect(rig.kernel.asked).toEqual([]);
  });

  it('does not wait for an open that nobody serves', async () => {
    const rig = await attached();
    await away(rig);
    let open = (): void => {};
    rig.onOpen = () => new Promise((resolve) => (open = resolve));
    // The real kernel lets it through, with an error or without, when the device has ended.
    rig.kernel.before = () => open();
    expect((await rig.devices.detach('web-root')).trouble).toBe(told);
    await eventually(() => rig.opened.at(-1)).toBe('close');
    expect(readTable(rig.system.context.runDir)).toEqual([]);
  });
});
