/** Locks between nodes as requests: a blocker per node on one store, asked the way the mapper asks. */
import { pino } from 'pino';
import { expect, it, onTestFinished } from 'vitest';
import type { Driver } from '../../../src/blockers/driver.js';
import { MemoryDriver, MemoryStore } from '../../../src/blockers/memory/index.js';
import { Blocker } from '../../../src/blockers/server.js';
import { XsegLockClient } from '../../../src/requests/lock-client.js';
import { Flag, Op } from '../../../src/requests/ops.js';
import { Segment } from '../../../src/xseg/index.js';
import { ownSegment } from '../../support/own.js';
import { fileDriver, temporaryDirectory, write } from './support.js';

/** Two nodes: their drivers served on two ports of a segment. */
function serve(drivers: readonly Driver[]) {
  const spec = `posix:${ownSegment('lock-requests')}:32:16:32:12`;
  const segment = Segment.create(spec);
  const port = segment.bind(20, { name: 'test' });
  const log = pino({ level: 'silent' });
  const clients = drivers.map((driver, i) => {
    new Blocker({ port: segment.bind(i, { name: `blockerm${i}` }), driver, nrOps: 16, log }).start();
    return new XsegLockClient(port, i);
  });
  onTestFinished(() => {
    segment.close();
    Segment.destroy(spec);
  });
  return { port, clients };
}

async function nodes(kind: 'memory' | 'file', owners: readonly string[]): Promise<Driver[]> {
  const store = new MemoryStore();
  const root = temporaryDirectory();
  return Promise.all(
    owners.map((owner) =>
      kind === 'memory' ? new MemoryDriver(owner, store) : fileDriver(root, { uniqueStr: owner }),
    ),
  );
}

for (const kind of ['memory', 'file'] as const) {
  it(`two nodes take, check, break, list and talk about locks over requests (${kind})`, async () => {
    const { clients } = serve(await nodes(kind, ['node1_1002', 'node2_1002']));
    const [one, two] = clients;
    const names = Array.from({ length: 30 }, (_, i) => `volume${i}`);
    for (const name of names) await one.acquire(name);
    expect(await one.check(names)).toEqual({ lost: [], mail: [] });
    expect(await two.break('volume7')).toMatchObject({ owner: 'node1_1002', since: expect.any(Number) });
    expect(await two.break('free')).toBeNull();
    expect((await one.check(names)).lost).toMatchObject([{ name: 'volume7', holder: { owner: 'node2_1002' } }]);
    const mail = { kind: 'broken', name: 'volume7', from: 'node2_1002', id: 'one' } as const;
    await two.mail('node1_1002', mail);
    expect((await one.check([])).mail).toEqual([mail]);
    const listed: string[] = [];
    for (let cursor: string | null = null; ; ) {
      const page = await one.list(cursor, 7);
      listed.push(...page.locks.map(({ name }) => name));
      cursor = page.cursor;
      if (cursor === null) break;
    }
    expect(listed.sort()).toEqual(names.filter((name) => name !== 'volume7').sort());
  });
}

it('a check of a thousand locks, many of them lost, is answered whole', async () => {
  const [driver, other] = await nodes('memory', ['node1_1002', 'x'.repeat(128)]);
  const { clients, port } = serve([driver, other]);
  const names = Array.from({ length: 1000 }, (_, i) => `${'n'.repeat(240)}-${i}`);
  for (const [i, name] of names.entries()) await (i % 2 ? driver : other).acquire(name);
  const { lost } = await clients[0].check(names);
  expect(lost).toHaveLength(500);
  // A page that does not fit is made shorter.
  const data = Buffer.from('{"limit":100000}');
  const reply = await port.call(1, { op: Op.LOCKS, data, size: data.length, capacity: 20_000 });
  const page = JSON.parse(reply.data.subarray(0, reply.serviced).toString());
  expect(page.locks.length).toBeGreaterThan(20);
  expect(page.cursor).not.toBeNull();
  expect((await clients[1].list(page.cursor, 500)).locks).toHaveLength(500 - page.locks.length);
});

