/** MAP, UNMAP, SHOWMAPPED, INFO, STATUS, PING: answers, refusals, and that asking twice does no harm. */
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { IoCommand } from '../../../src/nbd/index.js';
import { encodeJson } from '../../../src/requests/json.js';
import { Flag, Op } from '../../../src/requests/ops.js';
import { ENDPOINT, Endpoint, run } from './support.js';

const BLOCK = 65536;
let endpoint: Endpoint;

beforeEach(async () => {
  endpoint = await Endpoint.start('mapped');
  await endpoint.stack.create('first-volume', 2 * BLOCK, BLOCK);
});

afterEach(async () => {
  expect(await endpoint.stop()).toEqual([]);
});

describe('MAP', () => {
  it('is the same asked twice', async () => {
    const reply = await endpoint.ask(Op.MAP, { name: 'first-volume' });
    expect(reply).toEqual({ name: 'first-volume', uris: ['nbd+unix:///first-volume?socket=/there'] });
    expect(await endpoint.ask(Op.MAP, { name: 'first-volume' })).toEqual(reply);
    expect(endpoint.registry.all()).toHaveLength(1);
  });

  it('with write-through has every write of its clients carry FUA, and no other option changes that', async () => {
    await endpoint.ask(Op.MAP, { name: 'first-volume', writeThrough: true });
    await expect(endpoint.ask(Op.MAP, { name: 'first-volume' })).rejects.toMatchObject({ code: 'EEXIST' });
    const flags: number[] = [];
    vi.spyOn(endpoint.port, 'submit').mockImplementation(function (this: typeof endpoint.port, sent, to) {
      flags.push(sent.flags);
      return Object.getPrototypeOf(this).submit.call(this, sent, to);
    });
    const device = await endpoint.open('first-volume');
    flags.length = 0;
    await run(device, IoCommand.WRITE, { data: Buffer.from('durable') });
    await run(device, IoCommand.READ, { length: 7 });
    expect(flags).toEqual([Flag.MAY_PARK | Flag.FUA, 0]);
    vi.restoreAllMocks();
    await device.close();
  });

  it('refuses other options for a mapped volume, also when both come at the same time', async () => {
    const results = await Promise.allSettled([
      endpoint.ask(Op.MAP, { name: 'first-volume' }),
      endpoint.ask(Op.MAP, { name: 'first-volume', readOnly: true }),
      endpoint.ask(Op.MAP, { name: 'first-volume' }),
    ]);
    expect(results.map(({ status }) => status)).toEqual(['fulfilled', 'rejected', 'fulfilled']);
    expect(results[1]).toMatchObject({ reason: { code: 'EEXIST', message: expect.stringContaining('other options') } });
    expect(endpoint.registry.all()).toMatchObject([{ name: 'first-volume', readOnly: false }]);
  });

  it.each([
    ['a volume that is not there', { name: 'no-such-volume' }, 'ENOENT'],
    ['no name', {}, 'EINVAL'],
    ['an empty name', { name: '' }, 'EINVAL'],
    ['a number for a name', { name: 7 }, 'EINVAL'],
    ['a name that is a path', { name: '../volume' }, 'EINVAL'],
    ['a name longer than any', { name: 'x'.repeat(300) }, 'ENAMETOOLONG'],
    ['words for write-through', { name: 'first-volume', writeThrough: 'yes' }, 'EINVAL'],
    ['a path for a socket', { name: 'first-volume', ownSocket: '/tmp/socket' }, 'EINVAL'],
    ['words for flags', { name: 'first-volume', readOnly: 'yes' }, 'EINVAL'],
    ['a v0 size in words', { name: 'first-volume', assumeV0: true, v0Size: '1G' }, 'EINVAL'],
    ['half a byte', { name: 'first-volume', assumeV0: true, v0Size: 1.5 }, 'EINVAL'],
    ['a size below nothing', { name: 'first-volume', assumeV0: true, v0Size: -5 }, 'EINVAL'],
  ])('refuses %s', async (_what, body, code) => {
    await expect(endpoint.ask(Op.MAP, body)).rejects.toMatchObject({ code });
    expect(endpoint.registry.all()).toEqual([]);
  });

  it.each([
    ['no JSON', Buffer.from('{"name"')],
    ['a list', encodeJson(['first-volume'])],
  ])('refuses %s', async (_what, data) => {
    await expect(endpoint.stack.client.call(ENDPOINT, { op: Op.MAP, data })).rejects.toMatchObject({ code: 'EINVAL' });
  });
});

