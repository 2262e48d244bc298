/** Lineage through the life of volumes, and the snapshots that are found by it; what other programs' headers leave of it. */
import { mkdirSync, utimesSync } from 'node:fs';
import path from 'node:path';
import { beforeEach, describe, expect, it } from 'vitest';
import { hashedPath } from '../../../src/blockers/file/paths.js';
import type { MapHeader } from '../../../src/mapper/formats/header.js';
import type { Lineage } from '../../../src/mapper/formats/lineage.js';
import * as v2 from '../../../src/mapper/formats/v2.js';
import { MapStore, noV0 } from '../../../src/mapper/map-store.js';
import { SnapshotIndex } from '../../../src/mapper/snapshot-index.js';
import type { VolumeListEntry } from '../../../src/requests/json.js';
import { errnos, SystemError } from '../../../src/sys/errno.js';
import {
  createSmall,
  failure,
  fileNode,
  memoryNode,
  memoryStores,
  type Node,
  type Stores,
  temporaryDirectory,
  writeVolume,
} from './support.js';

const BLOCK = 256;
const SIZE = 4 * BLOCK;

let stores: Stores;
let node: Node;
beforeEach(() => {
  stores = memoryStores();
  node = memoryNode(stores);
});

async function headerOf(name: string, at = node): Promise<MapHeader> {
  const map = await new MapStore(at.maps).open(name, noV0);
  if (!map) throw new Error(`no map ${name}`);
  return map.header;
}

async function lineageOf(name: string, at = node): Promise<Lineage> {
  const { lineage } = await headerOf(name, at);
  if (!lineage) throw new Error(`${name} has no lineage`);
  return lineage;
}

/** Rewrites the first 32 bytes of a header in place, as the original does; what is behind them stays. */
async function rewrite(name: string, change: Partial<MapHeader>): Promise<void> {
  const header = { ...(await headerOf(name)), ...change };
  await node.maps.write(name, 0, v2.encodeHeader(header).subarray(0, 32));
}

/** A header as software without lineage writes it: 32 bytes. */
async function forget(name: string): Promise<void> {
  await node.maps.write(name, 0, v2.encodeHeader({ ...(await headerOf(name)), lineage: null }));
}

async function snapshotsOf(name: string, at = node, limit = 100): Promise<VolumeListEntry[]> {
  const found: VolumeListEntry[] = [];
  for (let cursor: string | null = null; ; ) {
    const page = await at.mapper.list({ cursor, limit, snapshotsOf: name });
    found.push(...page.volumes);
    cursor = page.cursor;
    if (cursor === null) return found;
  }
}

const namesOf = (entries: VolumeListEntry[]): string[] => entries.map((entry) => entry.name);

