/** NEWS and FENCE as requests: long waits that are in nobody's way. */
import { pino } from 'pino';
import { expect, it, onTestFinished } from 'vitest';
import type { Driver } from '../../../src/blockers/driver.js';
import { MemoryDriver } from '../../../src/blockers/memory/index.js';
import { Blocker } from '../../../src/blockers/server.js';
import { XsegLockClient } from '../../../src/requests/lock-client.js';
import type { Fenced, LockNews } from '../../../src/requests/locks.js';
import { errnos, SystemError } from '../../../src/sys/errno.js';
import { Segment } from '../../../src/xseg/index.js';
import { ownSegment } from '../../support/own.js';

const NOTHING: LockNews = { changed: [], mail: false };

/** A store that tells news and fences when the test says so. */
class TellingDriver extends MemoryDriver {
  readonly asked: number[] = [];
  readonly tell: ((news: LockNews) => void)[] = [];
  readonly fences: { owner: string; done: (fenced: Fenced) => void; fail: (error: Error) => void }[] = [];

  nextNews(ms: number): Promise<LockNews> {
    this.asked.push(ms);
    return new Promise((resolve) => this.tell.push(resolve));
  }

  fence(owner: string): Promise<Fenced> {
    return new Promise((done, fail) => this.fences.push({ owner, done, fail }));
  }
}

function serve(driver: Driver, nrOps = 1) {
  const spec = `posix:${ownSegment('news-requests')}:32:16:32:12`;
  const segment = Segment.create(spec);
  const port = segment.bind(20, { name: 'test' });
  const blocker = new Blocker({
    port: segment.bind(1, { name: 'blockerm' }),
    driver,
    nrOps,
    log: pino({ level: 'silent' }),
  });
  blocker.start();
  onTestFinished(() => {
    segment.close();
    Segment.destroy(spec);
  });
  return { blocker, client: new XsegLockClient(port, 1) };
}

it('NEWS waits without being in the way of anything else, and is answered with what the store tells', async () => {
  const driver = new TellingDriver('node1_1002');
  const { client } = serve(driver);
  const news = client.news(2000);
  for (let i = 0; i < 5; i++) await client.acquire(`volume${i}`);
  expect((await client.check(['volume1'])).lost).toEqual([]);
  expect(driver.asked).toEqual([2000]);
  driver.tell[0]({ changed: ['volume1'], mail: true });
  expect(await news).toEqual({ changed: ['volume1'], mail: true });
});

it('of many NEWS two wait, those of the mapper that runs and of the one before; the oldest is answered with nothing', async () => {
  const driver = new TellingDriver('node1_1002');
  const { client } = serve(driver);
  const all = [0, 1, 2].map(() => client.news(60_000));
  expect(await all[0]).toEqual(NOTHING);
  // What the store tells later to a question that was answered goes nowhere.
  driver.tell[0]({ changed: ['a'], mail: false });
  driver.tell[2]({ changed: ['b'], mail: false });
  driver.tell[1]({ changed: ['c'], mail: false });
  expect((await all[1]).changed).toEqual(['c']);
  expect((await all[2]).changed).toEqual(['b']);
});

it('NEWS is answered when the blocker stops', async () => {
  const driver = new TellingDriver('node1_1002');
  const { client, blocker } = serve(driver);
  const news = client.news(60_000);
  await expect.poll(() => driver.asked.length).toBe(1);
  await blocker.stop();
  expect(await news).toEqual(NOTHING);
});

it('stores that tell nothing, or refuse nobody, say so', async () => {
  const { client } = serve(new MemoryDriver('node1_1002'));
  await expect(client.news(1000)).rejects.toMatchObject({ code: 'EOPNOTSUPP' });
  await expect(client.fence('node2_1002')).rejects.toMatchObject({ code: 'EOPNOTSUPP' });
});

it('fencing takes no place of others, and its outcome is the answer', async () => {
  const driver = new TellingDriver('node1_1002');
  const { client } = serve(driver);
  const [one, two] = [client.fence('node2_1002'), client.fence('node3_1002')];
  await client.acquire('volume1');
  await expect.poll(() => driver.fences.map(({ owner }) => owner)).toEqual(['node2_1002', 'node3_1002']);
  driver.fences[1].fail(new SystemError(errnos.EACCES, 'the key lacks a capability'));
  await expect(two).rejects.toMatchObject({ code: 'EACCES', message: expect.stringContaining('lacks a capability') });
  driver.fences[0].done({ clients: ['client.7 192.0.2.1:0/7'] });
  expect(await one).toEqual({ clients: ['client.7 192.0.2.1:0/7'] });
});
