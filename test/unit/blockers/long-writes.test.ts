/** The thread for long writes, and when it is used. */
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { pathToFileURL } from 'node:url';
import { beforeAll, describe, expect, it, onTestFinished, vi } from 'vitest';
import { kernel } from '../../../src/blockers/file/kernel.js';
import { LongWrites } from '../../../src/blockers/file/long-writes.js';
import { writePieces } from '../../../src/blockers/file/pieces.js';
import type { LongWriter, Written } from '../../../src/blockers/file/system.js';
import { Op } from '../../../src/requests/ops.js';
import { monotonicMs } from '../../../src/sys/clock.js';
import { errnos } from '../../../src/sys/errno.js';
import { allocateMemory } from '../../../src/sys/libc.js';
import { fileDriver, read, temporaryDirectory, write } from './support.js';

const KiB = 1024;
const root = path.resolve(import.meta.dirname, '../../..');

/** Node 20 runs no TypeScript: the thread's part as JavaScript. */
let compiled = '';
beforeAll(() => {
  const cache = path.join(root, 'node_modules/.cache');
  fs.mkdirSync(cache, { recursive: true });
  compiled = fs.mkdtempSync(path.join(cache, 'long-writes-'));
  const config = path.join(compiled, 'tsconfig.json');
  const compilerOptions = {
    rootDir: path.join(root, 'src'),
    outDir: compiled,
    declaration: false,
    sourceMap: false,
    typeRoots: [path.join(root, 'node_modules/@types')],
  };
  const files = [path.join(root, 'src/blockers/file/long-writes-thread.ts')];
  fs.writeFileSync(
    config,
    JSON.stringify({ extends: path.join(root, 'tsconfig.json'), compilerOptions, include: [], files }),
  );
  execFileSync(process.execPath, [path.join(root, 'node_modules/typescript/bin/tsc'), '-p', config]);
  fs.writeFileSync(path.join(compiled, 'package.json'), '{"type":"module"}');
  return () => fs.rmSync(compiled, { recursive: true });
});

const script = (name = 'blockers/file/long-writes-thread.js'): URL => pathToFileURL(path.join(compiled, name));

/** A thread that takes writes. */
async function ready(writes: LongWrites): Promise<LongWrites> {
  await vi.waitFor(() => expect(writes.takes).toBe(true), { timeout: 10_000 });
  return writes;
}

const data = allocateMemory(300 * KiB);
data.bytes.set(Array.from({ length: 300 * KiB }, (_, i) => i % 251));

function file(): { fd: number; name: string } {
  const name = path.join(temporaryDirectory(), 'object');
  const fd = fs.openSync(name, 'w+');
  onTestFinished(() => fs.closeSync(fd));
  return { fd, name };
}

const ended = (writes: LongWriter, fd: number, length: number, offset: number, deadline = 0): Promise<number> =>
  new Promise((resolve) => writes.write(fd, data.address, length, offset, deadline, resolve));

describe('the thread', () => {
  it('writes all that it is given, and says each end once, in their order', async () => {
    const writes = await ready(new LongWrites(script()));
    const { fd, name } = file();
    const order: number[] = [];
    let lap = 0;
    for (let i = 0; i < 200; i++) {
      await vi.waitFor(() => expect(writes.takes).toBe(true));
      const at = (i % 4) * 300 * KiB;
      writes.write(
        fd,
        data.address,
        300 * KiB - lap,
        at,
        monotonicMs() + 60_000,
        (errno) => void order.push(errno === 0 ? i : -1),
      );
      if (i % 4 === 3) lap++;
    }
    await vi.waitFor(() => expect(order).toHaveLength(200));
    expect(order).toEqual(Array.from({ length: 200 }, (_, i) => i));
    const content = fs.readFileSync(name);
    for (let i = 0; i < 4; i++) {
      expect(content.subarray(i * 300 * KiB, (i + 1) * 300 * KiB).equals(data.bytes)).toBe(true);
    }
  });

  it('begins nothing after its deadline', async () => {
    const writes = await ready(new LongWrites(script()));
    const { fd, name } = file();
    expect(await ended(writes, fd, 128 * KiB, 0, monotonicMs() - 1000)).toBe(errnos.ETIME);
    expect(fs.statSync(name).size).toBe(0);
    expect(await ended(writes, fd, 128 * KiB, 0, monotonicMs() + 60_000)).toBe(0);
  });

  it('says what the system says', async () => {
    const writes = await ready(new LongWrites(script()));
    expect(await ended(writes, -1, 128 * KiB, 0)).toBe(errnos.EBADF);
  });

  it('takes no more than it can do soon', async () => {
    const writes = await ready(new LongWrites(script()));
    const { fd } = file();
    const all: Promise<number>[] = [];
    for (; writes.takes; ) all.push(ended(writes, fd, 300 * KiB, 0));
    expect(all.length).toBe(16);
    expect(await Promise.all(all)).toEqual(all.map(() => 0));
    expect(writes.takes).toBe(true);
  });

  it('is not there where its script is not', () => {
    const writes = new LongWrites(script('nowhere.js'));
    expect(writes.takes).toBe(false);
    expect(writes.isHeldUp).toBe(false);
  });

  it('hands back what it had not done when it dies, and takes no more', async () => {
    fs.writeFileSync(
      path.join(compiled, 'mortal.js'),
      `import { parentPort, workerData } from 'node:worker_threads';
       import { Control, Ring } from './blockers/file/long-writes-ring.js';
       const { control } = new Ring(workerData.shared);
       parentPort.postMessage('ready');
       Atomics.store(control, Control.ASLEEP, 1);
       Atomics.wait(control, Control.GIVEN, 0);
       throw new Error('it dies');`,
    );
    const writes = await ready(new LongWrites(script('mortal.js')));
    const { fd } = file();
    expect(await Promise.all([ended(writes, fd, 128 * KiB, 0), ended(writes, fd, 128 * KiB, 0)])).toEqual([
      errnos.EINTR,
      errnos.EINTR,
    ]);
    expect(writes.takes).toBe(false);
  });
});

