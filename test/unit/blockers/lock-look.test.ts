/** A look at a lock by another process than its blocker's: nothing that happens to a lock is missed, however short. */
import fs from 'node:fs';
import path from 'node:path';
import { expect, it } from 'vitest';
import { FileLockLook } from '../../../src/blockers/file/lock-look.js';
import { hashedPath } from '../../../src/blockers/file/paths.js';
import { lockLookOf } from '../../../src/blockers/lock-look.js';
import { parseConfig } from '../../../src/config/load.js';
import type { LockSeal } from '../../../src/requests/lock-look.js';
import { fileDriver, temporaryDirectory } from './support.js';

const OWNER = 'test_1000';

function lookAt(root: string, directory: string | null = null, owner = OWNER): FileLockLook {
  return new FileLockLook({ root, directory, owner });
}

/** The lock's seal, as soon as it can be told from one that is changed later. */
async function sealed(look: FileLockLook, name = 'volume'): Promise<LockSeal> {
  let seal: LockSeal | null = null;
  await expect.poll(() => (seal = look.seal(name))).not.toBeNull();
  return seal as unknown as LockSeal;
}

it('a lock that nobody touches holds, among the objects and in a directory of its own', async () => {
  for (const flat of [false, true]) {
    const root = temporaryDirectory();
    const directory = flat ? temporaryDirectory() : null;
    const driver = await fileDriver(root, { lockDir: directory });
    const look = lookAt(root, directory);
    await driver.acquire('volume');
    const seal = await sealed(look);
    // Its owner may ask for it again, look at it, and take others.
    await driver.acquire('volume');
    await driver.acquire('another');
    await driver.checkLocks(['volume']);
    expect(look.holds(seal)).toBe(true);
    await driver.release('volume', false);
    expect(look.holds(seal)).toBe(false);
    await driver.release('another', false);
  }
});

it('nothing is told of a lock that there is not, that is another’s, or that was taken just now', async () => {
  const root = temporaryDirectory();
  const look = lookAt(root);
  expect(look.seal('volume')).toBeNull();
  const other = await fileDriver(root, { uniqueStr: 'other_1000' });
  await other.acquire('volume');
  // Another owner by its name's beginning.
  await (await fileDriver(root, { uniqueStr: `${OWNER}1` })).acquire('longer');
  await sealed(lookAt(root, null, 'other_1000'));
  expect([look.seal('volume'), look.seal('longer')]).toEqual([null, null]);
  const file = `${hashedPath(root, 'future_lock')}`;
  fs.mkdirSync(path.dirname(file), { recursive: true });
  fs.writeFileSync(file, OWNER);
  // The time of the change is the kernel's: one that comes in the same tick would look the same.
  const { ctimeMs } = fs.statSync(file);
  if (Date.now() - ctimeMs < 50) expect(look.seal('future')).toBeNull();
});

it('a lock that was another’s for a moment does not hold, though it is this owner’s again', async () => {
  const root = temporaryDirectory();
  const driver = await fileDriver(root);
  const other = await fileDriver(root, { uniqueStr: 'other_1000' });
  const look = lookAt(root);
  await driver.acquire('volume');
  const seal = await sealed(look);
  await other.breakLock('volume');
  expect(look.holds(seal)).toBe(false);
  await driver.breakLock('volume');
  expect(await driver.lockHolder('volume')).toMatchObject({ owner: OWNER });
  expect(look.holds(seal)).toBe(false);
  const again = await sealed(look);
  await driver.release('volume', false);
  await driver.acquire('volume');
  expect(look.holds(again)).toBe(false);
});

it('what is done to a lock by hand is seen: removed, moved away and back, written over, another directory in its place', async () => {
  const root = temporaryDirectory();
  const driver = await fileDriver(root);
  const look = lookAt(root);
  const file = hashedPath(root, 'volume_lock');
  const byHand: (() => void)[] = [
    () => fs.rmSync(file),
    () => {
      fs.renameSync(file, `${file}-away`);
      fs.renameSync(`${file}-away`, file);
    },
    () => fs.writeFileSync(file, 'other_1000'),
    () => fs.linkSync(file, `${file}-second`),
    () => {
      const leaf = path.dirname(file);
      fs.renameSync(leaf, `${leaf}-away`);
      fs.mkdirSync(leaf);
      fs.writeFileSync(file, OWNER);
    },
  ];
  for (const change of byHand) {
    fs.rmSync(file, { force: true });
    await driver.acquire('volume');
    const seal = await sealed(look);
    expect(look.holds(seal)).toBe(true);
    change();
    expect(look.holds(seal)).toBe(false);
    fs.rmSync(`${file}-second`, { force: true });
  }
});

it('is for the locks of the blocker that the mapper has, with the owner string that it writes', async () => {
  const root = temporaryDirectory();
  const text = (lines: string): string => `[ARCHIPELAGO]\nHOSTNAME = here\n[blockerm]\narchip_dir = ${root}\n${lines}`;
  const config = parseConfig(text(''), '/conf');
  const mapper = config.roles.find(({ type }) => type === 'mapperd');
  const blocker = config.roles.find(({ name }) => name === 'blockerm');
  if (!mapper || blocker?.type !== 'file_blocker') throw new Error('no such roles');
  const driver = await fileDriver(root, { uniqueStr: blocker.uniqueStr });
  await driver.acquire('volume');
  const look = lockLookOf(config, mapper.portnoStart);
  await expect.poll(() => look?.seal('volume') ?? null).not.toBeNull();
  expect(lockLookOf(config, 4711)).toBeNull();
});
