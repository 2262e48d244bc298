/** The mapper behind its port: requests as others send them, on a segment with memory blockers. */
import { spawnSync } from 'node:child_process';
import pino, { type Logger } from 'pino';
import { expect, it, onTestFinished } from 'vitest';
import { MemoryDriver } from '../../../src/blockers/memory/index.js';
import { Blocker } from '../../../src/blockers/server.js';
import type { Config, MapperSettings } from '../../../src/config/types.js';
import { start } from '../../../src/mapper/peer.js';
import type { RunningRole } from '../../../src/peer/role.js';
import { ATTACHED_ENDPOINT } from '../../../src/requests/endpoints.js';
import { decodeExtents } from '../../../src/requests/extents.js';
import { encodeJson, encodeMapStatus, type MapStatusRequest } from '../../../src/requests/json.js';
import { XsegObjectClient } from '../../../src/requests/object-client.js';
import { Flag, Op } from '../../../src/requests/ops.js';
import { ResolvedMap } from '../../../src/requests/resolved-map.js';
import {
  decodeInfo,
  decodeMapReply,
  decodeVolumeInfo,
  encodeClone,
  encodeName,
  mapReplySize,
  VOLUME_INFO_FULL_SIZE,
} from '../../../src/requests/structs.js';
import { type CallInit, type Port, Segment, verify } from '../../../src/xseg/index.js';
import { P } from '../../../src/xseg/layout.js';
import { ownSegment } from '../../support/own.js';
import { failure } from './support.js';

const MAPPER = 1001;
const BLOCKERB = 1000;
const BLOCKERM = 1002;
const COMPOSER = 500;
const ENDPOINT = 1030;
const MiB = 1 << 20;

interface Rig {
  segment: Segment;
  client: Port;
  composer: Port;
  mapper: RunningRole;
  call(init: CallInit): Promise<{ serviced: number; data: Buffer }>;
  json(op: number, target: string, body: object): Promise<Record<string, unknown>>;
  startMapper(): Promise<RunningRole>;
}

async function rig(log: Logger = pino({ level: 'silent' })): Promise<Rig> {
  const name = ownSegment('mapper');
  const segment = Segment.create(`posix:${name}:1200:1100:64:12`);
  segment.ref();
  const blockers = await Promise.all(
    [BLOCKERB, BLOCKERM].map(async (number) => {
      const driver = new MemoryDriver(`node1_${number}`);
      await driver.open();
      const blocker = new Blocker({ port: segment.bind(number, { name: 'blocker' }), driver, nrOps: 64, log });
      blocker.start();
      return blocker;
    }),
  );
  const startMapper = (): Promise<RunningRole> =>
    start({
      name: 'mapperd',
      settings: { blockerbPort: BLOCKERB, blockermPort: BLOCKERM, lockWait: 1 } as MapperSettings,
      config: {
        roles: [
          { type: 'vlmcd', portnoStart: COMPOSER },
          { type: 'nbd', portnoStart: ENDPOINT },
          { type: 'file_blocker', portnoStart: BLOCKERM, uniqueStr: `node1_${BLOCKERM}` },
        ],
      } as unknown as Config,
      segment,
      ports: { first: MAPPER, last: MAPPER },
      log,
    });
  const client = segment.bind(1, { name: 'client' });
  const mapper = await startMapper();
  const composer = segment.bind(COMPOSER, { name: 'vlmcd' });
  const made: Rig = {
    segment,
    client,
    composer,
    mapper,
    call: (init) => client.call(MAPPER, init),
    json: async (op, target, body) => {
      const { data, serviced } = await client.call(MAPPER, { op, target, data: encodeJson(body), capacity: 65536 });
      return JSON.parse(data.toString('utf8', 0, serviced)) as Record<string, unknown>;
    },
    startMapper,
  };
  onTestFinished(async () => {
    client.close();
    composer.close();
    await made.mapper.stop();
    for (const blocker of blockers) await blocker.stop();
    const problems = verify(segment);
    segment.close();
    Segment.destroy(`posix:${name}:`);
    expect(problems).toEqual([]);
  });
  return made;
}

const create = (rigged: Rig, name: string, size: number): Promise<unknown> =>
  rigged.call({ op: Op.CLONE, target: name, data: encodeClone({ parent: '', size }) });

