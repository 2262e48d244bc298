/** Which exports there are, what looking at one does to the store, and when a volume is let go. */
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { DirectIo } from '../../../src/endpoint/direct-io.js';
import { type BlockDevice, IoCommand } from '../../../src/nbd/index.js';
import { Op } from '../../../src/requests/ops.js';
import { errnos, SystemError } from '../../../src/sys/errno.js';
import { Endpoint, run, someone } from './support.js';

const BLOCK = 65536;
let endpoint: Endpoint;

afterEach(async () => {
  expect(await endpoint.stop()).toEqual([]);
});

describe('the list of exports', () => {
  it('is every volume and snapshot, or only what is mapped', async () => {
    endpoint = await Endpoint.start('all');
    await endpoint.stack.create('first-volume', BLOCK, BLOCK);
    await endpoint.stack.snapshot('first-volume', 'first-snapshot');
    const listed = (await endpoint.exports.list()).toSorted((a, b) => (a.name < b.name ? -1 : 1));
    expect(listed).toEqual([
      { name: 'first-snapshot', description: expect.stringMatching(/^snapshot of first-volume taken 20\d\d-.*Z$/) },
      { name: 'first-volume', description: 'volume' },
    ]);
    expect(await endpoint.stop()).toEqual([]);
    endpoint = await Endpoint.start('mapped');
    await endpoint.stack.create('first-volume', BLOCK, BLOCK);
    expect(await endpoint.exports.list()).toEqual([]);
    await endpoint.ask(Op.MAP, { name: 'first-volume' });
    expect(await endpoint.exports.list()).toEqual([{ name: 'first-volume', description: 'volume' }]);
    await endpoint.stack.remove('first-volume');
    expect(await endpoint.exports.list()).toEqual([{ name: 'first-volume' }]);
  });
});

describe('describing', () => {
  it('takes no lock and no lease', async () => {
    endpoint = await Endpoint.start();
    await endpoint.stack.create('first-volume', 3 * BLOCK + 1, BLOCK);
    await endpoint.stack.close('first-volume');
    const { info, size } = await endpoint.describe('first-volume');
    expect(size).toBe(3 * BLOCK + 1);
    expect(info).toMatchObject({
      readOnly: false,
      canTrim: true,
      canWriteZeroes: true,
      canFlush: true,
      multiConn: true,
    });
    expect(await endpoint.mapper()).toMatchObject({ locked: 0, leases: 0 });
  });

  it('tells a snapshot and a volume mapped read-only apart from what can be written', async () => {
    endpoint = await Endpoint.start();
    await endpoint.stack.create('first-volume', BLOCK, BLOCK);
    await endpoint.stack.snapshot('first-volume', 'first-snapshot');
    await endpoint.ask(Op.MAP, { name: 'first-volume', readOnly: true });
    for (const name of ['first-volume', 'first-snapshot']) {
      const { info } = await endpoint.describe(name);
      expect(info).toMatchObject({ readOnly: true, canTrim: false, canWriteZeroes: false, canFastZero: false });
    }
  });

  it('refuses what is not there, not mapped, or has no name', async () => {
    endpoint = await Endpoint.start('mapped');
    await endpoint.stack.create('first-volume', BLOCK, BLOCK);
    await expect(endpoint.describe('first-volume')).rejects.toMatchObject({
      code: 'ENOENT',
      message: expect.stringContaining('vlmc map first-volume'),
    });
    await expect(endpoint.open('')).rejects.toMatchObject({ code: 'ENOENT' });
    await endpoint.ask(Op.MAP, { name: 'first-volume' });
    await endpoint.stack.remove('first-volume');
    await expect(endpoint.open('first-volume')).rejects.toMatchObject({ code: 'ENOENT' });
    expect(endpoint.exports.clients('first-volume')).toBe(0);
  });
});

