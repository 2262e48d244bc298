import { afterAll, beforeEach, describe, expect, it } from 'vitest';
import { Op } from '../../../src/requests/ops.js';
import { errnos, SystemError } from '../../../src/sys/errno.js';
import { FakeNode } from './fake-node.js';
import { BLOCK, FakeStore, OWN, objectName, SHARED } from './fake-store.js';

const node = new FakeNode();
/** As long as a map-data object, and the store does not give it. */
const UNREADABLE = Buffer.alloc(128);
let store: FakeStore;

beforeEach(() => {
  node.reset();
  store = new FakeStore(node);
  store.add('volume1', { epoch: 3 });
  store.put('volume1', 0, OWN, objectName('volume1', 3, 0), BLOCK);
  store.put('volume1', 1, SHARED, objectName('volume1', 2, 1));
  store.add('snap-1', { readOnly: true, epoch: 0 });
  store.put('snap-1', 1, SHARED, objectName('volume1', 2, 1));
});
afterAll(() => node.close());

/** Kinds of findings by severity. */
async function check(...words: string[]) {
  const { status, out, err } = await node.vlmc('--json', 'check', ...words);
  const report = JSON.parse(out);
  const kinds = report.findings.map((f: { severity: string; kind: string }) => `${f.severity} ${f.kind}`);
  return { status, err, kinds: kinds.sort() as string[], report };
}

describe('vlmc check', () => {
  it('finds nothing wrong with maps and objects that agree', async () => {
    expect(await node.vlmc('check', '--all')).toEqual({
      status: 0,
      out: '2 volumes, 3 objects checked: 0 errors, 0 orphans, 0 notes\n',
      err: '',
    });
    expect((await node.vlmc('check', 'volume1')).out).toMatch(/^1 volume, 2 objects checked/);
  });

  it('wants one volume or all', async () => {
    expect((await node.vlmc('check')).err).toBe('give the name of a volume, or --all\n');
    expect((await node.vlmc('check', 'volume1', '--all')).status).toBe(255);
    expect((await node.vlmc('check', 'nosuch1')).err).toBe('vlmc check failed: there is no volume nosuch1\n');
  });

  it('tells missing objects, shared and own', async () => {
    store.objects.delete(objectName('volume1', 3, 0));
    expect(await check('volume1')).toMatchObject({ status: 255, kinds: ['error missing-own-object'] });
    store.objects.delete(objectName('volume1', 2, 1));
    const { status, kinds, report } = await check('--all');
    expect(status).toBe(255);
    expect(kinds).toEqual(['error missing-object', 'error missing-object', 'error missing-own-object']);
    expect(report).toMatchObject({ errors: 3, good: false });
    const { out } = await node.vlmc('check', 'snap-1');
    expect(out).toMatch(/^ERROR {2}snap-1: block 1: object volume1_\w+ does not exist: its data is lost, reads fail\n/);
  });

  it('finds objects that are longer than a block', async () => {
    store.objects.set(objectName('volume1', 3, 0), BLOCK + 1);
    expect(await check('volume1')).toMatchObject({ status: 255, kinds: ['error object-too-long'] });
  });

  it('tells objects that cannot be looked at', async () => {
    node.on('blocks', Op.INFO, () => {
      throw new SystemError(errnos.EACCES, 'permission denied');
    });
    expect(await check('snap-1')).toMatchObject({ status: 255, kinds: ['error object-unreadable'] });
  });

  it('stops when the blocker is gone, instead of calling all objects lost', async () => {
    const partial = new FakeNode(['mapper', 'maps']);
    try {
      new FakeStore(partial).add('volume1');
      const { status, err } = await partial.vlmc('check', 'volume1');
      expect(status).toBe(255);
      expect(err).toBe('vlmc check failed: blockerb is not running (port 1000); see archipelago status\n');
    } finally {
      partial.close();
    }
  });

  it('finds an object that two maps write in place, or one writes and another names, and says who', async () => {
    store.add('volume2');
    store.put('volume2', 0, OWN, objectName('volume1', 3, 0));
    store.put('snap-1', 2, SHARED, objectName('volume2', 1, 2));
    store.put('volume2', 2, OWN, objectName('volume2', 1, 2));
    const { status, kinds, report } = await check('--all');
    const ahead = ['error epoch-behind', 'error epoch-behind'];
    expect({ status, kinds }).toEqual({ status: 255, kinds: [...ahead, 'error two-writers', 'error two-writers'] });
    const messages = report.findings.map((f: { message: string }) => f.message).join('\n');
    expect(messages).toMatch(/volume1 block 0 \(writable\), volume2 block 0 \(writable\)/);
    expect(messages).toMatch(/snap-1 block 2, volume2 block 2 \(writable\)/);
    expect((await check('snap-1')).kinds).toEqual(['error epoch-behind', 'error two-writers']);
    expect((await check('volume1')).kinds).toEqual(['error epoch-behind', 'error two-writers']);
  });

  it('does not take the entries of a read-only map for writers', async () => {
    store.put('snap-1', 3, OWN, objectName('volume1', 2, 3));
    store.put('volume1', 3, SHARED, objectName('volume1', 2, 3));
    expect(await check('--all')).toMatchObject({ status: 0, kinds: [] });
  });

  it('takes the entries of v1 maps for writers, although such maps are read-only until they are upgraded', async () => {
    const object = `archip_${'a'.repeat(64)}`;
    for (const name of ['old-map-1', 'old-map-2']) {
      store.add(name, { version: 1, readOnly: true });
      store.put(name, 4, OWN, object);
    }
    expect(await check('--all')).toMatchObject({ status: 255, kinds: ['error two-writers'] });
  });

  it('steps over a damaged piece of a map and tells it', async () => {
    store.add('volume2', { blocks: 5000, damaged: new Set([7]) });
    store.put('volume2', 4999, SHARED, objectName('volume2', 1, 4999));
    store.objects.delete(objectName('volume2', 1, 4999));
    const { status, kinds, report } = await check('volume2');
    expect({ status, kinds }).toEqual({ status: 255, kinds: ['error map-entry-damaged', 'error missing-object'] });
    expect(report.findings.find((f: { block?: number }) => f.block === 7)).toMatchObject({ kind: 'map-entry-damaged' });
  });

  it('tells maps that cannot be read at all', async () => {
    store.add('volume2', { error: 'map object volume2 is damaged: block size 7' });
    expect(await check('--all')).toMatchObject({ status: 255, kinds: ['error map-unreadable'] });
    expect(await check('volume1')).toMatchObject({ status: 0, kinds: ['note map-unreadable'] });
  });

  it('reads v0 maps as such', async () => {
    const name = 'a'.repeat(64);
    store.add(name, { version: 0, readOnly: true });
    store.put(name, 0, 0, 'b'.repeat(64));
    store.objects.delete('b'.repeat(64));
    expect((await check('--all')).kinds).toEqual(['error missing-object']);
  });

  it('notes map data that belongs to nothing', async () => {
    store.raw
      .set(`volume1_${'0'.repeat(15)}1`, Buffer.alloc(0))
      .set(`gone-1_${'0'.repeat(16)}`, Buffer.alloc(0))
      .set(`volume1_${'f'.repeat(16)}`, Buffer.alloc(0));
    const { kinds, report, status } = await check('--all');
    expect({ status, kinds }).toEqual({ status: 0, kinds: ['note stray-map', 'note stray-map'] });
    expect(report.findings[0].object).toBe(`gone-1_${'0'.repeat(16)}`);
  });
});

