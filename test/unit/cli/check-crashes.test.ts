/** vlmc check on what crashes and damage leave: each kind told as what it is, with the way out, and nothing that is fine told at all. */
import { afterAll, beforeEach, describe, expect, it } from 'vitest';
import { type Lineage, newLineage } from '../../../src/mapper/formats/lineage.js';
import * as v2 from '../../../src/mapper/formats/v2.js';
import { Flag, Op } from '../../../src/requests/ops.js';
import { EntryFlag } from '../../../src/requests/resolved-map.js';
import { errnos, SystemError } from '../../../src/sys/errno.js';
import { FakeNode } from './fake-node.js';
import { BLOCK, FakeStore, OWN, objectName, SHARED } from './fake-store.js';

const node = new FakeNode();
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

interface Report {
  good: boolean;
  repaired: number;
  wouldRepair?: number;
  findings: {
    severity: string;
    kind: string;
    volume: string | null;
    message: string;
    block?: number;
    count?: number;
  }[];
}

async function check(...words: string[]) {
  const { status, out } = await node.vlmc('--json', 'check', ...words);
  const report = JSON.parse(out) as Report;
  return { status, kinds: report.findings.map(({ severity, kind }) => `${severity} ${kind}`).sort(), report };
}

const messages = (report: Report): string => report.findings.map(({ message }) => message).join('\n');
const mapData = (name: string): string => `${name}_${'0'.repeat(16)}`;

/** Map data that names these objects. */
function entriesOf(...objects: string[]): Buffer {
  const out = Buffer.alloc(objects.length * v2.ENTRY_SIZE);
  for (const [i, name] of objects.entries()) v2.encodeNamedEntry(out, i * v2.ENTRY_SIZE, SHARED, name);
  return out;
}

describe('a first write that is not committed', () => {
  it('keeps the object that the stored map still names: after a power cut it is what the block has', async () => {
    const source = objectName('volume1', 1, 7);
    store.objects.set(source, 4096);
    store.add('clone-1', { epoch: 2 });
    store.put('clone-1', 1, OWN, objectName('clone-1', 2, 1), BLOCK);
    store.raw.set(mapData('clone-1'), entriesOf(objectName('volume1', 2, 1), source));
    const { kinds, status } = await check('--all', '--repair', '--age', '0');
    expect({ kinds, status }).toEqual({ kinds: [], status: 0 });
    expect(store.objects.has(source)).toBe(true);
  });

  it('keeps orphans when a stored map cannot be read', async () => {
    const lost = objectName('volume1', 1, 7);
    store.objects.set(lost, 4096);
    store.raw.set(mapData('volume1'), Buffer.alloc(128));
    node.on('maps', Op.INFO, () => {
      throw new SystemError(errnos.EIO, 'unreadable');
    });
    const { kinds } = await check('--all', '--repair', '--age', '0');
    expect(kinds).toContain('note not-repaired');
    expect(store.objects.has(lost)).toBe(true);
  });
});

