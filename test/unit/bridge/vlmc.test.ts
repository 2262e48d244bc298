/** vlmc asks over the bridge what it asks over the segment, and says the same; where there is no bridge for it, it joins the segment. */
import fs from 'node:fs';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { NodeClient } from '../../../src/cli/common/client.js';
import { Op } from '../../../src/requests/ops.js';
import { encodeVolumeInfo, VOLUME_INFO_SIZE } from '../../../src/requests/structs.js';
import { errnos, SystemError } from '../../../src/sys/errno.js';
import { report } from '../../../src/xseg/index.js';
import type { Outcome } from '../cli/capture.js';
import { Bridged } from './support.js';

let bridged: Bridged;

beforeAll(async () => {
  bridged = await Bridged.start();
});
afterAll(() => bridged.close());
afterEach(() => bridged.node.reset());

const stat = {
  name: 'volume1',
  size: 1 << 30,
  blockSize: 4 << 20,
  version: 2,
  epoch: 3,
  readOnly: false,
  parent: null,
  created: null,
  blocks: { total: 256, zero: 250, own: 6, shared: 0, foreign: 0, damaged: 0 },
  allocated: { own: 4096, other: 0, missing: 0 },
  lock: { owner: 'node2_1002', since: null },
  open: null,
  byHand: false,
  lost: null,
};
const listed = { name: 'volume1', size: 1 << 30, blockSize: 4 << 20, version: 2, readOnly: false, epoch: 3 };

function answers(): void {
  const { node } = bridged;
  node.on('mapper', Op.STAT, () => stat);
  node.on('mapper', Op.LIST, () => ({ volumes: [listed], cursor: null }));
  node.on('mapper', Op.LOCKINFO, () => ({ lock: stat.lock, open: null, byHand: false, lost: null }));
  node.on('maps', Op.LOCKINFO, () => stat.lock);
  const info = {
    size: 1 << 30,
    blockSize: 4 << 20,
    readOnly: false,
    version: 2,
    epoch: 3,
    created: null,
    parent: null,
    id: null,
  };
  node.on('mapper', Op.INFO, () => encodeVolumeInfo(info).subarray(0, VOLUME_INFO_SIZE));
  for (const op of [Op.CLONE, Op.TRUNCATE, Op.RENAME, Op.ACQUIRE]) node.on('mapper', op, () => undefined);
  for (const op of [Op.SNAPSHOT, Op.DELETE, Op.OPEN, Op.CLOSE]) node.on('composer', op, () => undefined);
  const mapping = {
    id: 0,
    name: 'volume1',
    uris: ['nbd+unix:///volume1?socket=/s'],
    clients: 0,
    since: 1,
    readOnly: false,
  };
  node.on('endpoint', Op.MAP, () => ({ name: 'volume1', uris: mapping.uris }));
  node.on('endpoint', Op.UNMAP, () => ({ name: 'volume1' }));
  node.on('endpoint', Op.SHOWMAPPED, () => ({ mapped: [{ ...mapping, name: 'volume2' }], connections: [] }));
  node.on('endpoint', Op.INFO, () => Buffer.alloc(8, 1));
}

const bridgePorts = (): Set<number> =>
  new Set(
    report(bridged.node.segment)
      .bound.filter(({ name }) => name === 'bridge')
      .map(({ port }) => port),
  );

/** Runs a command and tells what it printed and what the peers were asked, from no port in particular. */
async function seen(...words: string[]): Promise<{ outcome: Outcome; asked: object[]; byBridge: boolean }> {
  bridged.node.seen.length = 0;
  const outcome = await bridged.node.vlmc(...words);
  const ports = bridgePorts();
  const asked = bridged.node.seen.map(({ src: _, ...rest }) => rest);
  return { outcome, asked, byBridge: bridged.node.seen.every(({ src }) => ports.has(src)) };
}

/** As when nobody listens. */
async function withoutBridge<T>(work: () => Promise<T>): Promise<T> {
  const { path } = bridged.server;
  fs.renameSync(path, `${path}.away`);
  try {
    return await work();
  } finally {
    fs.renameSync(`${path}.away`, path);
  }
}

