/** Lock files: with a node that runs the original (its steps are plain calls here), and under every interleaving that chance finds. */
import fs from 'node:fs';
import path from 'node:path';
import fc from 'fast-check';
import { describe, expect, it, onTestFinished, vi } from 'vitest';
import type { LockHolder } from '../../../src/blockers/driver.js';
import { kernel } from '../../../src/blockers/file/kernel.js';
import { hashedPath } from '../../../src/blockers/file/paths.js';
import { errnoName, errnoOf } from '../../../src/sys/errno.js';
import { fileDriver, filesOf, temporaryDirectory } from './support.js';

/** A store with a flat lock directory, or with the locks among the objects. */
function store(flat: boolean) {
  const directory = temporaryDirectory();
  const root = path.join(directory, 'maps');
  const lockDir = flat ? path.join(directory, 'locks') : null;
  fs.mkdirSync(root);
  if (lockDir) fs.mkdirSync(lockDir);
  const place = (name: string): string => (lockDir ? path.join(lockDir, name) : hashedPath(root, name));
  return {
    place,
    lockFile: (target: string) => place(`${target}_lock`),
    node: (uniqueStr: string) => fileDriver(root, { lockDir, uniqueStr }),
    /** What of locks is in the store. */
    files: () => filesOf(directory).filter((file) => !file.includes('.archipelago-mail')),
  };
}

/** The original's acquire without waiting (ondisk.md 2.3), step by step. @param padded with direct I/O it pads to 512 bytes */
function originalAcquire(
  place: (name: string) => string,
  target: string,
  owner: string,
  padded: boolean,
): 'got' | 'held' {
  const lock = place(`${target}_lock`);
  const temp = place(`${target}_lock${owner}_aa`);
  for (const file of [lock, temp]) fs.mkdirSync(path.dirname(file), { recursive: true });
  const fd = fs.openSync(temp, 'wx', 0o660);
  fs.writeSync(fd, padded ? Buffer.concat([Buffer.from(owner)], 512) : Buffer.from(owner));
  fs.fsyncSync(fd);
  try {
    fs.linkSync(temp, lock);
    return 'got';
  } catch {
    // The same owner, as far as its prefix tells, has it already.
    return fs.readFileSync(lock).subarray(0, owner.length).toString() === owner ? 'got' : 'held';
  } finally {
    fs.closeSync(fd);
    fs.unlinkSync(temp);
  }
}

/** The original's release; with force it asks nobody. */
function originalRelease(lock: string, owner: string, force: boolean): boolean {
  if (!force && fs.readFileSync(lock).subarray(0, owner.length).toString() !== owner) return false;
  fs.unlinkSync(lock);
  return true;
}

