/** The blocker on a port: what it serves, refuses and counts, how it stops. */
import { pino } from 'pino';
import { expect, it, onTestFinished } from 'vitest';
import type { Driver, ObjectIo } from '../../../src/blockers/driver.js';
import { MemoryDriver } from '../../../src/blockers/memory/index.js';
import { start } from '../../../src/blockers/peer.js';
import { Blocker } from '../../../src/blockers/server.js';
import { XsegObjectClient } from '../../../src/requests/object-client.js';
import { Flag, Op } from '../../../src/requests/ops.js';
import { decodeInfo, encodeName } from '../../../src/requests/structs.js';
import { errnos, SystemError } from '../../../src/sys/errno.js';
import { type Port, type Request, Segment } from '../../../src/xseg/index.js';
import { ownSegment } from '../../support/own.js';
import { fileDriver, temporaryDirectory } from './support.js';

const PORT = 10;

/** A blocker on port 10 of a segment of its own, and a port to ask from. */
function serve(driver: Driver, nrOps = 16) {
  const spec = `posix:${ownSegment('blockers')}:32:16:32:12`;
  const segment = Segment.create(spec);
  const blocker = new Blocker({
    port: segment.bind(PORT, { name: 'blockerb' }),
    driver,
    nrOps,
    log: pino({ level: 'silent' }),
  });
  blocker.start();
  const port = segment.bind(20, { name: 'test' });
  onTestFinished(() => {
    segment.close();
    Segment.destroy(spec);
  });
  return { segment, blocker, port, client: new XsegObjectClient(port, PORT) };
}

/** A driver whose writes end when the test says so. */
class HeldDriver extends MemoryDriver {
  readonly held: ObjectIo[] = [];
  override write(io: ObjectIo): void {
    this.held.push(io);
  }
  finishOne(): void {
    const io = this.held.shift();
    if (io) super.write(io);
  }
}

/** A request sent raw; resolves to its outcome. */
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

for (const kind of ['memory', 'file'] as const) {
  it(`serves every operation of an object store over requests (${kind})`, async () => {
    const driver = kind === 'memory' ? new MemoryDriver('node_1') : await fileDriver(temporaryDirectory());
    const { client } = serve(driver);
    const data = Buffer.from('0123456789');
    await client.write('one-object', 100, data, { fua: true });
    expect((await client.read('one-object', 98, 14)).toString('latin1')).toBe('\0\x000123456789\0\0');
    expect((await client.info('one-object')).size).toBe(110);
    await client.trim('one-object', 100, 2);
    await client.writeZeroes('one-object', 102, 2);
    expect((await client.read('one-object', 100, 10)).toString('latin1')).toBe('\0\0\0\x00456789');
    await client.copy('one-object', 'two-object', 105, { durable: true });
    expect((await client.info('two-object')).size).toBe(105);
    await expect(client.copy('one-object', 'two-object', 1, { durable: false, exclusive: true })).rejects.toMatchObject(
      {
        code: 'EEXIST',
      },
    );
    await client.truncate('two-object', 104);
    expect((await client.info('two-object')).size).toBe(104);
    expect(await client.hash('two-object', 4096)).toMatch(/^[0-9a-f]{64}$/);
    await client.reset(['two-object'], true);
    expect((await client.info('two-object')).size).toBe(0);
    const names: string[] = [];
    for (let cursor: string | null = null; ; ) {
      const page = await client.list(cursor, 2);
      names.push(...page.names);
      cursor = page.cursor;
      if (cursor === null) break;
    }
    expect(names.filter((name) => !/^[0-9a-f]{64}$/.test(name)).sort()).toEqual([
      'one-object',
      'two-object',
      'two-object_hash',
    ]);
    await client.flush(['one-object', 'two-object']);
    await client.flush(null);
    await client.acquire('volume1');
    expect((await client.lockHolder('volume1'))?.owner).toMatch(/_1/);
    await client.release('volume1', false);
    expect(await client.lockHolder('volume1')).toBeNull();
    await client.delete('two-object');
    await expect(client.read('two-object', 0, 10)).rejects.toMatchObject({
      code: 'ENOENT',
      message: expect.stringContaining('two-object'),
    });
  });
}

