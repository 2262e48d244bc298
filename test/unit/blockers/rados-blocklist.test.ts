/** Ceph blocklists the driver's client, as `vlmc unlock -f` on another node does: what a real cluster and librados make of that. */
import pino from 'pino';
import { describe, expect, it } from 'vitest';
import { randoms } from '../../../src/blockers/kit/context.js';
import { type OneIo, runIo } from '../../../src/blockers/object-io.js';
import type { RadosDriver } from '../../../src/blockers/rados/index.js';
import { monotonicMs } from '../../../src/sys/clock.js';
import { hasCeph, useCeph } from '../../support/ceph.js';
import { radosDriver } from './rados-support.js';
import { read, write } from './support.js';

interface Status {
  readonly client: string;
  readonly addresses: readonly string[];
  readonly blocklisted: number;
  readonly reconnecting: boolean;
  readonly trouble: string | null;
}

const statusOf = (driver: RadosDriver): Status => driver.status() as Status;

describe.runIf(hasCeph())('a blocklisted client', () => {
  const ceph = useCeph();

  const blocklist = async (driver: RadosDriver): Promise<void> => {
    for (const address of statusOf(driver).addresses) await ceph.ceph('osd', 'blocklist', 'add', address, '60');
  };

  function logged(): { log: pino.Logger; lines: string[] } {
    const lines: string[] = [];
    return { log: pino({}, { write: (line: string) => void lines.push(line) }), lines };
  }

  it('has a successor, through which all operations go on; the log tells once', async () => {
    const { log, lines } = logged();
    const driver = await radosDriver(ceph, { pool: 'maps', log });
    await driver.acquire('volume1');
    await write(driver, 'kept', 0, Buffer.alloc(4096, 1));
    const before = statusOf(driver);
    await blocklist(driver);
    // Some are on their way when the client is refused, whoever hears of it first.
    const names = Array.from({ length: 32 }, (_, i) => `crowd-${i}`);
    await Promise.all([
      ...names.map((name, i) => write(driver, name, i, Buffer.alloc(4096, i + 1))),
      driver.copy('kept', 'copied', 4096, { durable: true, exclusive: true }),
      driver.truncate('kept', 100),
      driver.hash('kept', 100),
      driver.list(null, 10),
      driver.acquire('volume2'),
    ]);
    for (const [i, name] of names.entries()) {
      expect(await read(driver, name, i, 4096)).toEqual(Buffer.alloc(4096, i + 1));
    }
    expect((await driver.info('kept')).size).toBe(100);
    const after = statusOf(driver);
    expect(after).toMatchObject({ blocklisted: 1, reconnecting: false, trouble: null });
    expect(after.client).not.toBe(before.client);
    expect(lines.filter((line) => line.includes('blocklisted this node'))).toHaveLength(1);
    expect(lines.filter((line) => line.includes('connected anew'))).toHaveLength(1);
    // What nobody took is still this owner's.
    expect(await driver.checkLocks(['volume1', 'volume2'])).toMatchObject({ lost: [] });
  });

  it('changes nothing any more on the word of a lease from before it, however long that says it is good', async () => {
    const driver = await radosDriver(ceph);
    await write(driver, 'leased', 0, Buffer.alloc(512, 1));
    // A clock that stood still: half a second of the lease seems to be left.
    const deadline = monotonicMs() + 500;
    const leased: OneIo = { name: 'leased', offset: 0, length: 512, deadline };
    await blocklist(driver);
    const refused = await Promise.allSettled([
      runIo(driver, 'write', { ...leased, data: Buffer.alloc(512, 2) }),
      runIo(driver, 'trim', leased),
      runIo(driver, 'writeZeroes', { ...leased, noHole: true }),
      driver.reset('leased', true, deadline),
      driver.copy('leased', 'new', 512, { durable: true, exclusive: true, deadline }),
      driver.delete('leased', deadline),
      driver.truncate('leased', 0, deadline),
    ]);
    expect(refused.map((outcome) => outcome.status === 'rejected' && outcome.reason.code)).toEqual(
      Array.from({ length: 7 }, () => 'ETIME'),
    );
    // Reads harm nobody.
    expect((await runIo(driver, 'read', { ...leased, deadline: monotonicMs() + 100 })).data).toEqual(
      Buffer.alloc(512, 1),
    );
    await expect(driver.info('new')).rejects.toMatchObject({ code: 'ENOENT' });
    // A lease that rests on a look at the lock since then is good.
    await write(driver, 'leased', 0, Buffer.alloc(512, 3), { deadline: monotonicMs() + 3100 });
    expect(await read(driver, 'leased', 0, 512)).toEqual(Buffer.alloc(512, 3));
  });

  it('that is refused again and again has a successor each time', async () => {
    const driver = await radosDriver(ceph);
    for (let round = 1; round <= 3; round++) {
      await blocklist(driver);
      await write(driver, 'again', 0, Buffer.alloc(512, round));
      expect(await read(driver, 'again', 0, 512)).toEqual(Buffer.alloc(512, round));
      expect(statusOf(driver).blocklisted).toBe(round);
    }
  });

  it('loses nothing, and repeats nothing at the wrong time: random operations while clients come and go', async () => {
    const driver = await radosDriver(ceph);
    let refusals = 0;
    let working = true;
    const refusing = (async () => {
      while (working && refusals < 4) {
        await blocklist(driver);
        refusals++;
        await expect
          .poll(() => statusOf(driver), { interval: 5 })
          .toMatchObject({ blocklisted: refusals, reconnecting: false });
      }
    })();
    const worker = async (seed: number): Promise<void> => {
      const next = randoms(seed);
      const name = `stormy-${seed}`;
      let model = Buffer.alloc(0);
      // Until a client was refused four times, and some more.
      for (let step = 0; step < 40 || refusals < 4; step++) {
        const [offset, length] = [next(60_000), 1 + next(20_000)];
        switch (next(6)) {
          case 0:
            await runIo(driver, 'trim', { name, offset, length });
            model.fill(0, Math.min(offset, model.length), Math.min(offset + length, model.length));
            break;
          case 1:
            await driver.reset(name, true);
            model = Buffer.alloc(0);
            break;
          case 2:
            await driver.reset(name, true);
            await driver.truncate(name, length);
            model = Buffer.alloc(length);
            break;
          default: {
            const data = Buffer.alloc(length, 1 + next(255));
            await write(driver, name, offset, data);
            if (model.length < offset + length) model = Buffer.concat([model], offset + length);
            data.copy(model, offset);
          }
        }
        const got = await read(driver, name, 0, 90_000).catch((error: { code: string }) => {
          // Nothing but trims so far.
          if (error.code !== 'ENOENT') throw error;
          return Buffer.alloc(90_000);
        });
        expect(got.equals(Buffer.concat([model], 90_000)), `${name}, step ${step}`).toBe(true);
      }
    };
    await Promise.all(Array.from({ length: 8 }, (_, i) => worker(i + 1)));
    working = false;
    await refusing;
    expect(refusals).toBe(4);
  });
});
