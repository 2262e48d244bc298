import fs from 'node:fs';
import path from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import { connect, live } from '../../../src/rados/index.js';
import { errnos } from '../../../src/sys/errno.js';
import { hasCeph, useCeph, useOwnCluster } from '../../support/ceph.js';
import { cleanUpAfterEach, connected, ended, memory, runModule } from './support.js';

const NOTHING = { clusters: 0, pools: 0, completions: 0, memories: 0, slots: 0, operations: 0, cursors: 0, watches: 0 };
const handlers = { notified: () => {}, failed: () => {} };

describe.runIf(hasCeph())('the end of a connection', () => {
  const ceph = useCeph();
  cleanUpAfterEach();

  it('comes after what is in flight, gives everything back, and refuses what is new', async () => {
    const cluster = await connect({ conf: ceph.conf, id: ceph.user });
    const maps = await cluster.pool('maps', ceph.namespace);
    const blocks = await cluster.pool('blocks', ceph.namespace);
    const { address } = memory(4096);
    await maps.operate('watched', [{ do: 'create', exclusive: true }]);
    const watch = await maps.watch('watched', handlers);
    const opening = maps.watch('watched', handlers).catch(() => null);
    const writes = Array.from({ length: 500 }, (_, i) =>
      ended((done) => blocks.write(`last ${i}`, address, 4096, 0, done)),
    );
    const reading = blocks.readBytes('nothing', 0, 4096).catch((error: { code: string }) => error.code);
    const listing = blocks.list(null, 10);
    const closing = cluster.close();
    expect(await ended((done) => blocks.write('late', address, 4096, 0, done))).toBe(-errnos.ENOTCONN);
    for (const late of [
      maps.stat('watched'),
      maps.list(null, 1),
      maps.watch('watched', handlers),
      maps.notify('watched', Buffer.alloc(0), 1000),
      cluster.pool('maps'),
      cluster.monitorCommand({ prefix: 'status' }),
      cluster.waitForLatestMap(),
    ]) {
      await expect(late).rejects.toMatchObject({ code: 'ENOTCONN' });
    }
    await closing;
    await cluster.close();
    expect(await Promise.all(writes)).toEqual(writes.map(() => 0));
    expect(await reading).toBe('ENOENT');
    expect((await listing).names.length).toBeLessThanOrEqual(10);
    await opening;
    expect(watch.age()).toBeLessThan(0);
    await watch.end();
    expect(live).toEqual(NOTHING);
    expect((await ceph.list('blocks')).length).toBe(500);
  });

  describe.each([
    ['in the turn that began the operations', 'process.exit(7);', 7],
    ['between the ends of operations', 'onEnd = (count) => { if (count === 100) process.exit(7); };', 7],
    ['a moment later', 'setTimeout(() => process.exit(7), 10);', 7],
    ['by an error that nobody catches', 'throw new Error("of the program");', 1],
    ['by itself, when all has ended, although a watch is alive', '', 0],
  ])('and of the process', (when, end, code) => {
    it(`${when}: neither crashes nor hangs`, { timeout: 120_000 }, async () => {
      const program = `
        const options = { conf: ${JSON.stringify(ceph.conf)}, id: null };
        const [one, two] = await Promise.all([connect(options), connect(options)]);
        const [first, second] = await Promise.all([one, two].map((cluster) => cluster.pool('blocks', '${ceph.namespace}')));
        await first.operate('exit', [{ do: 'writeFull', data: Buffer.alloc(4096) }]);
        const notified = () => {};
        await first.watch('exit', { notified, failed: notified });
        const { address } = libc.allocateMemory(4096 * 100);
        let count = 0;
        let onEnd = notified;
        const done = () => onEnd(++count);
        for (let i = 0; i < 1000; i++) {
          first.write('exit ' + i, address, 4096, 0, done);
          second.read('exit', address + 4096 * (i % 100), 4096, 0, done);
          second.readBytes('exit', 0, 4096).then(notified, notified);
        }
        for (let i = 0; i < 20; i++) second.notify('exit', Buffer.alloc(10), 1000).catch(notified);
        first.list(null, 1000).catch(notified);
        two.monitorCommand({ prefix: 'status' }).catch(notified);
        console.log('begun');
        ${end}`;
      for (let round = 0; round < 2; round++) {
        const outcome = await runModule(program);
        expect(outcome).toMatchObject({ code, signal: null, output: expect.stringMatching(/^begun/) });
      }
    });
  });
});