describe.each([
  ['flat', true],
  ['among the objects', false],
])('locks %s, with nodes that run the original', (_kind, flat) => {
  it('the lock file is the original’s: its place, exactly the owner, one name', async () => {
    const { lockFile, node, files } = store(flat);
    const driver = await node('node1_1002');
    await driver.acquire('web1');
    expect(fs.readFileSync(lockFile('web1'), 'latin1')).toBe('node1_1002');
    expect(fs.statSync(lockFile('web1')).nlink).toBe(1);
    expect(files()).toEqual([lockFile('web1')]);
    await (await node('node2_1002')).breakLock('web1');
    expect(fs.readFileSync(lockFile('web1'), 'latin1')).toBe('node2_1002');
    expect(fs.statSync(lockFile('web1')).nlink).toBe(1);
    expect(files()).toEqual([lockFile('web1')]);
  });

  it.each([false, true])('an original holds us off, and we it (padded: %s)', async (padded) => {
    const { place, lockFile, node } = store(flat);
    const driver = await node('node1_1002');
    expect(originalAcquire(place, 'web1', 'old_1002', padded)).toBe('got');
    await expect(driver.acquire('web1')).rejects.toMatchObject({
      code: 'EBUSY',
      message: expect.stringContaining('old_1002 since'),
    });
    expect(await driver.lockHolder('web1')).toMatchObject({ owner: 'old_1002' });
    await expect(driver.release('web1', false)).rejects.toMatchObject({ code: 'EPERM' });
    expect((await driver.checkLocks(['web1'])).lost).toMatchObject([{ name: 'web1', holder: { owner: 'old_1002' } }]);
    expect(originalRelease(lockFile('web1'), 'old_1002', false)).toBe(true);
    await driver.acquire('web1');
    expect(originalAcquire(place, 'web1', 'old_1002', padded)).toBe('held');
    expect(originalRelease(lockFile('web1'), 'old_1002', false)).toBe(false);
    await driver.release('web1', false);
    expect(originalAcquire(place, 'web1', 'old_1002', padded)).toBe('got');
    // An owner of ours whose name begins like the original's, and the other way round, are others (D8).
    const longer = await node('old_10021');
    await expect(longer.acquire('web1')).rejects.toMatchObject({ code: 'EBUSY' });
    expect((await longer.checkLocks(['web1'])).lost).toHaveLength(1);
    const same = await node('old_1002');
    await same.acquire('web1');
    expect(await same.listLocks(null, 100)).toMatchObject({
      locks: [{ name: 'web1', owner: 'old_1002' }],
      cursor: null,
    });
    expect((await longer.listLocks(null, 100)).locks).toEqual([]);
    await same.release('web1', false);
    expect(fs.existsSync(lockFile('web1'))).toBe(false);
  });

  it('an original’s forced unlock is noticed, also when another has the lock by then', async () => {
    const { place, lockFile, node } = store(flat);
    const driver = await node('node1_1002');
    for (const target of ['web1', 'web2', 'web3']) await driver.acquire(target);
    originalRelease(lockFile('web1'), 'whoever', true);
    expect((await driver.checkLocks(['web1', 'web2', 'web3'])).lost).toEqual([{ name: 'web1', holder: null }]);
    originalRelease(lockFile('web2'), 'whoever', true);
    originalAcquire(place, 'web2', 'old_1002', true);
    expect((await driver.checkLocks(['web1', 'web2', 'web3'])).lost).toMatchObject([
      { name: 'web1', holder: null },
      { name: 'web2', holder: { owner: 'old_1002' } },
    ]);
    await expect(driver.release('web1', false)).rejects.toMatchObject({ code: 'ENOENT' });
    await expect(driver.release('web2', false)).rejects.toMatchObject({ code: 'EPERM' });
    expect(fs.existsSync(lockFile('web2'))).toBe(true);
  });

  it('a lock that an original holds can be broken, and it is told who has it now', async () => {
    const { place, lockFile, node } = store(flat);
    const driver = await node('node1_1002');
    originalAcquire(place, 'web1', 'old_1002', true);
    expect(await driver.breakLock('web1')).toMatchObject({ owner: 'old_1002' });
    expect(originalAcquire(place, 'web1', 'old_1002', true)).toBe('held');
    expect(originalRelease(lockFile('web1'), 'old_1002', false)).toBe(false);
    await driver.release('web1', false);
  });

  it('an empty lock file, and one that a stale descriptor shows, are somebody’s', async () => {
    const { lockFile, node } = store(flat);
    const driver = await node('node1_1002');
    fs.mkdirSync(path.dirname(lockFile('web1')), { recursive: true });
    fs.writeFileSync(lockFile('web1'), '');
    await expect(driver.acquire('web1')).rejects.toMatchObject({ message: expect.stringContaining('unknown owner') });
    expect((await driver.checkLocks(['web1'])).lost).toMatchObject([{ holder: { owner: '' } }]);
    expect(await driver.breakLock('web1')).toMatchObject({ owner: '' });
    expect((await driver.checkLocks(['web1'])).lost).toEqual([]);
  });

  it('an object whose name looks like a lock’s is none', async () => {
    const { node } = store(flat);
    const driver = await node('node1_1002');
    await driver.reset('web1_lock', true);
    expect((await driver.listLocks(null, 10)).locks).toEqual([]);
    await driver.acquire('web1_lock');
    expect((await driver.listLocks(null, 10)).locks).toMatchObject([{ name: 'web1_lock' }]);
  });
});

