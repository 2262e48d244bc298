/** What the rados driver keeps in a pool, looked at by Ceph's own client; and what becomes of it beside other writers. */
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it, onTestFinished } from 'vitest';
import type { Driver } from '../../../src/blockers/driver.js';
import { runIo } from '../../../src/blockers/object-io.js';
import { contentSteps } from '../../../src/blockers/rados/content.js';
import { connect } from '../../../src/rados/index.js';
import { hasCeph, makeNamespace, type Namespace, useCeph } from '../../support/ceph.js';
import { radosDriver } from './rados-support.js';
import { fileDriver, filesOf, listAll, read, temporaryDirectory, write } from './support.js';

const archive = fileURLToPath(new URL('../../fixtures/golden/golden.tar.gz', import.meta.url));

/** `length` bytes without a zero among them. */
const pattern = (length: number, seed: number): Buffer =>
  Buffer.from(Uint8Array.from({ length }, (_, i) => 1 + ((i * 7 + (i >> 8) * 13 + seed) % 255)));

const trim = (driver: Driver, name: string, offset: number, length: number) =>
  runIo(driver, 'trim', { name, offset, length });

describe.runIf(hasCeph())('objects on RADOS', () => {
  const ceph = useCeph();

  it('an object has the name and the content that it was given, in place', async () => {
    const driver = await radosDriver(ceph);
    const data = pattern(5000, 1);
    await write(driver, 'ü-object.1', 3000, data);
    expect(await ceph.read('blocks', 'ü-object.1')).toEqual(Buffer.concat([Buffer.alloc(3000), data]));
    await ceph.write('blocks', 'theirs', pattern(100, 2));
    expect(await read(driver, 'theirs', 0, 200)).toEqual(Buffer.concat([pattern(100, 2)], 200));
    expect((await driver.info('theirs')).size).toBe(100);
    expect(Math.abs(((await driver.info('theirs')).modified ?? 0) - Date.now())).toBeLessThan(60_000);
    expect((await listAll(driver, 2)).sort()).toEqual(['theirs', 'ü-object.1']);
    expect((await ceph.list('blocks')).some(({ name }) => name.startsWith('.archipelago-'))).toBe(true);
  });

  it('empty reads and writes are about the object alone', async () => {
    const driver = await radosDriver(ceph);
    await write(driver, 'touched', 100_000, Buffer.alloc(0));
    expect((await driver.info('touched')).size).toBe(0);
    await write(driver, 'touched', 0, pattern(10, 1));
    await write(driver, 'touched', 100_000, Buffer.alloc(0));
    expect((await driver.info('touched')).size).toBe(10);
    expect(await read(driver, 'touched', 5, 0)).toEqual(Buffer.alloc(0));
    await expect(read(driver, 'untouched', 0, 0)).rejects.toMatchObject({ code: 'ENOENT' });
    await trim(driver, 'touched', 5, 0);
    await runIo(driver, 'writeZeroes', { name: 'touched', offset: 50_000, length: 0, noHole: true });
    expect(await ceph.read('blocks', 'touched')).toEqual(pattern(10, 1));
  });

  it('zeros that stay allocated are written at any offset and length', async () => {
    const driver = await radosDriver(ceph);
    await write(driver, 'filled', 0, pattern(30_000, 3));
    const data = Buffer.concat([pattern(30_000, 3)], 31_000);
    for (const [offset, length] of [
      [1, 1],
      [100, 4096],
      [9000, 10_001],
      [29_000, 2000],
    ]) {
      await runIo(driver, 'writeZeroes', { name: 'filled', offset, length, noHole: true });
      data.fill(0, offset, offset + length);
    }
    expect(await ceph.read('blocks', 'filled')).toEqual(data);
  });

  it('a trim of the end beside writes behind it neither cuts nor loses them', async () => {
    const driver = await radosDriver(ceph);
    const late = pattern(4096, 9);
    for (let round = 0; round < 25; round++) {
      const name = `raced-${round}`;
      await write(driver, name, 0, pattern(8192, 1));
      // The trim covers what was there, the write is behind both.
      await Promise.all([trim(driver, name, 4096, 4096), write(driver, name, 8192, late), trim(driver, name, 0, 100)]);
      const wanted = Buffer.concat([Buffer.alloc(100), pattern(8192, 1).subarray(100, 4096), Buffer.alloc(4096), late]);
      expect(await read(driver, name, 0, 12_288)).toEqual(wanted);
      expect((await driver.info(name)).size).toBe(12_288);
    }
  });

  it('a trim never makes an object again that was deleted meanwhile', async () => {
    const driver = await radosDriver(ceph);
    for (let round = 0; round < 25; round++) {
      const name = `dying-${round}`;
      await write(driver, name, 0, pattern(8192, 1));
      await Promise.all([trim(driver, name, 4096, 8192), driver.delete(name), trim(driver, name, 0, 8192)]);
      await expect(driver.info(name)).rejects.toMatchObject({ code: 'ENOENT' });
    }
  });

  it('a copy is whole or not there at all to whoever reads beside it', async () => {
    const driver = await radosDriver(ceph);
    const size = 1 << 20;
    for (const seed of [1, 2]) await write(driver, `whole-${seed}`, 0, Buffer.alloc(size, seed));
    let copying = true;
    const copies = (async () => {
      for (let i = 0; i < 20; i++) {
        await driver.copy(`whole-${1 + (i % 2)}`, 'whole-target', size, { durable: false, exclusive: i === 0 });
      }
      copying = false;
    })();
    while (copying) {
      const bytes = await read(driver, 'whole-target', 0, size).catch(() => null);
      if (bytes) expect(bytes.equals(Buffer.alloc(size, bytes[0])) && bytes[0] > 0).toBe(true);
    }
    await copies;
  });

  it('what is too large to be written at once is not copied: EFBIG', async () => {
    const driver = await radosDriver(ceph);
    await write(driver, 'huge', 0, pattern(10, 1));
    await driver.truncate('huge', 65 << 20);
    const options = { durable: false, exclusive: false };
    await expect(driver.copy('huge', 'huger', 100 << 20, options)).rejects.toMatchObject({ code: 'EFBIG' });
    await driver.copy('huge', 'huge-part', 64 << 20, options);
    expect((await driver.info('huge-part')).size).toBe(64 << 20);
    await driver.delete('huge');
    await driver.delete('huge-part');
  });

  it('a list goes on after a page that was asked for twice, in another driver, and after its last name was deleted', async () => {
    const driver = await radosDriver(ceph, { pool: 'maps' });
    const names = Array.from({ length: 30 }, (_, i) => `walked-${i}`);
    await Promise.all(names.map((name) => driver.reset(name, false)));
    const first = await driver.list(null, 10);
    const again = await driver.list(first.cursor, 10);
    expect(await driver.list(first.cursor, 5)).toMatchObject({ names: again.names.slice(0, 5) });
    expect((await driver.list(first.cursor, 10)).names).toEqual(again.names);
    await driver.delete(first.names[9]);
    expect((await driver.list(first.cursor, 10)).names).toEqual(again.names);
    const other = await radosDriver(ceph, { pool: 'maps', uniqueStr: 'other_1000' });
    const rest = await other.list(again.cursor, 100);
    expect(rest.cursor).toBe(null);
    expect([...first.names, ...again.names, ...rest.names].sort()).toEqual([...names].sort());
    await expect(other.list(first.cursor, 10)).rejects.toMatchObject({ code: 'ESTALE' });
  });

  it('what the original wrote is read as in files, and what is made of it is the same', async () => {
    const directory = temporaryDirectory();
    execFileSync('tar', ['-C', directory, '-xzf', archive]);
    const root = path.join(directory, 'main/maps');
    const cluster = await connect({ conf: ceph.conf, id: ceph.user });
    onTestFinished(() => cluster.close());
    const pool = await cluster.pool('maps', `${ceph.namespace}-golden`);
    for (const file of filesOf(root)) {
      await pool.operate(path.basename(file), [{ do: 'writeFull', data: fs.readFileSync(file) }]);
    }
    const inFiles = await fileDriver(root, { uniqueStr: 'same_1000' });
    const inRados = await radosDriver(ceph, { pool: 'maps', namespace: pool.namespace, uniqueStr: 'same_1000' });
    const names = (await listAll(inFiles, 100)).sort();
    expect((await listAll(inRados, 7)).sort()).toEqual(names);
    for (const name of names) {
      const { size } = await inFiles.info(name);
      expect((await inRados.info(name)).size).toBe(size);
      const bytes = await read(inFiles, name, 0, size + 100);
      expect((await read(inRados, name, 0, size + 100)).equals(bytes)).toBe(true);
    }
    const sizes = await Promise.all(names.map(async (name) => ({ name, ...(await inFiles.info(name)) })));
    const longest = sizes.reduce((a, b) => (a.size > b.size ? a : b)).name;
    for (const driver of [inFiles, inRados]) {
      await driver.copy(longest, 'copied', 3000, { durable: true, exclusive: true });
      await driver.hash(longest, 4 << 20);
      await write(driver, 'copied', 5000, pattern(1000, 1));
      await trim(driver, 'copied', 5500, 10_000);
      await driver.copy('copied', 'copied-2', 4 << 20, { durable: true, exclusive: false });
      await driver.truncate('copied', 5200);
      await driver.reset('emptied', true);
      await driver.flush(null);
    }
    const made = (await listAll(inFiles, 100)).sort();
    expect(made.length).toBe(names.length + 5);
    expect((await listAll(inRados, 100)).sort()).toEqual(made);
    for (const file of filesOf(root)) {
      const stored = await pool.readBytes(path.basename(file), 0, 4 << 20);
      expect(stored.equals(fs.readFileSync(file)), path.basename(file)).toBe(true);
    }
    for (const name of [...made, ...(await pool.list(null, 100)).names]) {
      await pool.operate(name, [{ do: 'remove' }]).catch(() => {});
    }
  });
});

