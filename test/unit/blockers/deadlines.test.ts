/** What came too late is not begun: at the door, out of a lane, and after everything that a driver waits for. */
import fs from 'node:fs';
import { pino } from 'pino';
import { expect, it, onTestFinished, vi } from 'vitest';
import type { ObjectIo } from '../../../src/blockers/driver.js';
import { kernel } from '../../../src/blockers/file/kernel.js';
import { MemoryDriver } from '../../../src/blockers/memory/index.js';
import { runIo } from '../../../src/blockers/object-io.js';
import { Blocker } from '../../../src/blockers/server.js';
import { Op } from '../../../src/requests/ops.js';
import { monotonicMs } from '../../../src/sys/clock.js';
import { errnos } from '../../../src/sys/errno.js';
import { type Port, type Request, Segment } from '../../../src/xseg/index.js';
import { ownSegment } from '../../support/own.js';
import { fileDriver, filesOf, listAll, read, temporaryDirectory, write } from './support.js';

const PORT = 10;

/** A blocker that runs one request of each kind at a time, and a port to ask from. */
function serve(driver: MemoryDriver) {
  const spec = `posix:${ownSegment('deadlines')}:32:16:32:12`;
  const segment = Segment.create(spec);
  const port = segment.bind(20, { name: 'test' });
  const log = pino({ level: 'silent' });
  const blocker = new Blocker({ port: segment.bind(PORT, { name: 'blockerb' }), driver, nrOps: 1, log });
  blocker.start();
  onTestFinished(() => {
    segment.close();
    Segment.destroy(spec);
  });
  const waiting = () => (blocker.status() as { waiting: number }).waiting;
  return { port, waiting };
}

/** Sends a request; resolves to its errno and message. */
function send(port: Port, fill: (request: Request) => void): Promise<{ errno: number; message: string }> {
  return new Promise((resolve) => {
    const request = port.getRequest() as Request;
    fill(request);
    request.onReply = () => {
      const outcome = { errno: request.served ? 0 : request.errno, message: request.message };
      port.putRequest(request);
      resolve(outcome);
    };
    port.submit(request, PORT);
  });
}

/** Writes and resets end when the test says so. */
class HeldDriver extends MemoryDriver {
  readonly begun: string[] = [];
  letGo = () => {};
  readonly #held = new Promise<void>((resolve) => {
    this.letGo = resolve;
  });
  override write(io: ObjectIo): void {
    this.begun.push(`write ${io.name}`);
    void this.#held.then(() => super.write(io));
  }
  override async delete(name: string, deadline?: number): Promise<void> {
    this.begun.push(`delete ${name}`);
    await this.#held;
    await super.delete(name, deadline);
  }
}

const past = (deadline: number) => expect.poll(() => monotonicMs() > deadline).toBe(true);

it('every operation that comes after its deadline is answered ETIME and not begun; without one, or in time, it is', async () => {
  const driver = new MemoryDriver();
  const { port } = serve(driver);
  const buffer = port.allocate(4096);
  const ops = [Op.READ, Op.WRITE, Op.TRIM, Op.WRITE_ZEROES, Op.RESET, Op.TRUNCATE, Op.INFO, Op.DELETE];
  for (const deadline of [monotonicMs() - 1, 0, monotonicMs() + 60_000]) {
    for (const op of [...ops, Op.ACQUIRE, Op.RELEASE]) {
      const { errno, message } = await send(port, (request) => {
        request.op = op;
        request.target = 'some-object';
        request.deadline = deadline;
        request.size = op === Op.INFO ? 0 : 512;
        request.setData(buffer, 4096);
      });
      const late = deadline !== 0 && deadline < monotonicMs();
      // In time, the first READ finds no object.
      expect([op, errno]).toEqual([op, late ? errnos.ETIME : op === Op.READ ? errnos.ENOENT : 0]);
      if (late) expect(message).toContain('lock');
    }
    expect(await listAll(driver, 10)).toEqual([]);
  }
});