it('serves the life of a volume by the structs of the original', async () => {
  const r = await rig();
  await create(r, 'volume', 10 * MiB);
  expect(decodeInfo((await r.call({ op: Op.INFO, target: 'volume', capacity: 8 })).data)).toEqual({ size: 10 * MiB });
  expect(decodeVolumeInfo((await r.call({ op: Op.INFO, target: 'volume', capacity: 64 })).data)).toEqual({
    size: 10 * MiB,
    blockSize: 4 * MiB,
    readOnly: false,
    version: 2,
    epoch: 1,
    created: null,
    parent: null,
    id: null,
  });
  const range = { target: 'volume', offset: 3 * MiB, size: 2 * MiB, capacity: mapReplySize(2) };
  expect(decodeMapReply((await r.call({ op: Op.MAPR, ...range })).data)).toMatchObject([
    { zero: true },
    { zero: true },
  ]);
  const segments = decodeMapReply((await r.call({ op: Op.MAPW, ...range })).data);
  expect(segments).toMatchObject([
    { target: 'volume_0000000000000001_0000000000000000', offset: 3 * MiB, size: MiB, zero: false },
    { target: 'volume_0000000000000001_0000000000000001', offset: 0, size: MiB, zero: false },
  ]);
  const blocks = new XsegObjectClient(r.client, BLOCKERB);
  expect((await blocks.info(segments[0].target)).size).toBe(0);
  await r.call({ op: Op.FLUSH, target: 'volume' });
  await r.call({ op: Op.MAPZERO, target: 'volume', offset: 4 * MiB, size: 6 * MiB });
  await r.call({ op: Op.SNAPSHOT, target: 'volume', data: encodeName('snapshot') });
  await r.call({ op: Op.CLONE, target: 'the-clone', data: encodeClone({ parent: 'snapshot', size: 0 }) });
  await r.call({ op: Op.TRUNCATE, target: 'the-clone', offset: 20 * MiB });
  await expect(r.call({ op: Op.TRUNCATE, target: 'the-clone', offset: MiB })).rejects.toEqual(
    failure('EINVAL', '--force'),
  );
  await r.call({ op: Op.TRUNCATE, target: 'the-clone', offset: MiB, flags: Flag.FORCE });
  await r.call({ op: Op.RENAME, target: 'the-clone', data: encodeName('new-name') });
  await r.call({ op: Op.CLOSE, target: 'volume' });
  await r.call({ op: Op.DELETE, target: 'volume' });
  const listed = (await r.json(Op.LIST, '', { limit: 100 })) as { volumes: { name: string }[] };
  expect(listed.volumes.map((volume) => volume.name).sort()).toEqual(['new-name', 'snapshot']);
  expect(await r.json(Op.STAT, 'new-name', {})).toMatchObject({
    parent: 'snapshot',
    size: MiB,
    blocks: { total: 1, shared: 1 },
  });
  expect(r.mapper.status()).toMatchObject({ locked: 0, served: { CLONE: 2, SNAPSHOT: 1 }, failed: { TRUNCATE: 1 } });
});

it('tells lineage, snapshots and map status through the buffer of a request', async () => {
  const r = await rig();
  await create(r, 'volume', 10 * MiB);
  await r.call({ op: Op.MAPW, target: 'volume', offset: 0, size: 1, capacity: mapReplySize(1) });
  await r.call({ op: Op.SNAPSHOT, target: 'volume', data: encodeName('snapshot') });
  await r.call({ op: Op.MAPW, target: 'volume', offset: 5 * MiB, size: 1, capacity: mapReplySize(1) });
  const { data } = await r.call({ op: Op.INFO, target: 'snapshot', capacity: VOLUME_INFO_FULL_SIZE });
  const info = decodeVolumeInfo(data);
  expect(info).toMatchObject({ size: 10 * MiB, readOnly: true, parent: 'volume', created: expect.any(Number) });
  expect(info.id).toMatch(/^[0-9a-f]{32}$/);
  expect(await r.json(Op.LIST, '', { snapshotsOf: 'volume' })).toMatchObject({
    volumes: [{ name: 'snapshot', created: info.created }],
    cursor: null,
  });
  await expect(r.json(Op.LIST, '', { snapshotsOf: 5 })).rejects.toEqual(failure('EINVAL', 'snapshotsOf'));
  await expect(r.json(Op.LIST, '', { name: 'volume' })).rejects.toEqual(failure('EINVAL', 'without snapshotsOf'));
  const status = async (request: MapStatusRequest, capacity: number) => {
    const range = { op: Op.MAPSTATUS, target: 'volume', offset: MiB, size: 9 * MiB };
    const reply = await r.call({ ...range, data: encodeMapStatus(request), capacity });
    return decodeExtents(reply.data.subarray(0, reply.serviced));
  };
  const diff: MapStatusRequest = { what: 'diff', from: 'snapshot' };
  const extents = [
    { length: 3 * MiB, flags: 0 },
    { length: 4 * MiB, flags: 1 },
    { length: 2 * MiB, flags: 0 },
  ];
  // The rest of the buffer holds whatever was in it before.
  expect(await status(diff, 4096)).toEqual(extents);
  expect(await status(diff, 0)).toEqual(extents.slice(0, 2));
  expect(await status({ what: 'depth' }, 64)).toEqual([
    { length: 3 * MiB, flags: 2 },
    { length: 4 * MiB, flags: 1 },
    { length: 2 * MiB, flags: 0 },
  ]);
  for (const bad of ['nothing', '{"what":"all"}', '{"what":"diff"}', '{"what":"diff","from":5}']) {
    const asked = r.call({ op: Op.MAPSTATUS, target: 'volume', size: 1, data: Buffer.from(bad), capacity: 64 });
    await expect(asked, bad).rejects.toEqual(failure('EINVAL', 'MAPSTATUS'));
  }
});