describe.runIf(hasCeph())('a pool that is deleted', () => {
  const ceph = useCeph();

  it('is an error in all that is asked of it: its objects are not missing, which would be zeros', async () => {
    const pool = makeNamespace();
    const driver = await radosDriver(ceph, { pool: await madePool(ceph, pool), cephxId: 'admin' });
    await write(driver, 'object', 0, Buffer.alloc(512, 1));
    await ceph.ceph('osd', 'pool', 'delete', pool, pool, '--yes-i-really-really-mean-it');
    const object = { name: 'object', offset: 0, length: 512 };
    const refused = [
      runIo(driver, 'read', object),
      runIo(driver, 'write', { ...object, data: Buffer.alloc(512, 2) }),
      runIo(driver, 'trim', object),
      driver.info('object'),
      driver.delete('object'),
      driver.copy('object', 'copy', 512, { durable: true, exclusive: true }),
      driver.hash('object', 512),
      driver.list(null, 10),
    ];
    for (const outcome of await Promise.allSettled(refused)) {
      expect(outcome).toMatchObject({ status: 'rejected', reason: { code: 'ENODEV' } });
    }
    expect(driver.status()).toMatchObject({ trouble: `pool ${pool}, namespace ${ceph.namespace} was deleted` });
    // Another one under its name has none of what was in it.
    await madePool(ceph, pool);
    onTestFinished(async () => {
      await ceph.ceph('osd', 'pool', 'delete', pool, pool, '--yes-i-really-really-mean-it');
    });
    await expect(runIo(driver, 'read', object)).rejects.toMatchObject({ code: 'ENODEV' });
  });
});