describe('lineage', () => {
  it('goes from volume to snapshot to clone, and stays through everything else', async () => {
    const from = Date.now();
    await node.mapper.create('volume-a', 10_000_000);
    const volume = await lineageOf('volume-a');
    expect(volume).toMatchObject({ id: expect.stringMatching(/^[0-9a-f]{32}$/), parentId: null, parentName: null });
    await node.mapper.snapshot('volume-a', 'snapshot-a');
    const snapshot = await lineageOf('snapshot-a');
    expect(snapshot).toMatchObject({ parentId: volume.id, parentName: 'volume-a' });
    await node.mapper.clone('clone-a', 'snapshot-a', 0);
    const clone = await lineageOf('clone-a');
    expect(clone).toMatchObject({ parentId: snapshot.id, parentName: 'snapshot-a' });
    expect(new Set([volume.id, snapshot.id, clone.id]).size).toBe(3);
    const times = [from, volume.created, snapshot.created, clone.created, Date.now()].map(Number);
    expect(times).toEqual(times.toSorted((a, b) => a - b));

    await writeVolume(node, 'clone-a', 0, Buffer.from('written'));
    await node.mapper.resize('clone-a', 20_000_000, false);
    await node.mapper.resize('clone-a', 12_000_000, true);
    await node.mapper.snapshot('clone-a', 'snapshot-b');
    expect(await lineageOf('clone-a')).toEqual(clone);
    expect((await lineageOf('snapshot-b')).parentId).toBe(clone.id);
    await node.mapper.rename('clone-a', 'clone-b');
    expect(await lineageOf('clone-b')).toEqual(clone);
    expect(namesOf(await snapshotsOf('clone-b'))).toEqual(['snapshot-b']);
    expect(await lineageOf('volume-a')).toEqual(volume);
    await node.mapper.rename('snapshot-a', 'snapshot-c');
    expect(await lineageOf('snapshot-c')).toEqual(snapshot);
    expect(namesOf(await snapshotsOf('volume-a'))).toEqual(['snapshot-c']);
  });

  it('is looked for among many maps without keeping anybody from changing the volume', async () => {
    await createSmall(node, 'volume-a', SIZE, BLOCK);
    await node.mapper.snapshot('volume-a', 'snapshot-a');
    let walking: () => void = () => {};
    const walk = new Promise<void>((resolve) => (walking = resolve));
    let go: () => void = () => {};
    const gate = new Promise<void>((resolve) => (go = resolve));
    node.maps.before = async (operation) => {
      if (operation !== 'list') return;
      walking();
      await gate;
    };
    const found = snapshotsOf('volume-a');
    await walk;
    await node.mapper.snapshot('volume-a', 'snapshot-b');
    await node.mapper.resize('volume-a', 2 * SIZE, false);
    go();
    expect(namesOf(await found)).toEqual(['snapshot-a', 'snapshot-b']);
  });

  it('is told by INFO, LIST and STAT', async () => {
    await createSmall(node, 'volume-a', SIZE, BLOCK);
    await node.mapper.snapshot('volume-a', 'snapshot-a');
    const volume = await lineageOf('volume-a');
    const snapshot = await lineageOf('snapshot-a');
    expect(await node.mapper.describe('volume-a')).toMatchObject({ created: volume.created, parent: null });
    const told = { created: snapshot.created, parent: 'volume-a' };
    expect(await node.mapper.describe('snapshot-a')).toMatchObject(told);
    expect(await node.mapper.stat('snapshot-a')).toMatchObject(told);
    const { volumes } = await node.mapper.list({ cursor: null, limit: 10 });
    expect(volumes.find(({ name }) => name === 'snapshot-a')).toMatchObject(told);
    expect(volumes.find(({ name }) => name === 'volume-a')).not.toHaveProperty('parent');
  });

  it('goes with the volume: a deleted one has none, one that is made again has another', async () => {
    await createSmall(node, 'volume-a', SIZE, BLOCK);
    const { id } = await lineageOf('volume-a');
    await node.mapper.snapshot('volume-a', 'snapshot-a');
    await node.mapper.remove('volume-a');
    const tombstone = await node.maps.read('volume-a', 0, 512);
    expect(tombstone.subarray(32)).toEqual(Buffer.alloc(480));
    await createSmall(node, 'volume-a', SIZE, BLOCK);
    expect((await lineageOf('volume-a')).id).not.toBe(id);
    // The snapshot is of the volume that was.
    expect(await snapshotsOf('volume-a')).toEqual([]);
  });

  it('is given to a volume without it by its next snapshot, in the write of the header that is due anyway', async () => {
    await createSmall(node, 'volume-a', SIZE, BLOCK);
    await node.mapper.close('volume-a');
    await forget('volume-a');
    const headers: string[] = [];
    node.maps.before = (operation, name) => {
      if (operation === 'write' && name === 'volume-a') headers.push(name);
    };
    await node.mapper.snapshot('volume-a', 'snapshot-a');
    expect(headers.length).toBe(1);
    const volume = await lineageOf('volume-a');
    expect(volume).toMatchObject({ created: null, parentId: null, parentName: null });
    expect(await lineageOf('snapshot-a')).toMatchObject({ parentId: volume.id, parentName: 'volume-a' });
    expect(await snapshotsOf('volume-a')).toMatchObject([{ name: 'snapshot-a', parent: 'volume-a' }]);
    expect((await snapshotsOf('volume-a'))[0]).not.toHaveProperty('guessed');
  });

  it('is there whole or not at all, whatever write of a snapshot is the last', async () => {
    for (let last = 0; ; last++) {
      stores = memoryStores();
      node = memoryNode(stores);
      await createSmall(node, 'volume-a', SIZE, BLOCK);
      await node.mapper.close('volume-a');
      const before = await lineageOf('volume-a');
      let count = 0;
      node.maps.before = (operation) => {
        if (operation === 'write' && count++ >= last) throw new SystemError(errnos.EIO, 'the end');
      };
      const done = await node.mapper.snapshot('volume-a', 'snapshot-a').then(
        () => true,
        () => false,
      );
      const after = memoryNode(stores);
      expect(await lineageOf('volume-a', after)).toEqual(before);
      expect(namesOf(await snapshotsOf('volume-a', after))).toEqual(done ? ['snapshot-a'] : []);
      if (done) break;
    }
  });

  it('is void where another program made the volume again, or took a snapshot of it', async () => {
    await createSmall(node, 'volume-a', SIZE, BLOCK);
    await node.mapper.snapshot('volume-a', 'snapshot-a');
    await node.mapper.close('volume-a');
    const { epoch, lineage } = await headerOf('volume-a');
    // It deleted: the bytes behind the header stay, and mean nothing.
    await rewrite('volume-a', { deleted: true });
    expect((await headerOf('volume-a')).lineage).toBeNull();
    await rewrite('volume-a', { epoch: epoch + 1, deleted: false });
    expect((await headerOf('volume-a')).lineage).toBeNull();
    expect(await node.mapper.describe('volume-a')).toMatchObject({ created: null, parent: null });
    // Whether it is the same volume cannot be told: the snapshot may be of it.
    expect(await snapshotsOf('volume-a')).toMatchObject([{ name: 'snapshot-a', guessed: true }]);
    await node.mapper.snapshot('volume-a', 'snapshot-b');
    expect((await lineageOf('volume-a')).id).not.toBe(lineage?.id);
    expect(await snapshotsOf('volume-a')).toMatchObject([
      { name: 'snapshot-a', guessed: true },
      { name: 'snapshot-b' },
    ]);
  });
});