describe('UNMAP', () => {
  it('goes by name and by URI, and tells that a volume is not mapped', async () => {
    await endpoint.ask(Op.MAP, { name: 'first-volume' });
    expect(await endpoint.ask(Op.UNMAP, { name: 'first-volume' })).toEqual({ name: 'first-volume' });
    await expect(endpoint.ask(Op.UNMAP, { name: 'first-volume' })).rejects.toMatchObject({ code: 'ENOENT' });
    await endpoint.ask(Op.MAP, { name: 'first-volume' });
    await endpoint.ask(Op.UNMAP, { uri: 'nbd+unix:///first-volume?socket=/there' });
    await expect(endpoint.ask(Op.UNMAP, { uri: 'nbd://elsewhere' })).rejects.toMatchObject({ code: 'ENOENT' });
    await expect(endpoint.ask(Op.UNMAP, {})).rejects.toMatchObject({ code: 'EINVAL' });
    expect(endpoint.registry.all()).toEqual([]);
  });

  it('leaves a volume with clients mapped, unless forced', async () => {
    await endpoint.ask(Op.MAP, { name: 'first-volume' });
    const device = await endpoint.open('first-volume');
    await expect(endpoint.ask(Op.UNMAP, { name: 'first-volume' })).rejects.toMatchObject({
      code: 'EBUSY',
      message: expect.stringContaining('1 connection;'),
    });
    expect(endpoint.registry.all()).toHaveLength(1);
    await endpoint.ask(Op.UNMAP, { name: 'first-volume', force: true });
    await expect(endpoint.open('first-volume')).rejects.toMatchObject({ code: 'ENOENT' });
    await device.close();
  });
});

describe('SHOWMAPPED', () => {
  it('tells mappings in the order of their ids, with URIs and clients', async () => {
    await endpoint.stack.create('other-volume', BLOCK, BLOCK);
    await endpoint.ask(Op.MAP, { name: 'other-volume', readOnly: true });
    await endpoint.ask(Op.MAP, { name: 'first-volume' });
    const device = await endpoint.open('first-volume');
    expect(await endpoint.ask(Op.SHOWMAPPED)).toMatchObject({
      mapped: [
        { id: 0, name: 'other-volume', readOnly: true, clients: 0 },
        { id: 1, name: 'first-volume', readOnly: false, clients: 1, uris: [expect.stringContaining('first-volume')] },
      ],
      connections: [{ name: 'first-volume', exportName: 'first-volume', peer: 'unix', since: expect.any(Number) }],
    });
    await device.close();
    await expect(endpoint.ask(Op.SHOWMAPPED, {}, 10)).rejects.toMatchObject({ code: 'ERANGE' });
  });
});

describe('the rest', () => {
  it('INFO has open devices follow a resize', async () => {
    await endpoint.ask(Op.MAP, { name: 'first-volume' });
    const devices = [await endpoint.open('first-volume'), await endpoint.open('first-volume')];
    await endpoint.stack.resize('first-volume', 5 * BLOCK);
    expect(await endpoint.refresh('first-volume')).toBe(5 * BLOCK);
    expect(devices.map(({ size }) => size)).toEqual([5 * BLOCK, 5 * BLOCK]);
    await run(devices[0], IoCommand.WRITE, { offset: 5 * BLOCK - 4, data: Buffer.from('last') });
    const { data } = await run(devices[1], IoCommand.READ, { offset: 5 * BLOCK - 4, length: 4 });
    expect(data.toString()).toBe('last');
    await endpoint.stack.resize('first-volume', BLOCK);
    expect(await endpoint.refresh('first-volume')).toBe(BLOCK);
    await expect(run(devices[0], IoCommand.READ, { offset: BLOCK, length: 1 })).rejects.toMatchObject({
      code: 'EINVAL',
    });
    for (const device of devices) await device.close();
  });

  it('INFO of what is no export is an error', async () => {
    await expect(endpoint.refresh('first-volume')).rejects.toMatchObject({ code: 'ENOENT' });
    await expect(endpoint.refresh('')).rejects.toMatchObject({ code: 'ENOENT' });
  });

  it('STATUS and PING answer, and what is not served says so', async () => {
    expect(await endpoint.ask(Op.STATUS)).toEqual({ fine: true });
    expect(await endpoint.stack.client.call(ENDPOINT, { op: Op.PING })).toMatchObject({ serviced: 0 });
    await expect(endpoint.ask(Op.WRITE)).rejects.toMatchObject({ code: 'EOPNOTSUPP' });
  });
});

describe('CLIENTS', () => {
  it('counts the connections that have the volume itself open', async () => {
    const count = async (target: string): Promise<number> =>
      (await endpoint.stack.client.call(ENDPOINT, { op: Op.CLIENTS, target })).serviced;
    await endpoint.ask(Op.MAP, { name: 'first-volume' });
    expect(await count('first-volume')).toBe(0);
    const devices = [await endpoint.open('first-volume'), await endpoint.open('first-volume')];
    expect([await count('first-volume'), await count('second-volume')]).toEqual([2, 0]);
    for (const device of devices) await device.close();
    expect(await count('first-volume')).toBe(0);
  });
});
