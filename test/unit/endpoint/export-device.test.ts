/** A volume as a block device: flags and errors on their way, extents, and what happens when records, buffers or queues run out. */
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { Abandonment } from '../../../src/endpoint/abandonment.js';
import { SegmentBuffers } from '../../../src/endpoint/buffers.js';
import type { ContextRequests } from '../../../src/endpoint/contexts.js';
import { deviceInfo, ExportDevice } from '../../../src/endpoint/export-device.js';
import { Hearing } from '../../../src/endpoint/hearing.js';
import { Leftovers } from '../../../src/endpoint/leftovers.js';
import { Parking } from '../../../src/endpoint/parking.js';
import { systemClock } from '../../../src/endpoint/throttle/volume-limits.js';
import { VolumeThrottle } from '../../../src/endpoint/throttle/volume-throttle.js';
import type { VolumeAddress } from '../../../src/endpoint/volumes.js';
import { type BlockDevice, IoCommand } from '../../../src/nbd/index.js';
import { encodeExtents } from '../../../src/requests/extents.js';
import { decodeMapStatus, encodeMapStatus } from '../../../src/requests/json.js';
import { Flag, Op } from '../../../src/requests/ops.js';
import { errnos, SystemError } from '../../../src/sys/errno.js';
import type { Port, Request } from '../../../src/xseg/index.js';
import { pattern } from '../composer/stack.js';
import { Endpoint, run } from './support.js';

const BLOCK = 65536;
const FAKE_COMPOSER = 501;
const FAKE_MAPPER = 502;
let endpoint: Endpoint;

beforeEach(async () => {
  endpoint = await Endpoint.start();
});

afterEach(async () => {
  vi.restoreAllMocks();
  expect(await endpoint.stop()).toEqual([]);
});

interface FakeOptions {
  readonly volume?: VolumeAddress;
  readonly contexts?: ContextRequests;
  readonly writeThrough?: boolean;
  readonly resize?: (size: number) => Promise<void>;
}

const named = (name: string): VolumeAddress => ({ name, assumeV0: false, v0Size: -1 });

/** A device whose requests go to a composer and a mapper that the test plays. */
function deviceOf(port: Port, options: FakeOptions = {}): ExportDevice {
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
  const info = deviceInfo(volumeInfo, { readOnly: false, allowResize: true, description: null });
  return new ExportDevice(
    {
      port,
      composerPort: FAKE_COMPOSER,
      mapperPort: FAKE_MAPPER,
      buffers: new SegmentBuffers(port),
      abandonment: new Abandonment(port, FAKE_COMPOSER),
      parking: new Parking(),
      leftovers: new Leftovers(),
    },
    {
      volume: named('first-volume'),
      info,
      size,
      contexts: new Map(),
      writeThrough: false,
      throttle: new VolumeThrottle(systemClock),
      hearing: new Hearing(),
      resize: async () => {},
      closed: async () => {},
      ...options,
    },
  );
}

