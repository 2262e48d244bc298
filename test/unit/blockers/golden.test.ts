/** Stores that the original wrote are read as they are, and left as they are. */
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, it } from 'vitest';
import { fileDriver, filesOf, listAll, read, temporaryDirectory, treeOf, write } from './support.js';

const archive = fileURLToPath(new URL('../../fixtures/golden/golden.tar.gz', import.meta.url));
/** In the archive: an object that exists only at its old Pithos path. */
const PITHOS = /^bb7bc96d[0-9a-f]{56}$/;

function golden(): string {
  const directory = temporaryDirectory();
  execFileSync('tar', ['-C', directory, '-xzf', archive]);
  return directory;
}

for (const store of ['main/blocks', 'main/maps', 'direct/blocks', 'direct/maps']) {
  it(`every object of ${store} is listed and read, and nothing changes`, async () => {
    const root = path.join(golden(), store);
    const before = treeOf(root);
    const driver = await fileDriver(root);
    const files = filesOf(root);
    expect(files.length).toBeGreaterThan(3);
    expect((await listAll(driver, 5)).sort()).toEqual(files.map((file) => path.basename(file)).sort());
    for (const file of files) {
      const content = fs.readFileSync(file);
      const name = path.basename(file);
      expect((await driver.info(name)).size).toBe(content.length);
      const got = await read(driver, name, 0, content.length + 5000);
      expect(got.equals(Buffer.concat([content], content.length + 5000))).toBe(true);
    }
    await driver.flush(null);
    await driver.close();
    expect(treeOf(root)).toEqual(before);
  });
}

it('locks of the original are seen: flat ones, and hashed ones padded by direct I/O', async () => {
  const directory = golden();
  const main = await fileDriver(path.join(directory, 'main/maps'), {
    lockDir: path.join(directory, 'main/locks'),
    uniqueStr: 'golden_1002',
  });
  expect(await main.lockHolder('gold-locked')).toMatchObject({ owner: 'golden_1002' });
  expect(await main.lockHolder('gold-flock')).toMatchObject({ owner: 'otherhost_1002' });
  await expect(main.acquire('gold-flock')).rejects.toMatchObject({
    code: 'EBUSY',
    message: expect.stringContaining('otherhost_1002'),
  });
  await main.acquire('gold-locked');
  await main.release('gold-locked', false);
  expect(fs.existsSync(path.join(directory, 'main/locks/gold-locked_lock'))).toBe(false);

  const root = path.join(directory, 'direct/maps');
  const lock = path.join(root, '0f/4b/fa/direct-vol1_lock');
  expect(fs.statSync(lock).size).toBe(512);
  const owner = fs.readFileSync(lock, 'latin1').replace(/\0+$/, '');
  const stranger = await fileDriver(root, { uniqueStr: `${owner}1` });
  expect(await stranger.lockHolder('direct-vol1')).toMatchObject({ owner });
  await expect(stranger.acquire('direct-vol1')).rejects.toMatchObject({ code: 'EBUSY' });
  const holder = await fileDriver(root, { uniqueStr: owner });
  await holder.acquire('direct-vol1');
  await holder.release('direct-vol1', false);
  expect(fs.existsSync(lock)).toBe(false);
});

it('a hash memo that direct I/O padded to 512 bytes is understood', async () => {
  const root = path.join(golden(), 'direct/blocks');
  const memo = filesOf(root).find((file) => file.endsWith('_hash')) as string;
  expect(fs.statSync(memo).size).toBe(512);
  const driver = await fileDriver(root);
  const name = path.basename(memo).replace(/_hash$/, '');
  expect(await driver.hash(name, 4 << 20)).toBe(fs.readFileSync(memo, 'latin1').slice(0, 64));
});

it('an object at its old Pithos path is read, written and deleted there', async () => {
  const root = path.join(golden(), 'main/blocks');
  const file = filesOf(root).find((one) => PITHOS.test(path.basename(one))) as string;
  const name = path.basename(file);
  expect(path.relative(root, file)).toBe(`${name.slice(0, 2)}/${name.slice(2, 4)}/${name.slice(4, 6)}/${name}`);
  const driver = await fileDriver(root);
  await write(driver, name, 0, Buffer.from('changed'));
  expect(fs.readFileSync(file, 'latin1').slice(0, 7)).toBe('changed');
  await driver.copy(name, 'copied-object', 4 << 20, { durable: true, exclusive: true });
  expect((await read(driver, 'copied-object', 0, 7)).toString()).toBe('changed');
  await driver.delete(name);
  expect(fs.existsSync(file)).toBe(false);
  await expect(driver.info(name)).rejects.toMatchObject({ code: 'ENOENT' });
});

it('with pithosMigrate an object moves from its old Pithos path to its new one when it is used', async () => {
  const root = path.join(golden(), 'main/blocks');
  const old = filesOf(root).find((one) => PITHOS.test(path.basename(one))) as string;
  const name = path.basename(old);
  const content = fs.readFileSync(old);
  const driver = await fileDriver(root, { pithosMigrate: true });
  expect((await read(driver, name, 0, content.length)).equals(content)).toBe(true);
  expect(fs.existsSync(old)).toBe(false);
  const moved = filesOf(root).filter((file) => path.basename(file) === name);
  expect(moved).toHaveLength(1);
  expect(fs.statSync(moved[0]).nlink).toBe(1);
  expect(await listAll(driver, 1000)).toContain(name);
  await driver.flush([name]);
});