describe('over the bridge', () => {
  const commands = [
    'info volume1',
    '--json info volume1',
    'info volume1 -v0 --v0-size 77',
    'list',
    'list --long',
    '--json list',
    'list --snapshots-of volume1',
    'map volume1 --endpoint nbd',
    'map volume1 --endpoint nbd -ro',
    'unmap volume1',
    '--json showmapped',
    'open volume1',
    'open volume1 --shared',
    'close volume1',
    'lock volume1',
    'lock volume1 --show',
  ];

  it.each(commands)('vlmc %s says and asks the same as over the segment', async (command) => {
    answers();
    const words = command.split(' ');
    const bridge = await seen(...words);
    const segment = await withoutBridge(() => seen(...words));
    expect(bridge.byBridge).toBe(true);
    expect(segment.byBridge).toBe(false);
    expect(bridge.asked.length).toBeGreaterThan(0);
    expect({ ...bridge, byBridge: null }).toEqual({ ...segment, byBridge: null });
  });

  it.each(commands)('vlmc %s fails in the same words', async (command) => {
    const words = command.split(' ');
    const bridge = await seen(...words);
    const segment = await withoutBridge(() => seen(...words));
    expect(bridge.outcome).toEqual(segment.outcome);
    expect(bridge.outcome.status).toBe(command.includes('showmapped') ? 0 : 255);
  });

  it.each<[string, keyof typeof Op]>([
    ['create volume1 -s 1G', 'CLONE'],
    ['create volume1 --snap snapshot1', 'CLONE'],
    ['snapshot volume1 snapshot1', 'SNAPSHOT'],
    ['resize volume1 -s 2G', 'TRUNCATE'],
    ['remove volume1', 'DELETE'],
    ['rename volume1 volume3', 'RENAME'],
  ])('vlmc %s does not change anything: the request must outlive who works on it', async (command, op) => {
    answers();
    const words = command.split(' ');
    const { outcome } = await seen(...words);
    const changes = bridged.node.seen.filter((request) => request.op === Op[op]);
    expect(changes).toHaveLength(1);
    expect(bridgePorts().has(changes[0].src)).toBe(false);
    expect(outcome).toEqual(await withoutBridge(async () => (await seen(...words)).outcome));
    expect(outcome.status).toBe(0);
  });

  it.each(['hash volume1', 'upgrade volume1', 'unlock -f volume1', 'check volume1', 'mapinfo volume1'])(
    'vlmc %s is not done to its end: it takes long, or moves much',
    async (command) => {
      answers();
      const { asked } = await seen(...command.split(' '));
      const ports = bridgePorts();
      expect(asked.length).toBeGreaterThan(0);
      expect(bridged.node.seen.some(({ src }) => !ports.has(src))).toBe(true);
    },
  );
});

describe('what is asked of a bridge that fails', () => {
  it('is asked over the segment when it was refused', async () => {
    answers();
    const client = NodeClient.connect(bridged.config, 'test');
    expect(await client.json('mapper', Op.STAT, 'volume1', {})).toEqual(stat);
    await bridged.server.close();
    bridged.node.seen.length = 0;
    await client.call('composer', { op: Op.OPEN, target: 'volume1' }).then(
      () => expect(bridged.node.asked('composer', Op.OPEN).length).toBe(1),
      // The end of the connection came first: then it is not known.
      (error) => expect(error).toMatchObject({ errno: errnos.ECONNRESET }),
    );
    // A look is repeated.
    expect(await client.json('mapper', Op.STAT, 'volume1', {})).toEqual(stat);
    client.close();
    await bridged.listen();
  });

  it('is asked over the segment when the bridge had died before: nothing was asked of it', async () => {
    answers();
    let letGo = (): void => {};
    const free = new Promise<undefined>((resolve) => {
      letGo = () => resolve(undefined);
    });
    bridged.node.on('composer', Op.OPEN, () => free);
    const client = NodeClient.connect(bridged.config, 'test');
    const begun = client.call('composer', { op: Op.OPEN, target: 'volume2' });
    const lost = expect(begun).rejects.toThrow('whether it was done is not known');
    await expect.poll(() => bridged.node.asked('composer', Op.OPEN).length).toBe(1);
    await bridged.server.close(0);
    await lost;
    letGo();
    await client.call('composer', { op: Op.CLOSE, target: 'volume1' });
    expect(bridged.node.asked('composer', Op.CLOSE).length).toBe(1);
    client.close();
    await bridged.listen();
  });

  it('is asked again when it was a look, and only then', async () => {
    let letGo = (): void => {};
    const free = new Promise<void>((resolve) => {
      letGo = resolve;
    });
    let count = 0;
    const first = (answer: unknown) => async (): Promise<never> => {
      if (++count <= 2) await free;
      return answer as never;
    };
    bridged.node.on('mapper', Op.STAT, first(stat));
    bridged.node.on('composer', Op.OPEN, first(undefined));
    const client = NodeClient.connect(bridged.config, 'test');
    const look = client.json('mapper', Op.STAT, 'volume1', {});
    const other = expect(client.call('composer', { op: Op.OPEN, target: 'volume2' })).rejects.toThrow(
      'look, then try again',
    );
    await expect.poll(() => bridged.node.seen.length).toBe(2);
    await bridged.server.close(0);
    await other;
    expect(await look).toEqual(stat);
    letGo();
    expect(bridged.node.asked('composer', Op.OPEN).length).toBe(1);
    client.close();
    await bridged.listen();
  });

  it('says of a node that does not run what it always said', async () => {
    const other = await Bridged.start();
    await other.server.close();
    other.node.stop();
    const { status, err } = await other.node.vlmc('info', 'volume1');
    expect({ status, err }).toEqual({
      status: 255,
      err: expect.stringMatching(
        /^the node is not running: there is no segment .*; start it with archipelago start\n$/,
      ),
    });
    await other.close();
  });

  it('is not kept waiting by a store that does not answer', async () => {
    const never = (): Promise<never> => new Promise(() => {});
    bridged.node.on('mapper', Op.STAT, never);
    bridged.node.on('maps', Op.LOCKINFO, never);
    bridged.node.on('mapper', Op.STATUS, () => {
      throw new SystemError(errnos.EOPNOTSUPP, 'no');
    });
    const { status, err } = await bridged.node.vlmcWith({ env: { ARCHIPELAGO_PATIENCE: '0.4' } }, 'info', 'volume1');
    expect(status).toBe(255);
    expect(err).toContain('the maps store (blockerm) has not answered');
    await expect.poll(() => bridged.server.load.connections).toBe(0);
  });
});