describe('what a request carries', () => {
  it('is the flags of the Io, the volume, and the handle that the last answer told', async () => {
    const seen: object[] = [];
    const fake = endpoint.stack.segment.bind(FAKE_COMPOSER, { name: 'fake' });
    fake.serve((request) => {
      const { op, flags, offset, size, hint, target, v0Size, dataLength } = request;
      seen.push({ op, flags, offset, size, hint, target, v0Size, dataLength });
      request.hint = 77;
      request.succeed(size);
    });
    const device = deviceOf(endpoint.port);
    await run(device, IoCommand.WRITE, { offset: 4096, data: Buffer.alloc(512), fua: true });
    await run(device, IoCommand.WRITE_ZEROES, { offset: 1, length: 3 * 2 ** 30, noHole: true });
    await run(device, IoCommand.WRITE_ZEROES, { length: 5, fastZero: true, fua: true });
    await run(device, IoCommand.TRIM, { length: 6 });
    await run(device, IoCommand.FLUSH);
    await run(device, IoCommand.CACHE, { length: 100 });
    const common = { target: 'first-volume', v0Size: -1, dataLength: 0 };
    expect(seen).toEqual([
      { ...common, op: Op.WRITE, flags: Flag.MAY_PARK | Flag.FUA, offset: 4096, size: 512, hint: 0, dataLength: 512 },
      { ...common, op: Op.WRITE_ZEROES, flags: Flag.MAY_PARK | Flag.NO_HOLE, offset: 1, size: 3 * 2 ** 30, hint: 77 },
      {
        ...common,
        op: Op.WRITE_ZEROES,
        flags: Flag.MAY_PARK | Flag.FAST_ZERO | Flag.FUA,
        offset: 0,
        size: 5,
        hint: 77,
      },
      { ...common, op: Op.TRIM, flags: Flag.MAY_PARK, offset: 0, size: 6, hint: 77 },
      { ...common, op: Op.FLUSH, flags: 0, offset: 0, size: 0, hint: 77 },
    ]);
    seen.length = 0;
    await run(
      deviceOf(endpoint.port, { volume: { name: 'old-volume', assumeV0: true, v0Size: 12345 } }),
      IoCommand.FLUSH,
    );
    expect(seen).toMatchObject([{ target: 'old-volume', flags: Flag.ASSUMEV0, v0Size: 12345 }]);
    fake.close();
  });

  it('is FUA with every change where the export is write-through, and only there', async () => {
    const seen: number[] = [];
    const fake = endpoint.stack.segment.bind(FAKE_COMPOSER, { name: 'fake' });
    fake.serve((request) => {
      seen.push(request.flags);
      request.succeed(request.size);
    });
    const device = deviceOf(endpoint.port, { writeThrough: true });
    await run(device, IoCommand.WRITE, { data: Buffer.alloc(512) });
    await run(device, IoCommand.TRIM, { length: 512 });
    await run(device, IoCommand.WRITE_ZEROES, { length: 512, noHole: true });
    await run(device, IoCommand.READ, { length: 512 });
    await run(device, IoCommand.FLUSH);
    const change = Flag.MAY_PARK | Flag.FUA;
    expect(seen).toEqual([change, change, change | Flag.NO_HOLE, 0, 0]);
    fake.close();
  });

  it('says of a read that a hole will do, and tells the asker when it is one', async () => {
    const seen: number[] = [];
    const fake = endpoint.stack.segment.bind(FAKE_COMPOSER, { name: 'fake' });
    fake.serve((request) => {
      seen.push(request.flags);
      if (request.offset === 0) request.flags |= Flag.HOLE;
      request.succeed(request.size);
    });
    const device = deviceOf(endpoint.port);
    expect(await run(device, IoCommand.READ, { length: 512, mayBeHole: true })).toMatchObject({ hole: true });
    expect(await run(device, IoCommand.READ, { offset: 1, length: 512, mayBeHole: true })).toMatchObject({
      hole: false,
    });
    expect(await run(device, IoCommand.READ, { length: 512 })).toMatchObject({ hole: false });
    expect(seen).toEqual([Flag.MAY_BE_HOLE, Flag.MAY_BE_HOLE, 0]);
    fake.close();
  });

  it('goes to the mapper for all contexts but one, with its own question and no handle of the composer', async () => {
    const asked: object[] = [];
    const composer = endpoint.stack.segment.bind(FAKE_COMPOSER, { name: 'composer' });
    composer.serve((request) => {
      asked.push({ op: request.op, room: request.dataLength });
      request.hint = 77;
      request.succeed(encodeExtents([{ length: 10, flags: 3 }], request.data));
    });
    const mapper = endpoint.stack.segment.bind(FAKE_MAPPER, { name: 'mapper' });
    mapper.serve((request) => {
      const { op, offset, size, hint, target } = request;
      asked.push({ op, offset, size, hint, target, what: decodeMapStatus(request.data) });
      request.hint = 5;
      request.succeed(encodeExtents([{ length: 2 ** 40, flags: 1, flagsHigh: 9 }], request.data));
    });
    const contexts = new Map([['archipelago:diff:snap', encodeMapStatus({ what: 'diff', from: 'first-snapshot' })]]);
    const device = deviceOf(endpoint.port, { contexts });
    const base = await run(device, IoCommand.BLOCK_STATUS, { length: 10, reqOne: true });
    expect(base.extents).toEqual([{ length: 10, flags: 3 }]);
    const length = 2 ** 41;
    const context = 'archipelago:diff:snap';
    const diff = await run(device, IoCommand.BLOCK_STATUS, { offset: 512, length, context });
    expect(diff.extents).toEqual([{ length: 2 ** 40, flags: 1, flagsHigh: 9 }]);
    await run(device, IoCommand.BLOCK_STATUS, { length, context, reqOne: true });
    const what = { what: 'diff', from: 'first-snapshot' };
    const mapStatus = { op: Op.MAPSTATUS, size: length, hint: 0, target: 'first-volume', what };
    expect(asked).toEqual([
      { op: Op.BLOCK_STATUS, room: 16 },
      { ...mapStatus, offset: 512 },
      { ...mapStatus, offset: 0 },
    ]);
    const other = { length, context: 'archipelago:diff:other' };
    await expect(run(device, IoCommand.BLOCK_STATUS, other)).rejects.toMatchObject({ code: 'EINVAL' });
    composer.close();
    mapper.close();
  });

  it('is nothing for a resize, which the endpoint does', async () => {
    const sizes: number[] = [];
    const resize = async (size: number): Promise<void> => {
      if (size === 7) throw new SystemError(errnos.EINVAL, 'no such size');
      sizes.push(size);
    };
    const device = deviceOf(endpoint.port, { resize });
    await run(device, IoCommand.RESIZE, { offset: 2 ** 40 });
    expect(sizes).toEqual([2 ** 40]);
    const refused = { code: 'EINVAL', message: 'no such size' };
    await expect(run(device, IoCommand.RESIZE, { offset: 7 })).rejects.toMatchObject(refused);
  });

  it('brings errors back with their text, and frees what the request had', async () => {
    const fake = endpoint.stack.segment.bind(FAKE_COMPOSER, { name: 'fake' });
    fake.serve((request) => request.fail(errnos.ENOSPC, 'the disk is full'));
    const device = deviceOf(endpoint.port);
    for (const command of [IoCommand.WRITE, IoCommand.READ, IoCommand.BLOCK_STATUS, IoCommand.FLUSH]) {
      const io = command === IoCommand.WRITE ? { data: Buffer.alloc(10) } : { length: 10 };
      await expect(run(device, command, io)).rejects.toMatchObject({ code: 'ENOSPC', message: 'the disk is full' });
    }
    fake.close();
  });

  it('decodes extents of all sizes', async () => {
    const extents = [
      { length: 5 * 2 ** 32 + 7, flags: 3 },
      { length: 1, flags: 0 },
    ];
    const fake = endpoint.stack.segment.bind(FAKE_COMPOSER, { name: 'fake' });
    fake.serve((request) => request.succeed(encodeExtents(extents, request.data)));
    const result = await run(deviceOf(endpoint.port), IoCommand.BLOCK_STATUS, { length: 10 });
    expect(result.extents).toEqual(extents);
    fake.close();
  });
});

