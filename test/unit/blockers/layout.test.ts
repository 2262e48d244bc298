/** What the file driver leaves on disk: paths, modes, lock files, and what it does with leftovers of crashes. */
import { createHash } from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';
import { expect, it, onTestFinished } from 'vitest';
import { fileDriver, filesOf, listAll, read, temporaryDirectory, write } from './support.js';

const hashedPath = (root: string, name: string): string => {
  const h = createHash('sha256').update(name).digest('hex');
  return path.join(root, h.slice(0, 2), h.slice(2, 4), h.slice(4, 6), name);
};

it('an object is three hashed levels deep, its content unpadded', async () => {
  const root = temporaryDirectory();
  const driver = await fileDriver(root, { direct: true });
  await write(driver, 'volume1_0000000000000001_0000000000000000', 0, Buffer.from('hello'));
  const file = hashedPath(root, 'volume1_0000000000000001_0000000000000000');
  expect(filesOf(root)).toEqual([file]);
  expect(fs.readFileSync(file, 'latin1')).toBe('hello');
});

for (const [umask, processUmask] of [
  [0o007, 0o022],
  [0o007, 0o077],
  [0o022, 0o000],
]) {
  const octal = (mode: number) => mode.toString(8).padStart(3, '0');
  it(`umask ${octal(umask)} decides the modes, also in a process whose umask is ${octal(processUmask)}`, async () => {
    const inherited = process.umask(processUmask);
    onTestFinished(() => {
      process.umask(inherited);
    });
    const root = temporaryDirectory();
    const driver = await fileDriver(root, { umask });
    await write(driver, 'moded-object', 0, Buffer.from('x'));
    await driver.copy('moded-object', 'copied-object', 10, { durable: false, exclusive: false });
    await driver.acquire('moded-object');
    expect(filesOf(root)).toHaveLength(3);
    for (const file of filesOf(root)) {
      expect(fs.statSync(file).mode & 0o777).toBe(0o666 & ~umask);
      expect(fs.statSync(path.dirname(file)).mode & 0o777).toBe(0o777 & ~umask);
    }
  });
}

it('a lock is a file of its own with exactly the owner in it', async () => {
  const root = temporaryDirectory();
  const locks = temporaryDirectory();
  const hashed = await fileDriver(root, { uniqueStr: 'node1_1002' });
  const flat = await fileDriver(root, { uniqueStr: 'node1_1002', lockDir: locks });
  await hashed.acquire('volume1');
  await flat.acquire('volume1');
  for (const file of [hashedPath(root, 'volume1_lock'), path.join(locks, 'volume1_lock')]) {
    expect(fs.readFileSync(file, 'latin1')).toBe('node1_1002');
    expect(fs.statSync(file).nlink).toBe(1);
  }
  expect(filesOf(root)).toHaveLength(1);
  expect(filesOf(locks)).toHaveLength(1);
});

it('what crashes have left blocks nothing: temporary files of ours and of the original, an empty lock is held', async () => {
  const root = temporaryDirectory();
  const locks = temporaryDirectory();
  fs.writeFileSync(path.join(locks, 'volume1_locktest_1000_aa'), 'test_1000');
  fs.mkdirSync(path.join(locks, '.archipelago-tmp'));
  fs.writeFileSync(path.join(locks, '.archipelago-tmp', '1-0'), 'half');
  fs.writeFileSync(path.join(locks, 'volume2_lock'), '');
  const driver = await fileDriver(root, { lockDir: locks });
  await driver.acquire('volume1');
  expect(await driver.lockHolder('volume1')).toMatchObject({ owner: 'test_1000' });
  await expect(driver.acquire('volume2')).rejects.toMatchObject({ code: 'EBUSY' });
  await driver.release('volume2', true);
  await driver.acquire('volume2');
});

it('temporary files older than an hour are removed at the start, younger ones stay, none is listed', async () => {
  const root = temporaryDirectory();
  const temp = path.join(root, '.archipelago-tmp');
  fs.mkdirSync(temp);
  fs.writeFileSync(path.join(temp, 'young'), 'x');
  fs.writeFileSync(path.join(temp, 'old'), 'x');
  const hours = Date.now() / 1000 - 2 * 3600;
  fs.utimesSync(path.join(temp, 'old'), hours, hours);
  const driver = await fileDriver(root);
  expect(fs.readdirSync(temp)).toEqual(['young']);
  expect(await listAll(driver, 10)).toEqual([]);
});

it('copies, hashes and locks leave no temporary files, also when they fail', async () => {
  const root = temporaryDirectory();
  const driver = await fileDriver(root);
  await write(driver, 'one-object', 0, Buffer.from('x'));
  await driver.copy('one-object', 'two-object', 10, { durable: true, exclusive: false });
  await driver.copy('one-object', 'three-object', 10, { durable: true, exclusive: true });
  await expect(driver.copy('one-object', 'two-object', 1, { durable: false, exclusive: true })).rejects.toThrow();
  await expect(driver.copy('no-object', 'two-object', 1, { durable: false, exclusive: false })).rejects.toThrow();
  await driver.hash('one-object', 10);
  await driver.hash('two-object', 10);
  await driver.acquire('volume1');
  expect(fs.readdirSync(path.join(root, '.archipelago-tmp'))).toEqual([]);
});

