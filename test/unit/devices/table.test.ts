/** The table of devices, and how it is brought into line with the kernel. */
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { withTable } from '../../../src/devices/context.js';
import { identifierOf, volumeOf } from '../../../src/devices/identifier.js';
import { locked } from '../../../src/devices/lock.js';
import type { KernelDevice } from '../../../src/devices/sysfs.js';
import { type Entry, readTable, reconcile, tablePath, writeTable } from '../../../src/devices/table.js';
import { FakeSystem } from './fake-system.js';

const NOW = 1_700_000_000_000;
const MiB = 1 << 20;

const entry = (index: number, more: Partial<Entry> = {}): Entry => {
  const { volume = `vol-${index}` } = more;
  return {
    index,
    volume,
    exportName: volume,
    identifier: identifierOf('seg', volume),
    size: MiB,
    readOnly: false,
    readOnlyAsked: false,
    connections: 1,
    since: NOW - 1000,
    pid: 100 + index,
    sockets: [7000 + index],
    state: 'attached',
    ...more,
  };
};

const kernel = (index: number, more: Partial<KernelDevice> = {}): KernelDevice => ({
  index,
  pid: 100 + index,
  backend: identifierOf('seg', `vol-${index}`),
  size: MiB,
  readOnly: false,
  connections: 1,
  ...more,
});

describe('bringing the table into line with the kernel', () => {
  it('changes nothing where both agree', () => {
    const table = [entry(0), entry(3, { state: 'leaving' })];
    expect(reconcile(table, [kernel(0), kernel(3)], 'seg', NOW, false)).toEqual({
      entries: table,
      adopted: [],
      dropped: [],
      changed: false,
    });
  });

  it('adopts a device of this node that it does not know, and no other', () => {
    const devices = [
      kernel(1, { connections: 4, readOnly: true }),
      kernel(2, { backend: null }),
      kernel(4, { backend: identifierOf('other', 'vol-4') }),
      kernel(5, { backend: 'somebody' }),
    ];
    const { entries, adopted, changed } = reconcile([], devices, 'seg', NOW, false);
    expect(entries).toEqual(adopted);
    expect(changed).toBe(true);
    expect(adopted).toMatchObject([
      { index: 1, volume: 'vol-1', exportName: 'vol-1', connections: 4, readOnly: true, since: NOW, sockets: [] },
    ]);
  });

  it('makes of an intention whose device is there what it was to be, and drops one whose device is not', () => {
    const intended = [
      // The kernel below has one processor.
      entry(-1, { volume: 'vol-2', exportName: 'vol-2@daily', connections: 4, state: 'attaching' }),
      entry(-1, { volume: 'vol-9', state: 'attaching' }),
    ];
    const { entries, dropped } = reconcile(intended, [kernel(2)], 'seg', NOW, false);
    expect(entries).toMatchObject([
      { index: 2, volume: 'vol-2', exportName: 'vol-2@daily', connections: 4, state: 'attached', pid: 102 },
    ]);
    expect(dropped.map(({ volume }) => volume)).toEqual(['vol-9']);
    const meanwhile = reconcile(intended, [kernel(2)], 'seg', NOW, true);
    expect(meanwhile.entries.map(({ volume, state }) => [volume, state])).toEqual([
      ['vol-9', 'attaching'],
      ['vol-2', 'attached'],
    ]);
  });

  it('drops what is gone, and what is somebody else’s now', () => {
    const { entries, dropped } = reconcile(
      [entry(0), entry(1), entry(2)],
      [kernel(1, { backend: 'somebody' }), kernel(2)],
      'seg',
      NOW,
      false,
    );
    expect(entries.map(({ index }) => index)).toEqual([2]);
    expect(dropped.map(({ index }) => index)).toEqual([0, 1]);
  });

  it('knows a device by who connected it, where the kernel has no identifiers', () => {
    const table = [entry(0), entry(1)];
    const devices = [kernel(0, { backend: null }), kernel(1, { backend: null, pid: 55 })];
    expect(reconcile(table, devices, 'seg', NOW, false).entries.map(({ index }) => index)).toEqual([0]);
  });

  it('does not take another node’s device for its own, nor another volume’s, whatever the table says', () => {
    const others = identifierOf('other', 'vol-0');
    const table = [
      entry(0, { identifier: others }),
      entry(1, { volume: 'vol-8', identifier: identifierOf('seg', 'vol-1') }),
    ];
    const { entries, dropped } = reconcile(table, [kernel(0, { backend: others }), kernel(1)], 'seg', NOW, false);
    expect(dropped).toEqual(table);
    expect(entries.map(({ index, volume }) => [index, volume])).toEqual([[1, 'vol-1']]);
  });

  it('takes the size from the kernel', () => {
    const { entries, changed } = reconcile([entry(0)], [kernel(0, { size: 2 * MiB })], 'seg', NOW, false);
    expect([entries[0].size, changed]).toEqual([2 * MiB, true]);
  });

  it('tells volumes whose names hold colons', () => {
    expect(volumeOf('seg', identifierOf('seg', 'a:b:c'))).toBe('a:b:c');
    expect(volumeOf('seg', 'archipelago:seg:')).toBeNull();
    expect(volumeOf('seg', 'archipelago:segment:vol')).toBeNull();
    expect(volumeOf('seg', null)).toBeNull();
  });
});

