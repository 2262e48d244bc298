/** Headers of a listing: read within the call where that is as good as what the usual way reads, and in the usual way elsewhere. */
import { mkdirSync, mkdtempSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { FileDriver } from '../../../src/blockers/file/driver.js';
import { kernel } from '../../../src/blockers/file/kernel.js';
import { hashedPath, pithosPath } from '../../../src/blockers/file/paths.js';
import type { FileSystem } from '../../../src/blockers/file/system.js';
import { runIo } from '../../../src/blockers/object-io.js';

let root: string;
let driver: FileDriver;
/** Files opened by the pool. */
let opened: string[];

beforeEach(async () => {
  root = mkdtempSync(path.join(os.tmpdir(), 'beginnings-'));
  opened = [];
  const system = Object.create(kernel, {
    // What this test runs on counts as a disk of this machine.
    isLocal: { value: () => true },
    peek: { value: (file: string, most: number) => kernel.peek?.(file, most) ?? null },
    preadCached: { value: kernel.preadCached.bind(kernel) },
    isMemory: { value: () => false },
    open: {
      value: (file: string, flags: number, mode: number) => {
        opened.push(path.basename(file));
        return kernel.open(file, flags, mode);
      },
    },
  }) as FileSystem;
  driver = new FileDriver({ root, uniqueStr: 'node1_1', system });
  await driver.open();
  opened.length = 0;
});

afterEach(async () => {
  await driver.close();
  rmSync(root, { recursive: true });
});

function put(file: string, content: string): void {
  mkdirSync(path.dirname(file), { recursive: true });
  writeFileSync(file, content);
}

const read = async (name: string, length: number, offset = 0): Promise<string> =>
  (await runIo(driver, 'read', { name, offset, length, uncached: true })).data.toString('latin1');

it('reads the beginning of an object that is not open without the pool, and zeros past its end', async () => {
  put(hashedPath(root, 'long'), 'a'.repeat(600));
  put(hashedPath(root, 'short'), 'b');
  expect(await read('long', 512)).toBe('a'.repeat(512));
  expect(await read('short', 512)).toBe(`b${'\0'.repeat(511)}`);
  expect(opened).toEqual([]);
});

it('reads what the store has now each time', async () => {
  put(hashedPath(root, 'header'), 'old');
  expect(await read('header', 3)).toBe('old');
  put(hashedPath(root, 'header'), 'new');
  expect(await read('header', 3)).toBe('new');
});

it('leaves to the usual way what is longer, further on, or missing', async () => {
  put(hashedPath(root, 'object'), 'c'.repeat(600));
  expect(await read('object', 513)).toBe('c'.repeat(513));
  expect(await read('object', 2, 599)).toBe('c\0');
  expect(opened).toEqual(['object', 'object']);
  await expect(read('nothing', 512)).rejects.toMatchObject({ errno: 2 });
});

it('leaves an object to it that is open, so that what is kept is looked at again', async () => {
  put(hashedPath(root, 'object'), 'old');
  expect((await runIo(driver, 'read', { name: 'object', offset: 0, length: 3 })).data.toString()).toBe('old');
  // Another node puts a new one in its place.
  put(path.join(root, 'other'), 'new');
  renameSync(path.join(root, 'other'), hashedPath(root, 'object'));
  expect(await read('object', 3)).toBe('new');
  expect((await runIo(driver, 'read', { name: 'object', offset: 0, length: 3 })).data.toString()).toBe('new');
});

it('leaves names to it that old Pithos stores have elsewhere', async () => {
  const name = 'ab'.repeat(32);
  put(hashedPath(root, name), 'hashed');
  put(pithosPath(root, name), 'pithos');
  expect(await read(name, 6)).toBe('pithos');
});
