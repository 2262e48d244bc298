/** Files that are opened within the call, for askers on the short way. */
import fs from 'node:fs';
import path from 'node:path';
import { expect, it, onTestFinished, vi } from 'vitest';
import type { FileDriver } from '../../../src/blockers/file/index.js';
import { kernel } from '../../../src/blockers/file/kernel.js';
import { Op } from '../../../src/requests/ops.js';
import { allocateMemory, freeMemory } from '../../../src/sys/libc.js';
import { fileDriver, filesOf, read, temporaryDirectory, write } from './support.js';

const LENGTH = 64 * 1024;
const content = Buffer.alloc(LENGTH, 'content of the object, ');

/** Asks on the short way, with or without a hint. */
function asker(driver: FileDriver) {
  const memory = allocateMemory(LENGTH);
  onTestFinished(() => freeMemory(memory));
  return (op: number, name: string, hint = 0, size = LENGTH) => {
    const request = {
      op,
      offset: 0,
      size,
      address: memory.address,
      hint,
      deadline: 0,
      isNamed: (other: Uint8Array) => Buffer.from(name).equals(other),
      targetName: () => name,
      clear: (from: number) => void memory.bytes.fill(0, from, size),
    };
    const served = driver.direct(request);
    return { served, hint: request.hint, data: Buffer.from(memory.bytes.subarray(0, size)) };
  };
}

/** A store with an object that no driver has open, and what opens files on the thread pool. */
async function store(name = 'one-object', data = content) {
  const root = temporaryDirectory();
  await write(await fileDriver(root), name, 0, data);
  const driver = await fileDriver(root, { pithosMigrate: true });
  const onPool = vi.spyOn(kernel, 'open');
  onTestFinished(() => onPool.mockRestore());
  return { root, driver, ask: asker(driver), onPool };
}

it('reads an object that was not open, and leaves a hint that finds it the next time', async () => {
  const { ask, onPool } = await store();
  const first = ask(Op.READ, 'one-object');
  expect(first.served).toBe(true);
  expect(first.data.equals(content)).toBe(true);
  expect(first.hint).toBeGreaterThan(0);
  const again = vi.spyOn(kernel, 'openCached');
  onTestFinished(() => again.mockRestore());
  expect(ask(Op.READ, 'one-object', first.hint)).toMatchObject({ served: true, hint: first.hint });
  expect(again).not.toHaveBeenCalled();
  expect(onPool).not.toHaveBeenCalled();
});

it('writes to one, which the next flush then syncs', async () => {
  const { driver, ask } = await store();
  const sync = vi.spyOn(kernel, 'fdatasync');
  onTestFinished(() => sync.mockRestore());
  expect(ask(Op.WRITE, 'one-object', 0, 4096).served).toBe(true);
  await driver.flush(['one-object']);
  expect(sync).toHaveBeenCalledTimes(1);
});

it('makes no file', async () => {
  const { root, ask } = await store();
  expect(ask(Op.WRITE, 'other-object').served).toBe(false);
  expect(ask(Op.READ, 'other-object').served).toBe(false);
  expect(filesOf(root)).toHaveLength(1);
});

it.each([['../one-object'], ['..'], ['']])('takes no name that is none: %s', async (name) => {
  const { ask } = await store();
  expect(ask(Op.READ, name)).toMatchObject({ served: false, hint: 0 });
});

it('leaves objects of old Pithos stores to the other way, which knows both of their paths', async () => {
  const name = 'ab'.repeat(32);
  const { driver, ask } = await store(name);
  expect(ask(Op.READ, name).served).toBe(false);
  expect((await read(driver, name, 0, LENGTH)).equals(content)).toBe(true);
});

it('leaves a file with an odd length to the other way, which looks what is behind the content', async () => {
  const { driver, ask } = await store('odd-object', Buffer.concat([content, Buffer.from('tail')]));
  expect(ask(Op.READ, 'odd-object').served).toBe(false);
  await read(driver, 'odd-object', 0, 1);
  expect(ask(Op.READ, 'odd-object').served).toBe(true);
});

it('leaves a copy that is not complete to the other way', async () => {
  const { root, ask } = await store();
  const fd = fs.openSync(filesOf(root)[0], 'r+');
  kernel.marks?.set(fd, Buffer.from('not complete'));
  fs.closeSync(fd);
  expect(ask(Op.READ, 'one-object').served).toBe(false);
  // Another file, without the mark.
  const [file] = filesOf(root);
  fs.copyFileSync(file, `${file}-`);
  fs.renameSync(`${file}-`, file);
  expect(ask(Op.READ, 'one-object').served).toBe(true);
});

it('waits for nobody who has the object to himself', async () => {
  const { driver, ask } = await store();
  const deletion = driver.delete('one-object');
  expect(ask(Op.READ, 'one-object').served).toBe(false);
  await deletion;
  expect(ask(Op.READ, 'one-object').served).toBe(false);
});

it('looks at a file again that another node may have replaced', async () => {
  const { root, driver, ask, onPool } = await store();
  const { hint } = ask(Op.READ, 'one-object');
  driver.forget();
  const [file] = filesOf(root);
  const same = ask(Op.READ, 'one-object', hint);
  expect(same.served).toBe(true);
  expect(same.data.equals(content)).toBe(true);
  expect(same.hint).not.toBe(hint);
  driver.forget();
  const other = Buffer.alloc(LENGTH, 'of another node');
  fs.writeFileSync(path.join(root, 'new'), other);
  fs.renameSync(path.join(root, 'new'), file);
  expect(ask(Op.READ, 'one-object', same.hint).served).toBe(false);
  expect(onPool).not.toHaveBeenCalled();
  expect((await read(driver, 'one-object', 0, LENGTH)).equals(other)).toBe(true);
});

it('keeps no more files open than it may, and closes none that has to be synced', async () => {
  const root = temporaryDirectory();
  const names = Array.from({ length: 8 }, (_, i) => `object-${i}`);
  const first = await fileDriver(root);
  for (const name of names) await write(first, name, 0, content);
  const driver = await fileDriver(root, { fdcache: 4, dirtyFiles: 0 });
  const ask = asker(driver);
  const open = () => (driver.status() as { openFiles: number }).openFiles;
  for (const name of names.slice(0, 4)) expect(ask(Op.WRITE, name).served).toBe(true);
  expect(names.slice(4).map((name) => ask(Op.READ, name).served)).toEqual([false, false, false, false]);
  expect(open()).toBe(4);
  await driver.flush(null);
  for (const name of names.slice(4)) {
    await vi.waitFor(() => expect(ask(Op.READ, name).served).toBe(true));
    await vi.waitFor(() => expect(open()).toBe(4));
  }
});

it('opens nothing so where a server has the files', async () => {
  const remote = vi.spyOn(kernel, 'isLocal').mockReturnValue(false);
  onTestFinished(() => remote.mockRestore());
  const { driver, ask } = await store();
  expect(ask(Op.READ, 'one-object').served).toBe(false);
  expect((await read(driver, 'one-object', 0, LENGTH)).equals(content)).toBe(true);
});