it('ACQUIRE is answered as the original does; with FORCE it tells the holder where there is room, and breaks nothing where there is too little', async () => {
  const drivers = await nodes('memory', ['node1_1002', 'node2_1002']);
  const { port } = serve(drivers);
  const plain = await port.call(0, { op: Op.ACQUIRE, target: 'web1', flags: Flag.NOSYNC, capacity: 8192 });
  expect(plain.serviced).toBe(0);
  const force = { op: Op.ACQUIRE, target: 'web1', flags: Flag.FORCE | Flag.NOSYNC };
  await expect(port.call(1, { ...force, capacity: 100 })).rejects.toMatchObject({ code: 'ERANGE' });
  expect(await drivers[0].lockHolder('web1')).toMatchObject({ owner: 'node1_1002' });
  const told = await port.call(1, { ...force, capacity: 8192 });
  expect(JSON.parse(told.data.subarray(0, told.serviced).toString())).toMatchObject({ owner: 'node1_1002' });
  expect((await port.call(0, force)).serviced).toBe(0);
  expect(await drivers[0].lockHolder('web1')).toMatchObject({ owner: 'node1_1002' });
});

it('locks are looked at, taken and given back while as many flushes as may run are held up', async () => {
  let release = () => {};
  const held = new Promise<void>((resolve) => {
    release = resolve;
  });
  let flushes = 0;
  class SlowFlushes extends MemoryDriver {
    override async flush(): Promise<void> {
      flushes++;
      await held;
    }
  }
  const { port, clients } = serve([new SlowFlushes('node1_1002')]);
  const flushing = Array.from({ length: 20 }, () => port.call(0, { op: Op.FLUSH }));
  await expect.poll(() => flushes).toBe(16);
  await clients[0].acquire('web1');
  expect(await clients[0].check(['web1'])).toEqual({ lost: [], mail: [] });
  expect(await clients[0].holder('web1')).toMatchObject({ owner: 'node1_1002' });
  await clients[0].release('web1', false);
  expect(flushes).toBe(16);
  release();
  await Promise.all(flushing);
});

it('requests about locks that say nothing sensible are refused with EINVAL', async () => {
  const { port } = serve(await nodes('memory', ['node1_1002']));
  const bodies: [number, string][] = [
    [Op.LOCKCHECK, ''],
    [Op.LOCKCHECK, '{"names":["a",7]}'],
    [Op.LOCKCHECK, '{"names":["a/b"]}'],
    [Op.LOCKCHECK, JSON.stringify({ names: Array.from({ length: 5000 }, () => 'a') })],
    [Op.LOCKMAIL, '{"kind":"hello","name":"a","from":"b","id":"c"}'],
    [Op.LOCKMAIL, 'null'],
    [Op.LOCKS, '{"limit":0}'],
    [Op.LOCKS, '{"cursor":7}'],
  ];
  for (const [op, body] of bodies) {
    const data = Buffer.from(body);
    const request = { op, target: 'node1_1002', data, size: data.length, capacity: 65536 };
    await expect(port.call(0, request)).rejects.toMatchObject({ code: 'EINVAL' });
  }
});

it('FORGET, and READ with UNCACHED, see what another node has made of an object', async () => {
  const [driver, other] = await nodes('file', ['node1_1002', 'node2_1002']);
  const { port } = serve([driver]);
  const read = async (flags: number): Promise<string> => {
    const reply = await port.call(0, { op: Op.READ, target: 'one-object', flags, size: 3, capacity: 3 });
    return reply.data.toString();
  };
  await write(driver, 'one-object', 0, Buffer.from('old'));
  await driver.flush(null);
  for (const [content, flags] of [
    ['new', Flag.UNCACHED],
    ['two', 0],
  ] as const) {
    expect(await read(0)).not.toBe(content);
    await other.delete('one-object');
    await write(other, 'one-object', 0, Buffer.from(content));
    if (flags === 0) await port.call(0, { op: Op.FORGET });
    expect(await read(flags)).toBe(content);
  }
});
