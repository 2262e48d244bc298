/**
 * The tools on what the original wrote: listing, looking and checking change nothing, repair removes exactly the objects that the original
 * leaked, and an explicit upgrade makes a v2 map of the same content.
 */
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { sha256 } from './harness/clients.js';
import { fingerprintTree, goldenReader, readList, unpackGolden } from './harness/golden.js';
import { useNode } from './harness/node.js';
import { programs } from './harness/requirements.js';
import { describeOutcome } from './harness/run.js';

const work = mkdtempSync(path.join(os.tmpdir(), 'archipelago-vlmc-golden-'));
const golden = await unpackGolden(work);
const tree = path.join(golden, 'main');
const volumes = readList(path.join(golden, 'SHA256'));
afterAll(() => rmSync(work, { recursive: true, force: true }));

const hex = (n: number): string => n.toString(16).padStart(16, '0');
/** Blocks that a shrink of the original left behind. */
const leaked = [3, 4, 5].map((block) => `gold-shrunk_${hex(1)}_${hex(block)}`);

/** The two hand-made v1 maps both own this object: no fault of the original's, and just what check is for. */
const owned = 'archip_7e974914fa093c4c6f487f83d8b2ba5e846eb1347e57006b9d65dd7afdaf34e3';

const files = (): Map<string, string> => new Map([...fingerprintTree(tree)].filter(([, what]) => what !== 'directory'));

describe.runIf(programs('nbdcopy', 'python3'))('vlmc on volumes of the original', () => {
  const rig = useNode({
    maps: path.join(tree, 'maps'),
    blocks: path.join(tree, 'blocks'),
    lockDir: path.join(tree, 'locks'),
    hostname: 'tools',
    settings: { blockerb: { direct: 'False' }, blockerm: { direct: 'False' } },
  });
  let before: Map<string, string>;
  beforeAll(() => {
    before = files();
  });

  it('lists every volume that has a name to list, and no deleted one', async () => {
    const listed = new Set((await rig.node.vlmc('list')).trim().split('\n'));
    // A v0 map is told by its name, a hash; one of another name has nothing to be told by.
    const expected = volumes.map(({ name }) => name).filter((name) => name !== 'gold-v0flat');
    expect(expected.filter((name) => !listed.has(name))).toEqual([]);
    expect(listed.has('gold-deleted')).toBe(false);
    expect(listed.has('gold-rensrc')).toBe(false);
  });

  it.each(volumes)('tells about $name: size, and every block once', async ({ name, size, mapOptions }) => {
    const [info, map] = await Promise.all([
      rig.node.vlmcJson<{ size: number; blocks: Record<string, number> }>('info', name, ...mapOptions),
      rig.node.vlmcJson<{ blocks: { index: number; count: number; flags: string }[] }>('mapinfo', name, ...mapOptions),
    ]);
    expect(info.size).toBe(size);
    let next = 0;
    for (const { index, count } of map.blocks) {
      expect(index).toBe(next);
      next += count;
    }
    expect(next).toBe(info.blocks.total);
    const zero = map.blocks.filter(({ flags }) => flags.includes('Z')).reduce((sum, { count }) => sum + count, 0);
    expect(zero).toBe(info.blocks.zero);
  });

  it('finds what the original leaked, the object with two owners, and nothing else', async () => {
    const outcome = await rig.node.tryVlmc(['check', '--all', '--json']);
    expect(outcome.code, describeOutcome(outcome)).toBe(255);
    const { findings } = JSON.parse(outcome.stdout) as { findings: { kind: string; object: string }[] };
    const found = findings.map(({ kind, object }) => `${kind} ${object}`);
    expect(found.sort()).toEqual([...leaked.map((object) => `orphan ${object}`), `two-writers ${owned}`]);
    expect(files()).toEqual(before);
  });

  it('repair removes the orphans and nothing else', async () => {
    const { stdout } = await rig.node.tryVlmc(['check', '--all', '--repair', '--age', '0']);
    expect(stdout).toMatch(/: 1 error, 3 orphans \(3 deleted\), 0 notes\n$/);
    const after = files();
    const gone = [...before.keys()].filter((name) => !after.has(name));
    expect(gone.map((name) => path.basename(name)).sort()).toEqual(leaked);
    expect([...after].filter(([name, what]) => before.get(name) !== what)).toEqual([]);
    const { verdicts } = await goldenReader(golden, tree, path.join(golden, 'SHA256'));
    expect(verdicts.filter(({ verdict }) => verdict !== 'SAME')).toEqual([]);
  });

  it.each([
    ['gold-v1map0', []],
    ['gold-v1old', []],
    ['gold-v0flat', ['-v0']],
  ])('upgrades %s to a v2 map of the same content', async (name, options) => {
    const { node } = rig;
    const expected = volumes.find((volume) => volume.name === name);
    await node.vlmc('upgrade', name, ...options);
    const info = await node.vlmcJson<{ version: number; size: number }>('info', name);
    expect(info).toMatchObject({ version: 2, size: expected?.size });
    expect(await sha256(node.uri(name))).toEqual({ sha256: expected?.sha256, length: expected?.size });
    await node.vlmc('close', name);
    const { findings } = JSON.parse((await node.tryVlmc(['check', name, '--json'])).stdout) as {
      findings: { kind: string; object: string }[];
    };
    expect(findings.filter(({ object }) => object !== owned)).toEqual([]);
    expect(readdirSync(path.join(tree, 'locks')).filter((file) => file.startsWith(name))).toEqual([]);
  });
});
