/** Disks that are full or read-only, descriptors that run out: the real errno, nothing corrupted, service afterwards. */
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { describe, expect, it, onTestFinished } from 'vitest';
import { fileDriver, read, temporaryDirectory, write } from './support.js';

const MIB = 1 << 20;

/** Can this process mount? Asked by doing it. */
function mayMount(): boolean {
  const directory = fs.mkdtempSync('/tmp/archipelago-mount-');
  try {
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=1m', 'none', directory], { stdio: 'ignore' });
    execFileSync('umount', [directory]);
    return true;
  } catch {
    return false;
  } finally {
    fs.rmdirSync(directory);
  }
}

function mounted(...options: string[]): string {
  const directory = temporaryDirectory();
  execFileSync('mount', [...options, directory]);
  onTestFinished(() => {
    execFileSync('umount', ['--lazy', directory]);
  });
  return directory;
}

const root = mayMount();
if (!root) console.warn('SKIPPED: tests of full and read-only file systems: this user may not mount (run as root)');

describe.skipIf(!root)('a full file system', () => {
  it('a write that finds no room fails with ENOSPC, the rest stays whole, and writes work again once there is room', async () => {
    const driver = await fileDriver(mounted('-t', 'tmpfs', '-o', 'size=4m', 'none'));
    const block = Buffer.alloc(MIB, 1);
    await write(driver, 'small-object', 0, block);
    await expect(
      (async () => {
        for (let i = 0; i < 8; i++) await write(driver, 'large-object', i * MIB, block);
      })(),
    ).rejects.toMatchObject({ code: 'ENOSPC' });
    expect((await read(driver, 'small-object', 0, MIB)).equals(block)).toBe(true);
    await expect(
      driver.copy('small-object', 'other-object', MIB, { durable: true, exclusive: false }),
    ).rejects.toMatchObject({ code: 'ENOSPC', message: expect.stringContaining('full') });
    await expect(driver.info('other-object')).rejects.toMatchObject({ code: 'ENOENT' });
    await driver.flush(null);
    await driver.delete('large-object');
    await driver.copy('small-object', 'other-object', MIB, { durable: true, exclusive: false });
    await write(driver, 'large-object', 0, block);
    expect((await read(driver, 'other-object', 0, MIB)).equals(block)).toBe(true);
  });

  it('no room for new files: creating, locking and resetting fail with ENOSPC, open objects go on', async () => {
    const driver = await fileDriver(mounted('-t', 'tmpfs', '-o', 'size=4m,nr_inodes=20', 'none'));
    await write(driver, 'first-object', 0, Buffer.from('x'));
    await expect(
      (async () => {
        for (let i = 0; i < 20; i++) await write(driver, `object-${i}`, 0, Buffer.from('x'));
      })(),
    ).rejects.toMatchObject({ code: 'ENOSPC' });
    await expect(driver.reset('third-object', true)).rejects.toMatchObject({ code: 'ENOSPC' });
    await expect(driver.acquire('volume1')).rejects.toMatchObject({ code: 'ENOSPC' });
    await write(driver, 'first-object', 0, Buffer.from('y'));
    expect((await read(driver, 'first-object', 0, 1)).toString()).toBe('y');
  });
});

describe.skipIf(!root)('a read-only file system', () => {
  it('is served for reading; changes fail with EROFS', async () => {
    const source = temporaryDirectory();
    const writer = await fileDriver(source);
    await write(writer, 'kept-object', 0, Buffer.from('kept'));
    await writer.acquire('locked');
    const directory = mounted('--bind', source);
    execFileSync('mount', ['-o', 'remount,bind,ro', directory]);
    const driver = await fileDriver(directory);
    await writer.sendMail('test_1000', { kind: 'want', name: 'locked', from: 'other_1000', id: 'read' });
    await writer.close();
    expect((await read(driver, 'kept-object', 0, 4)).toString()).toBe('kept');
    await expect(write(driver, 'kept-object', 0, Buffer.from('x'))).rejects.toMatchObject({ code: 'EROFS' });
    await expect(write(driver, 'new-object', 0, Buffer.from('x'))).rejects.toMatchObject({ code: 'EROFS' });
    await expect(driver.delete('kept-object')).rejects.toMatchObject({ code: 'EROFS' });
    await expect(driver.acquire('volume1')).rejects.toMatchObject({ code: 'EROFS' });
    expect(await driver.checkLocks(['volume1', 'locked'])).toMatchObject({
      lost: [{ name: 'volume1', holder: null }],
      mail: [{ id: 'read' }],
    });
    expect((await driver.listLocks(null, 10)).locks).toMatchObject([{ name: 'locked' }]);
    const mail = { kind: 'want', name: 'volume1', from: 'test_1000', id: '1' } as const;
    await expect(driver.sendMail('other_1000', mail)).rejects.toMatchObject({
      code: 'EROFS',
      message: expect.stringMatching(/other_1000.*read-only/),
    });
    await expect(driver.breakLock('volume1')).rejects.toMatchObject({ code: 'EROFS' });
    await expect(driver.release('locked', false)).rejects.toMatchObject({ code: 'EROFS' });
    await expect(driver.truncate('kept-object', 0)).rejects.toMatchObject({
      code: 'EROFS',
      message: expect.stringContaining('kept-object'),
    });
    expect((await read(driver, 'kept-object', 0, 4)).toString()).toBe('kept');
    await driver.flush(null);
  });
});

