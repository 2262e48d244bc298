/** A client goes while its writes run, and comes back by another connection: what it writes then is what stays. */
import pino from 'pino';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { Abandonment } from '../../../src/endpoint/abandonment.js';
import { SegmentBuffers } from '../../../src/endpoint/buffers.js';
import { type DeviceHost, deviceInfo, ExportDevice } from '../../../src/endpoint/export-device.js';
import { Exports } from '../../../src/endpoint/exports.js';
import { Hearing } from '../../../src/endpoint/hearing.js';
import { Leftovers } from '../../../src/endpoint/leftovers.js';
import { Parking } from '../../../src/endpoint/parking.js';
import { systemClock } from '../../../src/endpoint/throttle/volume-limits.js';
import { VolumeThrottle } from '../../../src/endpoint/throttle/volume-throttle.js';
import { IoCommand } from '../../../src/nbd/index.js';
import { Flag, Op } from '../../../src/requests/ops.js';
import { errnos } from '../../../src/sys/errno.js';
import { type Request, Segment } from '../../../src/xseg/index.js';
import { PORTS } from '../composer/stack.js';
import { die } from '../xseg/help.js';
import { Endpoint, run, someone } from './support.js';

const COMPOSER = 501;
const BLOCK = 65536;
let endpoint: Endpoint;
let host: DeviceHost;
/** What the composer has and does not answer. */
let stuck: Request[];
/** Does it keep what comes? */
let slow: boolean;

beforeEach(async () => {
  endpoint = await Endpoint.start();
  stuck = [];
  slow = true;
  const { port } = endpoint;
  endpoint.stack.segment.bind(COMPOSER, { name: 'slow' }).serve((request) => {
    if (request.op === Op.ABANDON || !slow) request.succeed(request.size);
    else stuck.push(request);
  });
  host = {
    port,
    composerPort: COMPOSER,
    mapperPort: COMPOSER,
    buffers: new SegmentBuffers(port),
    abandonment: new Abandonment(port, COMPOSER),
    parking: new Parking(),
    leftovers: new Leftovers(),
  };
});

afterEach(async () => {
  expect(host.leftovers.isUsed).toBe(false);
  expect(await endpoint.stop()).toEqual([]);
});

function deviceOf(name = 'first-volume'): ExportDevice {
  const size = 1 << 30;
  const volumeInfo = {
    size,
    blockSize: BLOCK,
    readOnly: false,
    version: 2,
    epoch: 1,
    created: null,
    parent: null,
    id: null,
  };
  const options = {
    volume: { name, assumeV0: false, v0Size: -1 },
    info: deviceInfo(volumeInfo, { readOnly: false, allowResize: true, description: null }),
    size,
    contexts: new Map(),
    throttle: new VolumeThrottle(systemClock),
    hearing: new Hearing(),
    writeThrough: false,
    resize: async () => {},
    closed: async () => {},
  };
  return new ExportDevice(host, options);
}

const write = (device: ExportDevice, offset: number, length = 512) =>
  run(device, IoCommand.WRITE, { offset, data: Buffer.alloc(length, 1) }).then(
    () => 0,
    (error: { errno: number }) => error.errno,
  );

/** All that was submitted so far has come to the composer. */
const delivered = (): void => endpoint.stack.segment.settle();
const offsets = (): number[] => stuck.map(({ offset }) => offset);

it('of two clients that said goodbye and are not read to their end, who left first goes first: neither waits for the other for ever', async () => {
  const first = deviceOf();
  const second = deviceOf();
  first.leave(false);
  second.leave(false);
  const late = write(second, 0);
  const early = write(first, 0);
  delivered();
  expect(offsets()).toEqual([0]);
  first.leave(true);
  stuck[0].succeed(512);
  expect(await early).toBe(0);
  await expect.poll(offsets).toEqual([0, 0]);
  second.leave(true);
  stuck[1].succeed(512);
  expect(await late).toBe(0);
});

it('what waits for a lock in vain, of a client that said goodbye meanwhile, keeps nobody waiting', async () => {
  const leaver = deviceOf();
  const other = deviceOf();
  const waiting = write(leaver, 0);
  const refused = write(other, 8192);
  delivered();
  leaver.leave(false);
  stuck[0].flags |= Flag.PARKED;
  stuck[0].fail(errnos.EAGAIN, 'another node has the lock');
  delivered();
  stuck[1].fail(errnos.EBUSY, 'another node has the lock');
  expect(await Promise.all([waiting, refused])).toEqual([errnos.EBUSY, errnos.EBUSY]);
  leaver.leave(true);
  slow = false;
  expect(await write(deviceOf(), 0)).toBe(0);
});

