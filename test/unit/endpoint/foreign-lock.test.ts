/** Clients of volumes that another node has locked: how many there are, and what becomes of those who leave. */
import os from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { type BlockDevice, connectNbd, type Io, IoCommand } from '../../../src/nbd/index.js';
import { errnos } from '../../../src/sys/errno.js';
import { pattern } from '../composer/stack.js';
import { Endpoint, run } from './support.js';

const BLOCK = 65536;
const VOLUME = 'first-volume';
let endpoint: Endpoint;
let rival: ReturnType<Endpoint['stack']['rivalMaps']>;

beforeEach(async () => {
  await start(60);
});

/** @param lockWait s */
async function start(lockWait: number): Promise<void> {
  endpoint = await Endpoint.start({ lockWait });
  rival = endpoint.stack.rivalMaps();
  await endpoint.stack.create(VOLUME, 4 * BLOCK, BLOCK);
  await endpoint.stack.create('other-volume', 4 * BLOCK, BLOCK);
  await rival.acquire(VOLUME);
}

afterEach(async () => {
  expect(await endpoint.stop()).toEqual([]);
});

/** A write of the first bytes of a buffer that all writes share; resolves to its errno. */
function write(device: BlockDevice, offset: number, buffer: Io['buffer']): Promise<number> {
  return new Promise((resolve) => {
    const io = {
      command: IoCommand.WRITE,
      offset,
      length: 1,
      fua: false,
      noHole: false,
      fastZero: false,
      context: '',
      reqOne: false,
      mayBeHole: false,
      hole: false,
      buffer,
      extents: null,
      tag: null,
      complete: (errno: number) => resolve(errno),
    };
    device.submit(io);
  });
}

describe('10,000 writes that wait for a foreign lock', () => {
  it('keep nobody else from anything, and are all done when the lock is free', async () => {
    const devices = await Promise.all(Array.from({ length: 4 }, () => endpoint.open(VOLUME)));
    const other = await endpoint.open('other-volume');
    const buffer = devices[0].allocate(512)!;
    buffer.bytes.fill(7);
    let over = 0;
    const waiting = Array.from({ length: 10_000 }, (_, i) =>
      write(devices[i % 4], i, buffer).then((errno) => {
        over++;
        return errno;
      }),
    );
    for (let i = 0; i < 4; i++) {
      await run(other, IoCommand.WRITE, { offset: i * BLOCK, data: pattern(512, i) });
      expect((await run(other, IoCommand.READ, { offset: i * BLOCK, length: 512 })).data.equals(pattern(512, i))).toBe(
        true,
      );
      expect((await run(devices[i], IoCommand.READ, { length: 512 })).data.equals(Buffer.alloc(512))).toBe(true);
    }
    expect(over).toBe(0);
    await rival.release(VOLUME, false);
    expect(new Set(await Promise.all(waiting))).toEqual(new Set([0]));
    expect((await run(devices[0], IoCommand.READ, { length: 10_000 })).data.equals(Buffer.alloc(10_000, 7))).toBe(true);
    devices[0].release(buffer);
    for (const device of [...devices, other]) await device.close();
  });

  it('fail together, and not one after the other, when they have waited long enough', async () => {
    expect(await endpoint.stop()).toEqual([]);
    await start(1);
    const device = await endpoint.open(VOLUME);
    const buffer = device.allocate(512)!;
    const begun = performance.now();
    const waiting = Array.from({ length: 100 }, (_, i) => write(device, i, buffer));
    expect(new Set(await Promise.all(waiting))).toEqual(new Set([errnos.EBUSY]));
    expect(performance.now() - begun).toBeLessThan(20_000);
    device.release(buffer);
    await device.close();
    await rival.release(VOLUME, false);
  });

  it('end when their client is gone, without being written, and those of others wait on', async () => {
    const [gone, stays] = await Promise.all([endpoint.open(VOLUME), endpoint.open(VOLUME)]);
    const buffer = gone.allocate(512)!;
    buffer.bytes.fill(1);
    const theirs = stays.allocate(512)!;
    theirs.bytes.fill(2);
    const ending = Array.from({ length: 100 }, (_, i) => write(gone, 100 + i, buffer));
    const waiting = Array.from({ length: 100 }, (_, i) => write(stays, 300 + i, theirs));
    // Known to be in the composer: requests of one asker are taken in order.
    await run(stays, IoCommand.READ, { length: 512 });
    gone.abandon?.();
    expect(new Set(await Promise.all(ending))).toEqual(new Set([errnos.ECANCELED]));
    gone.release(buffer);
    await gone.close();
    await rival.release(VOLUME, false);
    expect(new Set(await Promise.all(waiting))).toEqual(new Set([0]));
    const expected = Buffer.alloc(512).fill(2, 300, 400);
    expect((await run(stays, IoCommand.READ, { length: 512 })).data.equals(expected)).toBe(true);
    stays.release(theirs);
    await stays.close();
  });
});

describe('a client over a connection that leaves', () => {
  const socket = (): string =>
    path.join(os.tmpdir(), `foreign-${process.pid}-${Math.random().toString(36).slice(2)}.sock`);

  it('while more of its writes wait than the server reads gives all back, and the next one is served', async () => {
    const where = socket();
    await endpoint.server.listen({ path: where });
    const client = await connectNbd(`nbd+unix:///${VOLUME}?socket=${where}`);
    // Many more than a connection may have in flight: the server does not read its socket any more.
    const writes = Array.from({ length: 1000 }, (_, i) => client.write(i, Buffer.from([1])).catch(() => 'gone'));
    await vi.waitUntil(() => (endpoint.server.connections()[0]?.inFlight ?? 0) >= 256);
    client.destroy();
    expect(new Set(await Promise.all(writes))).toEqual(new Set(['gone']));
    await vi.waitUntil(() => endpoint.server.connections().length === 0, { timeout: 20_000 });
    expect(endpoint.exports.connections()).toEqual([]);
    await rival.release(VOLUME, false);
    const next = await connectNbd(`nbd+unix:///${VOLUME}?socket=${where}`);
    expect((await next.read(0, 2048)).equals(Buffer.alloc(2048))).toBe(true);
    await next.write(0, pattern(512, 3));
    expect((await next.read(0, 512)).equals(pattern(512, 3))).toBe(true);
    await next.disconnect();
  });
});