describe('the snapshots of a volume', () => {
  /** `count` snapshots of each of two volumes. */
  async function prepare(count: number): Promise<void> {
    for (const letter of ['a', 'b']) {
      await createSmall(node, `volume-${letter}`, SIZE, BLOCK);
      for (let i = 0; i < count; i++) {
        await writeVolume(node, `volume-${letter}`, 0, Buffer.alloc(BLOCK, i + 1));
        await node.mapper.snapshot(`volume-${letter}`, `snap-${letter}-${i}`);
      }
      await node.mapper.close(`volume-${letter}`);
    }
  }

  it('are found in the order of names, page by page, and no others', async () => {
    await prepare(5);
    await node.mapper.clone('volume-c', 'snap-a-0', 0);
    await node.mapper.snapshot('volume-c', 'snap-c-0');
    await node.mapper.snapshot('snap-a-1', 'snap-of-snap');
    const expected = [0, 1, 2, 3, 4].map((i) => `snap-a-${i}`);
    for (const limit of [1, 2, 5, 100]) expect(namesOf(await snapshotsOf('volume-a', node, limit))).toEqual(expected);
    const entries = await snapshotsOf('volume-a');
    for (const entry of entries) {
      expect(entry).toEqual({
        name: entry.name,
        size: SIZE,
        blockSize: BLOCK,
        readOnly: true,
        version: 2,
        epoch: 0,
        created: (await lineageOf(entry.name)).created,
        parent: 'volume-a',
      });
    }
    expect(namesOf(await snapshotsOf('volume-c'))).toEqual(['snap-c-0']);
    expect(namesOf(await snapshotsOf('snap-a-1'))).toEqual(['snap-of-snap']);
    await expect(snapshotsOf('no-volume')).rejects.toEqual(failure('ENOENT', 'no-volume'));
    await expect(snapshotsOf('')).rejects.toEqual(failure('EINVAL'));
  });

  it('can be asked for one name', async () => {
    await prepare(2);
    const one = async (name: string) =>
      namesOf((await node.mapper.list({ cursor: null, limit: 5, snapshotsOf: 'volume-a', name })).volumes);
    expect(await one('snap-a-1')).toEqual(['snap-a-1']);
    for (const other of ['snap-b-1', 'volume-b', 'volume-a', 'no-such-name']) expect(await one(other)).toEqual([]);
    await expect(one('a/b')).rejects.toEqual(failure('EINVAL'));
  });

  it('are found without reading all headers each time; what this node changes is seen at once', async () => {
    await prepare(40);
    const other = memoryNode(stores, 'node2_1002');
    let reads = 0;
    other.maps.before = (operation) => {
      if (operation === 'read' || operation === 'list') reads++;
    };
    const index = new SnapshotIndex(new MapStore(other.maps), () => 5);
    const a = await lineageOf('volume-a');
    const ofA = (): Promise<string[]> => index.candidates(({ lineage }) => lineage?.parentId === a.id);
    // A walk that took no time is good for no time.
    expect((await ofA()).length).toBe(40);
    expect(reads).toBeGreaterThan(80);

    let clock = 0;
    let tick = 1;
    const slow = new SnapshotIndex(new MapStore(other.maps), () => {
      clock += tick;
      return clock;
    });
    const candidates = (): Promise<string[]> => slow.candidates(({ lineage }) => lineage?.parentId === a.id);
    expect((await candidates()).length).toBe(40);
    tick = 0;
    reads = 0;
    await node.mapper.snapshot('volume-a', 'snap-a-new');
    expect((await candidates()).length).toBe(40);
    slow.made('snap-a-new');
    expect(await candidates()).toContain('snap-a-new');
    expect(reads).toBe(0);
    // Later it looks again.
    clock += 10_000;
    expect((await candidates()).length).toBe(41);
    expect(reads).toBeGreaterThan(80);
  });

  it('are all found when there are more than are remembered', async () => {
    await prepare(10);
    const index = new SnapshotIndex(new MapStore(node.maps), () => 0, 3);
    const b = await lineageOf('volume-b');
    expect((await index.candidates(({ lineage }) => lineage?.parentId === b.id)).length).toBe(10);
  });

  it('that are removed or made again elsewhere do not count any more', async () => {
    await prepare(3);
    // What node finds once is good for some time; the headers are looked at all the same.
    expect(namesOf(await snapshotsOf('volume-a'))).toEqual(['snap-a-0', 'snap-a-1', 'snap-a-2']);
    const other = memoryNode(stores, 'node2_1002');
    await other.mapper.remove('snap-a-0');
    await other.mapper.remove('snap-a-1');
    await other.mapper.snapshot('volume-b', 'snap-a-1');
    await other.mapper.close('volume-b');
    expect(namesOf(await snapshotsOf('volume-a'))).toEqual(['snap-a-2']);
  });

  it('are told with what is wrong when one cannot be read', async () => {
    await prepare(2);
    expect((await snapshotsOf('volume-a')).length).toBe(2);
    node.maps.before = (operation, name) => {
      if (operation === 'read' && name === 'snap-a-1') throw new SystemError(errnos.EIO, 'the disk is bad');
    };
    const { volumes } = await node.mapper.list({ cursor: null, limit: 5, snapshotsOf: 'volume-a', name: 'snap-a-1' });
    expect(volumes).toMatchObject([{ name: 'snap-a-1', error: expect.stringContaining('the disk is bad') }]);
  });
});