async function madePool(ceph: Namespace, name: string): Promise<string> {
  await ceph.ceph('osd', 'pool', 'create', name, '1');
  return name;
}

describe('the steps that make a copy', () => {
  const kinds = (bytes: Buffer, exclusive: boolean): string[] =>
    contentSteps(bytes, exclusive).map((step) =>
      step.do === 'write'
        ? `write ${step.offset}+${step.data.length}`
        : step.do === 'truncate'
          ? `cut ${step.size}`
          : step.do,
    );
  const data = (...parts: [length: number, value: number][]): Buffer =>
    Buffer.concat(parts.map(([length, value]) => Buffer.alloc(length, value)));
  const K = 1024;

  it('leave long zeros out, and keep the length', () => {
    expect(kinds(data([64 * K, 1]), true)).toEqual(['create', 'write 0+65536']);
    expect(kinds(data([64 * K, 1]), false)).toEqual(['create', 'cut 0', 'write 0+65536']);
    expect(kinds(data([100 * K, 0], [1, 1], [200 * K, 0], [5, 7]), true)).toEqual([
      'create',
      'write 65536+65536',
      `write ${256 * K}+${44 * K + 6}`,
    ]);
    expect(kinds(data([64 * K, 1], [64 * K, 0], [3, 0]), true)).toEqual([
      'create',
      'write 0+65536',
      `cut ${128 * K + 3}`,
    ]);
    expect(kinds(data([1000, 0]), false)).toEqual(['create', 'cut 0', 'cut 1000']);
    expect(kinds(Buffer.alloc(0), true)).toEqual(['create']);
  });
});
