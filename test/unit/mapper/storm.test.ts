/** Many operations at the same time on few volumes, with holders of leases that still write while they drain: all of them end. */
import fc from 'fast-check';
import { expect, it } from 'vitest';
import { errnoName, errnoOf } from '../../../src/sys/errno.js';
import { checkInvariants } from './invariants.js';
import { createSmall, memoryNode, memoryStores, type Node, readVolume, writeVolume } from './support.js';

const BLOCK = 256;
const NAMES = ['volume-a', 'volume-b', 'volume-c'];
const PORTS = [500, 501];
/** What an operation may fail with when others change its volume under it. */
const ANSWERS = ['EEXIST', 'ENOENT', 'EINVAL', 'EROFS'];

const operation = fc.record({
  what: fc.constantFrom(
    'lease',
    'write',
    'zero',
    'flush',
    'snapshot',
    'clone',
    'rename',
    'resize',
    'remove',
    'create',
    'close',
    'stat',
    'open',
  ),
  name: fc.constantFrom(...NAMES),
  to: fc.constantFrom(...NAMES, 'volume-d'),
  port: fc.constantFrom(...PORTS),
  block: fc.nat({ max: 3 }),
});
type Operation = typeof operation extends fc.Arbitrary<infer T> ? T : never;

function run(node: Node, { what, name, to, port, block }: Operation): Promise<unknown> {
  const { mapper } = node;
  switch (what) {
    case 'lease':
      return mapper.lease(name, { write: true }, port);
    case 'write':
      return writeVolume(node, name, block * BLOCK, Buffer.alloc(BLOCK / 2, 7), port);
    case 'zero':
      return mapper.mapZero(name, block * BLOCK, BLOCK, port);
    case 'flush':
      return mapper.flush(name);
    case 'snapshot':
      return mapper.snapshot(name, to);
    case 'clone':
      return mapper.clone(to, name, 0);
    case 'rename':
      return mapper.rename(name, to);
    case 'resize':
      return mapper.resize(name, (block + 2) * BLOCK - 5, true);
    case 'remove':
      return mapper.remove(name);
    case 'create':
      return createSmall(node, name, 4 * BLOCK, BLOCK);
    case 'close':
      return mapper.close(name);
    case 'open':
      return mapper.open(name);
    default:
      return mapper.stat(name);
  }
}

it('all end, with an answer, and the maps agree with each other', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(operation, { minLength: 5, maxLength: 40, size: 'max' }),
      fc.boolean(),
      async (operations, restarted) => {
        const stores = memoryStores();
        const first = memoryNode(stores);
        for (const name of NAMES) await createSmall(first, name, 4 * BLOCK, BLOCK);
        await first.mapper.snapshot('volume-a', 'snapshot');
        // After a restart the mapper does not know what the holders hold.
        const node = restarted ? memoryNode(stores, 'node1_1002', PORTS) : first;
        for (const port of PORTS) {
          node.holders.set(port, async (volume) => {
            // Another node's view of the same volume may be gone by now; a composer fails its client then.
            await writeVolume(node, volume, 0, Buffer.from('draining'), port).catch(() => {});
          });
        }
        for (const client of [node.maps, node.blocks]) client.before = () => new Promise(setImmediate);
        const results = await Promise.allSettled(operations.map((each) => run(node, each)));
        for (const [i, result] of results.entries()) {
          if (result.status === 'fulfilled') continue;
          // A writer whose object was removed with its volume, or was snapshotted away, sees that as an error of the store.
          expect(ANSWERS, `${JSON.stringify(operations[i])}: ${result.reason}`).toContain(
            errnoName(errnoOf(result.reason)),
          );
        }
        await checkInvariants(node);
        for (const { name } of (await node.mapper.list({ cursor: null, limit: 100 })).volumes) {
          const { size } = await node.mapper.describe(name);
          for (let at = 0; at < size; at += BLOCK) await readVolume(node, name, at, Math.min(BLOCK, size - at));
        }
        node.holders.clear();
        // What was opened stays locked when the mapper stops.
        for (const name of NAMES) await node.mapper.close(name);
        await node.mapper.stop();
        expect(node.warnings).toEqual([]);
        await checkInvariants(node, []);
        expect(node.mapper.status()).toMatchObject({ locked: 0 });
      },
    ),
    { numRuns: 60 },
  );
}, 60_000);
