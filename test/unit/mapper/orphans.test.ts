/** Locks of clients whose `archipelago nbd` was killed: given back after a while, unless somebody may come back for them. */
import { beforeEach, describe, expect, it } from 'vitest';
import { GRACE_MS, LOOK_MS } from '../../../src/mapper/orphans.js';
import { VolumeUsers } from '../../../src/mapper/volume-users.js';
import { ATTACHED_ENDPOINT } from '../../../src/requests/endpoints.js';
import type { Port, PortOwner } from '../../../src/xseg/index.js';
import { type TwoNodes, twoNodes } from './nodes.js';
import { createSmall, readVolume, writeVolume } from './support.js';

const BLOCK = 256;
const PORT = 500;
const VOLUME = 'volume';
/** Until what is due is done. */
const LONG_MS = 2 * GRACE_MS;

let nodes: TwoNodes;

const holder = (): string | undefined => nodes.stores.maps.locks.get(VOLUME)?.owner;
const kill = (replaced = false): void => void nodes.a.endpoints.push({ replaced, gone: true });

beforeEach(async () => {
  nodes = twoNodes();
  const { a } = nodes;
  await createSmall(a, VOLUME, 4 * BLOCK, BLOCK);
  a.holders.set(PORT, async () => {});
  await a.mapper.lease(VOLUME, { write: true }, PORT);
  await writeVolume(a, VOLUME, 0, Buffer.from('first'), PORT);
  await nodes.clock.pass(2 * LOOK_MS);
});

describe('a lock that clients had', () => {
  it('is kept while no endpoint was killed, whether they have said anything or not', async () => {
    await nodes.clock.pass(3 * LONG_MS);
    expect(holder()).toBe('node1_1002');
  });

  it('is given back when their endpoint was killed and nobody came for a minute; what they wrote is there', async () => {
    const { a, b, clock } = nodes;
    kill();
    await clock.pass(GRACE_MS - 1000);
    expect(holder()).toBe('node1_1002');
    await clock.pass(LONG_MS - GRACE_MS + 1000);
    expect(holder()).toBeUndefined();
    expect(a.warnings).toEqual([]);
    b.holders.set(PORT, async () => {});
    expect((await b.mapper.lease(VOLUME, { write: true }, PORT)).granted).toBe('exclusive');
    expect((await readVolume(b, VOLUME, 0, 5)).toString()).toBe('first');
  });

  it('is kept when a client of another endpoint has the volume open by then', async () => {
    kill();
    await nodes.clock.pass(1000);
    nodes.a.used.add(VOLUME);
    await nodes.clock.pass(LONG_MS);
    expect(holder()).toBe('node1_1002');
  });

  it('is kept when the node’s own endpoint was another process meanwhile: its clients and devices come back', async () => {
    kill(true);
    await nodes.clock.pass(LONG_MS);
    kill();
    await nodes.clock.pass(LONG_MS);
    expect(holder()).toBe('node1_1002');
  });

  it('is kept when that one was killed just now, and tells nothing', async () => {
    const { a, clock } = nodes;
    kill();
    await clock.pass(GRACE_MS - 1000);
    const { isUsed } = a;
    a.isUsed = async (volume) => {
      a.endpoints.push({ replaced: true, gone: false });
      return isUsed(volume);
    };
    await clock.pass(LONG_MS);
    expect(holder()).toBe('node1_1002');
  });

  it('is kept for a minute from when its own endpoint was killed, whatever others are gone before', async () => {
    const { a, clock } = nodes;
    a.used.add(VOLUME);
    kill();
    await clock.pass(50_000);
    a.used.clear();
    kill();
    await clock.pass(GRACE_MS - 5000);
    expect(holder()).toBe('node1_1002');
    await clock.pass(GRACE_MS);
    expect(holder()).toBeUndefined();
  });

  it('is given back all the same when that was before it was taken', async () => {
    nodes.a.endpoints.push({ replaced: true, gone: false });
    await nodes.clock.pass(2 * LOOK_MS);
    await nodes.a.mapper.close(VOLUME, true);
    await nodes.a.mapper.lease(VOLUME, { write: true }, PORT);
    kill();
    await nodes.clock.pass(LONG_MS);
    expect(holder()).toBeUndefined();
  });

  it('is kept when somebody has asked for that', async () => {
    await nodes.a.mapper.open(VOLUME);
    kill();
    await nodes.clock.pass(LONG_MS);
    expect(holder()).toBe('node1_1002');
  });
});

describe('endpoints', () => {
  const ENDPOINT = 10;
  const DYNAMIC = 20;
  let owners: Map<number, PortOwner>;
  let users: VolumeUsers;
  const own = (number: number, pid: number, alive = true, name = ATTACHED_ENDPOINT): void =>
    void owners.set(number, { pid, alive, name });

  beforeEach(() => {
    owners = new Map();
    const segment = {
      geometry: { ports: DYNAMIC + 4, firstDynamic: DYNAMIC },
      portOwner: (number: number) => owners.get(number) ?? null,
    };
    users = new VolumeUsers({ segment } as unknown as Port, [ENDPOINT]);
    own(ENDPOINT, 1, true, 'nbd');
    own(DYNAMIC, 2);
    own(DYNAMIC + 1, 3, true, 'vlmc');
    expect(users.look()).toEqual({ replaced: false, gone: false });
  });

  it('that live on, and others’ ports, say nothing', () => {
    own(DYNAMIC + 1, 3, false, 'vlmc');
    own(DYNAMIC + 2, 4);
    expect(users.look()).toEqual({ replaced: false, gone: false });
    owners.delete(DYNAMIC + 1);
    expect(users.look()).toEqual({ replaced: false, gone: false });
  });

  it('that are gone are told of once: dead, cleaned up, or with their ports another’s', () => {
    for (const change of [
      () => own(DYNAMIC, 2, false),
      () => own(DYNAMIC, 5),
      () => owners.delete(DYNAMIC),
      () => own(DYNAMIC, 6, true, 'vlmc'),
    ]) {
      own(DYNAMIC, 2);
      users.look();
      change();
      expect(users.look()).toEqual({ replaced: false, gone: true });
      expect(users.look()).toEqual({ replaced: false, gone: false });
    }
  });

  it('that were dead before the first look are told of, too', () => {
    own(DYNAMIC + 3, 7, false);
    expect(users.look()).toEqual({ replaced: false, gone: true });
  });

  it('of the configuration are replaced when they die, and when another process has their port', () => {
    own(ENDPOINT, 1, false, 'nbd');
    expect(users.look().replaced).toBe(true);
    expect(users.look().replaced).toBe(false);
    own(ENDPOINT, 8, true, 'nbd');
    expect(users.look().replaced).toBe(true);
    // Killed, and its port cleaned up between two looks.
    owners.delete(ENDPOINT);
    expect(users.look().replaced).toBe(true);
    expect(users.look().replaced).toBe(false);
    own(ENDPOINT, 9, true, 'nbd');
    expect(users.look().replaced).toBe(false);
    own(ENDPOINT, 10, true, 'nbd');
    expect(users.look().replaced).toBe(true);
  });
});