describe('damaged maps', () => {
  it('map data that is cut short is told with its length, as one finding', async () => {
    const volume = store.add('volume2', { blocks: 20 });
    for (let i = 12; i < 20; i++) volume.undecoded.add(i);
    store.raw.set(mapData('volume2'), Buffer.alloc(12 * v2.ENTRY_SIZE));
    const { kinds, report, status } = await check('--all');
    expect({ kinds, status }).toEqual({ kinds: ['error map-data-short'], status: 255 });
    expect(report.findings[0]).toMatchObject({ volume: 'volume2', block: 12, count: 8 });
    expect(messages(report)).toContain(`${mapData('volume2')} ends after 1536 bytes`);
  });

  it('map data that is missing is told as that', async () => {
    const volume = store.add('volume2', { blocks: 3 });
    for (let i = 0; i < 3; i++) volume.undecoded.add(i);
    store.raw.set(mapData('volume2'), null);
    const { kinds, report } = await check('volume2');
    expect(kinds).toEqual(['error map-data-missing']);
    expect(report.findings[0]).toMatchObject({ block: 0, count: 3 });
  });

  it('an entry that is no entry is told with what is wrong about it', async () => {
    store.volumes.get('volume1')?.undecoded.add(5);
    const { kinds, report } = await check('volume1');
    expect(kinds).toEqual(['error map-entry-damaged']);
    expect(messages(report)).toMatch(/block 5 cannot be read: map data volume1_0+: it is empty$/);
  });

  it('an entry that reads well when it is looked at again is not told', async () => {
    store.volumes.get('volume1')?.undecoded.add(5);
    node.on('maps', Op.READ, ({ size, target }) => {
      store.volumes.get('volume1')?.undecoded.clear();
      const header = v2.encodeHeader({
        version: 2,
        size: 10 * BLOCK,
        blockSize: BLOCK,
        readOnly: false,
        deleted: false,
        epoch: 3,
        lineage: null,
      });
      const reply = Buffer.alloc(size);
      if (target === 'volume1') header.copy(reply);
      else v2.encodeZeroEntry(reply, 0);
      return reply;
    });
    expect(await check('volume1')).toMatchObject({ kinds: [], status: 0 });
  });

  it('a volume that goes while its map is read is no error', async () => {
    node.refuse('mapper', Op.MAPFETCH, ({ target }) => {
      if (target === 'volume1') store.add('volume1', { epoch: 3, deleted: true });
      store.objects.delete(objectName('volume1', 3, 0));
      return target === 'volume1';
    });
    const { kinds, status } = await check('volume1');
    expect({ kinds, status }).toEqual({ kinds: ['note volume-gone', 'note volumes-changed'], status: 0 });
  });

  it('what no map names is only suspected where not every map could be read', async () => {
    store.objects.set(objectName('volume1', 2, 6), 5);
    store.volumes.get('snap-1')?.undecoded.add(6);
    expect((await check('--all')).kinds).toEqual(['error map-entry-damaged', 'note perhaps-orphan']);
  });

  it('a volume that shrinks while its map is read is no error', async () => {
    let asked = false;
    node.refuse('mapper', Op.MAPFETCH, ({ target }) => {
      if (target !== 'volume1' || asked) return false;
      asked = true;
      store.add('volume1', { epoch: 3, blocks: 2 });
      return true;
    });
    const { kinds } = await check('volume1');
    expect(kinds).toContain('note volume-changed');
    expect(kinds.filter((kind) => kind.startsWith('error'))).toEqual([]);
  });
});

describe('volumes that change during the check', () => {
  it('a block that got another object meanwhile is judged by that', async () => {
    const old = objectName('volume1', 2, 1);
    store.put('volume1', 4, SHARED, objectName('volume1', 2, 4));
    node.on('blocks', Op.INFO, ({ target }) => {
      if (target === objectName('volume1', 2, 4)) {
        store.put('volume1', 4, OWN, objectName('volume1', 3, 4));
        throw new SystemError(errnos.ENOENT, `object ${target} does not exist`);
      }
      return Buffer.from(new BigUint64Array([100n, 100n]).buffer);
    });
    expect(await check('volume1')).toMatchObject({ kinds: [], status: 0 });
    expect(store.objects.has(old)).toBe(true);
  });

  it('a snapshot between the reading of two maps makes no second writer', async () => {
    // The volume is read as it was before the snapshot, the snapshot's clone after it.
    store.put('volume1', 2, OWN, objectName('volume1', 3, 2));
    store.add('clone-1');
    store.put('clone-1', 2, SHARED, objectName('volume1', 3, 2));
    let lists = 0;
    store.onList = () => {
      if (++lists !== 2) return;
      const volume = store.volumes.get('volume1');
      if (!volume) return;
      volume.epoch = 4;
      for (const [block, entry] of volume.entries) volume.entries.set(block, { ...entry, flags: SHARED });
    };
    const { kinds } = await check('--all');
    expect(kinds).toEqual(['note volumes-changed']);
  });

  it('two writers are only suspected while maps keep changing', async () => {
    store.add('volume2');
    store.put('volume2', 0, OWN, objectName('volume1', 3, 0));
    let lists = 0;
    store.onList = () => {
      store.add('restless', { epoch: ++lists });
    };
    const { kinds } = await check('--all');
    expect(kinds).toContain('note perhaps-two-writers');
    expect(kinds).not.toContain('error two-writers');
  });

  it('an object whose entry is written between two looks is no orphan', async () => {
    const object = objectName('volume1', 3, 7);
    store.objects.set(object, 5);
    node.on('maps', Op.LOCKINFO, () => {
      store.put('volume1', 7, OWN, object);
      return null;
    });
    expect(await check('volume1')).toMatchObject({ kinds: [], status: 0 });
  });
});

