/** Single operations of the file driver over the modelled disk, with a power cut after each change of it. */
import { expect, it } from 'vitest';
import { FileDriver } from '../../../src/blockers/file/index.js';
import { hashedPath, pithosPath } from '../../../src/blockers/file/paths.js';
import { Disk } from '../../sim/disk.js';
import { FileInode } from '../../sim/inode.js';
import { Random } from '../../sim/random.js';
import { SimulatedSystem } from '../../sim/system.js';
import { VirtualTime } from '../../sim/time.js';

const ROOT = '/blocks';
const CUTS = 40;

/** Does the work on a driver over the disk, and looks at what cuts may leave after each change. */
async function withCuts(
  disk: Disk,
  settings: { pithosMigrate?: boolean },
  work: (driver: FileDriver) => Promise<unknown>,
  look: (after: Disk) => void,
): Promise<void> {
  const time = new VirtualTime();
  let cuts = 0;
  const system = new SimulatedSystem(disk, new Random(1), time, {
    trace: () => {},
    changed: () => {
      for (let seed = 0; seed < CUTS; seed++) look(disk.cut(++cuts, false));
    },
  });
  const driver = new FileDriver({ root: ROOT, uniqueStr: 'sim_1', system, ...settings });
  const run = async (): Promise<void> => {
    await driver.open();
    await work(driver);
    await driver.close();
  };
  let settled = false;
  const running = run().finally(() => {
    settled = true;
  });
  running.catch(() => {});
  while (!settled) {
    await new Promise<void>((resolve) => setImmediate(resolve));
    if (system.waiting > 0) system.step();
  }
  await running;
  expect(cuts).toBeGreaterThan(0);
}

function content(disk: Disk, file: string): string | null {
  let inode: ReturnType<Disk['find']>;
  try {
    inode = disk.find(file);
  } catch {
    return null;
  }
  if (!(inode instanceof FileInode)) return null;
  const bytes = Buffer.alloc(inode.size);
  inode.read(bytes, 0);
  return bytes.toString('latin1');
}

it('an object that moves from its old Pithos path is never at neither', async () => {
  const name = 'ab'.repeat(32);
  const disk = new Disk();
  disk.mkdir(ROOT);
  disk.install(pithosPath(ROOT, name), Buffer.from('data'));
  await withCuts(
    disk,
    { pithosMigrate: true },
    async (driver) => {
      await driver.truncate(name, 4);
      expect(content(disk, pithosPath(ROOT, name))).toBe(null);
    },
    (after) => {
      const found = [pithosPath(ROOT, name), hashedPath(ROOT, name)].map((file) => content(after, file));
      expect(found).toContain('data');
    },
  );
});

it('a hash names no content that a cut takes away', async () => {
  const digest = /^[0-9a-f]{64}$/;
  const disk = new Disk();
  disk.mkdir(ROOT);
  disk.install(hashedPath(ROOT, 'object'), Buffer.from('data'));
  await withCuts(
    disk,
    {},
    (driver) => driver.hash('object', 4),
    (after) => {
      const memo = content(after, hashedPath(ROOT, 'object_hash'));
      if (memo !== null && digest.test(memo)) expect(content(after, hashedPath(ROOT, memo))).toBe('data');
    },
  );
});
