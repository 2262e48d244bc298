/** What a mapper does about the locks that an earlier one of its node left. */
import fs from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { LockRegistry } from '../../../src/mapper/locking/registry.js';
import { errnos, SystemError } from '../../../src/sys/errno.js';
import { A, B, settle, startNode, TestClock, type TwoNodes } from './nodes.js';
import { createSmall, failure, memoryStores, type Node, temporaryDirectory, writeVolume } from './support.js';

const BLOCK = 256;

type Composer = (volume: string) => Promise<void>;

interface Rig extends Omit<TwoNodes, 'a'> {
  a: Node;
  /** Another mapper on the first node; the one before is dead. @param composer what the composer at port 500 does, if it lives */
  again(composer?: Composer, prepare?: (node: Node) => void): Promise<Node>;
  readonly directory: string;
}

/** The first node keeps its registry in a directory. */
async function rig(): Promise<Rig> {
  const directory = temporaryDirectory();
  const clock = new TestClock();
  const stores = memoryStores();
  const log = { warn: () => {}, info: () => {} };
  const start = (inherited: number[] = [], prepare: (node: Node) => void = () => {}): Node =>
    startNode(stores, clock, A, { inherited, prepare, registry: LockRegistry.load(directory, log) });
  const made: Rig = {
    clock,
    stores,
    directory,
    a: start(),
    b: startNode(stores, clock, B),
    again: async (composer, prepare = () => {}) => {
      const dead = made.a;
      // Nothing of it reaches the store any more.
      for (const client of [dead.maps, dead.blocks]) client.before = () => new Promise(() => {});
      made.a = start(composer ? [500] : [], (node) => {
        if (composer) node.holders.set(500, composer);
        prepare(node);
      });
      await clock.pass(10);
      return made.a;
    },
  };
  await createSmall(made.a, 'volume', 4 * BLOCK, BLOCK);
  return made;
}

const holder = ({ stores }: Rig, name = 'volume'): string | undefined => stores.maps.locks.get(name)?.owner;