describe('writes of a client that is gone, which run still', () => {
  it('are waited for by whatever touches the same bytes, and by nothing else', async () => {
    const gone = deviceOf();
    const old = [write(gone, 0), write(gone, 4096)];
    const reading = run(gone, IoCommand.READ, { offset: 8192, length: 512 });
    delivered();
    gone.abandon();
    const back = deviceOf();
    const over: string[] = [];
    const again = write(back, 256).then(() => over.push('again'));
    const read = run(back, IoCommand.READ, { offset: 4000, length: 100 }).then(() => over.push('read'));
    const trim = run(back, IoCommand.TRIM, { offset: 0, length: BLOCK }).then(() => over.push('trim'));
    delivered();
    expect(offsets()).toEqual([0, 4096, 8192]);
    slow = false;
    // What touches nothing of it goes on; of another volume anything.
    await run(back, IoCommand.FLUSH);
    expect(await write(back, 512)).toBe(0);
    expect(await write(back, 8192)).toBe(0);
    expect(await write(deviceOf('second-volume'), 0)).toBe(0);
    expect(over).toEqual([]);
    stuck[0].succeed(512);
    await again;
    expect(over).toEqual(['again']);
    stuck[1].succeed(512);
    await Promise.all([read, trim]);
    stuck[2].succeed(512);
    await reading;
    expect(await Promise.all(old)).toEqual([0, 0]);
  });

  it('are waited for also where they wait for a request record themselves', async () => {
    const gone = deviceOf();
    const records: Request[] = [];
    for (let record = endpoint.port.getRequest(); record; record = endpoint.port.getRequest()) records.push(record);
    const old = write(gone, 0);
    gone.abandon();
    const again = write(deviceOf(), 0);
    for (const record of records) endpoint.port.putRequest(record);
    await expect.poll(offsets).toEqual([0]);
    stuck[0].succeed(512);
    expect(await old).toBe(0);
    await expect.poll(offsets).toEqual([0, 0]);
    stuck[1].succeed(512);
    expect(await again).toBe(0);
  });

  it('end what waits for them when its client goes, too', async () => {
    const gone = deviceOf();
    const old = write(gone, 0);
    delivered();
    gone.abandon();
    const next = deviceOf();
    const waiting = write(next, 0);
    next.abandon();
    expect(await waiting).toBe(errnos.ECANCELED);
    delivered();
    expect(offsets()).toEqual([0]);
    stuck[0].succeed(512);
    expect(await old).toBe(0);
  });
});

describe('a client that said goodbye, and of which not all was read when it left', () => {
  it('has all of it done, before what anybody else asks for', async () => {
    const gone = deviceOf();
    const first = write(gone, 0);
    delivered();
    gone.leave(false);
    const back = deviceOf();
    const newer = [write(back, 0), write(back, 8192), write(back, BLOCK)];
    delivered();
    expect(offsets()).toEqual([0]);
    // Read now; and again after another look.
    const second = write(gone, 8192);
    gone.leave(false);
    delivered();
    expect(offsets()).toEqual([0, 8192]);
    // All is read: nothing else is in the way than what runs.
    gone.leave(true);
    delivered();
    expect(offsets()).toEqual([0, 8192, BLOCK]);
    slow = false;
    for (const request of stuck) request.succeed(512);
    expect(await Promise.all([first, second, ...newer])).toEqual([0, 0, 0, 0, 0]);
    await gone.close();
  });

  it('holds nobody up when nothing of it ran any more', async () => {
    slow = false;
    const gone = deviceOf();
    gone.leave(false);
    const newer = write(deviceOf(), 0);
    await gone.close();
    expect(await newer).toBe(0);
  });

  it('has done what waited for those who went before, and the next one waits for that', async () => {
    const first = deviceOf();
    const old = write(first, 0);
    delivered();
    first.abandon();
    const polite = deviceOf();
    const waiting = write(polite, 0);
    polite.leave(true);
    const newer = write(deviceOf(), 0);
    stuck[0].succeed(512);
    delivered();
    expect(offsets()).toEqual([0, 0]);
    stuck[1].succeed(512);
    delivered();
    expect(offsets()).toEqual([0, 0, 0]);
    stuck[2].succeed(512);
    expect(await Promise.all([old, waiting, newer])).toEqual([0, 0, 0]);
  });
});

it('changes that are read from the socket of a client that has left are not made; it may have sent them again elsewhere', async () => {
  const gone = deviceOf();
  gone.abandon();
  expect(await write(gone, 0)).toBe(errnos.ECANCELED);
  slow = false;
  await run(gone, IoCommand.READ, { length: 512 });
  expect(stuck).toEqual([]);
});

it('a write that was parked after what it waits for was answered asks again', async () => {
  const device = deviceOf();
  const first = write(device, 0);
  const second = write(device, 4096);
  delivered();
  stuck[0].succeed(512);
  expect(await first).toBe(0);
  stuck[1].flags |= Flag.PARKED;
  stuck[1].fail(errnos.EAGAIN, 'others wait already');
  await expect.poll(() => stuck.length, { timeout: 10_000 }).toBe(3);
  stuck[2].succeed(512);
  expect(await second).toBe(0);
});

it('what an endpoint of another process had asked of the composer when it was killed is waited for by clients of that volume', async () => {
  const { port, volumes, registry, limits, stack } = endpoint;
  for (const name of ['first-volume', 'second-volume']) await stack.create(name, 4 * BLOCK, BLOCK);
  const elsewhere = Segment.join(`posix:${stack.segment.name}:`);
  const killed = elsewhere.bind('dynamic', { name: 'archipelago nbd' });
  const old = killed.getRequest() as Request;
  old.op = Op.WRITE;
  old.target = 'first-volume';
  killed.submit(old, COMPOSER);
  await expect.poll(() => stuck.length).toBe(1);
  die(killed);
  const exports = new Exports({
    port,
    composerPort: COMPOSER,
    mapperPort: PORTS.mapper,
    volumes,
    registry,
    limits,
    offer: 'all',
    allowResize: false,
    log: pino({ level: 'silent' }),
  });
  slow = false;
  const [back, other] = await Promise.all(
    ['first-volume', 'second-volume'].map((name) => exports.open(name, someone())),
  );
  const over: string[] = [];
  const again = run(back, IoCommand.WRITE, { offset: 0, data: Buffer.alloc(512) }).then(() => over.push('again'));
  await run(other, IoCommand.WRITE, { offset: 0, data: Buffer.alloc(512) });
  expect(over).toEqual([]);
  stuck[0].succeed(512);
  await again;
  for (const device of [back, other]) await device.close();
  elsewhere.close();
});