describe('orphans', () => {
  const orphan = (volume: string, epoch: number, block: number): string => {
    const name = objectName(volume, epoch, block);
    store.objects.set(name, 5);
    return name;
  };

  it('are objects of a volume’s name pattern that no map of any volume names', async () => {
    const lost = orphan('volume1', 1, 7);
    // Named by another volume; of no pattern; of another volume.
    store.add('clone-1');
    store.put('clone-1', 6, SHARED, objectName('volume1', 1, 6));
    store.objects
      .set('c'.repeat(64), 5)
      .set(`${lost}_hash`, 64)
      .set(objectName('volume11', 1, 1), 5);
    const { status, kinds, report } = await check('volume1');
    expect({ status, kinds }).toEqual({ status: 255, kinds: ['orphan orphan'] });
    expect(report.findings[0]).toMatchObject({ object: lost, volume: 'volume1' });
    expect(report.repaired).toBe(0);
    expect(node.asked('blocks', Op.DELETE)).toEqual([]);
    expect((await check('--all')).report.orphans).toBe(2);
  });

  it('are only noted while their volume is open: it makes objects before its map names them', async () => {
    const lost = orphan('volume1', 3, 7);
    store.locks.set('volume1', 'node2_1002');
    expect(await check('volume1', '--repair')).toMatchObject({ status: 0, kinds: ['note perhaps-orphan'] });
    expect(store.objects.has(lost)).toBe(true);
  });

  it('--repair deletes those that no write can make wanted again', async () => {
    const gone = [orphan('volume1', 2, 7), orphan('snap-1', 0, 3), orphan('dead-1', 4, 1)];
    const kept = [orphan('volume1', 4, 7), orphan('snap-1', 1, 3), orphan('dead-1', 5, 1), orphan('never-1', 0, 1)];
    store.add('dead-1', { deleted: true, epoch: 4 });
    const { status, report } = await check('--all', '--repair');
    expect(status).toBe(255);
    expect(report).toMatchObject({ orphans: 7, repaired: 3 });
    expect(gone.filter((name) => store.objects.has(name))).toEqual([]);
    expect(kept.filter((name) => store.objects.has(name))).toEqual(kept);
    expect(report.findings.filter((f: { kind: string }) => f.kind === 'orphans-kept')).toHaveLength(4);
    const repaired = report.findings.filter((f: { repaired?: boolean }) => f.repaired);
    expect(repaired.map((f: { object: string }) => f.object).sort()).toEqual([...gone].sort());
  });

  it('--repair takes the lease for those of the present epoch, and gives it back', async () => {
    const lost = orphan('volume1', 3, 7);
    const { status, report } = await check('volume1', '--repair');
    expect(status).toBe(0);
    expect(report).toMatchObject({ orphans: 1, repaired: 1, good: true });
    expect(store.objects.has(lost)).toBe(false);
    expect(node.asked('mapper', Op.LEASE)).toHaveLength(1);
    expect(node.asked('mapper', Op.CLOSE)).toHaveLength(1);
    expect(store.locks.size).toBe(0);
  });

  it('--repair deletes nothing before what names something else by now is on the disk', async () => {
    orphan('volume1', 1, 7);
    const order: string[] = [];
    node.on('maps', Op.FLUSH, () => void order.push('flush'));
    node.on('blocks', Op.DELETE, ({ target }) => {
      order.push('delete');
      store.objects.delete(target);
      return undefined;
    });
    await check('volume1', '--repair');
    expect(order).toEqual(['flush', 'delete']);
  });

  it('--repair leaves what the map names by the time it has the lease', async () => {
    const lost = orphan('volume1', 3, 7);
    const lease = (seen: { target: string }) => {
      store.put(seen.target, 7, OWN, lost);
      return { granted: 'exclusive', size: 10 * BLOCK, blockSize: BLOCK, epoch: 3, readOnly: false, version: 2 };
    };
    node.on('mapper', Op.LEASE, lease);
    expect((await check('volume1', '--repair')).report.repaired).toBe(0);
    expect(store.objects.has(lost)).toBe(true);
  });

  it('--repair keeps the orphans of a volume that somebody else gets', async () => {
    const lost = orphan('volume1', 3, 7);
    node.on('mapper', Op.LEASE, () => ({ granted: 'none', holder: 'node2_1002' }));
    const { report, status } = await check('volume1', '--repair');
    expect(status).toBe(255);
    expect(store.objects.has(lost)).toBe(true);
    expect(report.findings.at(-1)).toMatchObject({
      kind: 'orphans-kept',
      message: expect.stringContaining('node2_1002'),
    });
    expect(node.asked('mapper', Op.CLOSE)).toHaveLength(0);
  });

  it('--repair stops when its lease is taken back, once the deletion that runs is over', async () => {
    const lost = [7, 8, 9].map((block) => orphan('volume1', 3, block));
    const mapper = node.ports.get('mapper');
    let revoked: Promise<unknown> | undefined;
    let deletedAtReply = -1;
    node.on('blocks', Op.DELETE, async ({ target }) => {
      revoked ??= mapper?.call(store.leases.get('volume1') as number, { op: Op.REVOKE, target: 'volume1' }).then(() => {
        deletedAtReply = node.asked('blocks', Op.DELETE).length;
      });
      store.objects.delete(target);
      return undefined;
    });
    const { report, status } = await check('volume1', '--repair');
    await revoked;
    expect(status).toBe(255);
    expect(report.repaired).toBe(node.asked('blocks', Op.DELETE).length);
    expect(deletedAtReply).toBe(report.repaired);
    expect(report.repaired).toBeLessThan(lost.length);
  });

  it.each([
    ['a map cannot be read', () => void store.add('volume2', { damaged: new Set([1]) })],
    ['a header cannot be read', () => void store.add('volume2', { error: 'damaged' })],
    ['map data of nothing cannot be read', () => void store.raw.set(`bar_${'0'.repeat(16)}`, UNREADABLE)],
    [
      'a volume appears during the check',
      () => {
        let times = 0;
        store.onList = () => {
          if (++times === 2) store.add('volume9');
        };
      },
    ],
    [
      'a volume is made anew during the check',
      () => {
        let times = 0;
        store.onList = () => {
          if (++times === 2) store.add('snap-1', { readOnly: true, epoch: 1 });
        };
      },
    ],
  ])('--repair deletes nothing when %s', async (_what, arrange) => {
    const lost = orphan('volume1', 1, 7);
    node.refuse('maps', Op.READ, (seen) => store.raw.get(seen.target) === UNREADABLE);
    arrange();
    const { report } = await check('volume1', '--repair');
    expect(report.findings).toContainEqual(expect.objectContaining({ kind: 'not-repaired' }));
    expect(store.objects.has(lost)).toBe(true);
    expect(node.asked('blocks', Op.DELETE)).toEqual([]);
  });
});
