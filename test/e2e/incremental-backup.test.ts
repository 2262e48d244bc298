/**
 * Backups of what changed: a full copy of one snapshot, then only the extents that the map says differ from the next, by our script, by
 * qemu-img and by what nbdinfo prints. What comes out is the newer snapshot, byte for byte, and little was read for it.
 */
import { closeSync, copyFileSync, openSync, statSync, truncateSync, writeFileSync, writeSync } from 'node:fs';
import path from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { type MapExtent, qemuIo, sha256 } from './harness/clients.js';
import { useNode } from './harness/node.js';
import { programs } from './harness/requirements.js';
import { attempt, hashOutput, run } from './harness/run.js';

const MiB = 1 << 20;
const BLOCK = 4 * MiB;
const SIZE = 256 * MiB;
const script = path.resolve(import.meta.dirname, '../../scripts/incremental-backup.py');

/** Blocks changed between the snapshots: written, written back as they were, zeroed, trimmed. */
const WRITTEN = [3, 17, 18, 40];
const ZEROED = [5, 6];
const NEW = 60;

describe.runIf(programs('nbdinfo', 'nbdcopy', 'qemu-img', 'qemu-io', 'nbdsh'))('an incremental backup', () => {
  const rig = useNode();
  const file = (name: string): string => path.join(rig.node.dir, name);
  const imageHash = async (image: string) => hashOutput('cat', [image]);
  const diffContext = (from: string): string => `archipelago:diff:${from}`;

  beforeAll(async () => {
    const uri = await rig.node.create('backup-volume', SIZE);
    await qemuIo(uri, ...Array.from({ length: 50 }, (_, i) => `write -P ${i + 1} ${i * BLOCK} ${BLOCK}`));
    await rig.node.vlmc('snapshot', 'backup-volume', 'backup-monday');
    await run('nbdcopy', [rig.node.uri('backup-volume@backup-monday'), file('monday.raw')]);
    await qemuIo(
      uri,
      ...WRITTEN.map((block) => `write -P ${block + 100} ${block * BLOCK + 4096} 8192`),
      ...ZEROED.map((block) => `write -z -u ${block * BLOCK} ${BLOCK}`),
      `write -P 77 ${NEW * BLOCK} 512`,
    );
    await rig.node.vlmc('snapshot', 'backup-volume', 'backup-tuesday');
    // What is written later is in neither.
    await qemuIo(uri, `write -P 9 ${30 * BLOCK} ${BLOCK}`);
  });

  /** What nbdinfo prints of a context, neighbours of one kind joined. */
  async function map(name: string, context: string): Promise<MapExtent[]> {
    const { stdout } = await run('nbdinfo', ['--json', `--map=${context}`, rig.node.uri(name)]);
    return JSON.parse(stdout) as MapExtent[];
  }

  const blocksOf = (extents: readonly MapExtent[]): number[] =>
    extents
      .filter(({ type }) => type === 1)
      .flatMap(({ offset, length }) => Array.from({ length: length / BLOCK }, (_, i) => offset / BLOCK + i));

  it('finds exactly the blocks that were changed, from a name or a time', async () => {
    const changed = [...WRITTEN, ...ZEROED, NEW].toSorted((a, b) => a - b);
    const names = ['backup-volume@backup-tuesday', 'backup-tuesday', 'backup-volume@-0s'];
    for (const name of names) {
      expect(blocksOf(await map(name, diffContext('backup-monday')))).toEqual(changed);
      expect(blocksOf(await map(name, 'qemu:dirty-bitmap:backup-monday'))).toEqual(changed);
    }
    expect(blocksOf(await map('backup-volume', diffContext('backup-monday')))).toEqual(
      [...changed, 30].toSorted((a, b) => a - b),
    );
    expect(blocksOf(await map('backup-volume', diffContext('backup-tuesday')))).toEqual([30]);
    expect(blocksOf(await map('backup-monday', diffContext('backup-monday')))).toEqual([]);
  });

  it('is listed by the server for every snapshot', async () => {
    const { stdout } = await run('nbdinfo', ['--json', rig.node.uri('backup-volume')]);
    const { contexts } = (JSON.parse(stdout) as { exports: { contexts: string[] }[] }).exports[0];
    expect(contexts.toSorted()).toEqual(
      [
        'base:allocation',
        'qemu:allocation-depth',
        'archipelago:object',
        ...['backup-monday', 'backup-tuesday'].flatMap((name) => [diffContext(name), `qemu:dirty-bitmap:${name}`]),
      ].toSorted(),
    );
  });

  it('by our script is identical to the newer snapshot and reads little', async () => {
    const image = file('script.raw');
    copyFileSync(file('monday.raw'), image);
    const uri = rig.node.uri('backup-volume@backup-tuesday');
    const { stdout } = await run('/usr/bin/python3', [script, uri, 'backup-monday', image]);
    const written = (WRITTEN.length + 1) * BLOCK;
    expect(stdout.trim()).toBe(`${written} of ${SIZE} bytes read, ${ZEROED.length * BLOCK} zeroed`);
    expect(await imageHash(image)).toEqual(await sha256(uri));
    // Again: there is nothing to do.
    const again = await run('/usr/bin/python3', [script, uri, 'backup-monday', image]);
    expect(again.stdout).toContain('holds backup-volume@backup-tuesday already');
    // And back in time.
    const back = rig.node.uri('backup-monday');
    await run('/usr/bin/python3', [script, back, 'backup-tuesday', image]);
    expect(await imageHash(image)).toEqual(await sha256(back));
  });

  it('is repeated after it was interrupted, and then refuses anything else', async () => {
    const image = file('interrupted.raw');
    copyFileSync(file('monday.raw'), image);
    const uri = rig.node.uri('backup-volume@-0s');
    const update = (...args: string[]) => attempt('/usr/bin/python3', [script, ...args]);
    // As it is left when the power goes in the middle: noted what is being done, a block of the newer snapshot written.
    writeFileSync(`${image}.holds`, '{"from": "backup-monday", "to": "backup-tuesday"}');
    const fd = openSync(image, 'r+');
    writeSync(fd, Buffer.alloc(512, 77), 0, 512, NEW * BLOCK);
    closeSync(fd);
    const back = await update(rig.node.uri('backup-monday'), 'backup-monday', image);
    expect(back.code).toBe(1);
    expect(back.stderr).toContain('is between backup-monday and backup-tuesday');
    expect((await update(uri, 'backup-monday', image)).code).toBe(0);
    expect(await imageHash(image)).toEqual(await sha256(uri));
    // The image holds Tuesday now: differences from Monday are not for it.
    const wrong = await update(rig.node.uri('backup-volume'), 'backup-monday', image);
    expect(wrong.code).toBe(1);
    expect(wrong.stderr).toContain('holds backup-volume@backup-tuesday and not backup-monday');
    const relative = await update(rig.node.uri('backup-volume'), '-0s', image);
    expect(relative.code).toBe(1);
    expect(relative.stderr).toContain('give the name of the one');
    expect(await imageHash(image)).toEqual(await sha256(uri));
  });

  it('by qemu-img, which takes the context for a dirty bitmap, is identical too', async () => {
    const image = file('qemu.raw');
    copyFileSync(file('monday.raw'), image);
    const source = `driver=nbd,server.type=unix,server.path=${rig.node.socket},export=backup-tuesday`;
    const bitmap = `${source},x-dirty-bitmap=qemu:dirty-bitmap:backup-monday`;
    const { stdout } = await run('qemu-img', ['map', '--output=json', '--image-opts', bitmap]);
    const extents = JSON.parse(stdout) as { start: number; length: number; data: boolean }[];
    // qemu shows dirty extents of such a bitmap as those without data.
    const dirty = extents.filter(({ data }) => !data);
    expect(dirty.reduce((sum, { length }) => sum + length, 0)).toBe((WRITTEN.length + ZEROED.length + 1) * BLOCK);
    for (const { start, length } of dirty) {
      const range = `offset=${start},size=${length}`;
      await run('qemu-img', [
        ...['convert', '-n', '--image-opts', '--target-image-opts'],
        `driver=raw,${range},file.driver=nbd,file.server.type=unix,file.server.path=${rig.node.socket},file.export=backup-tuesday`,
        `driver=raw,${range},file.driver=file,file.filename=${image}`,
      ]);
    }
    expect(await imageHash(image)).toEqual(await sha256(rig.node.uri('backup-tuesday')));
  });

  it('follows a volume that has grown, and one that has shrunk, in the middle of a block', async () => {
    const sizes = [SIZE + 6 * MiB, SIZE - 10 * MiB, SIZE + BLOCK];
    const image = file('resized.raw');
    copyFileSync(file('monday.raw'), image);
    let before = 'backup-monday';
    for (const [i, size] of sizes.entries()) {
      await rig.node.vlmc('resize', 'backup-volume', '--size', `${size}B`, '--force');
      const uri = rig.node.uri('backup-volume');
      await qemuIo(uri, `write -P ${200 + i} ${size - 1024} 1024`);
      const snapshot = `backup-resized-${i}`;
      await rig.node.vlmc('snapshot', 'backup-volume', snapshot);
      await run('/usr/bin/python3', [script, rig.node.uri(snapshot), before, image]);
      expect(statSync(image).size).toBe(size);
      expect(await imageHash(image)).toEqual(await sha256(rig.node.uri(snapshot)));
      before = snapshot;
    }
  });

  it('is refused in words where there is nothing to compare with', async () => {
    const image = file('refused.raw');
    copyFileSync(file('monday.raw'), image);
    truncateSync(image, 0);
    for (const base of ['backup-volume', 'no-such-snapshot', '2000-01-01']) {
      const outcome = await attempt('/usr/bin/python3', [script, rig.node.uri('backup-tuesday'), base, image]);
      expect(outcome.code).toBe(1);
      expect(outcome.stderr).toContain(`cannot be compared with ${base}`);
    }
    expect(statSync(image).size).toBe(0);
    const gone = await attempt('/usr/bin/python3', [
      script,
      rig.node.uri('backup-volume@no-such'),
      'backup-monday',
      image,
    ]);
    expect(gone.stderr).toContain('no export named');
  });
});