describe('opening and closing', () => {
  it('lets the lock go with the last client, not before', async () => {
    endpoint = await Endpoint.start();
    await endpoint.stack.create('first-volume', BLOCK, BLOCK);
    const first = await endpoint.open('first-volume');
    const second = await endpoint.open('first-volume');
    await run(first, IoCommand.WRITE, { data: Buffer.from('hello') });
    expect(await endpoint.mapper()).toMatchObject({ locked: 1, leases: 1 });
    await first.close();
    expect(endpoint.exports.clients('first-volume')).toBe(1);
    expect(await endpoint.mapper()).toMatchObject({ locked: 1 });
    await second.close();
    expect(endpoint.exports.clients('first-volume')).toBe(0);
    expect(await endpoint.mapper()).toMatchObject({ locked: 0, leases: 0 });
    // Who comes while it is being let go is served all the same.
    const third = await endpoint.open('first-volume');
    const closing = third.close();
    const fourth = await endpoint.open('first-volume');
    const reading = run(fourth, IoCommand.READ, { length: 5 });
    await closing;
    expect((await reading).data.toString()).toBe('hello');
    await fourth.close();
    expect(endpoint.warnings).toEqual([]);
  });

  it('tells the mapper whether its clients have heard that what they wrote may be lost', async () => {
    endpoint = await Endpoint.start();
    await endpoint.stack.create('first-volume', BLOCK, BLOCK);
    const close = vi.spyOn(endpoint.volumes, 'close');
    const write = (device: BlockDevice): Promise<unknown> =>
      run(device, IoCommand.WRITE, { data: Buffer.from('hello') });
    const heard = (device: BlockDevice): Promise<unknown> =>
      expect(run(device, IoCommand.FLUSH)).rejects.toMatchObject({ code: 'EIO' });
    const cases: [string, boolean, (device: BlockDevice) => Promise<unknown>][] = [
      ['nobody flushed', false, write],
      ['one was told', true, (device) => write(device).then(() => heard(device))],
      ['one was told twice', true, (device) => write(device).then(() => heard(device).then(() => heard(device)))],
      ['one wrote since', false, (device) => write(device).then(() => heard(device).then(() => write(device)))],
      [
        'one wrote since by the short way',
        false,
        async (device) => {
          await write(device);
          await heard(device);
          const serve = vi.spyOn(DirectIo.prototype, 'serve').mockReturnValueOnce(true);
          await write(device);
          serve.mockRestore();
        },
      ],
      [
        'one was gone by then',
        false,
        async (device) => {
          await write(device);
          const flushed = heard(device);
          device.abandon?.();
          await flushed;
        },
      ],
      [
        'one had said goodbye by then',
        false,
        async (device) => {
          await write(device);
          const flushed = heard(device);
          device.leave?.(true);
          await flushed;
        },
      ],
      [
        'a write was answered while it was flushed',
        false,
        async (device) => {
          await write(device);
          const flushed = heard(device);
          await write(device);
          await flushed;
        },
      ],
      [
        'another one wrote since',
        false,
        async (device) => {
          const other = await endpoint.open('first-volume');
          await write(device);
          await heard(device);
          await write(other);
          await other.close();
        },
      ],
      [
        'it was told to another one',
        true,
        async (device) => {
          const other = await endpoint.open('first-volume');
          await write(device);
          await heard(other);
          await other.close();
        },
      ],
    ];
    for (const [what, expected, work] of cases) {
      const device = await endpoint.open('first-volume');
      const flush = vi.spyOn(endpoint.stack.blocks, 'flush');
      flush.mockRejectedValue(new SystemError(errnos.EIO, 'writes may be lost'));
      await work(device);
      flush.mockRestore();
      close.mockClear();
      await device.close();
      expect([what, close.mock.calls]).toEqual([what, [[expect.anything(), expected]]]);
    }
    close.mockRestore();
  });

  it('keeps a volume that was opened by hand locked', async () => {
    endpoint = await Endpoint.start();
    await endpoint.stack.create('first-volume', BLOCK, BLOCK);
    await endpoint.stack.client.call(500, { op: Op.OPEN, target: 'first-volume' });
    const device = await endpoint.open('first-volume');
    await run(device, IoCommand.WRITE, { data: Buffer.from('hello') });
    await device.close();
    expect(await endpoint.mapper()).toMatchObject({ locked: 1 });
    await endpoint.stack.close('first-volume');
    expect(await endpoint.mapper()).toMatchObject({ locked: 0 });
  });

  it('fails the requests for a volume that was removed or renamed under its clients, and closes', async () => {
    endpoint = await Endpoint.start();
    await endpoint.stack.create('first-volume', BLOCK, BLOCK);
    const device = await endpoint.open('first-volume');
    await run(device, IoCommand.WRITE, { data: Buffer.from('hello') });
    await endpoint.stack.rename('first-volume', 'second-volume');
    await expect(run(device, IoCommand.READ, { length: 5 })).rejects.toMatchObject({ code: 'ENOENT' });
    await device.close();
    const renamed = await endpoint.open('second-volume');
    expect((await run(renamed, IoCommand.READ, { length: 5 })).data.toString()).toBe('hello');
    await endpoint.stack.remove('second-volume');
    await expect(run(renamed, IoCommand.WRITE, { data: Buffer.from('x') })).rejects.toMatchObject({ code: 'ENOENT' });
    // A new volume of that name is another one: nothing of the old one shows.
    await endpoint.stack.create('second-volume', 2 * BLOCK, BLOCK);
    expect((await run(renamed, IoCommand.READ, { length: 5 })).data).toEqual(Buffer.alloc(5));
    await renamed.close();
    expect(endpoint.exports.clients('second-volume')).toBe(0);
  });

  it('opens nothing that was unmapped, and no old size, when that changed while the mapper was asked', async () => {
    endpoint = await Endpoint.start('mapped');
    await endpoint.stack.create('first-volume', BLOCK, BLOCK);
    await endpoint.ask(Op.MAP, { name: 'first-volume' });
    const info = endpoint.volumes.info.bind(endpoint.volumes);
    /** The answer is on its way while something else happens. */
    const meanwhile = (happens: () => Promise<unknown>) =>
      vi.spyOn(endpoint.volumes, 'info').mockImplementationOnce(async (volume) => {
        const answer = await info(volume);
        await happens();
        return answer;
      });
    meanwhile(async () => {
      await endpoint.stack.resize('first-volume', 3 * BLOCK);
      await endpoint.refresh('first-volume');
    });
    const device = await endpoint.open('first-volume');
    expect(device.size).toBe(3 * BLOCK);
    await device.close();
    meanwhile(() => endpoint.ask(Op.UNMAP, { name: 'first-volume' }));
    await expect(endpoint.open('first-volume')).rejects.toMatchObject({ code: 'ENOENT' });
    expect(endpoint.exports.clients('first-volume')).toBe(0);
  });
});