describe('epochs', () => {
  it('an own object of an epoch that the header has not reached is an error', async () => {
    store.put('volume1', 6, OWN, objectName('volume1', 4, 6));
    store.put('volume1', 7, OWN, objectName('volume1', 5, 7));
    const { kinds, report } = await check('--all');
    expect(kinds).toEqual(['error epoch-ahead']);
    expect(report.findings[0]).toMatchObject({ volume: 'volume1', block: 7, count: 2 });
  });

  it('an object that its volume may still write to is an error in another map', async () => {
    store.put('snap-1', 6, SHARED, objectName('volume1', 3, 6));
    expect((await check('--all')).kinds).toEqual(['error epoch-behind']);
    expect((await check('snap-1')).kinds).toEqual(['error epoch-behind']);
    expect((await check('volume1')).kinds).toEqual(['error epoch-behind']);
  });

  it('objects of deleted volumes may be named up to the epoch that their header keeps', async () => {
    store.add('dead-1', { deleted: true, epoch: 4 });
    store.put('snap-1', 6, SHARED, objectName('dead-1', 4, 6));
    expect((await check('--all')).kinds).toEqual([]);
    store.put('snap-1', 7, SHARED, objectName('dead-1', 5, 7));
    expect((await check('--all')).kinds).toEqual(['error epoch-behind']);
  });

  it('the volume itself may share objects of its own epoch: a write to them raises it', async () => {
    store.put('volume1', 6, SHARED, objectName('volume1', 3, 6));
    expect((await check('--all')).kinds).toEqual([]);
  });
});