describe('several nodes at once', () => {
  /** What one tenant does: takes or breaks the lock, and maybe gives it back; each has a name of its own. */
  const tenant = fc.record({
    node: fc.nat(2),
    how: fc.constantFrom('acquire' as const, 'acquire' as const, 'break' as const),
    releases: fc.boolean(),
    /** Turns of the event loop before it begins, and before it gives the lock back. */
    pause: fc.nat(12),
    rest: fc.nat(12),
  });
  const turns = async (count: number): Promise<void> => {
    for (let i = 0; i < count; i++) await new Promise((resolve) => setImmediate(resolve));
  };

  it.each([
    ['flat', true],
    ['among the objects', false],
  ])('every tenure of a lock (%s) ends once: given back, or told to the one who broke it', async (_kind, flat) => {
    let broken = 0;
    let raced = 0;
    await fc.assert(
      fc.asyncProperty(fc.array(tenant, { minLength: 2, maxLength: 10 }), async (tenants) => {
        const { node, lockFile } = store(flat);
        const begun: string[] = [];
        const ended: string[] = [];
        const outcomes = await Promise.all(
          tenants.map(async (one, i) => {
            const owner = `node${one.node}_${i}`;
            const driver = await node(owner);
            await turns(one.pause);
            if (one.how === 'acquire') {
              try {
                await driver.acquire('wanted');
              } catch (error) {
                return errnoName(errnoOf(error));
              }
            } else {
              const before: LockHolder | null = await driver.breakLock('wanted');
              if (before) ended.push(before.owner);
            }
            begun.push(owner);
            await turns(one.rest);
            if (!one.releases) return 'kept';
            try {
              await driver.release('wanted', false);
              ended.push(owner);
              return 'released';
            } catch (error) {
              raced++;
              return errnoName(errnoOf(error));
            }
          }),
        );
        broken += tenants.filter(({ how }) => how === 'break').length;
        const holder = fs.existsSync(lockFile('wanted')) ? fs.readFileSync(lockFile('wanted'), 'latin1') : null;
        // Whoever began has ended once, but the one whose lock it is now.
        expect([...ended, ...(holder === null ? [] : [holder])].sort()).toEqual(begun.sort());
        for (const [i, one] of tenants.entries()) {
          const owner = `node${one.node}_${i}`;
          // EPERM and ENOENT are only told to one whose lock was broken; EBUSY only to one that never had it.
          if (outcomes[i] === 'EPERM' || outcomes[i] === 'ENOENT') expect(ended).toContain(owner);
          else if (outcomes[i] === 'EBUSY') expect(begun).not.toContain(owner);
          else expect(['kept', 'released']).toContain(outcomes[i]);
        }
      }),
      { numRuns: 40 },
    );
    // The property is about these: without them it says nothing.
    expect(broken).toBeGreaterThan(20);
    expect(raced).toBeGreaterThan(0);
  });

  it('a lock is never seen free while it is broken over and over', async () => {
    const { node, lockFile } = store(false);
    const breakers = await Promise.all(['a_1', 'b_1'].map(node));
    const third = await node('third_1');
    await breakers[0].acquire('wanted');
    let done = false;
    const breaking = (async () => {
      for (let round = 0; round < 40; round++) await Promise.all(breakers.map((one) => one.breakLock('wanted')));
      done = true;
    })();
    let looks = 0;
    while (!done) {
      expect(fs.readFileSync(lockFile('wanted'), 'latin1')).toMatch(/^[ab]_1$/);
      await expect(third.acquire('wanted')).rejects.toMatchObject({ code: 'EBUSY' });
      looks++;
    }
    await breaking;
    expect(looks).toBeGreaterThan(10);
  });

  /** Holds up the first call of `step` that the file gets until `meanwhile` runs and has met the file's advisory lock. */
  function holdUp(step: 'unlink' | 'rename', file: string, meanwhile: () => void): void {
    const real = { unlink: kernel.unlink.bind(kernel), rename: kernel.rename.bind(kernel) };
    let refused = () => {};
    const met = new Promise<void>((resolve) => {
      refused = resolve;
    });
    let first = true;
    const gate = async (target: string): Promise<void> => {
      if (target !== file || !first) return;
      first = false;
      const tryFlock = kernel.tryFlock?.bind(kernel);
      const locks = vi.spyOn(kernel, 'tryFlock').mockImplementation(async (fd) => {
        const got = (await tryFlock?.(fd)) ?? true;
        if (!got) refused();
        return got;
      });
      onTestFinished(() => locks.mockRestore());
      meanwhile();
      await met;
    };
    const spy =
      step === 'unlink'
        ? vi.spyOn(kernel, 'unlink').mockImplementation(async (target) => {
            await gate(target);
            await real.unlink(target);
          })
        : vi.spyOn(kernel, 'rename').mockImplementation(async (from, target) => {
            await gate(target);
            await real.rename(from, target);
          });
    onTestFinished(() => spy.mockRestore());
  }

  it('a lock that its holder is giving back is broken after that: it was nobody’s', async () => {
    const { node, lockFile } = store(true);
    const [holder, breaker] = await Promise.all(['holder_1', 'breaker_1'].map(node));
    await holder.acquire('wanted');
    let breaking: Promise<LockHolder | null> | undefined;
    holdUp('unlink', lockFile('wanted'), () => {
      breaking = breaker.breakLock('wanted');
    });
    await holder.release('wanted', false);
    expect(await breaking).toBe(null);
    expect(await breaker.lockHolder('wanted')).toMatchObject({ owner: 'breaker_1' });
  });

  it('a lock that is being broken is not given back by its old holder', async () => {
    const { node, lockFile } = store(true);
    const [holder, breaker] = await Promise.all(['holder_1', 'breaker_1'].map(node));
    await holder.acquire('wanted');
    let releasing: Promise<unknown> | undefined;
    holdUp('rename', lockFile('wanted'), () => {
      releasing = holder.release('wanted', false).catch((error: unknown) => error);
    });
    expect(await breaker.breakLock('wanted')).toMatchObject({ owner: 'holder_1' });
    expect(await releasing).toMatchObject({ code: 'EPERM' });
    expect(await breaker.lockHolder('wanted')).toMatchObject({ owner: 'breaker_1' });
  });

  it('what crashes at any step of taking and breaking leave is in nobody’s way (D9)', async () => {
    const { node, lockFile, place } = store(true);
    const driver = await node('node1_1002');
    const left = [
      place('wanted_locknode1_1002_aa'),
      path.join(path.dirname(place('x')), '.archipelago-tmp', '99999-abcdef-0'),
    ];
    for (const file of left) {
      fs.mkdirSync(path.dirname(file), { recursive: true });
      fs.writeFileSync(file, 'node1_1002');
      fs.utimesSync(file, 0, 0);
    }
    // Killed between linking and removing: the lock has two names.
    fs.linkSync(left[1], lockFile('wanted'));
    await driver.acquire('wanted');
    expect((await driver.checkLocks(['wanted'])).lost).toEqual([]);
    await driver.release('wanted', false);
    await driver.acquire('wanted');
    const successor = await node('node1_1002');
    expect(fs.existsSync(left[1])).toBe(false);
    expect((await successor.checkLocks(['wanted'])).lost).toEqual([]);
    expect(await successor.listLocks(null, 10)).toMatchObject({ locks: [{ name: 'wanted' }] });
  });
});