describe.runIf(hasCeph())('a cluster that does not answer', () => {
  const own = useOwnCluster();
  cleanUpAfterEach();
  const osd = (): number => Number(fs.readFileSync(path.join(own.directory, 'run/osd.0.pid'), 'utf8'));
  afterEach(() => {
    process.kill(osd(), 'SIGCONT');
  });

  it('holds up neither this process nor the end of the connection; its memory is given back once it answers', async () => {
    const cluster = await connect({ conf: own.conf, id: null });
    const blocks = await cluster.pool('blocks', 'hang');
    await blocks.operate('old', [{ do: 'writeFull', data: Buffer.alloc(65536, 1) }]);
    await blocks.watch('old', handlers);
    const { address, bytes } = memory(65536);
    process.kill(osd(), 'SIGSTOP');
    const began = performance.now();
    // More than librados' own limits would let begin without stopping this thread: 1024 operations, 100 MiB.
    const hot = Array.from({ length: 2000 }, (_, i) => [
      ended((done) => blocks.write(`new ${i}`, address, 65536, 0, done)),
      ended((done) => blocks.read('old', address, 65536, 0, done)),
    ]).flat();
    const cold = [
      blocks.stat('old'),
      blocks.readBytes('old', 0, 10),
      blocks.omap('old', '', 10),
      blocks.getXattr('old', 'none'),
      blocks.exec('old', 'lock', 'get_info', Buffer.alloc(4)),
      blocks.operate('new', [{ do: 'create', exclusive: true }]),
      blocks.notify('old', Buffer.alloc(1), 1000),
    ].map((operation) => operation.catch((error: { code: string }) => error.code));
    const lists = [1, 2, 3].map(() => blocks.list(null, 10).catch((error: { code: string }) => error.code));
    expect(cluster.inFlight.count).toBe(hot.length + cold.length);
    expect(cluster.inFlight.oldestSince).toBeGreaterThan(0);
    await cluster.close(100);
    expect(performance.now() - began).toBeLessThan(15_000);
    expect(new Set(await Promise.all(hot))).toEqual(new Set([-errnos.ECANCELED]));
    expect(new Set(await Promise.all(cold))).toEqual(new Set(['ECANCELED']));
    // The callers' memory is theirs again.
    bytes.fill(2);
    expect(live.clusters).toBe(1);
    process.kill(osd(), 'SIGCONT');
    await Promise.all(lists);
    await expect.poll(() => live).toEqual(NOTHING);
    expect(bytes.equals(Buffer.alloc(65536, 2))).toBe(true);
  });

  it('is waited for: what is in flight goes on when it answers', async () => {
    const cluster = await connected({ conf: own.conf, id: null });
    const blocks = await cluster.pool('blocks', 'wait');
    await blocks.operate('object', [{ do: 'create', exclusive: true }]);
    process.kill(osd(), 'SIGSTOP');
    const write = blocks.operate('object', [{ do: 'writeFull', data: Buffer.from('late') }]);
    const closing = cluster.close(60_000);
    process.kill(osd(), 'SIGCONT');
    await write;
    await closing;
    const again = await connected({ conf: own.conf, id: null });
    const found = await (await again.pool('blocks', 'wait')).readBytes('object', 0, 10);
    expect(found.toString()).toBe('late');
  });

  it('lets a process end', async () => {
    const program = `
      const cluster = await connect({ conf: ${JSON.stringify(own.conf)}, id: null });
      const blocks = await cluster.pool('blocks', 'exit');
      await blocks.operate('object', [{ do: 'create', exclusive: false }]);
      await blocks.watch('object', { notified() {}, failed() {} });
      process.kill(${osd()}, 'SIGSTOP');
      const { address } = libc.allocateMemory(4096);
      for (let i = 0; i < 1000; i++) blocks.read('object', address, 4096, 0, () => {});
      process.on('exit', () => console.log('the last words'));
      blocks.list(null, 10).catch(() => {});
      setTimeout(() => process.exit(7), 20);`;
    expect(await runModule(program)).toEqual({ code: 7, signal: null, output: 'the last words\n' });
  });
});