describe('deletions that were cut short', () => {
  const lineage: Lineage = newLineage(null, 1_700_000_000_000);
  const mark = (): void => {
    Object.assign(store.volumes.get('volume1') ?? {}, { lineage });
    store.put('volume1', 0, OWN | EntryFlag.DELETED, objectName('volume1', 3, 0));
    store.objects.delete(objectName('volume1', 3, 0));
  };

  it('are told with the way out, and what they deleted is not missed', async () => {
    mark();
    const { kinds, status, report } = await check('--all');
    expect({ kinds, status }).toEqual({ kinds: ['note interrupted-deletion'], status: 0 });
    expect(messages(report)).toContain('vlmc remove volume1 finishes it');
  });

  it('are told apart from those that run', async () => {
    mark();
    store.locks.set('volume1', 'node2_1002');
    expect((await check('--all')).kinds).toEqual(['note deletion-running']);
    expect((await check('--all', '--repair')).report.repaired).toBe(0);
  });

  it('--repair finishes them, --dry-run tells it', async () => {
    mark();
    node.on('composer', Op.DELETE, ({ target }) => {
      store.add(target, { deleted: true, epoch: 3 });
      return undefined;
    });
    const dry = await node.vlmc('check', '--all', '--repair', '--dry-run');
    expect(dry.out).toContain('WOULD REMOVE volume1\n');
    expect(node.asked('composer', Op.DELETE)).toEqual([]);
    const { report } = await check('volume1', '--repair');
    expect(report).toMatchObject({ repaired: 1, findings: [{ kind: 'interrupted-deletion', repaired: true }] });
    // Only the volume of this id: the mapper deletes no other one of its name.
    expect(node.asked('composer', Op.DELETE)).toMatchObject([{ note: `${lineage.id} 3` }]);
    expect((await check('--all')).kinds).toEqual([]);
  });

  it('--repair leaves them while the volume is in use, and says so', async () => {
    mark();
    node.on('endpoint', Op.SHOWMAPPED, () => ({
      mapped: [],
      connections: [{ name: 'volume1', peer: 'unix', since: 0 }],
    }));
    const { kinds, report } = await check('--all', '--repair');
    expect(kinds).toEqual(['note deletion-kept', 'note interrupted-deletion']);
    expect(messages(report)).toContain('in use by unix');
  });

  it('--repair deletes no volume that was made under the name meanwhile', async () => {
    mark();
    let lists = 0;
    store.onList = () => {
      if (++lists !== 2) return;
      store.add('volume1', { epoch: 4, lineage: newLineage(null) });
      store.put('volume1', 0, OWN, objectName('volume1', 4, 0));
    };
    const { report } = await check('--all', '--repair');
    expect(messages(report)).toContain('its deletion is not finished: the volume changed meanwhile');
    expect(node.asked('composer', Op.DELETE)).toEqual([]);
  });

  it.each<[string, (put: (block: number, flags?: number) => void) => void]>([
    [
      'among its neighbours',
      (put) => [0, 1, 2].forEach((block) => void put(block, block === 1 ? EntryFlag.DELETED : 0)),
    ],
    ['on a shared entry', (put) => void put(0, EntryFlag.DELETED | EntryFlag.WRITABLE)],
    [
      'behind a run that has none',
      (put) => {
        put(7);
        put(5000, EntryFlag.DELETED);
      },
    ],
  ])('--repair takes no mark for one that is %s', async (_where, arrange) => {
    const volume = store.add('volume2', { blocks: 6000, lineage });
    arrange((block, flags = 0) => {
      store.put('volume2', block, (OWN ^ (flags & OWN)) | (flags & EntryFlag.DELETED), objectName('volume2', 1, block));
    });
    expect(volume.entries.size).toBeGreaterThan(0);
    const { report } = await check('--all', '--repair');
    expect(messages(report)).toMatch(/its deletion is not finished: block \d+ is not marked as/);
    expect(node.asked('composer', Op.DELETE)).toEqual([]);
  });

  it('--repair leaves a volume without an id to the administrator', async () => {
    mark();
    Object.assign(store.volumes.get('volume1') ?? {}, { lineage: null });
    expect(messages((await check('--all', '--repair')).report)).toContain('vlmc remove volume1 when it is to go');
    expect(node.asked('composer', Op.DELETE)).toEqual([]);
  });

  it('--repair tells why one could not be finished', async () => {
    mark();
    node.on('composer', Op.DELETE, () => {
      throw new SystemError(errnos.EBUSY, 'volume volume1 is locked by node2_1002');
    });
    const { report } = await check('--all', '--repair');
    expect(messages(report)).toContain('its deletion is not finished: volume volume1 is locked by node2_1002');
  });
});

