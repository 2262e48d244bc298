/** Parts of the locks on RADOS that a healthy cluster does not show: against a pool that answers as a test says. */
import { expect, it, vi } from 'vitest';
import { blocklist } from '../../../src/blockers/rados/fencing.js';
import { KeptWatch } from '../../../src/blockers/rados/kept-watch.js';
import { Outbox } from '../../../src/blockers/rados/mail.js';
import { News } from '../../../src/blockers/rados/news.js';
import { type Client, changeClients, clientsOf, nodeOf, withClient } from '../../../src/blockers/rados/registry.js';
import { LockWatches, MOST_WATCHES } from '../../../src/blockers/rados/watching.js';
import type { Cluster, Pool, Watch, WatchHandlers } from '../../../src/rados/types.js';
import type { LockMail } from '../../../src/requests/locks.js';
import { errnos, SystemError } from '../../../src/sys/errno.js';

const letter = (kind: LockMail['kind'], id: string): LockMail => ({ kind, name: 'web1', from: 'node2_1002', id });
const failure = (errno: number): SystemError => new SystemError(errno, 'as the test says');
const turns = async (): Promise<void> => {
  for (let i = 0; i < 20; i++) await Promise.resolve();
};

/** A pool whose watches are kept, to be told and broken, and whose notifications wait for the test. */
class FakePool {
  readonly watching = new Map<string, WatchHandlers>();
  readonly notified: { object: string; text: string; done: (errno?: number) => void }[] = [];
  made = 0;
  refuse = 0;

  async operate(): Promise<void> {}

  async watch(object: string, handlers: WatchHandlers): Promise<Watch> {
    this.made++;
    if (this.refuse > 0) {
      this.refuse--;
      throw failure(errnos.ENOTCONN);
    }
    this.watching.set(object, handlers);
    return { age: () => 5, end: async () => void this.watching.delete(object) };
  }

  notify(object: string, message: Uint8Array): Promise<void> {
    return new Promise((resolve, reject) => {
      const text = Buffer.from(message).toString();
      this.notified.push({ object, text, done: (errno) => (errno ? reject(failure(errno)) : resolve()) });
    });
  }

  get pool(): Pool {
    return this as unknown as Pool;
  }
}

it('news that nobody waits for are kept and told once, to all who wait', async () => {
  const news = new News();
  news.changed('a');
  news.changed('a');
  news.mail();
  expect(await news.next(10_000)).toEqual({ changed: ['a'], mail: true });
  const waiting = [news.next(10_000), news.next(10_000)];
  news.changed('b');
  for (const each of waiting) expect(await each).toEqual({ changed: ['b'], mail: false });
  expect(await news.next(0)).toEqual({ changed: [], mail: false });
  for (let i = 0; i < 2000; i++) news.changed(`volume${i}`);
  expect((await news.next(10_000)).changed.length).toBe(512);
  const last = news.next(10_000);
  news.close();
  expect(await last).toEqual({ changed: [], mail: false });
  expect(await news.next(10_000)).toEqual({ changed: [], mail: false });
});

it('letters to one who does not answer: one is on its way, the newest of each kind waits, others are not behind', async () => {
  vi.useFakeTimers();
  try {
    const fake = new FakePool();
    const outbox = new Outbox(() => fake.pool);
    const first = outbox.send('dead_1002', letter('broken', '1'));
    for (let i = 2; i < 9; i++) await outbox.send('dead_1002', letter('broken', `${i}`));
    await outbox.send('dead_1002', letter('want', 'w'));
    expect(fake.notified.length).toBe(1);
    const other = outbox.send('node3_1002', letter('gone', 'g'));
    fake.notified[1].done();
    await other;
    vi.advanceTimersByTime(1000);
    await first;
    const texts = (): string[] => fake.notified.map(({ text }) => (JSON.parse(text) as LockMail).id);
    for (let i = 0; i < fake.notified.length; i++) {
      fake.notified[i].done(errnos.ETIMEDOUT);
      await turns();
    }
    expect(texts()).toEqual(['1', 'g', '8', 'w']);
    // The next one does not count as late.
    const next = outbox.send('dead_1002', letter('broken', '9'));
    fake.notified[4].done(errnos.ENOENT);
    await next;
  } finally {
    vi.useRealTimers();
  }
});

it('at most so many locks are watched, held ones before those that were refused, which are watched for a minute', async () => {
  vi.useFakeTimers();
  try {
    const fake = new FakePool();
    const heard: string[] = [];
    const watches = new LockWatches(
      () => fake.pool,
      (target) => heard.push(target),
    );
    for (let i = 0; i < MOST_WATCHES - 1; i++) watches.hold(`held${i}`);
    watches.refused('one');
    watches.refused('two');
    await turns();
    expect(fake.watching.has('one_lock')).toBe(false);
    expect(fake.watching.has('two_lock')).toBe(true);
    // Between the refusal and the watch it may have been released.
    expect(heard).toContain('two');
    watches.hold('more');
    watches.hold('too-many');
    await turns();
    expect(watches.size).toBe(MOST_WATCHES);
    expect(fake.watching.has('two_lock')).toBe(false);
    expect(fake.watching.has('too-many_lock')).toBe(false);
    heard.length = 0;
    fake.watching.get('held3_lock')?.notified(Buffer.alloc(0), 1n);
    // One that breaks tells, and is made again by the next look.
    fake.watching.get('held4_lock')?.failed(errnos.ENOTCONN);
    expect(heard).toEqual(['held3', 'held4']);
    watches.hold('held4');
    watches.drop('held5');
    watches.refused('three');
    await turns();
    expect(fake.watching.has('three_lock')).toBe(true);
    vi.advanceTimersByTime(50_000);
    watches.refused('three');
    vi.advanceTimersByTime(50_000);
    expect(watches.size).toBe(MOST_WATCHES);
    vi.advanceTimersByTime(20_000);
    expect(watches.size).toBe(MOST_WATCHES - 1);
    await watches.close();
    expect(fake.watching.size).toBe(0);
  } finally {
    vi.useRealTimers();
  }
});