describe('the file of the table', () => {
  let dir: string;
  beforeEach(() => {
    dir = fs.mkdtempSync(path.join(os.tmpdir(), 'devices-'));
  });
  afterEach(() => fs.rmSync(dir, { recursive: true, force: true }));

  it('is empty where there is none, and comes back as it was written', () => {
    expect(readTable(dir)).toEqual([]);
    const table = [entry(0), entry(5)];
    writeTable(dir, table);
    expect(readTable(dir)).toEqual(table);
    expect(fs.readdirSync(dir)).toEqual(['devices.json']);
  });

  it('takes the place of a link instead of following it', () => {
    const elsewhere = path.join(dir, 'elsewhere');
    fs.writeFileSync(elsewhere, 'untouched');
    fs.symlinkSync(elsewhere, tablePath(dir));
    writeTable(dir, [entry(0)]);
    expect(fs.readFileSync(elsewhere, 'utf8')).toBe('untouched');
    expect(readTable(dir)).toHaveLength(1);
  });

  it.each([
    '',
    '{}',
    '{"devices":[{}]}',
    '{"devices":[{"volume":"v","exportName":"v","identifier":"i","index":"0"}]}',
    JSON.stringify({ devices: [{ ...entry(0), sockets: ['7'] }] }),
    JSON.stringify({ devices: [{ ...entry(0), endpoint: { path: 5 } }] }),
    JSON.stringify({ devices: [{ ...entry(0), state: 'gone' }] }),
    JSON.stringify({ devices: [{ ...entry(0), readOnly: 0 }] }),
  ])('is refused by its name when it is damaged: %s', (content) => {
    fs.writeFileSync(tablePath(dir), content);
    expect(() => readTable(dir)).toThrow(new RegExp(`^${tablePath(dir)} is damaged .*remove it`));
  });

  it('is put aside when it is damaged, where the kernel knows all devices by their names', async () => {
    const system = FakeSystem.in(dir);
    const { runDir } = system.context;
    system.connect(3, { backend: identifierOf('seg', 'vol-3') });
    fs.writeFileSync(tablePath(runDir), '{"dev');
    const seen = await withTable(system.context, async (entries) => entries.map(({ volume }) => volume));
    expect(seen).toEqual(['vol-3']);
    expect(readTable(runDir).map(({ index }) => index)).toEqual([3]);
    expect(fs.readFileSync(`${tablePath(runDir)}.damaged`, 'utf8')).toBe('{"dev');
    expect(system.said[0]).toBe(
      `the table of devices was damaged and is ${tablePath(runDir)}.damaged now; devices are found again`,
    );
  });

  it('stays as it is when it is damaged and a device has no name by which it could be found again', async () => {
    const system = FakeSystem.in(dir);
    const { runDir } = system.context;
    system.connect(3);
    fs.writeFileSync(tablePath(runDir), '{"dev');
    await expect(withTable(system.context, async () => 'worked')).rejects.toThrow(/is damaged .*remove it/);
    expect(fs.readFileSync(tablePath(runDir), 'utf8')).toBe('{"dev');
  });

  it('is changed by one process at a time, and by the next when one dies', async () => {
    const { context } = FakeSystem.in(dir);
    const order: string[] = [];
    await Promise.all(
      ['a', 'b', 'c'].map((name) =>
        withTable(context, async () => {
          order.push(`${name}+`);
          await new Promise((resolve) => setImmediate(resolve));
          order.push(`${name}-`);
        }),
      ),
    );
    for (const at of [0, 2, 4]) expect(order[at + 1]).toBe(order[at].replace('+', '-'));
    await expect(withTable(context, () => Promise.reject(new Error('dies')))).rejects.toThrow('dies');
    expect(await withTable(context, async () => 'served')).toBe('served');
  });

  it('is waited for while another process changes it, for a minute', async () => {
    const { context } = FakeSystem.in(dir);
    await locked(context.runDir, async () => {
      vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'performance'] });
      const waiting = expect(withTable(context, async () => 'served')).rejects.toMatchObject({
        code: 'ETIMEDOUT',
        message: `another process has held ${context.runDir}/devices.lock for 60 s: it waits for the kernel, whose log (dmesg) may tell why`,
      });
      await vi.advanceTimersByTimeAsync(60_010);
      vi.useRealTimers();
      await waiting;
    });
    expect(await withTable(context, async () => 'served')).toBe('served');
    fs.rmSync(context.runDir, { recursive: true });
    await expect(withTable(context, async () => 'served')).rejects.toMatchObject({
      code: 'ENOENT',
      message: /^cannot lock the table of devices: /,
    });
    expect(() => writeTable(context.runDir, [])).toThrow(/^cannot write the table of devices: /);
  });

  it('is brought into line before anybody works on it, and says what was found', async () => {
    const system = FakeSystem.in(dir);
    system.connect(3, { backend: identifierOf('seg', 'vol-3') });
    writeTable(system.context.runDir, [entry(1)]);
    const seen = await withTable(system.context, async (entries) => entries.map(({ volume }) => volume));
    expect(seen).toEqual(['vol-3']);
    expect(readTable(system.context.runDir).map(({ index }) => index)).toEqual([3]);
    expect(system.said).toEqual([
      '/dev/nbd3 is volume vol-3: whoever attached it did not live to note it down',
      '/dev/nbd1 is not volume vol-1 any more: somebody else ended it',
    ]);
  });
});