describe('renamings that were cut short', () => {
  const lineage: Lineage = newLineage(null, 1_700_000_000_000);

  beforeEach(() => {
    store.add('old-name', { epoch: 2, lineage });
    store.add('new-name', { epoch: 1, lineage });
    for (const name of ['old-name', 'new-name']) store.put(name, 3, SHARED, objectName('old-name', 1, 3));
  });

  it('are told with both ways out, and that nothing was written since', async () => {
    const { kinds, status, report } = await check('--all');
    expect({ kinds, status }).toEqual({ kinds: ['note interrupted-rename'], status: 0 });
    expect(messages(report)).toMatch(/same content\. .*vlmc remove new-name, or vlmc remove old-name$/);
    expect((await check('old-name')).kinds).toEqual(['note interrupted-rename']);
    expect((await check('volume1')).kinds).toEqual([]);
  });

  it('are told to be looked at when one of the two was written to', async () => {
    store.put('new-name', 3, OWN, objectName('new-name', 1, 3));
    expect(messages((await check('--all')).report)).toContain('one of them was written to since');
  });

  it('are not confused with those that run', async () => {
    store.locks.set('old-name', 'node2_1002');
    expect((await check('--all')).kinds).toEqual(['note renaming']);
  });

  it('--repair leaves the choice to the administrator', async () => {
    await check('--all', '--repair');
    expect(node.asked('composer', Op.DELETE)).toEqual([]);
  });
});

describe('lost locks', () => {
  it('are told with the way out', async () => {
    node.on('mapper', Op.STATUS, () => ({ role: 'mapperd', lost: 1 }));
    const lost = { holder: 'node2_1002', at: 1_700_000_000_000 };
    node.on('mapper', Op.LOCKINFO, ({ target }) => ({
      lock: null,
      open: null,
      byHand: false,
      lost: target === 'volume1' ? lost : null,
    }));
    const { kinds, report } = await check('--all');
    expect(kinds).toEqual(['note lock-lost']);
    expect(messages(report)).toContain('vlmc close volume1');
    expect((await check('snap-1')).kinds).toEqual([]);
    // The mapper refuses to tell its map: that is no damage, and what it names is not called an orphan.
    node.refuse('mapper', Op.MAPFETCH, ({ target }) => target === 'volume1');
    const refused = await check('--all');
    expect(refused).toMatchObject({ status: 0 });
    expect(refused.kinds).toEqual(['note lock-lost', 'note map-not-read', 'note perhaps-orphan']);
  });
});

describe('leftovers in the maps store', () => {
  it('map data that was never finished is one note, and what it names is no orphan', async () => {
    const wanted = objectName('volume1', 1, 5);
    store.objects.set(wanted, 5);
    store.raw.set(mapData('new-snap'), entriesOf(wanted)).set(`new-snap_${'0'.repeat(15)}1`, entriesOf(wanted));
    const { kinds, report } = await check('--all', '--repair');
    expect(kinds).toEqual(['note stray-map']);
    expect(report.findings[0]).toMatchObject({ count: 2 });
    expect(store.objects.has(wanted)).toBe(true);
  });

  it('other orphans are deleted all the same', async () => {
    const lost = objectName('volume1', 1, 6);
    store.objects.set(lost, 5);
    store.raw.set(mapData('new-snap'), entriesOf(objectName('volume1', 1, 5)));
    expect((await check('--all', '--repair')).report.repaired).toBe(1);
    expect(store.objects.has(lost)).toBe(false);
  });

  it('a map that is finished meanwhile is not told', async () => {
    store.raw.set(mapData('new-snap'), entriesOf());
    node.on('maps', Op.LOCKS, () => {
      store.add('new-snap', { readOnly: true });
      return { locks: [], cursor: null };
    });
    expect((await check('--all')).kinds).toEqual(['note volumes-changed']);
  });

  it('locks of no volume are told, whether the maps store or the lock directory has them', async () => {
    store.raw.set('gone-one_lock', Buffer.from('node2_1002')).set('volume1_lock', Buffer.from('node1_1002'));
    store.ownLocks.add('gone-two').add('volume1');
    store.locks.set('gone-one', 'node2_1002').set('gone-two', 'here').set('volume1', 'here');
    const { kinds, report } = await check('--all');
    expect(kinds).toEqual(['note lock-without-volume', 'note lock-without-volume']);
    expect(messages(report)).toMatch(/gone-one is locked by node2_1002.*vlmc unlock gone-one/);
  });

  it('a lock that is only being used is not told', async () => {
    store.raw.set('gone-one_lock', Buffer.from('node2_1002'));
    node.on('maps', Op.LOCKINFO, () => ({ owner: 'node2_1002', since: Date.now() }));
    expect((await check('--all')).kinds).toEqual([]);
  });

  it('temporary files of the original are told', async () => {
    store.raw.set('volume1_locknode2_1002_ab', Buffer.from('node2_1002'));
    expect((await check('--all')).kinds).toEqual(['note temporary-file']);
  });
});

