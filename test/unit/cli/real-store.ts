/** A real mapper and real stores in memory behind a fake node: what vlmc check finds is what operations left. */
import { MemoryDriver } from '../../../src/blockers/memory/index.js';
import { perform } from '../../../src/mapper/requests.js';
import { Op } from '../../../src/requests/ops.js';
import { encodeInfo } from '../../../src/requests/structs.js';
import { DriverClient, type Node, type Stores } from '../mapper/support.js';
import type { FakeNode, PeerName, Seen } from './fake-node.js';

const MAPPER_OPS = [Op.LIST, Op.MAPFETCH, Op.INFO, Op.LEASE, Op.CLOSE, Op.LOCKINFO, Op.DELETE, Op.STAT];

/** Lets the fake node's peers answer from these stores, through this mapper. */
export function serveStores(fake: FakeNode, stores: Stores, node: Node): void {
  const ask = async ({ op, target, offset, size, flags, v0Size, src, note, data }: Seen): Promise<Buffer> => {
    const request = { op, target, offset, size, flags, v0Size, src, dataLength: data.length, data, note };
    return Buffer.from(await perform(node.mapper, { ...request, orphaned: false }, () => ({})));
  };
  for (const op of MAPPER_OPS) fake.on('mapper', op, ask);
  fake.on('composer', Op.DELETE, ask);
  fake.on('mapper', Op.STATUS, () => ({ lost: 0 }));
  serveStore(fake, 'maps', new DriverClient(new MemoryDriver('node1_1002', stores.maps)));
  serveStore(fake, 'blocks', new DriverClient(new MemoryDriver('node1_1002', stores.blocks)));
}

function serveStore(fake: FakeNode, peer: PeerName, store: DriverClient): void {
  const json = ({ data, size }: Seen): { cursor: string | null; limit: number } =>
    JSON.parse(data.toString('utf8', 0, size));
  fake.on(peer, Op.FLUSH, () => undefined);
  fake.on(peer, Op.LIST, (seen) => store.list(json(seen).cursor, json(seen).limit));
  fake.on(peer, Op.LOCKS, (seen) => store.driver.listLocks(json(seen).cursor, json(seen).limit));
  fake.on(peer, Op.READ, ({ target, offset, size }) => store.read(target, offset, size));
  fake.on(peer, Op.INFO, async ({ target }) => encodeInfo(await store.info(target)));
  fake.on(peer, Op.LOCKINFO, ({ target }) => store.lockHolder(target));
  fake.on(peer, Op.FORGET, () => {
    store.driver.forget();
    return undefined;
  });
  fake.on(peer, Op.DELETE, async ({ target }) => {
    await store.delete(target);
    return undefined;
  });
}