it('a watch that is refused or ends while it is made leaves nothing behind', async () => {
  const fake = new FakePool();
  fake.refuse = 1;
  const watches = new LockWatches(
    () => fake.pool,
    () => undefined,
  );
  watches.hold('a');
  watches.hold('b');
  watches.drop('b');
  await turns();
  expect(watches.size).toBe(0);
  await watches.close();
  expect(fake.watching.size).toBe(0);
});

it('the watch of the mail is made again until it is there; what an earlier one hears does not count', async () => {
  vi.useFakeTimers();
  try {
    const fake = new FakePool();
    const told: string[] = [];
    const kept = new KeptWatch({
      pool: () => fake.pool,
      object: 'mail',
      notified: (message) => told.push(message.toString()),
      broken: () => told.push('broken'),
      mended: () => told.push('mended'),
    });
    await kept.begin();
    const old = fake.watching.get('mail')!;
    old.notified(Buffer.from('one'), 1n);
    expect(kept.isAlive(10)).toBe(true);
    fake.refuse = 2;
    old.failed(errnos.ENOTCONN);
    for (let i = 0; i < 3; i++) {
      await vi.advanceTimersByTimeAsync(1000);
      await turns();
    }
    expect(fake.made).toBe(4);
    old.notified(Buffer.from('old'), 1n);
    fake.watching.get('mail')?.notified(Buffer.from('two'), 1n);
    expect(told).toEqual(['one', 'broken', 'mended', 'two']);
    await kept.close();
    expect(kept.isAlive(10)).toBe(false);
    expect(fake.watching.size).toBe(0);
  } finally {
    vi.useRealTimers();
  }
});

it('monitors from before Ceph 16 are asked by the word that they know; an error is not taken for that', async () => {
  const asked: unknown[] = [];
  let errno = errnos.EINVAL;
  const cluster = {
    monitorCommand: async (command: Record<string, unknown>) => {
      asked.push(command);
      if (command.prefix === 'osd blocklist') throw failure(errno);
    },
    waitForLatestMap: async () => void asked.push('map'),
  } as unknown as Cluster;
  await blocklist(cluster, ['192.0.2.1:0/1', '192.0.2.1:0/1'], 60);
  expect(asked.slice(1)).toEqual([
    { prefix: 'osd blacklist', blacklistop: 'add', addr: '192.0.2.1:0/1', expire: 60.5 },
    'map',
  ]);
  asked.length = 0;
  errno = errnos.ETIMEDOUT;
  await expect(blocklist(cluster, ['192.0.2.1:0/1'], 60)).rejects.toMatchObject({ code: 'ETIMEDOUT' });
  expect(asked.length).toBe(1);
  asked.length = 0;
  await blocklist(cluster, [], 60);
  expect(asked).toEqual([]);
});

it('the list of a node’s clients outlives races and rubbish', async () => {
  let stored: Buffer | null = null;
  let race: (() => void) | null = null;
  const pool = {
    name: 'maps',
    getXattr: async () => {
      if (!stored) throw failure(errnos.ENOENT);
      return stored;
    },
    operate: async (_: string, [first, second]: { do: string; value: Buffer }[]) => {
      race?.();
      race = null;
      if (first.do === 'create' && stored) throw failure(errnos.EEXIST);
      if (first.do === 'compareXattr' && !first.value.equals(stored!)) throw failure(errnos.ECANCELED);
      stored = second.value;
    },
  } as unknown as Pool;
  const client = (address: string): Client => ({ owner: 'node1_1002', address, instance: 'client.7', since: 5 });
  race = () => {
    stored = Buffer.from(JSON.stringify([client('b'), 7, { owner: 'x' }, null]));
  };
  await changeClients(pool, 'node1', (all) => withClient(all, client('a')));
  expect(await clientsOf(pool, 'node1')).toEqual([client('b'), client('a')]);
  stored = Buffer.from('[rubbish');
  expect(await clientsOf(pool, 'node1')).toEqual([]);
  await changeClients(pool, 'node1', (all) => withClient(all, client('c')));
  expect(await clientsOf(pool, 'node1')).toEqual([client('c')]);
  expect(['node1_1002', 'a_b_1', 'client.7', '_1'].map(nodeOf)).toEqual(['node1', 'a_b', 'client.7', '_1']);
});