describe('leftovers of hashing', () => {
  it('remembered hashes of objects that are gone, and temporary files, are told and never deleted', async () => {
    const memo = `${objectName('volume1', 1, 1)}_hash`;
    const temporary = `${objectName('volume1', 1, 1)}_hashnode1_1000_aa`;
    store.objects
      .set(memo, 64)
      .set(temporary, 5)
      .set(`${objectName('volume1', 3, 0)}_hash`, 64)
      .set('d'.repeat(64), 5);
    const { kinds, status } = await check('--all', '--repair');
    expect({ kinds, status }).toEqual({ kinds: ['note hash-without-object', 'note temporary-file'], status: 0 });
    expect(node.asked('blocks', Op.DELETE)).toEqual([]);
  });
});

describe('headers that do not cover their maps', () => {
  it('a volume that is marked deleted and was not removed keeps its objects', async () => {
    store.add('volume2', { epoch: 2, deleted: true });
    store.put('volume2', 0, OWN, objectName('volume2', 2, 0));
    store.put('volume2', 1, OWN | EntryFlag.DELETED, objectName('volume2', 2, 1));
    store.raw.set(mapData('volume2'), store.bytesOf(mapData('volume2')));
    const { kinds, report } = await check('--all', '--repair');
    expect(kinds).toEqual(['error header-damaged', 'orphan orphan']);
    expect(messages(report)).toContain(
      'the header says that it is deleted, but 1 own block of its map were not removed',
    );
    expect(report.repaired).toBe(1);
    expect(store.objects.has(objectName('volume2', 2, 0))).toBe(true);
  });

  it('a volume that is shorter than its map keeps the objects behind its end', async () => {
    const volume = store.add('volume2', { epoch: 2, lineage: newLineage(null) });
    store.put('volume2', 0, OWN, objectName('volume2', 1, 0));
    store.put('volume2', 8, OWN, objectName('volume2', 1, 8));
    store.put('volume2', 9, SHARED, objectName('volume2', 1, 9));
    store.raw.set(mapData('volume2'), store.bytesOf(mapData('volume2')));
    volume.blocks = 5;
    const { kinds, report } = await check('--all', '--repair');
    expect(kinds).toEqual(['error header-damaged', 'orphan orphan']);
    expect(messages(report)).toContain(`1 own block behind its end at ${5 * BLOCK} bytes`);
    expect(store.objects.has(objectName('volume2', 1, 8))).toBe(true);
    // One of the original was perhaps shrunk by it.
    volume.lineage = null;
    expect((await check('--all')).kinds).toEqual(['orphan orphan']);
  });
});

describe('mixed up maps', () => {
  it('an entry of another block is an error, although its object exists', async () => {
    store.put('volume1', 5, OWN, objectName('volume1', 3, 6));
    store.put('volume1', 6, OWN, objectName('volume1', 3, 5));
    const { kinds, report } = await check('volume1');
    expect(kinds).toEqual(['error misplaced-object', 'error misplaced-object']);
    expect(messages(report)).toContain('was made for block 6');
  });
});