describe('pieces', () => {
  it('end at multiples of their size, and the time is looked at before each', () => {
    const begun: [number, number][] = [];
    const deadline = monotonicMs() + 30;
    const pwrite = (_fd: number, _address: number, count: number, offset: number): number => {
      begun.push([offset, count]);
      while (begun.length === 3 && monotonicMs() < deadline);
      return count;
    };
    expect(writePieces({ pwrite, errno: () => 0 }, 1, 0, 256 * KiB, 1000, deadline)).toBe(errnos.ETIME);
    expect(begun).toEqual([
      [1000, 32 * KiB - 1000],
      [32 * KiB, 32 * KiB],
      [64 * KiB, 32 * KiB],
    ]);
  });
});

describe('the driver', () => {
  /** A driver on the kernel, but for the thread, and what that one was given. */
  async function driven(thread: Partial<LongWriter> = {}) {
    const given: [length: number, ended: Written][] = [];
    const longWrites: LongWriter = {
      takes: true,
      isHeldUp: false,
      write: (_fd, _address, length, _offset, _deadline, done) => void given.push([length, done]),
      ...thread,
    };
    const system = Object.create(kernel, { longWrites: { value: longWrites } }) as typeof kernel;
    const calls = { pwrite: vi.fn(kernel.pwrite.bind(kernel)), write: vi.fn(kernel.write.bind(kernel)) };
    for (const name of [
      'errno',
      'pread',
      'preadCached',
      'lend',
      'now',
      'isMemory',
      'isLocal',
      'open',
      'openCached',
    ] as const) {
      Object.defineProperty(system, name, { value: (kernel[name] as (...args: never[]) => unknown).bind(kernel) });
    }
    Object.defineProperty(system, 'pwrite', { value: calls.pwrite });
    Object.defineProperty(system, 'write', { value: calls.write });
    const driver = await fileDriver(temporaryDirectory(), { system });
    await write(driver, 'an-object', 0, Buffer.alloc(64 * KiB, 1));
    calls.pwrite.mockClear();
    const ask = (size: number, meanwhile: boolean): boolean =>
      driver.direct({
        op: Op.WRITE,
        offset: 0,
        size,
        address: data.address,
        hint: 0,
        deadline: 0,
        meanwhile,
        isNamed: () => true,
        targetName: () => 'an-object',
        clear: () => {},
      });
    return { driver, given, calls, ask };
  }
  const long = Buffer.from(data.bytes.subarray(0, 128 * KiB));

  it('gives long writes to the thread, and answers when they are done', async () => {
    const { driver, given, calls } = await driven();
    const writing = write(driver, 'an-object', 0, long);
    await vi.waitFor(() => expect(given).toHaveLength(1));
    expect(given[0][0]).toBe(128 * KiB);
    expect(calls.pwrite).not.toHaveBeenCalled();
    expect((driver.status() as { dirtyFiles: number }).dirtyFiles).toBe(1);
    given[0][1](0, 1);
    await writing;
    await write(driver, 'an-object', 0, long.subarray(0, 64 * KiB));
    expect(given).toHaveLength(1);
  });

  it('fails what the thread could not write', async () => {
    const { driver, given } = await driven();
    const writing = write(driver, 'an-object', 0, long);
    const failed = expect(writing).rejects.toMatchObject({ code: 'ENOSPC' });
    await vi.waitFor(() => expect(given).toHaveLength(1));
    given[0][1](errnos.ENOSPC, 1);
    await failed;
  });

  it('declines them on the short way where there is something else to do meanwhile', async () => {
    const { calls, ask } = await driven();
    expect(ask(128 * KiB, true)).toBe(false);
    expect(calls.pwrite).not.toHaveBeenCalled();
    expect(ask(64 * KiB, true)).toBe(true);
    expect(ask(128 * KiB, false)).toBe(true);
  });

  it('writes by itself what the thread does not take', async () => {
    const { driver, given, calls, ask } = await driven({ takes: false });
    await write(driver, 'an-object', 0, long);
    expect(ask(128 * KiB, true)).toBe(true);
    expect(given).toHaveLength(0);
    expect(calls.pwrite).toHaveBeenCalledTimes(8);
  });

  it('writes by itself what a thread that died had been given', async () => {
    const { driver, given } = await driven();
    const writing = write(driver, 'an-object', 0, long);
    await vi.waitFor(() => expect(given).toHaveLength(1));
    given[0][1](errnos.EINTR, 0);
    await writing;
    expect((await read(driver, 'an-object', 0, long.length)).equals(long)).toBe(true);
  });

  it('leaves long writes to the pool while the thread is held up, and after it was', async () => {
    const held = await driven({ isHeldUp: true });
    expect(held.ask(128 * KiB, false)).toBe(false);
    await write(held.driver, 'an-object', 0, long);
    expect(held.given).toHaveLength(0);
    expect(held.calls.write).toHaveBeenCalledTimes(1);
    const slow = await driven();
    const writing = write(slow.driver, 'an-object', 0, long);
    await vi.waitFor(() => expect(slow.given).toHaveLength(1));
    slow.given[0][1](0, 11);
    await writing;
    await write(slow.driver, 'an-object', 0, long);
    expect(slow.given).toHaveLength(1);
    expect(slow.calls.write).toHaveBeenCalledTimes(1);
  });
});