describe.skipIf(!root)('a file system that cannot tell what is cached (overlay)', () => {
  it('is read and written all the same', async () => {
    const layers = mounted('-t', 'tmpfs', '-o', 'size=16m', 'none');
    for (const layer of ['lower', 'upper', 'work']) fs.mkdirSync(path.join(layers, layer));
    const options = `lowerdir=${layers}/lower,upperdir=${layers}/upper,workdir=${layers}/work`;
    const driver = await fileDriver(mounted('-t', 'overlay', '-o', options, 'none'));
    const data = Buffer.from(Array.from({ length: 300_000 }, (_, i) => (i * 7) & 255));
    const { hint } = await write(driver, 'layered-object', 3, data);
    for (const [offset, length] of [
      [0, 100],
      [4096, 4096],
      [1, 250_000],
      [299_000, 5000],
    ]) {
      const wanted = Buffer.concat([Buffer.alloc(3), data, Buffer.alloc(5000)]).subarray(offset, offset + length);
      expect((await read(driver, 'layered-object', offset, length, hint)).equals(wanted)).toBe(true);
    }
    await driver.copy('layered-object', 'copied-object', 1 << 20, { durable: true, exclusive: false });
    expect((await read(driver, 'copied-object', 3, data.length)).equals(data)).toBe(true);
    await driver.flush(null);
    await driver.close();
  });
});

describe('descriptors run out', () => {
  it('cached files are closed and the operation goes on', async () => {
    const limits = fs.readFileSync('/proc/self/limits', 'utf8').match(/Max open files\s+(\d+)\s+(\d+)/) as string[];
    const driver = await fileDriver(temporaryDirectory(), { fdcache: 4096 });
    const setLimit = (soft: number | string) =>
      execFileSync('prlimit', ['--pid', String(process.pid), `--nofile=${soft}:${limits[2]}`]);
    onTestFinished(() => {
      setLimit(limits[1]);
    });
    setLimit(fs.readdirSync('/proc/self/fd').length + 24);
    const names = Array.from({ length: 100 }, (_, i) => `object-${i}`);
    for (const name of names) await write(driver, name, 0, Buffer.from(name));
    for (const name of names) expect((await read(driver, name, 0, name.length)).toString()).toBe(name);
    await driver.copy(names[0], 'copied-object', 100, { durable: true, exclusive: false });
    await driver.acquire('volume1');
    expect((driver.status() as { openFiles: number }).openFiles).toBeLessThan(30);
    // Its descriptors are needed to start the program that lifts the limit.
    await driver.close();
  });
});

describe('a name in the way', () => {
  it('a directory where an object belongs is EISDIR, and the object is named', async () => {
    const directory = temporaryDirectory();
    const driver = await fileDriver(directory);
    await write(driver, 'some-object', 0, Buffer.from('x'));
    const file = fs
      .readdirSync(directory, { recursive: true, encoding: 'utf8' })
      .find((one) => one.endsWith('some-object')) as string;
    await driver.delete('some-object');
    fs.mkdirSync(path.join(directory, file));
    await expect(driver.truncate('some-object', 1)).rejects.toMatchObject({
      code: 'EISDIR',
      message: expect.stringContaining('some-object'),
    });
    await expect(write(driver, 'some-object', 0, Buffer.from('x'))).rejects.toMatchObject({ code: 'EISDIR' });
  });
});