it('one reset is of as many objects as it names: all are made, though one cannot be', async () => {
  const driver = new MemoryDriver('node_1');
  const { client, port, blocker } = serve(driver);
  await client.write('b-object', 0, Buffer.from('content'));
  await client.reset(['a-object', 'b-object', 'c-object'], false);
  for (const name of ['a-object', 'b-object', 'c-object']) expect((await client.info(name)).size).toBe(0);
  expect(blocker.status()).toMatchObject({ operations: { RESET: { served: 1 } } });
  await expect(client.reset(['d-object', '', 'e-object'], false)).rejects.toMatchObject({ code: 'EINVAL' });
  for (const name of ['d-object', 'e-object']) expect((await client.info(name)).size).toBe(0);
  const none = await send(port, (request) => {
    request.op = Op.RESET;
    request.target = '';
  });
  expect(none.errno).toBe(errnos.EINVAL);
  const long = await send(port, (request) => {
    request.op = Op.RESET;
    request.target = '';
    request.size = 5;
  });
  expect(long.errno).toBe(errnos.EINVAL);
});

it('of several objects one that cannot be reset is told when none is being made any more: a later one would lose what was written by then', async () => {
  let running = 0;
  const driver = new (class extends MemoryDriver {
    override async reset(name: string): Promise<void> {
      if (name === 'bad-object') throw new SystemError(errnos.ENOSPC, 'no space is left');
      running++;
      for (let turn = 0; turn < 50; turn++) await null;
      await super.reset(name);
      running--;
    }
  })('node_1');
  const { client } = serve(driver);
  await expect(client.reset(['bad-object', 'a-object', 'b-object'], false)).rejects.toMatchObject({ code: 'ENOSPC' });
  expect(running).toBe(0);
});

it('a large object goes through whole', async () => {
  const { client } = serve(await fileDriver(temporaryDirectory()));
  const data = Buffer.alloc(3 << 20, 7);
  await client.write('large-object', 0, data);
  expect((await client.read('large-object', 0, data.length)).equals(data)).toBe(true);
});

it('the answer carries the hint, and the hint is used again', async () => {
  const driver = await fileDriver(temporaryDirectory());
  const { port } = serve(driver);
  const offset = port.allocate(4096);
  let hint = 0;
  const io = (op: number, target: string) =>
    new Promise<number>((resolve) => {
      const request = port.getRequest() as Request;
      request.op = op;
      request.target = target;
      request.hint = hint;
      request.size = 4096;
      request.setData(offset, 4096);
      request.onReply = () => {
        hint = request.hint;
        port.putRequest(request);
        resolve(request.errno);
      };
      port.submit(request, PORT);
    });
  expect(await io(Op.WRITE, 'hinted-object')).toBe(0);
  const first = hint;
  expect(first).toBeGreaterThan(0);
  expect(await io(Op.READ, 'hinted-object')).toBe(0);
  expect(hint).toBe(first);
  // A hint never leads to an object of another name.
  expect(await io(Op.READ, 'other-object')).toBe(errnos.ENOENT);
  expect(hint).toBe(0);
});