describe('a snapshot by its volume', () => {
  beforeEach(async () => {
    endpoint = await Endpoint.start({ offer: 'mapped', allowResize: true });
    await endpoint.stack.create('first-volume', 2 * BLOCK, BLOCK);
    await endpoint.stack.write('first-volume', 0, Buffer.from('before'));
    await endpoint.stack.snapshot('first-volume', 'first-snapshot');
    await endpoint.stack.write('first-volume', 0, Buffer.from('behind'));
    await endpoint.ask(Op.MAP, { name: 'first-volume' });
  });

  it('has its content, its canonical name, and no way to be written', async () => {
    for (const name of ['first-volume@first-snapshot', 'first-volume@-0s']) {
      const device = await endpoint.open(name);
      expect(device.info).toMatchObject({ name: 'first-volume@first-snapshot', readOnly: true, canResize: false });
      expect((await run(device, IoCommand.READ, { length: 6 })).data.toString()).toBe('before');
      await device.close();
    }
  });

  it('is a client of the volume whose name it was reached by, and of itself', async () => {
    const device = await endpoint.open('first-volume@-0s');
    expect(endpoint.exports.clients('first-volume')).toBe(1);
    expect(endpoint.exports.clients('first-snapshot')).toBe(1);
    expect(endpoint.exports.names('first-volume')).toEqual(new Set(['first-volume@first-snapshot']));
    await expect(endpoint.ask(Op.UNMAP, { name: 'first-volume' })).rejects.toMatchObject({ code: 'EBUSY' });
    expect(endpoint.exports.connections()).toMatchObject([
      { name: 'first-snapshot', exportName: 'first-volume@-0s', peer: 'unix' },
    ]);
    await device.close();
    expect(endpoint.exports.clients('first-volume')).toBe(0);
    await endpoint.ask(Op.UNMAP, { name: 'first-volume' });
    await expect(endpoint.open('first-volume@-0s')).rejects.toMatchObject({ code: 'ENOENT' });
  });

  it('differs from its volume in what was written since', async () => {
    const client = someone();
    const context = 'qemu:dirty-bitmap:-0s';
    expect(await endpoint.contexts('first-volume', context, true, client)).toEqual([context]);
    const device = await endpoint.open('first-volume', client);
    const status = { length: 2 * BLOCK, context };
    expect((await run(device, IoCommand.BLOCK_STATUS, status)).extents).toEqual([
      { length: BLOCK, flags: 1 },
      { length: BLOCK, flags: 0 },
    ]);
    expect((await run(device, IoCommand.BLOCK_STATUS, { ...status, reqOne: true })).extents?.[0]).toEqual({
      length: BLOCK,
      flags: 1,
    });
    const depth = { length: 2 * BLOCK, context: 'qemu:allocation-depth' };
    expect((await run(device, IoCommand.BLOCK_STATUS, depth)).extents).toEqual([
      { length: BLOCK, flags: 1 },
      { length: BLOCK, flags: 0 },
    ]);
    await device.close();
  });
});

describe('a resize by a client', () => {
  it('makes the volume larger for all of its devices, and never smaller', async () => {
    endpoint = await Endpoint.start({ allowResize: true });
    await endpoint.stack.create('first-volume', BLOCK, BLOCK);
    const devices = [await endpoint.open('first-volume'), await endpoint.open('first-volume')];
    expect(devices[0].info.canResize).toBe(true);
    await run(devices[0], IoCommand.RESIZE, { offset: 3 * BLOCK });
    expect(devices.map(({ size }) => size)).toEqual([3 * BLOCK, 3 * BLOCK]);
    await run(devices[1], IoCommand.WRITE, { offset: 2 * BLOCK, data: Buffer.from('beyond') });
    await expect(run(devices[0], IoCommand.RESIZE, { offset: BLOCK })).rejects.toMatchObject({
      code: 'EINVAL',
      message: expect.stringContaining('clients cannot shrink volumes'),
    });
    expect((await run(devices[0], IoCommand.READ, { offset: 2 * BLOCK, length: 6 })).data.toString()).toBe('beyond');
    for (const device of devices) await device.close();
  });

  it('is not offered unless the configuration says so', async () => {
    endpoint = await Endpoint.start();
    await endpoint.stack.create('first-volume', BLOCK, BLOCK);
    expect((await endpoint.describe('first-volume')).info.canResize).toBe(false);
  });
});