it('answers bad requests with an errno and a sentence', async () => {
  const r = await rig();
  await create(r, 'volume', 10 * MiB);
  await expect(r.call({ op: Op.HASH, target: 'volume' })).rejects.toEqual(failure('EOPNOTSUPP', 'hashing'));
  await expect(r.call({ op: Op.SYNC, target: 'volume' })).rejects.toEqual(failure('EOPNOTSUPP', 'SYNC'));
  await expect(r.call({ op: Op.CLONE, target: 'volume2', data: Buffer.alloc(5) })).rejects.toEqual(
    failure('EINVAL', '272'),
  );
  await expect(r.call({ op: Op.SNAPSHOT, target: 'volume' })).rejects.toEqual(failure('EINVAL', '260'));
  await expect(r.json(Op.LEASE, 'volume', {})).rejects.toEqual(failure('EINVAL', 'write'));
  await expect(r.json(Op.LIST, '', { limit: -1 })).rejects.toEqual(failure('EINVAL', 'limit'));
  await expect(create(r, '', MiB)).rejects.toEqual(failure('EINVAL', 'no volume'));
  await expect(create(r, 'n'.repeat(250), MiB)).rejects.toEqual(failure('EINVAL', 'too long'));
  const tight = r.call({ op: Op.MAPR, target: 'volume', offset: 0, size: 5 * MiB, capacity: mapReplySize(1) });
  await expect(tight).rejects.toMatchObject({ code: 'ERANGE', serviced: mapReplySize(2) });
  const tightWrite = r.call({ op: Op.MAPW, target: 'volume', offset: 0, size: 5 * MiB, capacity: mapReplySize(1) });
  await expect(tightWrite).rejects.toMatchObject({ code: 'ERANGE', serviced: mapReplySize(2) });
  expect((await new XsegObjectClient(r.client, BLOCKERB).list(null, 10)).names).toEqual([]);
  const tightStat = r.call({ op: Op.STAT, target: 'volume', data: encodeJson({}), capacity: 10 });
  await expect(tightStat).rejects.toMatchObject({ code: 'ERANGE' });
  await r.call({ op: Op.PING });
});

it('grants leases on the port that asks, and revokes them there', async () => {
  const r = await rig();
  await create(r, 'volume', 10 * MiB);
  const revoked: string[] = [];
  r.composer.serve((request) => {
    revoked.push(`${request.op} ${request.target}`);
    request.succeed(0);
  });
  const asked = await r.composer.call(MAPPER, {
    op: Op.LEASE,
    target: 'volume',
    data: encodeJson({ write: true }),
    capacity: 4096,
  });
  const lease = JSON.parse(asked.data.toString('utf8', 0, asked.serviced)) as { granted: string; size: number };
  expect(lease).toMatchObject({ granted: 'exclusive', size: 10 * MiB });
  const piece = await r.composer.call(MAPPER, {
    op: Op.MAPFETCH,
    target: 'volume',
    offset: 0,
    size: 3,
    capacity: 4096,
  });
  const map = new ResolvedMap(3);
  expect(map.setChunk(piece.data.subarray(0, piece.serviced))).toEqual({ first: 0, count: 3 });
  await r.call({ op: Op.SNAPSHOT, target: 'volume', data: encodeName('snapshot') });
  expect(revoked).toEqual([`${Op.REVOKE} volume`]);
});