describe('on a real volume', () => {
  it('block status tells holes and data, in order and without gaps', async () => {
    await endpoint.stack.create('first-volume', 4 * BLOCK + 100, BLOCK);
    const device = await endpoint.open('first-volume');
    await run(device, IoCommand.WRITE, { offset: BLOCK + 5, data: pattern(10, 1) });
    const status = async (offset: number, length: number) =>
      (await run(device, IoCommand.BLOCK_STATUS, { offset, length })).extents;
    expect(await status(0, 4 * BLOCK + 100)).toEqual([
      { length: BLOCK, flags: 3 },
      { length: BLOCK, flags: 0 },
      { length: 2 * BLOCK + 100, flags: 3 },
    ]);
    expect(await status(BLOCK - 1, 2)).toEqual([
      { length: 1, flags: 3 },
      { length: 1, flags: 0 },
    ]);
    await device.close();
  });

  it('fast zero is refused where it would copy, and done where it is a change of the map', async () => {
    await endpoint.stack.create('first-volume', 2 * BLOCK, BLOCK);
    const device = await endpoint.open('first-volume');
    await run(device, IoCommand.WRITE, { data: pattern(2 * BLOCK, 1) });
    await endpoint.stack.snapshot('first-volume', 'first-snapshot');
    const fast = { fastZero: true };
    await expect(run(device, IoCommand.WRITE_ZEROES, { length: 10, ...fast })).rejects.toMatchObject({
      code: 'EOPNOTSUPP',
    });
    const kept = { length: BLOCK, noHole: true, ...fast };
    await expect(run(device, IoCommand.WRITE_ZEROES, kept)).rejects.toMatchObject({ code: 'EOPNOTSUPP' });
    expect(
      (await run(device, IoCommand.READ, { length: BLOCK })).data.equals(pattern(2 * BLOCK, 1).subarray(0, BLOCK)),
    ).toBe(true);
    await run(device, IoCommand.WRITE_ZEROES, { length: BLOCK, ...fast });
    expect((await run(device, IoCommand.READ, { length: BLOCK })).data.equals(Buffer.alloc(BLOCK))).toBe(true);
    await device.close();
    const snapshot = await endpoint.open('first-snapshot');
    await expect(run(snapshot, IoCommand.TRIM, { length: 10 })).rejects.toMatchObject({ code: 'EROFS' });
    expect((await run(snapshot, IoCommand.READ, { length: 10 })).data.equals(pattern(10, 1))).toBe(true);
    await snapshot.close();
  });
});

