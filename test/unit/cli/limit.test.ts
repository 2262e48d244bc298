/** vlmc limit: what it asks of the endpoint, what it prints, and what remove and info have to do with limits. */
import { afterAll, beforeEach, describe, expect, it } from 'vitest';
import { Op } from '../../../src/requests/ops.js';
import { errnos, SystemError } from '../../../src/sys/errno.js';
import { FakeNode } from './fake-node.js';

const node = new FakeNode();
const ID = '0123456789abcdef0123456789abcdef';
const none = Object.fromEntries(
  ['iops', 'bps'].flatMap((what) =>
    ['', 'Read', 'Write', 'Max', 'ReadMax', 'WriteMax'].map((kind) => [`${what}${kind}`, 0]),
  ),
);
let own: object;
let waiting: number;

const told = (): object => ({ name: 'volume1', id: ID, own, limits: { ...none, burstSeconds: 1, ...own }, waiting });
const asked = (): unknown[] =>
  node.asked('endpoint', Op.LIMIT).map(({ data, size }) => JSON.parse(data.toString('utf8', 0, size)));

beforeEach(() => {
  node.reset();
  own = {};
  waiting = 0;
  node.on('endpoint', Op.LIMIT, told);
});
afterAll(() => node.close());

describe('limit', () => {
  it('sets each limit, with units of bytes', async () => {
    const words = ['--iops', '500', '--iops-read', '1', '--iops-write', '2', '--bps', '100M', '--bps-read', '512K'];
    const more = ['--bps-write', '1g', '--iops-max', '1000', '--bps-max', '0', '--burst-seconds', '30'];
    expect(await node.vlmc('limit', 'volume1', ...words, ...more)).toMatchObject({ status: 0, err: '' });
    const set = {
      iops: 500,
      iopsRead: 1,
      iopsWrite: 2,
      bps: 100 << 20,
      bpsRead: 512 << 10,
      bpsWrite: 1 << 30,
      iopsMax: 1000,
      bpsMax: 0,
      burstSeconds: 30,
    };
    expect(asked()).toEqual([{ name: 'volume1', set }]);
  });

  it('goes back to the configuration, of one limit or of all', async () => {
    await node.vlmc('limit', 'volume1', '--iops', 'default', '--bps', 'default');
    await node.vlmc('limit', 'volume1', '--clear');
    expect(asked()).toEqual([
      { name: 'volume1', set: { iops: null, bps: null } },
      { name: 'volume1', clear: true },
    ]);
  });

  it('tells what is in force, and who waits', async () => {
    expect((await node.vlmc('limit', 'volume1')).out).toBe('Volume volume1: no limits\n');
    own = { iops: 500, iopsMax: 1000, burstSeconds: 30, bpsWrite: 100 << 20 };
    waiting = 2;
    const { out } = await node.vlmc('limit', 'volume1', '--show');
    expect(out).toBe('Volume volume1: iops 500 (1000 for 30 s), bps-write 100 MiB/s; 2 connections wait\n');
    expect(JSON.parse((await node.vlmc('--json', 'limit', 'volume1')).out)).toEqual(told());
    expect(asked()).toEqual(Array(3).fill({ name: 'volume1' }));
  });

  it('lists all that are set', async () => {
    own = { bps: 1000 };
    node.on('endpoint', Op.LIMIT, () => ({ volumes: [told()] }));
    expect((await node.vlmc('limit')).out).toBe('volume1: bps 1000 B/s\n');
    expect(asked()).toEqual([{}]);
  });

  it.each([
    ['limits and --clear', ['volume1', '--iops', '1', '--clear']],
    ['--show and --clear', ['volume1', '--show', '--clear']],
    ['limits of no volume', ['--iops', '1']],
    ['half a request', ['volume1', '--iops', '1.5']],
    ['less than nothing', ['volume1', '--bps', '-1']],
    ['an unknown unit', ['volume1', '--bps', '1X']],
    ['a unit of requests', ['volume1', '--iops', '1K']],
  ])('refuses %s', async (_what, words) => {
    expect((await node.vlmc('limit', ...words)).status).toBe(2);
    expect(node.seen).toEqual([]);
  });

  it("says the endpoint's reason", async () => {
    node.on('endpoint', Op.LIMIT, () => {
      throw new SystemError(errnos.ENOENT, 'no volume volume1');
    });
    const outcome = await node.vlmc('limit', 'volume1');
    expect(outcome).toEqual({ status: 255, out: '', err: 'vlmc limit failed: no volume volume1\n' });
  });
});

describe('remove', () => {
  beforeEach(() => node.on('composer', Op.DELETE, () => undefined));

  it('has the limits forgotten, by the id that the volume had', async () => {
    own = { iops: 5 };
    expect((await node.vlmc('remove', 'volume1')).status).toBe(0);
    expect(asked()).toEqual([{ name: 'volume1' }, { id: ID, name: 'volume1', clear: true }]);
  });

  it('asks for nothing to be forgotten where nothing is set', async () => {
    await node.vlmc('remove', 'volume1');
    expect(asked()).toEqual([{ name: 'volume1' }]);
  });

  it('leaves them when it fails, and only says so when they cannot be forgotten', async () => {
    own = { iops: 5 };
    node.on('composer', Op.DELETE, () => {
      throw new SystemError(errnos.EBUSY, 'it is locked');
    });
    expect((await node.vlmc('remove', 'volume1')).status).toBe(255);
    expect(asked()).toHaveLength(1);
    node.on('composer', Op.DELETE, () => undefined);
    let count = 0;
    node.on('endpoint', Op.LIMIT, () => {
      if (count++ > 0) throw new SystemError(errnos.ENOSPC, 'no space');
      return told();
    });
    const { status, err } = await node.vlmc('remove', 'volume1');
    expect([status, err]).toEqual([0, 'the limits of volume1 are still kept: no space\n']);
  });
});

describe('info', () => {
  const stat = {
    name: 'volume1',
    size: 4096,
    blockSize: 4096,
    version: 2,
    epoch: 1,
    readOnly: false,
    parent: null,
    created: null,
    blocks: { total: 1, zero: 1, own: 0, shared: 0, foreign: 0, damaged: 0 },
    lock: null,
    open: null,
    lost: null,
  };
  beforeEach(() => node.on('mapper', Op.STAT, () => stat));

  it('tells limits where there are some', async () => {
    own = { iops: 500 };
    expect((await node.vlmc('info', 'volume1', '--no-allocated')).out).toMatch(/\n {2}limits: {10}iops 500\n$/);
    expect(JSON.parse((await node.vlmc('--json', 'info', 'volume1', '--no-allocated')).out)).toMatchObject({
      limits: { iops: 500 },
    });
  });

  it('says nothing of them where there are none, or nobody knows', async () => {
    const plain = await node.vlmc('info', 'volume1', '--no-allocated');
    expect(plain.out).not.toContain('limits');
    node.on('endpoint', Op.LIMIT, () => {
      throw new SystemError(errnos.EOPNOTSUPP, 'the NBD endpoint does not serve op 88');
    });
    expect(await node.vlmc('info', 'volume1', '--no-allocated')).toEqual(plain);
  });
});