it('unsound requests are refused with a reason, before anything is done', async () => {
  const { port, client } = serve(new MemoryDriver());
  await client.write('safe-object', 0, Buffer.from('safe'));
  const buffer = port.allocate(4096);
  const refusals: [number, number, (request: Request) => void][] = [
    [Op.READ, errnos.EINVAL, (r) => r.setData(buffer, 512)],
    [Op.WRITE, errnos.EINVAL, (r) => r.setData(buffer, 512)],
    [Op.WRITE, errnos.EFAULT, (r) => r.setData(1 << 29, 4096)],
    [Op.READ, errnos.EFAULT, (r) => r.setData(64, 4096)],
    [Op.INFO, errnos.EFAULT, (r) => r.setData(1 << 29, 4096)],
    [
      Op.WRITE,
      errnos.EINVAL,
      (r) => {
        r.setData(buffer, 4096);
        r.offset = -1;
      },
    ],
    [
      Op.TRIM,
      errnos.EINVAL,
      (r) => {
        r.offset = Number.MAX_SAFE_INTEGER;
      },
    ],
    [
      Op.WRITE_ZEROES,
      errnos.EOPNOTSUPP,
      (r) => {
        r.flags = Flag.NO_HOLE | Flag.FAST_ZERO;
      },
    ],
    [Op.SNAPSHOT, errnos.EOPNOTSUPP, () => {}],
    [Op.SYNC, errnos.EOPNOTSUPP, () => {}],
    [9999, errnos.EOPNOTSUPP, () => {}],
    [Op.COPY, errnos.EINVAL, (r) => r.setData(buffer, 100)],
    [Op.FLUSH, errnos.EINVAL, (r) => r.setData(buffer, 100)],
  ];
  for (const [op, errno, spoil] of refusals) {
    const outcome = await send(port, (request) => {
      request.op = op;
      request.target = 'safe-object';
      request.size = 4096;
      spoil(request);
    });
    expect([op, outcome.errno]).toEqual([op, errno]);
    expect(outcome.message).not.toBe('');
  }
  expect((await client.read('safe-object', 0, 4)).toString()).toBe('safe');
});

it('unusable names are refused by hot and cold operations', async () => {
  const { client } = serve(await fileDriver(temporaryDirectory()));
  for (const name of ['', 'a/b', '..', 'x'.repeat(256)]) {
    await expect(client.read(name, 0, 10)).rejects.toMatchObject({
      code: name.length > 255 ? 'ENAMETOOLONG' : 'EINVAL',
    });
    await expect(client.write(name, 0, Buffer.from('x'))).rejects.toThrow();
    await expect(client.delete(name)).rejects.toThrow();
  }
});

it('an answer that does not fit is ERANGE and says what it needs; a page is made to fit', async () => {
  const { client, port } = serve(new MemoryDriver());
  const names = Array.from({ length: 200 }, (_, i) => `listed-object-${i}`);
  for (const name of names) await client.write(name, 0, Buffer.from('x'));
  const status = port.call(PORT, { op: Op.STATUS, capacity: 16 });
  await expect(status).rejects.toMatchObject({ code: 'ERANGE', serviced: expect.any(Number) });
  const { serviced } = await status.catch((error: { serviced: number }) => error);
  const { data } = await port.call(PORT, { op: Op.STATUS, capacity: serviced + 100 });
  expect(JSON.parse(data.toString().replace(/\0+$/, ''))).toMatchObject({
    role: 'blocker',
    operations: { WRITE: { served: 200, failed: 0 } },
  });
  const request = Buffer.from(JSON.stringify({ cursor: null, limit: 200 }));
  const page = await port.call(PORT, { op: Op.LIST, data: request, size: request.length, capacity: 1000 });
  const reply = JSON.parse(page.data.subarray(0, page.serviced).toString());
  expect(reply.names.length).toBeGreaterThan(5);
  expect(reply.cursor).not.toBeNull();
  const info = await port.call(PORT, { op: Op.INFO, target: names[0], capacity: 8 });
  expect(decodeInfo(info.data)).toEqual({ size: 1 });
  await expect(port.call(PORT, { op: Op.INFO, target: names[0], capacity: 4 })).rejects.toMatchObject({
    code: 'ERANGE',
  });
  await port.call(PORT, { op: Op.PING });
});

it('COPY takes the source from the original’s struct', async () => {
  const { client, port } = serve(new MemoryDriver());
  await client.write('source-object', 0, Buffer.from('content'));
  const data = encodeName('source-object');
  await port.call(PORT, { op: Op.COPY, target: 'target-object', size: 4, data });
  expect((await client.read('target-object', 0, 10)).toString('latin1')).toBe('cont\0\0\0\0\0\0');
});