describe('when something has run out', () => {
  const open = async (): Promise<BlockDevice> => {
    await endpoint.stack.create('first-volume', 4 * BLOCK, BLOCK);
    return endpoint.open('first-volume');
  };

  it('Ios wait for request records, in order', async () => {
    const device = await open();
    const taken: Request[] = [];
    for (let record = endpoint.port.getRequest(); record; record = endpoint.port.getRequest()) taken.push(record);
    const order: number[] = [];
    const ios = Array.from({ length: 10 }, (_, i) =>
      run(device, IoCommand.WRITE, { offset: 0, data: Buffer.alloc(512, i + 1) }).then(() => order.push(i)),
    );
    const status = run(device, IoCommand.BLOCK_STATUS, { length: BLOCK });
    expect(order).toEqual([]);
    endpoint.port.putRequest(taken.pop()!);
    await Promise.all(ios);
    expect(order).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
    expect((await status).extents).toEqual([{ length: BLOCK, flags: 0 }]);
    expect((await run(device, IoCommand.READ, { length: 512 })).data.equals(Buffer.alloc(512, 10))).toBe(true);
    for (const record of taken) endpoint.port.putRequest(record);
    await device.close();
  });

  it('block status waits for a buffer, what comes after it waits behind it, and one call-back is enough', async () => {
    const fake = endpoint.stack.segment.bind(FAKE_COMPOSER, { name: 'fake' });
    const held: Request[] = [];
    fake.serve((request) => held.push(request));
    const device = deviceOf(endpoint.port);
    const flushes = Array.from({ length: 10 }, () => run(device, IoCommand.FLUSH));
    await vi.waitUntil(() => held.length === 10);
    const buffers: number[] = [];
    for (let at = endpoint.port.allocate(65536); at >= 0; at = endpoint.port.allocate(65536)) buffers.push(at);
    const { segment } = endpoint.stack;
    const listen = segment.whenAvailable.bind(segment);
    let listening = 0;
    let most = 0;
    vi.spyOn(segment, 'whenAvailable').mockImplementation((callback) => {
      most = Math.max(most, ++listening);
      listen(() => {
        listening--;
        callback();
      });
    });
    const status = run(device, IoCommand.BLOCK_STATUS, { length: 10 });
    const behind = run(device, IoCommand.FLUSH);
    for (const request of held.splice(0)) request.succeed(0);
    await Promise.all(flushes);
    expect(held).toEqual([]);
    endpoint.port.free(buffers.pop()!);
    await vi.waitUntil(() => held.length === 2);
    expect(most).toBe(1);
    held[0].succeed(encodeExtents([{ length: 10, flags: 0 }], held[0].data));
    held[1].succeed(0);
    expect((await status).extents).toEqual([{ length: 10, flags: 0 }]);
    await behind;
    for (const at of buffers) endpoint.port.free(at);
    fake.close();
  });

  it('a full queue is waited for, and nothing is kept meanwhile', async () => {
    const device = await open();
    const allocate = vi.spyOn(endpoint.port, 'allocate');
    const free = vi.spyOn(endpoint.port, 'free');
    const submit = vi.spyOn(endpoint.port, 'submit');
    const full = () => {
      throw new SystemError(errnos.EAGAIN, 'the queue is full');
    };
    submit.mockImplementationOnce(full).mockImplementationOnce(full);
    const results = await Promise.all([
      run(device, IoCommand.BLOCK_STATUS, { length: 10 }),
      run(device, IoCommand.WRITE, { data: Buffer.from('hello') }),
    ]);
    expect(results[0].extents).toEqual([{ length: 10, flags: 3 }]);
    expect(submit.mock.results.map(({ type }) => type)).toEqual(['throw', 'throw', 'return', 'return']);
    expect(free).toHaveBeenCalledTimes(allocate.mock.calls.length);
    submit.mockImplementationOnce(() => {
      throw new SystemError(errnos.ENXIO, 'no such port');
    });
    await expect(run(device, IoCommand.FLUSH)).rejects.toMatchObject({ code: 'ENXIO' });
    expect((await run(device, IoCommand.READ, { length: 5 })).data.toString()).toBe('hello');
    await device.close();
  });
});