it('leaves what comes while it stops to the next mapper on its port, which knows what the first one promised', async () => {
  const r = await rig();
  await create(r, 'volume', 10 * MiB);
  const revoked: string[] = [];
  r.composer.serve((request) => {
    revoked.push(request.target);
    request.succeed(0);
  });
  await r.composer.call(MAPPER, { op: Op.LEASE, target: 'volume', data: encodeJson({ write: true }), capacity: 4096 });
  const stopped = r.mapper.stop();
  const late = r.client.call(
    MAPPER,
    { op: Op.SNAPSHOT, target: 'volume', data: encodeName('snapshot') },
    { wait: true },
  );
  await stopped;
  const locks = new XsegObjectClient(r.client, BLOCKERM);
  expect(await locks.lockHolder('volume')).toMatchObject({ owner: 'node1_1002' });
  r.mapper = await r.startMapper();
  await late;
  expect(revoked).toContain('volume');
  expect(decodeVolumeInfo((await r.call({ op: Op.INFO, target: 'snapshot', capacity: 64 })).data).readOnly).toBe(true);
});

it.each([Op.MAPW, Op.MAPOWN])(
  'stops in order though what a composer needs to drain comes after that (op %i)',
  async (op) => {
    const r = await rig();
    await create(r, 'volume', 10 * MiB);
    const { composer } = r;
    let stopped: Promise<unknown> = Promise.resolve();
    composer.serve((request) => {
      stopped = r.mapper.stop();
      const blocks = Buffer.alloc(16);
      blocks.writeBigUInt64LE(1n, 8);
      const asked = op === Op.MAPW ? { offset: 0, size: 2 * MiB } : { data: blocks, size: blocks.length };
      composer.call(MAPPER, { op, target: 'volume', capacity: 4096, ...asked }, { wait: true }).then(
        () => request.succeed(0),
        (error: { errno: number; message: string }) => request.fail(error.errno, error.message),
      );
    });
    await composer.call(MAPPER, { op: Op.LEASE, target: 'volume', data: encodeJson({ write: true }), capacity: 4096 });
    await r.call({ op: Op.SNAPSHOT, target: 'volume', data: encodeName('snapshot') });
    await stopped;
    r.mapper = await r.startMapper();
    expect(decodeVolumeInfo((await r.call({ op: Op.INFO, target: 'snapshot', capacity: 64 })).data).readOnly).toBe(
      true,
    );
  },
);

it('makes no snapshot while a write that a killed composer sent is still being executed', async () => {
  const r = await rig();
  await create(r, 'volume', 10 * MiB);
  const lease = { op: Op.LEASE, target: 'volume', data: encodeJson({ write: true }), capacity: 4096 };
  await r.composer.call(MAPPER, lease);
  // A disk that takes its time.
  const disk = r.segment.bind(9, { name: 'disk' });
  let finish = (): void => {};
  const taken = new Promise<void>((resolve) => {
    disk.serve((request) => {
      finish = () => request.succeed(0);
      resolve();
    });
  });
  r.composer.submit(r.composer.getRequest()!, 9);
  await taken;
  r.segment.memory.u32[r.segment.tables.portWord(COMPOSER) + P.PID] = spawnSync(process.execPath, ['--version']).pid;
  let made = false;
  const snapshot = r
    .call({ op: Op.SNAPSHOT, target: 'volume', data: encodeName('snapshot') })
    .finally(() => (made = true));
  await expect.poll(() => r.segment.leftBy(COMPOSER)).toBe(1);
  // Whatever else the mapper may do meanwhile, it goes on with other volumes.
  for (let i = 0; i < 10; i++) await create(r, `another-${i}`, MiB);
  expect(made).toBe(false);
  finish();
  await snapshot;
  disk.close();
});

