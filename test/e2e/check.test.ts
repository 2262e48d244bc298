/**
 * vlmc check on a real store: everything that damage and crashes can leave is told as what it is, what the repair does is done and nothing else
 * is touched, and volumes in use raise no false alarm.
 */
import { afterEach, beforeAll, describe, expect, it } from 'vitest';
import { qemuIo, qemuRead } from './harness/clients.js';
import { useNode } from './harness/node.js';
import { programs } from './harness/requirements.js';
import { ended, start } from './harness/run.js';
import { dataObjectName, entry, mapDataName } from './harness/store.js';
import { repeated, type Stores } from './harness/stores.js';
import { vlmcDone, vlmcHere } from './harness/vlmc-here.js';

const MiB = 1 << 20;
const ENTRY = 128;

interface Finding {
  severity: string;
  kind: string;
  volume: string | null;
  block?: number;
  count?: number;
  object?: string;
  message: string;
  repaired?: boolean;
}

interface Report {
  volumes: string[];
  objects: number;
  errors: number;
  orphans: number;
  notes: number;
  repaired: number;
  wouldRepair?: number;
  good: boolean;
  findings: Finding[];
}

describe.runIf(programs('qemu-io'))('vlmc check', () => {
  const rig = useNode();

  async function check(...words: string[]): Promise<Report & { code: number; kinds: string[] }> {
    const { status: code, out } = await vlmcHere(rig.node.conf, ['check', '--json', ...words]);
    const report = JSON.parse(out) as Report;
    return { ...report, code, kinds: report.findings.map(({ severity, kind }) => `${severity} ${kind}`).sort() };
  }

  const vlmc = (...words: string[]): Promise<string> => vlmcDone(rig.node.conf, ...words);

  async function create(name: string, size: number): Promise<string> {
    await vlmc('create', name, '--size', `${size}B`);
    return rig.node.uri(name);
  }

  /** A volume with own and shared blocks and a snapshot, that is not open. */
  async function make(name: string): Promise<void> {
    const { node } = rig;
    await qemuIo(await create(name, 32 * MiB), 'write -P 1 0 12M', 'flush');
    await vlmc('snapshot', name, `${name}-snap`);
    await qemuIo(node.uri(name), 'write -P 2 0 4k', 'write -P 2 16M 4k', 'flush');
    await vlmc('close', name);
  }

  const stores = (): Stores => rig.node.stores;
  const block = dataObjectName;
  /** A map of a volume, which must be there. */
  const readMap = async (name: string): Promise<Buffer> => {
    const content = await stores().maps.read(name);
    if (!content) throw new Error(`there is no map object ${name}`);
    return content;
  };
  /** An object that nobody has changed for an hour. */
  const putOld = async (part: 'maps' | 'blocks', name: string, content: string): Promise<string> => {
    await stores()[part].write(name, content);
    await stores()[part].age(name, 3600);
    return name;
  };
  const exists = async (name: string): Promise<boolean> => (await stores().blocks.read(name)) !== null;

  beforeAll(() => make('checked'));

  // What a test damaged must not show in the next one, also when it failed.
  afterEach(async () => {
    const { maps, blocks } = stores();
    for (const name of (await vlmc('list')).split('\n')) {
      if (name !== '' && !/^checked(-snap)?$/.test(name)) await maps.remove(name, mapDataName(name));
    }
    const { findings } = await check('--all');
    for (const { object } of findings) {
      if (object === undefined) continue;
      await blocks.remove(object);
      if (!object.startsWith('checked_')) await maps.remove(object);
    }
  });

  it('finds nothing in a store that is as it should be', async () => {
    expect(await check('--all')).toMatchObject({ code: 0, good: true, kinds: [] });
  });

  it('tells damaged objects, each with its volume and block', async () => {
    await make('damaged');
    const { blocks } = stores();
    await blocks.write(block('damaged', 2, 4), Buffer.alloc(5 * MiB));
    await blocks.remove(block('damaged', 1, 1), block('damaged', 2, 0));
    const { code, kinds, findings } = await check('damaged');
    expect({ code, kinds }).toEqual({
      code: 255,
      kinds: ['error missing-object', 'error missing-own-object', 'error object-too-long'],
    });
    expect(findings.map(({ block }) => block).sort()).toEqual([0, 1, 4]);
    expect((await check('damaged-snap')).kinds).toEqual(['error missing-object']);
    // A short object is as good as a long one.
    await blocks.write(block('checked', 1, 2), Buffer.alloc(100, 1));
    expect((await check('checked')).kinds).toEqual([]);
  });

  it('tells damaged maps: cut short, missing, nonsense', async () => {
    await make('map-damage');
    const name = mapDataName('map-damage');
    const { maps } = stores();
    const whole = await readMap(name);
    await maps.write(name, whole.subarray(0, 5 * ENTRY));
    expect(await check('map-damage')).toMatchObject({
      code: 255,
      findings: [{ kind: 'map-data-short', block: 5, count: 3 }],
    });
    await maps.remove(name);
    const { errors, findings } = await check('map-damage');
    expect({ errors, first: findings[0] }).toMatchObject({
      errors: 1,
      first: { kind: 'map-data-missing', block: 0, count: 8 },
    });
    // Whose map cannot be read, whose objects are not called orphans.
    expect(findings.slice(1).map(({ kind }) => kind)).toEqual(['perhaps-orphan', 'perhaps-orphan']);
    await maps.write(name, whole.fill(0xff, 2 * ENTRY, 3 * ENTRY));
    expect(await check('map-damage')).toMatchObject({ findings: [{ kind: 'map-entry-damaged', block: 2, count: 1 }] });
  });

  it('tells an object of two writers and names that a write would use again', async () => {
    await make('clashing');
    await vlmc('create', 'clash-two', '--size', '32M');
    const map = await readMap(mapDataName('clash-two'));
    entry({ flags: 3, name: dataObjectName('clashing', 2, 4) }).copy(map, 4 * ENTRY);
    entry({ flags: 2, name: dataObjectName('clashing', 2, 7) }).copy(map, 7 * ENTRY);
    await stores().maps.write(mapDataName('clash-two'), map);
    await stores().blocks.write(block('clashing', 2, 7), 'x');
    const { kinds, findings } = await check('--all');
    expect(kinds).toEqual(['error epoch-behind', 'error two-writers']);
    expect(findings.find(({ kind }) => kind === 'two-writers')?.message).toMatch(
      /clash-two block 4 \(writable\).*clashing block 4 \(writable\)|clashing block 4 \(writable\).*clash-two block 4 \(writable\)/,
    );
  });

  it('finishes a deletion that was cut short, with --repair only', async () => {
    const { node } = rig;
    await make('half-gone');
    const map = await readMap(mapDataName('half-gone'));
    map[0] |= 8;
    await stores().maps.write(mapDataName('half-gone'), map);
    await stores().blocks.remove(block('half-gone', 2, 0));
    expect(await check('--all')).toMatchObject({ code: 0, kinds: ['note interrupted-deletion'] });
    expect(await check('--all', '--repair', '--dry-run')).toMatchObject({ repaired: 0, wouldRepair: 1 });
    expect(await vlmc('list')).toMatch(/^half-gone$/m);
    expect(await check('--all', '--repair')).toMatchObject({ code: 0, repaired: 1 });
    expect(await vlmc('list')).not.toMatch(/^half-gone$/m);
    expect(await exists(block('half-gone', 2, 4))).toBe(false);
    await qemuRead(node.uri('half-gone-snap'), 'read -P 1 0 12M');
    await vlmc('remove', 'half-gone-snap');
    // What only the snapshot named is an orphan now, and goes once it is old enough or told to.
    expect(await check('--all', '--repair', '--age', '0')).toMatchObject({ code: 0, orphans: 3, repaired: 3 });
    expect(await check('--all')).toMatchObject({ code: 0, kinds: [] });
  });

  it('tells a renaming that was cut short, and removing either name ends it without loss', async () => {
    const { node } = rig;
    await make('old-name');
    // What a crash before the old header goes leaves: both maps, no entry writable, the old one's epoch raised.
    const [head, map] = [await readMap('old-name'), await readMap(mapDataName('old-name'))];
    for (let at = 0; at < map.length; at += ENTRY) map[at] &= ~1;
    await stores().maps.write(mapDataName('old-name'), map);
    await stores().maps.write('new-name', head);
    await stores().maps.write(mapDataName('new-name'), map);
    // The same lineage in both needs the same epoch, which its checksum covers; new writes of the old name would clash.
    await vlmc('snapshot', 'old-name', 'old-name-snap2');
    const twins = await check('--all');
    expect(twins).toMatchObject({ code: 0, kinds: ['note interrupted-rename'] });
    expect(twins.findings[0].message).toMatch(/same content\. .*vlmc remove new-name, or vlmc remove old-name$/);
    await vlmc('remove', 'old-name');
    await qemuIo(node.uri('new-name'), 'read -P 2 0 4k', 'read -P 1 4k 4092k', 'read -P 2 16M 4k', 'write -P 3 0 4k');
    expect(await check('--all')).toMatchObject({ code: 0, kinds: [] });
  });

  it('tells maps that were never finished and locks of no volume; nothing they name is deleted', async () => {
    const { maps } = stores();
    const object = await putOld('blocks', block('checked', 1, 7), 'of a snapshot that is being made');
    const stray = mapDataName('unfinished');
    await maps.write(stray, entry({ flags: 2, name: object }));
    await maps.lockAs('node9_1002', 'lock-of-nothing');
    await maps.age('lock-of-nothing_lock', 3600);
    const report = await check('--all', '--repair');
    expect(report).toMatchObject({ code: 0, repaired: 0, kinds: ['note lock-without-volume', 'note stray-map'] });
    await maps.remove(stray, 'lock-of-nothing_lock');
    expect(await check('--all', '--repair')).toMatchObject({ code: 0, repaired: 1 });
    expect(await exists(object)).toBe(false);
  });

  it('never touches what others may own, and keeps what is young', async () => {
    const { blocks } = stores();
    const hash = 'ab'.repeat(32);
    const kept = [
      await putOld('blocks', hash, 'an image'),
      await putOld('blocks', `${hash}_hash`, hash),
      await putOld('blocks', 'somebody-elses-object', 'x'),
      await putOld('blocks', block('never-heard-of', 1, 1), 'x'),
    ];
    const young = block('checked', 1, 6);
    await blocks.write(young, 'x');
    const { code, findings } = await check('--all', '--repair');
    expect(code).toBe(255);
    const reasons = findings
      .filter(({ kind }) => kind === 'orphans-kept')
      .map(({ volume, message }) => `${volume}: ${message}`);
    expect(reasons.sort()).toEqual([
      expect.stringMatching(/^checked: orphans kept: 1 changed within the last 60 s/),
      expect.stringMatching(/^never-heard-of: orphans kept: there is no header/),
    ]);
    for (const name of [...kept, young]) expect(await exists(name), name).toBe(true);
    await blocks.age(young, 3600);
    await check('checked', '--repair');
    expect(await exists(young)).toBe(false);
    await blocks.remove(...kept);
  });

  it('an open volume keeps its orphans, and check takes no lock', async () => {
    const { node } = rig;
    await vlmc('open', 'checked');
    const orphan = await putOld('blocks', block('checked', 2, 6), 'x');
    expect(await check('checked', '--repair')).toMatchObject({ code: 0, kinds: ['note perhaps-orphan'] });
    expect(await exists(orphan)).toBe(true);
    await vlmc('close', 'checked');
    const { lock } = JSON.parse(await vlmc('--json', 'lock', 'checked', '--show')) as { lock: object | null };
    expect(lock).toBeNull();
    expect(await check('checked', '--repair')).toMatchObject({ code: 0, repaired: 1 });
    await qemuIo(node.uri('checked'), 'read -P 2 0 4k', 'write -P 4 24M 4k', 'read -P 4 24M 4k');
    await vlmc('close', 'checked');
  });

  it('raises no false alarm while volumes are written, trimmed, snapshotted, cloned, resized, renamed and removed', async () => {
    const { node } = rig;
    await vlmc('create', 'busy-disk', '--size', '64M');
    const commands = Array.from({ length: 400 }, (_, i) => {
      const at = `${(i * 7) % 16}`;
      return ['-c', i % 3 === 2 ? `discard ${Number(at) * 4}M 4M` : `write -P ${1 + (i % 200)} ${Number(at) * 4}M 64k`];
    }).flat();
    let busy = true;
    const churn = (async (): Promise<number> => {
      let rounds = 0;
      for (; busy; rounds++) {
        await vlmc('snapshot', 'busy-disk', `busy-snap-${rounds}`);
        await vlmc('create', `busy-clone-${rounds}`, '--snap', `busy-snap-${rounds}`);
        await qemuIo(node.uri(`busy-clone-${rounds}`), 'write -P 9 0 8M');
        await vlmc('resize', `busy-clone-${rounds}`, '--size', '20M', '--force');
        await vlmc('rename', `busy-clone-${rounds}`, `busy-other-${rounds}`);
        await vlmc('remove', `busy-other-${rounds}`);
      }
      return rounds;
    })();
    const writer = (async (): Promise<void> => {
      while (busy) {
        expect(
          await ended(start('qemu-io', ['-f', 'raw', ...commands, node.uri('busy-disk')], { stdio: 'ignore' })),
        ).toEqual({
          code: 0,
          signal: null,
        });
      }
    })();
    const alarms: Finding[] = [];
    try {
      for (let look = 0; look < (repeated ? 3 : 6); look++) {
        const { findings } = await check('--all');
        alarms.push(...findings.filter(({ severity }) => severity !== 'note'));
      }
    } finally {
      busy = false;
    }
    expect(await churn).toBeGreaterThan(0);
    await writer;
    expect(alarms).toEqual([]);
  });

  it('ends with 255 and the reason when a role is missing, and finds nothing wrong because of it', async () => {
    const { node } = rig;
    await node.archipelago('stop', 'blockerb');
    const outcome = await node.tryVlmc(['check', '--all']);
    expect(outcome).toMatchObject({ code: 255, stdout: '' });
    expect(outcome.stderr).toMatch(/^vlmc check failed: blockerb is not running/);
    await node.archipelago('start', 'blockerb');
    expect((await check('checked')).code).toBe(0);
  });
});