describe('after a restart of the mapper', () => {
  it('what was open or locked by hand stays so, until it is closed', async () => {
    const r = await rig();
    await r.a.mapper.open('volume');
    await r.a.mapper.lock('by-hand');
    await createSmall(r.a, 'shared', BLOCK, BLOCK);
    await r.a.mapper.open('shared', undefined, true);
    await r.again();
    await r.clock.pass(1000);
    expect([holder(r), holder(r, 'by-hand'), holder(r, 'shared')]).toEqual([A, A, undefined]);
    expect((await r.a.mapper.stat('volume')).open).toBe('exclusive');
    expect((await r.a.mapper.stat('shared')).open).toBe('shared');
    await r.a.mapper.close('volume', true);
    await r.a.mapper.stop();
    expect([holder(r), holder(r, 'by-hand')]).toEqual([A, A]);
    await r.again();
    await r.a.mapper.close('volume');
    await r.a.mapper.unlock('by-hand', false);
    await r.a.mapper.close('shared');
    expect(r.stores.maps.locks.size).toBe(0);
    await r.again();
    expect((await r.a.mapper.stat('volume')).open).toBeNull();
    expect(JSON.parse(fs.readFileSync(path.join(r.directory, 'locks.json'), 'utf8')).volumes).toEqual({});
  });

  it('locks that nobody uses are released, after a flush of everything', async () => {
    const r = await rig();
    r.a.holders.set(500, async () => {});
    await r.a.mapper.lease('volume', { write: true }, 500);
    // Left by an operation that was cut short: nothing noted that.
    await r.a.maps.driver.acquire('cut-short');
    const dead = r.a;
    const order: string[] = [];
    await r.again(undefined, (node) => {
      node.maps.before = (operation, name) => void order.push(`${operation} ${name}`);
      node.blocks.before = (operation, name) => void order.push(`blocks ${operation} ${name}`);
    });
    expect(dead).not.toBe(r.a);
    await expect.poll(() => r.stores.maps.locks.size).toBe(0);
    const flushed = order.indexOf('blocks flush *');
    expect(flushed).toBeGreaterThanOrEqual(0);
    for (const name of ['volume', 'cut-short']) {
      expect(order.indexOf(`release ${name}`), name).toBeGreaterThan(order.indexOf('flush *'));
      expect(order.indexOf(`release ${name}`), name).toBeGreaterThan(flushed);
    }
  });

  it('locks that nobody uses are released as soon as the store answers, and what was being broken is gone on with', async () => {
    const r = await rig();
    r.a.holders.set(500, async () => {});
    await r.a.mapper.lease('volume', { write: true }, 500);
    await r.a.maps.driver.acquire('cut-short');
    r.stores.maps.locks.set('other', { owner: 'old_1002', since: 0 });
    void r.a.mapper.unlock('other', true);
    await expect.poll(() => holder(r, 'other')).toBe(A);
    let answers = false;
    await r.again(undefined, (node) => {
      node.locks.before = () => {
        if (!answers) throw new SystemError(errnos.EIO, 'the store is in trouble');
      };
    });
    await r.clock.pass(25_000);
    expect([holder(r), holder(r, 'cut-short'), holder(r, 'other')]).toEqual([A, A, A]);
    const { warnings } = r.a;
    // Each thing that fails is in the log once.
    expect(warnings.filter((line) => line.includes('it is tried again'))).toHaveLength(2);
    expect(new Set(warnings).size).toBe(warnings.length);
    answers = true;
    await expect
      .poll(async () => {
        await r.clock.pass(1000);
        return r.stores.maps.locks.size;
      })
      .toBe(0);
  });

  it('locks that a living composer uses stay, and it is asked for its leases before there are new ones', async () => {
    const r = await rig();
    r.a.holders.set(500, async () => {});
    await r.a.mapper.lease('volume', { write: true }, 500);
    const asked: string[] = [];
    let drained = (): void => {};
    const draining = new Promise<void>((resolve) => (drained = resolve));
    await r.again(async (volume) => {
      asked.push(volume);
      await settle();
      // It needs the mapper for that.
      await writeVolume(r.a, 'volume', BLOCK, Buffer.from('drained'));
      await draining;
    });
    const lease = r.a.mapper.lease('volume', { write: true }, 500);
    let granted = false;
    void lease.then(() => (granted = true));
    await settle();
    expect(asked).toEqual(['']);
    expect(granted).toBe(false);
    drained();
    expect(await lease).toMatchObject({ granted: 'exclusive' });
    await r.clock.pass(1000);
    expect(holder(r)).toBe(A);
    await r.a.mapper.close('volume', true);
    expect(holder(r)).toBeUndefined();
  });

  it('a composer that does not answer holds nothing up for longer than its leases last', async () => {
    const r = await rig();
    r.a.holders.set(500, async () => {});
    await r.a.mapper.lease('volume', { write: true }, 500);
    await r.again(() => new Promise(() => {}));
    await createSmall(r.b, 'second', BLOCK, BLOCK);
    const describe = r.a.mapper.describe('second');
    await r.clock.until(describe, 100);
    await r.clock.pass(4000);
    expect(r.a.warnings.join()).toContain('does not answer');
    expect(holder(r)).toBe(A);
  });

  it('a lock that was taken away meanwhile is lost', async () => {
    const r = await rig();
    r.a.holders.set(500, async () => {});
    await r.a.mapper.lease('volume', { write: true }, 500);
    const dead = r.a;
    for (const client of [dead.maps, dead.blocks]) client.before = () => new Promise(() => {});
    await expect.poll(() => fs.readFileSync(path.join(r.directory, 'locks.json'), 'utf8')).toContain('"held": true');
    const unlock = r.b.mapper.unlock('volume', true);
    expect(await r.clock.until(unlock, 10_000)).toBeGreaterThanOrEqual(5000);
    await r.b.mapper.open('volume');
    await r.b.mapper.close('volume');
    await r.again(async () => {});
    await expect(r.a.mapper.flush('volume', true)).rejects.toEqual(failure('EIO', 'may be lost'));
    await expect(r.a.mapper.lease('volume', { write: true }, 500)).rejects.toEqual(failure('EIO', 'may be lost'));
    expect(holder(r)).toBeUndefined();
    // And stays so over another restart.
    await r.again(async () => {});
    await expect(r.a.mapper.lease('volume', { write: false }, 500)).rejects.toEqual(failure('EIO', 'may be lost'));
    await r.a.mapper.close('volume', true);
    expect(await r.a.mapper.lease('volume', { write: true }, 500)).toMatchObject({ granted: 'exclusive' });
  });

  it('a lock that was just being broken is not used before the time of its old holder is over', async () => {
    const r = await rig();
    r.stores.maps.locks.set('volume', { owner: 'old_1002', since: 0 });
    const unlock = r.a.mapper.unlock('volume', true);
    unlock.catch(() => {});
    await expect.poll(() => holder(r)).toBe(A);
    const file = path.join(r.directory, 'locks.json');
    const noted = (): number => JSON.parse(fs.readFileSync(file, 'utf8')).volumes.volume?.breaking.until ?? 0;
    await expect.poll(noted).toBe(r.clock.now() + 5000);
    await r.again();
    await r.clock.pass(1000);
    await expect(r.a.mapper.open('volume')).rejects.toEqual(failure('EBUSY', 'is just being broken'));
    await r.clock.pass(3500);
    expect(holder(r)).toBe(A);
    await r.clock.pass(1000);
    await expect.poll(() => holder(r)).toBeUndefined();
    await expect.poll(noted).toBe(0);
    await r.a.mapper.open('volume');
  });

  it('a lock that nobody knows of is released by hand only when composers have ended what they do under it', async () => {
    const r = await rig();
    r.a.holders.set(500, async () => {});
    await r.a.mapper.lease('volume', { write: true }, 500);
    fs.rmSync(path.join(r.directory, 'locks.json'));
    let drained = (): void => {};
    const draining = new Promise<void>((resolve) => (drained = resolve));
    await r.again(() => draining);
    const unlock = r.a.mapper.unlock('volume', false);
    await r.clock.pass(1000);
    expect(holder(r)).toBe(A);
    drained();
    await unlock.catch((error) => expect(error).toEqual(failure('ENOENT')));
    await r.clock.pass(100);
    expect(holder(r)).toBeUndefined();
  });

  it('a flush is not acknowledged when the registry was lost, and the lock with it', async () => {
    const r = await rig();
    r.a.holders.set(500, async () => {});
    await r.a.mapper.lease('volume', { write: true }, 500);
    const file = path.join(r.directory, 'locks.json');
    fs.rmSync(file);
    r.stores.maps.locks.delete('volume');
    await r.again(async () => {});
    await expect(r.a.mapper.flush('volume', true, 500)).rejects.toEqual(failure('EIO', 'was taken away'));
    await expect(r.a.mapper.lease('volume', { write: true }, 500)).rejects.toEqual(failure('EIO', 'was taken away'));
    await r.a.mapper.close('volume');
    await r.a.mapper.lease('volume', { write: true }, 500);
    await r.a.mapper.flush('volume', true, 500);
    // Given up in order: nothing is lost.
    await r.a.mapper.unlock('volume', false);
    await r.a.mapper.flush('volume', true, 500);
  });

  it('a registry that is damaged, or of an earlier start of the machine, tells nothing; the mapper starts', async () => {
    const r = await rig();
    await r.a.mapper.open('volume');
    const file = path.join(r.directory, 'locks.json');
    const good = JSON.parse(fs.readFileSync(file, 'utf8'));
    const damaged = ['', '{', '[]', '{"boot":"x"}', JSON.stringify({ ...good, volumes: { volume: { open: 'wide' } } })];
    for (const text of damaged) {
      fs.writeFileSync(file, text);
      const warnings: string[] = [];
      const registry = LockRegistry.load(r.directory, { warn: (line) => warnings.push(line), info: () => {} });
      expect(registry.records.size).toBe(0);
      expect(warnings.join(), text).toContain('locks.json cannot be read');
    }
    fs.writeFileSync(file, JSON.stringify({ ...good, boot: 'another' }));
    await r.again();
    expect(holder(r)).toBeUndefined();
    expect((await r.a.mapper.stat('volume')).open).toBeNull();
  });
});