it('a flush that comes after its deadline is begun, and the driver told: what was written becomes durable at any time', async () => {
  const asked: [readonly string[] | null, number | undefined][] = [];
  const driver = new MemoryDriver();
  Object.assign(driver, {
    flush: async (names: readonly string[] | null, deadline?: number): Promise<void> => {
      asked.push([names, deadline]);
    },
  });
  const { port } = serve(driver);
  const buffer = port.allocate(512);
  const deadline = monotonicMs() - 1;
  for (const [target, size] of [
    ['some-object', 0],
    ['', 5],
    ['', 0],
  ] as const) {
    const { errno } = await send(port, (request) => {
      request.op = Op.FLUSH;
      request.target = target;
      request.deadline = deadline;
      request.size = size;
      request.setData(buffer, 512);
      if (size > 0) request.data.set(Buffer.from('a\nb\nc'));
    });
    expect(errno).toBe(0);
  }
  expect(asked).toEqual([
    [['some-object'], deadline],
    [['a', 'b', 'c'], deadline],
    [null, deadline],
  ]);
});

it('what waited in a lane until its deadline passed is not begun when it leaves it', async () => {
  const driver = new HeldDriver();
  const { port, waiting } = serve(driver);
  const buffer = port.allocate(512);
  const deadline = monotonicMs() + 200;
  const ask = (op: number, target: string, until: number) =>
    send(port, (request) => {
      request.op = op;
      request.target = target;
      request.deadline = until;
      request.size = 512;
      request.setData(buffer, 512);
    });
  const first = [ask(Op.WRITE, 'first', 0), ask(Op.DELETE, 'other', 0)];
  const late = [ask(Op.WRITE, 'late', deadline), ask(Op.RESET, 'late', deadline)];
  const free = [ask(Op.WRITE, 'free', 0), ask(Op.RESET, 'empty', monotonicMs() + 60_000)];
  await expect.poll(waiting).toBe(4);
  await past(deadline);
  driver.letGo();
  expect((await Promise.all(late)).map(({ errno }) => errno)).toEqual([errnos.ETIME, errnos.ETIME]);
  expect((await Promise.all([...first, ...free])).map(({ errno }) => errno)).toEqual([0, errnos.ENOENT, 0, 0]);
  expect(driver.begun).toEqual(['write first', 'delete other', 'write free']);
  expect((await listAll(driver, 10)).sort()).toEqual(['empty', 'first', 'free']);
});

/** Holds up the first call of a step of the kernel until the deadline has passed. */
function holdUp(
  step: 'open' | 'fdatasync' | 'mkdir' | 'stat' | 'clone' | 'copyRange',
  deadline: number,
  when: (what: string) => boolean,
) {
  const real = kernel[step].bind(kernel) as (...args: unknown[]) => Promise<unknown>;
  const held: string[] = [];
  const spy = vi.spyOn(kernel, step as 'open').mockImplementation((async (...args: unknown[]) => {
    const what = typeof args[0] === 'number' ? fs.readlinkSync(`/proc/self/fd/${args[0]}`) : String(args[0]);
    if (held.length === 0 && when(what)) {
      held.push(what);
      await past(deadline);
    }
    return real(...args);
  }) as typeof kernel.open);
  onTestFinished(() => spy.mockRestore());
  return held;
}

it('a write that had to wait for its file is not begun after its deadline, and makes no file', async () => {
  const root = temporaryDirectory();
  const driver = await fileDriver(root);
  const deadline = monotonicMs() + 50;
  // The look for an existing file takes until the deadline: the file is not made then.
  const held = holdUp('open', deadline, (file) => file.includes('new-object'));
  await expect(write(driver, 'new-object', 0, Buffer.from('x'), { deadline })).rejects.toMatchObject({ code: 'ETIME' });
  expect(held).toHaveLength(1);
  expect(filesOf(root)).toEqual([]);
});

it('a file whose directories took until the deadline is not made', async () => {
  const root = temporaryDirectory();
  const driver = await fileDriver(root);
  const deadline = monotonicMs() + 50;
  const held = holdUp('mkdir', deadline, () => true);
  await expect(driver.reset('new-object', true, deadline)).rejects.toMatchObject({ code: 'ETIME' });
  expect(held).toHaveLength(1);
  expect(filesOf(root)).toEqual([]);
});

