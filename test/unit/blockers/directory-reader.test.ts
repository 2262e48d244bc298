/** Who reads the directories of a walk: this thread while that is quick, the pool when it is not, and others have their turn. */
import { expect, it } from 'vitest';
import { DirectoryReader } from '../../../src/blockers/file/directory-reader.js';
import type { FileSystem } from '../../../src/blockers/file/system.js';

/** A file system that takes `ms` for each directory. */
function fake(isLocal = true) {
  const calls = { now: 0, pool: 0 };
  const disk = { ms: 0, clock: 0 };
  const system: Partial<FileSystem> = {
    now: () => disk.clock,
    isLocal: () => isLocal,
    readdir: async () => {
      calls.pool++;
      return ['by the pool'];
    },
    readdirNow: () => {
      calls.now++;
      disk.clock += disk.ms;
      return ['at once'];
    },
  };
  return { reader: new DirectoryReader(system as FileSystem, '/store'), calls, disk, system };
}

it('reads what is in memory by itself', async () => {
  const { reader, calls } = fake();
  for (let i = 0; i < 10; i++) expect(await reader.read('/store/00')).toEqual(['at once']);
  expect(calls).toEqual({ now: 10, pool: 0 });
});

it("leaves another machine's directories to the pool, and all where the system has nothing else", async () => {
  const remote = fake(false);
  expect(await remote.reader.read('/store/00')).toEqual(['by the pool']);
  const { system, calls } = fake();
  const plain = new DirectoryReader({ ...system, readdirNow: undefined } as FileSystem, '/store');
  expect(await plain.read('/store/00')).toEqual(['by the pool']);
  expect(calls.now + remote.calls.now).toBe(0);
});

it('leaves the next ones to the pool when one had the disk to wait for, and tries again', async () => {
  const { reader, calls, disk } = fake();
  disk.ms = 5;
  await reader.read('/store/00');
  for (let i = 0; i < 64; i++) expect(await reader.read('/store/00')).toEqual(['by the pool']);
  disk.ms = 0;
  for (let i = 0; i < 100; i++) expect(await reader.read('/store/00')).toEqual(['at once']);
  expect(calls).toEqual({ now: 101, pool: 64 });
});

it('has the event loop go round between', async () => {
  const { reader, disk } = fake();
  disk.ms = 0.1;
  let turns = 0;
  let done = false;
  const count = (): void => {
    turns++;
    if (!done) setImmediate(count);
  };
  setImmediate(count);
  for (let i = 0; i < 100; i++) await reader.read('/store/00');
  done = true;
  // 10 ms of reading, 0.5 ms at a time.
  expect(turns).toBeGreaterThanOrEqual(15);
});

it("passes the system's error on, and counts its time", async () => {
  const { calls, disk, system } = fake();
  system.readdirNow = () => {
    disk.clock += 5;
    throw new Error('ENOENT');
  };
  const failing = new DirectoryReader(system as FileSystem, '/store');
  await expect(failing.read('/store/00')).rejects.toThrow('ENOENT');
  expect(await failing.read('/store/00')).toEqual(['by the pool']);
  expect(calls.pool).toBe(1);
});