it('at most nrOps requests run; the others follow in order', async () => {
  const driver = new HeldDriver();
  const { blocker, client } = serve(driver, 4);
  const ended: number[] = [];
  const writes = Array.from({ length: 10 }, (_, i) =>
    client.write('same-object', 0, Buffer.from([i])).then(() => ended.push(i)),
  );
  await expect.poll(() => (blocker.status() as { waiting: number }).waiting).toBe(6);
  expect(blocker.status()).toMatchObject({ inFlight: 4 });
  expect(driver.held).toHaveLength(4);
  while (ended.length < 10) {
    driver.finishOne();
    await expect.poll(() => driver.held.length > 0 || ended.length === 10).toBe(true);
  }
  await Promise.all(writes);
  expect(ended).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
  expect(await client.read('same-object', 0, 1)).toEqual(Buffer.from([9]));
});

it('reads are served while as many copies as may run are held up', async () => {
  let release = () => {};
  const gate = new Promise<void>((resolve) => {
    release = resolve;
  });
  class SlowCopies extends MemoryDriver {
    override async copy(source: string, target: string, size: number, options: { exclusive: boolean }): Promise<void> {
      await gate;
      await super.copy(source, target, size, options);
    }
  }
  const { blocker, client } = serve(new SlowCopies(), 2);
  await client.write('source-object', 0, Buffer.from('x'));
  const copies = [1, 2, 3].map((i) => client.copy('source-object', `copy-${i}`, 10, { durable: false }));
  await expect.poll(() => (blocker.status() as { waiting: number }).waiting).toBe(1);
  expect((await client.read('source-object', 0, 1)).toString()).toBe('x');
  release();
  await Promise.all(copies);
  expect((await client.read('copy-3', 0, 1)).toString()).toBe('x');
});

it('stop finishes what runs, and what waits is done by the next blocker on the port', async () => {
  const driver = new HeldDriver();
  const { segment, blocker, client } = serve(driver, 2);
  let ended = 0;
  const writes = Array.from({ length: 5 }, (_, i) =>
    client.write(`object-${i}`, 0, Buffer.from([i])).then(() => ended++),
  );
  await expect.poll(() => driver.held.length).toBe(2);
  const stopped = blocker.stop();
  driver.finishOne();
  await expect.poll(() => ended).toBe(1);
  expect(segment.portOwner(PORT)).not.toBeNull();
  driver.finishOne();
  await stopped;
  expect(segment.portOwner(PORT)).toBeNull();
  await expect.poll(() => ended).toBe(2);

  const successor = new Blocker({
    port: segment.bind(PORT, { name: 'blockerb' }),
    driver: new MemoryDriver(),
    nrOps: 2,
    log: pino({ level: 'silent' }),
  });
  successor.start();
  await Promise.all(writes);
  expect(ended).toBe(5);
  await successor.stop();
});

it('the role serves the directory of its settings, and leaves nothing bound when it cannot', async () => {
  const spec = `posix:${ownSegment('blockers')}:32:16:32:12`;
  const segment = Segment.create(spec);
  onTestFinished(() => {
    segment.close();
    Segment.destroy(spec);
  });
  const archipDir = temporaryDirectory();
  const context = (directory: string) =>
    ({
      name: 'blockerb',
      segment,
      ports: { first: PORT, last: PORT },
      log: pino({ level: 'silent' }),
      settings: {
        archipDir: directory,
        lockDir: null,
        uniqueStr: 'node1_10',
        fdcache: 64,
        direct: true,
        pithosMigrate: false,
        umask: 0o007,
        nrOps: 16,
      },
    }) as unknown as Parameters<typeof start>[0];
  await expect(start(context(`${archipDir}/absent`))).rejects.toMatchObject({
    code: 'ENOENT',
    message: expect.stringContaining(`${archipDir}/absent`),
  });
  expect(segment.portOwner(PORT)).toBeNull();
  const role = await start(context(archipDir));
  const client = new XsegObjectClient(segment.bind(20, { name: 'test' }), PORT);
  await client.write('one-object', 0, Buffer.from('x'));
  await client.acquire('volume1');
  expect(await client.lockHolder('volume1')).toMatchObject({ owner: 'node1_10' });
  expect(role.status()).toMatchObject({ inFlight: 0, store: { directory: archipDir, dirtyFiles: 1 } });
  await role.stop();
  expect(segment.portOwner(PORT)).toBeNull();
});