for (const operation of ['write', 'trim', 'writeZeroes'] as const) {
  it(`${operation} to an object that has to be opened is not begun after its deadline`, async () => {
    const root = temporaryDirectory();
    const content = Buffer.alloc(8192, 1);
    await write(await fileDriver(root), 'some-object', 0, content);
    const driver = await fileDriver(root);
    const deadline = monotonicMs() + 50;
    const held = holdUp('open', deadline, (file) => file.includes('some-object'));
    // As where the kernel has to look on the disk for the file.
    const uncached = vi.spyOn(kernel, 'openCached').mockReturnValue(-1);
    onTestFinished(() => uncached.mockRestore());
    const one = { name: 'some-object', offset: 0, length: 4096, data: Buffer.alloc(4096, 2), deadline };
    await expect(runIo(driver, operation, one)).rejects.toMatchObject({ code: 'ETIME' });
    expect(held).toHaveLength(1);
    expect((await read(driver, 'some-object', 0, 8192)).equals(content)).toBe(true);
  });
}

it('what waits while somebody has the object to himself is not begun after its deadline', async () => {
  const driver = await fileDriver(temporaryDirectory());
  await write(driver, 'source-object', 0, Buffer.from('source'));
  await write(driver, 'some-object', 0, Buffer.from('before'));
  await driver.flush(null);
  const deadline = monotonicMs() + 500;
  // A copy onto the object holds its name until its sync has been let go.
  const held = holdUp('fdatasync', deadline, () => true);
  const copy = driver.copy('source-object', 'some-object', 100, { durable: true, exclusive: false });
  await expect.poll(() => held.length).toBe(1);
  const late = [
    write(driver, 'some-object', 0, Buffer.from('late'), { deadline }),
    driver.reset('some-object', false, deadline),
    driver.truncate('some-object', 0, deadline),
    driver.delete('some-object', deadline),
  ];
  for (const outcome of await Promise.allSettled(late)) expect(outcome).toMatchObject({ reason: { code: 'ETIME' } });
  await copy;
  expect((await read(driver, 'some-object', 0, 6)).toString()).toBe('source');
});

it('a copy that took until its deadline does not take the target’s place, and leaves nothing', async () => {
  const root = temporaryDirectory();
  const driver = await fileDriver(root);
  await write(driver, 'source-object', 0, Buffer.from('source'));
  await write(driver, 'old-object', 0, Buffer.from('old'));
  await driver.flush(null);
  for (const target of ['old-object', 'new-object']) {
    for (const exclusive of target === 'old-object' ? [false] : [false, true]) {
      const deadline = monotonicMs() + 50;
      // The file system does one or the other.
      const held = (['clone', 'copyRange'] as const).map((step) =>
        holdUp(step, deadline, (file) => file.includes('source-object')),
      );
      await expect(
        driver.copy('source-object', target, 100, { durable: true, exclusive, deadline }),
      ).rejects.toMatchObject({ code: 'ETIME' });
      expect(held.flat()).not.toHaveLength(0);
      vi.restoreAllMocks();
    }
  }
  expect((await read(driver, 'old-object', 0, 3)).toString()).toBe('old');
  expect(
    filesOf(root)
      .map((file) => file.split('/').pop())
      .sort(),
  ).toEqual(['old-object', 'source-object']);
});

it('the copy of an object that is open takes no thread of the pool but for its content', async () => {
  // As in a node: the process's umask takes nothing away that the store's leaves.
  const driver = await fileDriver(temporaryDirectory(), { umask: process.umask() });
  const content = Buffer.alloc(100_000, 5);
  await write(driver, 'source-object', 0, content);
  await driver.flush(null);
  const options = { durable: false, exclusive: false, deadline: monotonicMs() + 60_000 };
  // What the file system can do is known after the first one.
  await driver.copy('source-object', 'first-copy', content.length, options);
  const onPool: string[] = [];
  for (const step of [
    'open',
    'close',
    'stat',
    'fstat',
    'mkdir',
    'rename',
    'ftruncate',
    'clone',
    'copyRange',
  ] as const) {
    const real = kernel[step].bind(kernel) as (...args: unknown[]) => Promise<unknown>;
    const spy = vi.spyOn(kernel, step as 'close').mockImplementation((async (...args: unknown[]) => {
      onPool.push(step);
      return await real(...args);
    }) as typeof kernel.close);
    onTestFinished(() => spy.mockRestore());
  }
  await driver.copy('source-object', 'second-copy', content.length, options);
  expect(onPool).toHaveLength(1);
  expect(['clone', 'copyRange']).toContain(onPool[0]);
  expect((await read(driver, 'second-copy', 0, content.length)).equals(content)).toBe(true);
});