describe('where there is no lineage', () => {
  it("a snapshot is taken for the volume's whose generations of objects it names, and for no other's", async () => {
    for (const name of ['volume-a', 'volume-b']) {
      await createSmall(node, name, SIZE, BLOCK);
      await writeVolume(node, name, BLOCK, Buffer.alloc(BLOCK, 1));
      await node.mapper.snapshot(name, `${name}-snap`);
      await node.mapper.close(name);
    }
    await node.mapper.clone('the-clone', 'volume-a-snap', 0);
    await writeVolume(node, 'the-clone', 0, Buffer.alloc(BLOCK, 1));
    await node.mapper.snapshot('the-clone', 'clone-snap');
    await node.mapper.close('the-clone');
    for (const name of ['volume-a-snap', 'volume-b-snap', 'clone-snap']) await forget(name);
    // A volume with an id from its start has no snapshots without lineage.
    expect(await snapshotsOf('volume-a')).toEqual([]);
    await forget('volume-a');
    expect(await snapshotsOf('volume-a')).toMatchObject([{ name: 'volume-a-snap', parent: 'volume-a', guessed: true }]);
    // What names objects of a generation that the volume has not had is of another volume of that name.
    await rewrite('volume-a', { epoch: 1 });
    await forget('volume-a');
    expect(await snapshotsOf('volume-a')).toEqual([]);
  });

  it('a snapshot was made when its header was written, as far as the store tells; a volume is not known', async () => {
    const root = temporaryDirectory();
    for (const part of ['maps', 'blocks']) mkdirSync(path.join(root, part));
    const files = await fileNode(root);
    await files.mapper.create('volume-a', 10_000_000);
    await files.mapper.snapshot('volume-a', 'snapshot-a');
    await files.mapper.stop();
    const time = Date.UTC(2015, 4, 6, 7, 8, 9);
    for (const name of ['volume-a', 'snapshot-a']) {
      const header = { ...(await headerOf(name, files)), lineage: null };
      await files.maps.write(name, 0, v2.encodeHeader(header));
      await files.maps.flush([name]);
      utimesSync(hashedPath(path.join(root, 'maps'), name), time / 1000, time / 1000);
    }
    expect(await files.mapper.describe('snapshot-a')).toMatchObject({ created: time, parent: null });
    expect(await files.mapper.describe('volume-a')).toMatchObject({ created: null, parent: null });
    const { volumes } = await files.mapper.list({ cursor: null, limit: 5 });
    expect(volumes.find(({ name }) => name === 'snapshot-a')).toMatchObject({ created: time });
    expect(volumes.find(({ name }) => name === 'volume-a')).not.toHaveProperty('created');
  });
});