describe('--repair', () => {
  const lost = objectName('volume1', 1, 6);

  it('keeps what was changed lately, and says so', async () => {
    store.objects.set(lost, 5);
    store.modified.set(lost, Date.now() - 5000);
    const { kinds, report, status } = await check('--all', '--repair');
    expect({ kinds, status }).toEqual({ kinds: ['note orphans-kept', 'orphan orphan'], status: 255 });
    expect(messages(report)).toContain('1 changed within the last 60 s (--age)');
    expect((await check('--all', '--repair', '--age', '3')).report).toMatchObject({ repaired: 1, good: true });
    expect(store.objects.has(lost)).toBe(false);
  });

  it('deletes under a lease only until it runs out, which the mapper may put off', async () => {
    const present = [6, 7, 8].map((block) => objectName('volume1', 3, block));
    for (const name of present) store.objects.set(name, 5);
    const mapper = node.ports.get('mapper');
    const seen: number[] = [];
    node.on('blocks', Op.DELETE, async ({ target, deadline }) => {
      seen.push(deadline);
      if (seen.length === 3) throw new SystemError(errnos.ETIME, 'too late');
      store.objects.delete(target);
      await mapper?.call(store.leases.get('volume1') as number, { op: Op.RENEW, offset: 10 ** 12 });
      return undefined;
    });
    const { report, status } = await check('--all', '--repair');
    expect(status).toBe(255);
    expect(seen[0]).toBeGreaterThan(0);
    expect(seen.slice(1)).toEqual([10 ** 12, 10 ** 12]);
    expect(report.repaired).toBe(2);
    expect(messages(report)).toContain('orphans kept: the mapper did not say in time');
    expect(store.locks.size).toBe(0);
  });

  it('deletes no orphans while a name is locked under which a volume may be in the making', async () => {
    store.objects.set(lost, 5);
    store.add('dead-1', { deleted: true });
    for (const name of ['dead-1', 'new-one']) {
      store.raw.set(`${name}_lock`, Buffer.from('node2_1002'));
      store.locks.set(name, 'node2_1002');
      const { report } = await check('--all', '--repair');
      expect(messages(report)).toContain(`orphans are kept: ${name} is locked and there is no such volume`);
      expect(store.objects.has(lost)).toBe(true);
      store.locks.delete(name);
    }
    expect((await check('--all', '--repair')).report.repaired).toBe(1);
  });

  it('does not close for others: what is open here, or lost, stays as it is', async () => {
    const present = objectName('volume1', 3, 6);
    store.objects.set(present, 5);
    store.open.set('volume1', 'shared');
    expect(messages((await check('--all', '--repair')).report)).toContain(
      'orphans kept: the volume is open here (shared)',
    );
    store.open.clear();
    store.lost.set('volume1', { holder: 'node2_1002', at: 1_700_000_000_000 });
    expect(messages((await check('--all', '--repair')).report)).toContain('orphans kept: this node has lost the lock');
    expect(node.asked('mapper', Op.LEASE)).toEqual([]);
    store.lost.clear();
    expect((await check('--all', '--repair')).report.repaired).toBe(1);
    expect(node.asked('mapper', Op.CLOSE)).toMatchObject([{ flags: Flag.IMPLICIT }]);
  });

  it('--dry-run tells what it would delete, and changes nothing', async () => {
    store.objects.set(lost, 5).set(objectName('volume1', 3, 6), 5);
    const { out, status } = await node.vlmc('check', '--all', '--repair', '--dry-run');
    expect(status).toBe(255);
    expect(out).toContain(`WOULD DELETE ${lost}\n`);
    expect(out).toMatch(/: 0 errors, 2 orphans, 0 notes\n$/);
    expect((await check('--all', '--repair', '--dry-run')).report).toMatchObject({ repaired: 0, wouldRepair: 2 });
    expect(node.asked('blocks', Op.DELETE)).toEqual([]);
    expect(node.asked('mapper', Op.LEASE)).toEqual([]);
  });

  it('--dry-run alone, and an age that is no number, are refused', async () => {
    expect((await node.vlmc('check', '--all', '--dry-run')).err).toBe('--dry-run goes with --repair\n');
    expect((await node.vlmc('check', '--all', '--repair', '--age', 'old')).status).toBe(2);
  });
});