/** Changes of names and lengths that go by the thread pool from now on, in order; those of temporary files left out. */
function changesOnPool(): string[] {
  const seen: string[] = [];
  for (const step of ['open', 'ftruncate', 'link', 'rename', 'unlink'] as const) {
    const real = kernel[step].bind(kernel) as (...args: unknown[]) => Promise<unknown>;
    const spy = vi.spyOn(kernel, step as 'open').mockImplementation((async (...args: unknown[]) => {
      const creates = step !== 'open' || (Number(args[1]) & fs.constants.O_CREAT) !== 0;
      const ofTemporary = step !== 'rename' && step !== 'link' && String(args[0]).includes('.archipelago-tmp');
      if (creates && !ofTemporary) seen.push(step);
      return real(...args);
    }) as typeof kernel.open);
    onTestFinished(() => spy.mockRestore());
  }
  return seen;
}

it.each([
  { where: 'a disk of this machine', local: true },
  { where: 'a server', local: false },
])('names and lengths are changed in time on $where, by a thread of the pool only on a server', async ({ local }) => {
  const spy = vi.spyOn(kernel, 'isLocal').mockReturnValue(local);
  onTestFinished(() => spy.mockRestore());
  const root = temporaryDirectory();
  // Two files may be open: those that are changed are not always among them.
  const driver = await fileDriver(root, { fdcache: 2 });
  const onPool = changesOnPool();
  const deadline = monotonicMs() + 60_000;
  const content = Buffer.alloc(5 << 20, 7);
  const seen: Record<string, string[]> = {};
  const step = async (name: string, work: () => Promise<unknown>): Promise<void> => {
    onPool.length = 0;
    await work();
    seen[name] = [...onPool];
  };
  const options = { durable: true, deadline };
  await step('write', () => write(driver, 'first-object', 0, content, { deadline }));
  await step('reset, new', () => driver.reset('reset-object', true, deadline));
  await step('copy', () =>
    driver.copy('first-object', 'copied-object', content.length, { ...options, exclusive: true }),
  );
  await step('copy again', () => driver.copy('first-object', 'copied-object', 100, { ...options, exclusive: false }));
  await step('truncate', () => driver.truncate('first-object', 1 << 20, deadline));
  await step('reset', () => driver.reset('first-object', false, deadline));
  await write(driver, 'other-object', 0, content, { deadline });
  await write(driver, 'third-object', 0, content, { deadline });
  // Some of these are open, some are not.
  for (const name of ['first-object', 'reset-object', 'third-object']) {
    await step(`delete ${name}`, () => driver.delete(name, deadline));
  }
  await expect(driver.delete('first-object', deadline)).rejects.toMatchObject({ code: 'ENOENT' });
  await expect(driver.truncate('first-object', 5, deadline)).rejects.toMatchObject({ code: 'ENOENT' });
  const again = driver.copy('other-object', 'copied-object', 5, { ...options, exclusive: true });
  await expect(again).rejects.toMatchObject({ code: 'EEXIST' });
  expect((await listAll(driver, 10)).sort()).toEqual(['copied-object', 'other-object']);
  expect((await driver.info('copied-object')).size).toBe(100);
  expect(
    (await read(driver, 'copied-object', 0, 101)).equals(Buffer.concat([content.subarray(0, 100), Buffer.alloc(1)])),
  ).toBe(true);
  expect((await read(driver, 'other-object', 0, content.length)).equals(content)).toBe(true);
  expect(driver.status()).toMatchObject({ openFiles: expect.toSatisfy((n: number) => n <= 2) });
  const deleted = {
    'delete first-object': ['unlink'],
    'delete reset-object': ['unlink'],
    'delete third-object': ['unlink'],
  };
  expect(seen).toEqual(
    local
      ? Object.fromEntries(Object.keys(seen).map((name) => [name, []]))
      : {
          ...deleted,
          // A file is made when its directories are there.
          write: ['open', 'open'],
          'reset, new': ['open', 'open', 'ftruncate'],
          copy: ['link', 'link'],
          'copy again': ['rename'],
          truncate: ['ftruncate'],
          reset: ['ftruncate'],
        },
  );
});