it('files of strangers in the tree are not listed', async () => {
  const root = temporaryDirectory();
  const driver = await fileDriver(root);
  await write(driver, 'real-object', 0, Buffer.from('x'));
  fs.mkdirSync(path.join(root, 'lost+found'));
  fs.mkdirSync(path.join(root, '00/00/00'), { recursive: true });
  fs.writeFileSync(path.join(root, '00/00/00', 'stranger'), 'x');
  fs.writeFileSync(path.join(root, '00', 'note'), 'x');
  fs.writeFileSync(path.join(root, 'README'), 'x');
  expect(await listAll(driver, 1)).toEqual(['real-object']);
  await expect(driver.list('nonsense', 1)).rejects.toMatchObject({ code: 'EINVAL' });
});

it('another node’s deletion and replacement of an object are noticed by a node that has it open', async () => {
  const root = temporaryDirectory();
  const here = await fileDriver(root, { uniqueStr: 'here_1000' });
  const there = await fileDriver(root, { uniqueStr: 'there_1000' });
  const { hint } = await write(here, 'moving-object', 0, Buffer.from('old'));
  await there.delete('moving-object');
  await write(there, 'moving-object', 0, Buffer.from('new'));
  await expect.poll(async () => (await read(here, 'moving-object', 0, 3, hint)).toString()).toBe('new');
  await write(here, 'moving-object', 0, Buffer.from('our'), { hint });
  expect((await read(there, 'moving-object', 0, 3)).toString()).toBe('our');
});

it('a hint from a driver before means nothing to its successor', async () => {
  const root = temporaryDirectory();
  const before = await fileDriver(root);
  const hints: number[] = [];
  for (let i = 0; i < 20; i++) hints.push((await write(before, `hinted-${i}`, 0, Buffer.from([i]))).hint);
  expect(new Set(hints).size).toBe(20);
  await before.close();
  const after = await fileDriver(root);
  for (let i = 19; i >= 0; i--) expect(await read(after, `hinted-${i}`, 0, 1, hints[19 - i])).toEqual(Buffer.from([i]));
});

it('no more files are kept open than the setting allows', async () => {
  const driver = await fileDriver(temporaryDirectory(), { fdcache: 8 });
  const names = Array.from({ length: 200 }, (_, i) => `object-${i}`);
  await Promise.all(names.map((name) => write(driver, name, 0, Buffer.from(name))));
  await driver.flush(null);
  for (const name of names) expect((await read(driver, name, 0, name.length)).toString()).toBe(name);
  await expect.poll(() => (driver.status() as { openFiles: number }).openFiles).toBeLessThanOrEqual(8);
});

it('a missing or unusable store directory is named when the driver opens', async () => {
  const root = temporaryDirectory();
  await expect(fileDriver(path.join(root, 'absent'))).rejects.toMatchObject({
    code: 'ENOENT',
    message: expect.stringContaining(path.join(root, 'absent')),
  });
  fs.writeFileSync(path.join(root, 'file'), '');
  await expect(fileDriver(path.join(root, 'file'))).rejects.toMatchObject({ code: 'ENOTDIR' });
  await expect(fileDriver(root, { lockDir: path.join(root, 'absent') })).rejects.toMatchObject({
    code: 'ENOENT',
    message: expect.stringContaining('lock directory'),
  });
  await expect(fileDriver(root, { uniqueStr: '' })).rejects.toMatchObject({ code: 'EINVAL' });
});

it('a closed driver refuses everything', async () => {
  const driver = await fileDriver(temporaryDirectory());
  const { hint } = await write(driver, 'any-object', 0, Buffer.from('x'));
  await driver.close();
  await expect(read(driver, 'any-object', 0, 1, hint)).rejects.toMatchObject({ code: 'EBADF' });
  await expect(write(driver, 'any-object', 0, Buffer.from('x'))).rejects.toMatchObject({ code: 'EBADF' });
  await expect(driver.info('any-object')).rejects.toMatchObject({ code: 'EBADF' });
});

it('a hint of another object is not followed: the name decides', async () => {
  const driver = await fileDriver(temporaryDirectory());
  const { hint } = await write(driver, 'first-object', 0, Buffer.from('first'));
  await write(driver, 'second-object', 0, Buffer.from('second'), { hint });
  expect((await read(driver, 'first-object', 0, 5)).toString()).toBe('first');
  expect((await read(driver, 'second-object', 0, 6, hint)).toString()).toBe('second');
});