it('an object client moves long data in pieces and says what went wrong', async () => {
  const r = await rig();
  const client = new XsegObjectClient(r.client, BLOCKERB);
  const bytes = Buffer.alloc(1_300_000, 'abc');
  await client.write('object', 100, bytes, { fua: true });
  expect((await client.read('object', 100, bytes.length)).equals(bytes)).toBe(true);
  expect(await client.info('object')).toMatchObject({ size: 1_300_100 });
  await client.copy('object', 'copied', 1_000_000, { durable: true });
  expect((await client.info('copied')).size).toBe(1_000_000);
  await client.truncate('copied', 10);
  await client.writeZeroes('copied', 0, 5);
  await client.trim('object', 0, 600_000);
  expect((await client.read('object', 599_999, 2)).toString('hex')).toBe(
    `00${bytes.subarray(599_900, 599_901).toString('hex')}`,
  );
  await client.reset(['copied'], true);
  expect((await client.info('copied')).size).toBe(0);
  await expect(client.copy('object', 'copied', 5, { durable: false, exclusive: true })).rejects.toEqual(
    failure('EEXIST'),
  );
  await expect(client.read('missing', 0, 5)).rejects.toEqual(failure('ENOENT'));
  await expect(client.delete('missing')).rejects.toEqual(failure('ENOENT'));
  expect((await client.list(null, 10)).names.sort()).toEqual(['copied', 'object']);
  await client.flush(['object', 'copied']);
  await client.flush(Array.from({ length: 30_000 }, (_, i) => `an-object-with-a-rather-long-name-${i}`));
  await client.flush(null);
  await client.acquire('volume');
  expect(await client.lockHolder('volume')).toMatchObject({ owner: 'node1_1000' });
  await client.release('volume', false);
  expect(await client.lockHolder('volume')).toBeNull();
  await expect(client.release('volume', false)).rejects.toEqual(failure('ENOENT'));
  expect(await client.hash('object', 4096)).toMatch(/^[0-9a-f]{64}$/);
});

it('logs an error once for a loss of a lock, however often the volume is asked for', async () => {
  const lines: { level: number; op: string; msg: string }[] = [];
  const log = pino({ level: 'debug' }, { write: (line) => void lines.push(JSON.parse(line)) });
  const r = await rig(log);
  const errors = (): string[] => lines.filter(({ level }) => level >= 50).map(({ op, msg }) => `${op}: ${msg}`);
  for (const target of ['volume', 'another']) await create(r, target, MiB);
  const told: string[] = [];
  for (const target of ['volume', 'another', 'volume']) {
    await r.call({ op: Op.OPEN, target });
    const other = new XsegObjectClient(r.client, BLOCKERM);
    await other.release(target, true);
    for (let i = 0; i < 5; i++) {
      await expect(r.call({ op: Op.FLUSH, target, flags: Flag.WRITTEN })).rejects.toEqual(failure('EIO', target));
    }
    expect(errors()).toHaveLength(told.push(target));
    expect(errors().at(-1)).toContain(`the lock of volume ${target} was taken`);
  }
  expect(lines.filter(({ level, op }) => level === 20 && op === 'FLUSH')).toHaveLength(3 * 4);
});

it('asks all endpoints who has a volume open before it gives a lock back that nobody asked to be given back', async () => {
  const r = await rig();
  await create(r, 'volume', 10 * MiB);
  const clients = new Map([
    [ENDPOINT, 0],
    [-1, 1],
  ]);
  const endpoint = (number: number, name: string, key: number): Port => {
    const port = r.segment.bind(number < 0 ? 'dynamic' : number, { name });
    port.serve((request) => {
      if (request.op === Op.CLIENTS) request.succeed(request.target === 'volume' ? (clients.get(key) ?? 0) : 0);
    });
    return port;
  };
  const ports = [endpoint(ENDPOINT, 'nbd', ENDPOINT), endpoint(-1, ATTACHED_ENDPOINT, -1)];
  // A command that serves nobody.
  ports.push(r.segment.bind('dynamic', { name: 'vlmc' }));
  const lock = (target: string): Promise<unknown> => r.call({ op: Op.LOCKINFO, target, capacity: 4096 });
  const isLocked = async (): Promise<boolean> =>
    ((await lock('volume')) as { data: Buffer }).data.toString().includes('node1_');
  const leave = (): Promise<unknown> => r.call({ op: Op.CLOSE, target: 'volume', flags: Flag.IMPLICIT });
  r.composer.serve((request) => request.succeed(0));
  const lease = (): Promise<unknown> =>
    r.composer.call(MAPPER, { op: Op.LEASE, target: 'volume', data: encodeJson({ write: true }), capacity: 4096 });
  await lease();
  expect(await isLocked()).toBe(true);
  await expect(leave()).rejects.toEqual(failure('EBUSY', 'other clients'));
  clients.set(ENDPOINT, 2).set(-1, 0);
  await expect(leave()).rejects.toEqual(failure('EBUSY', 'other clients'));
  expect(await isLocked()).toBe(true);
  clients.set(ENDPOINT, 0);
  await leave();
  expect(await isLocked()).toBe(false);
  // One that is no more has no clients.
  await lease();
  clients.set(-1, 1);
  ports[1].close();
  await leave();
  expect(await isLocked()).toBe(false);
  for (const port of ports) port.close();
});
