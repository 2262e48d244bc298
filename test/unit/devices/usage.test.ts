/** Who uses a device, and what /sys tells of devices, on a machine made of files. */
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { inFlight, kernelDevice, kernelDevices, setRequestTimeout } from '../../../src/devices/sysfs.js';
import { numberOf, usesOf } from '../../../src/devices/usage.js';
import { FakeSystem } from './fake-system.js';

let dir: string;
let system: FakeSystem;
beforeEach(() => {
  dir = fs.mkdtempSync(path.join(os.tmpdir(), 'devices-'));
  system = FakeSystem.in(dir);
});
afterEach(() => fs.rmSync(dir, { recursive: true, force: true }));

const uses = (index: number, except: number[] = []): string[] =>
  usesOf(index, except, system.roots).map(({ kind, what }) => `${kind}: ${what}`);

describe('who uses a device', () => {
  beforeEach(() => system.connect(2, { partitions: 2 }));

  it('is nobody', () => {
    system.connect(20, { partitions: 1 });
    system.process(10, 'other', { 0: '/dev/null', 3: '/dev/nbd20', 4: 'socket:[55]', 5: '/dev/nbd2x' }, [
      '36 35 43:640 / /other rw - ext4 /dev/nbd20 rw',
      '37 35 43:641 / /other-part rw - ext4 /dev/nbd20p1 rw',
    ]);
    system.write('proc', 'swaps', 'Filename\tType\tSize\tUsed\tPriority\n/dev/nbd20 partition 1 0 -2\n');
    expect(uses(2)).toEqual([]);
  });

  it('is a file system, on the whole or on a partition, once for each place', () => {
    system.process('self', 'vlmc', {}, [
      '36 35 43:64 / /srv/a\\040b rw,noatime shared:1 - ext4 /dev/nbd2 rw',
      '37 35 43:66 / /mnt rw - xfs /dev/nbd2p2 rw',
      '38 35 0:45 /sub /btrfs rw - btrfs /dev/nbd2p1 rw',
    ]);
    expect(uses(2)).toEqual([
      'mount: mounted on /srv/a b',
      'mount: mounted on /mnt (/dev/nbd2p2)',
      'mount: mounted on /btrfs (/dev/nbd2p1)',
    ]);
  });

  it('is a file system that only a container sees', () => {
    const mount = '36 35 43:64 / /data rw - ext4 /dev/nbd2 rw';
    system.process('self', 'vlmc');
    system.process(10, 'init');
    system.process(77, 'contained', {}, [mount], 'mnt:[2]');
    system.process(78, 'contained', {}, [mount], 'mnt:[2]');
    expect(uses(2)).toEqual(['mount: mounted on /data in the mount namespace of process 77']);
  });

  it('is swap space', () => {
    system.write('proc', 'swaps', 'Filename\tType\tSize\tUsed\tPriority\n/dev/nbd2p1 partition 1000 0 -2\n');
    expect(uses(2)).toEqual(['swap: swap space (/dev/nbd2p1); swapoff /dev/nbd2p1 ends that']);
  });

  it('is what the kernel made of it: device-mapper by its name, md, loop', () => {
    system.write('sys', 'block/nbd2/holders/dm-3/x', '');
    system.write('sys', 'block/dm-3/dm/name', 'vg-root\n');
    system.write('sys', 'block/nbd2/nbd2p1/holders/md0/x', '');
    system.write('sys', 'block/loop7/loop/backing_file', '/dev/nbd2\n');
    system.write('sys', 'block/loop8/loop/backing_file', '/var/image\n');
    expect(uses(2)).toEqual([
      'holder: held by device-mapper vg-root (dm-3)',
      'holder: held by /dev/md0 (/dev/nbd2p1)',
      'holder: held by /dev/loop7',
    ]);
  });

  it('is a process that has it open, but those that do not count', () => {
    system.process(10, 'qemu-system-x86', { 3: '/tmp/file', 9: '/dev/nbd2' });
    system.process(11, 'dd', { 1: '/dev/nbd2p2' });
    system.process(12, 'vlmc', { 1: '/dev/nbd2' });
    expect(uses(2, [12]).sort()).toEqual([
      'open: open in process 10 (qemu-system-x86)',
      'open: open in process 11 (dd) (/dev/nbd2p2)',
    ]);
  });

  it('tells device numbers as the kernel writes them', () => {
    expect(numberOf(fs.statSync('/dev/null').rdev)).toBe('1:3');
    expect(numberOf(0x2b * 256 + 0x40)).toBe('43:64');
    // Minors beyond 255 are spread over the number.
    expect(numberOf(43 * 256 + 0x20 + 0x100000)).toBe('43:288');
  });
});

describe('what /sys tells', () => {
  it('lists what is connected, by whomever, in order', () => {
    system.connect(10, { backend: 'archipelago:seg:vol', connections: 4, size: 3 << 20 });
    system.connect(2);
    system.write('sys', 'block/nbd3/size', '0\n');
    system.write('sys', 'block/sda/size', '100\n');
    expect(kernelDevices(system.roots)).toEqual([
      { index: 2, pid: 4002, backend: null, size: 1 << 20, readOnly: false, connections: 1 },
      { index: 10, pid: 4010, backend: 'archipelago:seg:vol', size: 3 << 20, readOnly: false, connections: 4 },
    ]);
    expect(kernelDevice(3, system.roots)).toBeNull();
  });

  it('does not take a name that ends in a blank for the one that does not', () => {
    system.connect(0, { backend: 'archipelago:seg:volume ' });
    expect(kernelDevice(0, system.roots)?.backend).toBe('archipelago:seg:volume ');
    system.connect(1, { backend: '' });
    expect(kernelDevice(1, system.roots)?.backend).toBeNull();
  });

  it('counts what is in flight, and takes a time-out where there is one', () => {
    system.connect(0);
    expect(inFlight(0, system.roots)).toEqual({ reads: 0, writes: 0 });
    system.write('sys', 'block/nbd0/inflight', '       3       14\n');
    expect(inFlight(0, system.roots)).toEqual({ reads: 3, writes: 14 });
    expect(setRequestTimeout(0, 5000, system.roots)).toBe(false);
    system.write('sys', 'block/nbd0/queue/io_timeout', '30000\n');
    expect(setRequestTimeout(0, 5000, system.roots)).toBe(true);
    expect(fs.readFileSync(path.join(system.roots.sys, 'block/nbd0/queue/io_timeout'), 'utf8')).toMatch(/^5000/);
  });
});
