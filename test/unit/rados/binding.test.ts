import { spawn } from 'node:child_process';
import { describe, expect, it } from 'vitest';
import { live, type Pool } from '../../../src/rados/index.js';
import { errnos } from '../../../src/sys/errno.js';
import { hasCeph, useCeph } from '../../support/ceph.js';
import { cleanUpAfterEach, connected, ended, memory } from './support.js';

describe.runIf(hasCeph())('operations on RADOS', () => {
  const ceph = useCeph();
  cleanUpAfterEach();

  const client = () => connected({ conf: ceph.conf, id: ceph.user });
  const pool = async (name = 'blocks'): Promise<Pool> => (await client()).pool(name, ceph.namespace);
  const text = (words: string): Buffer => Buffer.from(words);

  it('reads and writes from and to addresses; Ceph has the same bytes', async () => {
    const blocks = await pool();
    const { address, bytes } = memory(65536);
    for (let i = 0; i < bytes.length; i++) bytes[i] = i * 7;
    const expected = Buffer.from(bytes);
    const write = ended((done) => blocks.write('hot', address, 65536, 4096, done));
    // The call has copied it.
    bytes.fill(0);
    expect(await write).toBe(0);
    expect(await ceph.read('blocks', 'hot')).toEqual(Buffer.concat([Buffer.alloc(4096), expected]));
    expect(await ended((done) => blocks.read('hot', address, 65536, 4096, done))).toBe(65536);
    expect(bytes.equals(expected)).toBe(true);
    expect(await ended((done) => blocks.read('hot', address, 65536, 65536, done))).toBe(4096);
    expect(await ended((done) => blocks.read('hot', address, 65536, 1 << 20, done))).toBe(0);
    expect(await ended((done) => blocks.read('cold', address, 65536, 0, done))).toBe(-errnos.ENOENT);
  });

  it('reads no bytes as no bytes, where an OSD would send the whole object', async () => {
    const blocks = await pool();
    await blocks.operate('whole', [{ do: 'writeFull', data: Buffer.alloc(65536, 1) }]);
    const { address, bytes } = memory(65536);
    expect(await ended((done) => blocks.read('whole', address, 0, 0, done))).toBe(0);
    expect(bytes.equals(Buffer.alloc(65536))).toBe(true);
    expect(await blocks.readBytes('whole', 0, 0)).toEqual(Buffer.alloc(0));
    expect(await ended((done) => blocks.read('missing', address, 0, 0, done))).toBe(-errnos.ENOENT);
    await expect(blocks.readBytes('missing', 0, 0)).rejects.toMatchObject({ code: 'ENOENT' });
  });

  it('never calls back within the call, not even for what it refuses', async () => {
    const blocks = await pool();
    const { address } = memory(4096);
    let within = true;
    const begin = (call: (done: (result: number) => void) => void): Promise<[number, boolean]> =>
      new Promise((resolve) => {
        within = true;
        call((result) => resolve([result, within]));
        within = false;
      });
    expect(await begin((done) => blocks.read('a\0b', address, 1, 0, done))).toEqual([-errnos.EINVAL, false]);
    expect(await begin((done) => blocks.write('', address, 1, 0, done))).toEqual([-errnos.EINVAL, false]);
    expect(await begin((done) => blocks.write('a', address, 2 ** 31, 0, done))).toEqual([-errnos.E2BIG, false]);
    const badName = [{ do: 'removeXattr', name: 'a\0b' }] as const;
    expect(await begin((done) => blocks.begin('a', badName, done))).toEqual([-errnos.EINVAL, false]);
    expect(await begin((done) => blocks.begin('a', [{ do: 'create', exclusive: true }], done))).toEqual([0, false]);
    await expect(blocks.operate('a\0b', [{ do: 'remove' }])).rejects.toMatchObject({ code: 'EINVAL' });
  });

  it('makes all steps of a change or none, and says what was asked of which object', async () => {
    const maps = await pool('maps');
    await maps.operate('one', [
      { do: 'create', exclusive: true },
      { do: 'setXattr', name: 'mark', value: text('1') },
    ]);
    const refused = maps.operate('one', [
      { do: 'setXattr', name: 'mark', value: text('2') },
      { do: 'writeFull', data: text('data') },
      { do: 'compareXattr', name: 'mark', value: text('other') },
    ]);
    await expect(refused).rejects.toMatchObject({
      code: 'ECANCELED',
      message: expect.stringContaining(
        `change (setXattr, writeFull, compareXattr) object one of pool maps, namespace ${ceph.namespace}`,
      ),
    });
    expect(await maps.getXattr('one', 'mark')).toEqual(text('1'));
    expect(await maps.stat('one')).toMatchObject({ size: 0 });
    await maps.operate('one', [
      { do: 'compareXattr', name: 'mark', value: text('1') },
      { do: 'compareXattr', name: 'never set', value: Buffer.alloc(0) },
      { do: 'removeXattr', name: 'mark' },
      { do: 'write', data: text('data'), offset: 4 },
    ]);
    await expect(maps.getXattr('one', 'mark')).rejects.toMatchObject({ code: 'ENODATA' });
    expect(await ceph.read('maps', 'one')).toEqual(Buffer.concat([Buffer.alloc(4), text('data')]));
    const again = maps.operate('one', [{ do: 'create', exclusive: true }]);
    await expect(again).rejects.toMatchObject({ code: 'EEXIST' });
  });

  it('changes the size and the content as each step says', async () => {
    const blocks = await pool();
    const name = 'steps';
    await blocks.operate(name, [{ do: 'writeSame', data: text('ab'), offset: 2, length: 6 }]);
    expect(await blocks.readBytes(name, 0, 100)).toEqual(text('\0\0ababab'));
    await blocks.operate(name, [{ do: 'zero', offset: 3, length: 2 }]);
    expect(await blocks.readBytes(name, 0, 100)).toEqual(text('\0\0a\0\0bab'));
    await blocks.operate(name, [{ do: 'truncate', size: 10 }]);
    expect(await blocks.readBytes(name, 0, 100)).toEqual(text('\0\0a\0\0bab\0\0'));
    await blocks.operate(name, [
      { do: 'writeFull', data: text('new') },
      { do: 'truncate', size: 5 },
    ]);
    expect(await blocks.readBytes(name, 1, 3)).toEqual(text('ew\0'));
    expect((await blocks.stat(name)).modified).toBeGreaterThan(Date.now() - 60_000);
    await blocks.operate(name, [{ do: 'remove' }]);
    await expect(blocks.stat(name)).rejects.toMatchObject({ code: 'ENOENT' });
    await expect(blocks.operate(name, [{ do: 'remove' }])).rejects.toMatchObject({ code: 'ENOENT' });
    await expect(blocks.operate(name, [{ do: 'assertExists' }, { do: 'truncate', size: 1 }])).rejects.toMatchObject({
      code: 'ENOENT',
    });
    // Neither makes an object.
    await blocks.operate(name, [{ do: 'zero', offset: 0, length: 100 }]);
    await blocks.operate(name, [{ do: 'truncate', size: 100 }]);
    await expect(blocks.stat(name)).rejects.toMatchObject({ code: 'ENOENT' });
    const uneven = [{ do: 'writeSame', data: text('ab'), offset: 0, length: 3 }] as const;
    await expect(blocks.operate(name, uneven)).rejects.toMatchObject({ code: 'EINVAL' });
  });

  it('reads maps of keys and values page by page, with any bytes in them', async () => {
    const maps = await pool('maps');
    await expect(maps.omap('keys', '', 10)).rejects.toMatchObject({ code: 'ENOENT' });
    const entries = new Map<string, Buffer>();
    for (let i = 0; i < 25; i++) entries.set(`key ${String(i).padStart(2, '0')} é`, Buffer.alloc(i, i));
    entries.set('key 99', text('a\0b'));
    await maps.operate('keys', [{ do: 'setOmap', entries }]);
    const found = new Map<string, Buffer>();
    const sizes: number[] = [];
    for (let after = '', more = true; more; ) {
      const page = await maps.omap('keys', after, 10);
      sizes.push(page.entries.size);
      for (const [key, value] of page.entries) found.set(key, value);
      after = [...page.entries.keys()].at(-1) ?? '';
      more = page.more;
    }
    expect(sizes).toEqual([10, 10, 6]);
    expect(found).toEqual(entries);
    await maps.operate('keys', [{ do: 'removeOmap', keys: [...entries.keys()].slice(1) }]);
    expect(await maps.omap('keys', '', 10)).toEqual({ entries: new Map([...entries].slice(0, 1)), more: false });
  });

  it('calls methods of object classes', async () => {
    const maps = await pool('maps');
    const assert = Buffer.alloc(0);
    await expect(maps.exec('classy', 'lock', 'get_info', assert)).rejects.toMatchObject({ code: 'ENOENT' });
    await maps.operate('classy', [{ do: 'create', exclusive: true }]);
    await expect(maps.exec('classy', 'no_class', 'get_info', assert)).rejects.toMatchObject({ code: 'EOPNOTSUPP' });
    // version 1, compatible with 1, 5 bytes: the name "x", of 1 byte
    const input = Buffer.from([1, 1, 5, 0, 0, 0, 1, 0, 0, 0, 0x78]);
    const reply = await maps.exec('classy', 'lock', 'get_info', input);
    expect(reply.length).toBeGreaterThan(6);
    expect(reply.readUInt32LE(2)).toBe(reply.length - 6);
  });

  it('refuses an attribute that is larger than it reads, and reads the largest', async () => {
    const maps = await pool('maps');
    await maps.operate('large', [{ do: 'setXattr', name: 'most', value: Buffer.alloc(65536, 3) }]);
    await maps.operate('large', [{ do: 'setXattr', name: 'more', value: Buffer.alloc(65537, 3) }]);
    expect(await maps.getXattr('large', 'most')).toEqual(Buffer.alloc(65536, 3));
    await expect(maps.getXattr('large', 'more')).rejects.toMatchObject({ code: 'ERANGE' });
  });

  it('lists each name of its namespace once, and no others', async () => {
    const cluster = await client();
    const blocks = await cluster.pool('blocks', `${ceph.namespace}-names`);
    const other = await cluster.pool('blocks', ceph.namespace);
    await other.operate('of the other namespace', [{ do: 'create', exclusive: false }]);
    expect(await blocks.list(null, 100)).toEqual({ names: [], cursor: null });
    const names = Array.from({ length: 1200 }, (_, i) => `name ${i} ü`);
    await Promise.all(names.map((name) => blocks.operate(name, [{ do: 'create', exclusive: true }])));
    const found: string[] = [];
    let cursor: string | null = null;
    do {
      const page = await blocks.list(cursor, 100);
      expect(page.names.length).toBeLessThanOrEqual(100);
      found.push(...page.names);
      cursor = page.cursor;
    } while (cursor !== null);
    expect(found.sort()).toEqual(names.sort());
    await expect(blocks.list('of another time', 100)).rejects.toMatchObject({ code: 'ESTALE' });
    await Promise.all(names.map((name) => blocks.operate(name, [{ do: 'remove' }])));
  });

  it('begins tens of thousands of operations at once while nobody reads how they end', async () => {
    const blocks = await pool();
    await blocks.operate('crowd', [{ do: 'writeFull', data: Buffer.alloc(512, 9) }]);
    const count = 20_000;
    const { address, bytes } = memory(count * 16);
    const results: number[] = [];
    for (let i = 0; i < count; i++) {
      blocks.read('crowd', address + i * 16, 16, 0, (result) => results.push(result));
    }
    // This thread sleeps: more operations end than an ordinary pipe (64 KiB) takes, and librados' threads must not wait for it.
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 2000);
    await expect.poll(() => results.length).toBe(count);
    expect(results.every((result) => result === 16)).toBe(true);
    expect(bytes.equals(Buffer.alloc(count * 16, 9))).toBe(true);
  });

  describe('watches', () => {
    it('hear of notifications, with their message and sender, and confirm them', async () => {
      const watcher = await pool('maps');
      const cluster = await client();
      const notifier = await cluster.pool('maps', ceph.namespace);
      await watcher.operate('bell', [{ do: 'create', exclusive: false }]);
      const heard: [string, bigint][] = [];
      const handlers = {
        notified: (message: Buffer, by: bigint) => void heard.push([message.toString(), by]),
        failed: () => {},
      };
      const watch = await watcher.watch('bell', handlers);
      expect(watch.age()).toBeGreaterThanOrEqual(0);
      for (const message of ['one', '', 'three']) await notifier.notify('bell', text(message), 5000);
      expect(heard).toEqual(['one', '', 'three'].map((message) => [message, cluster.instanceId]));
      await watch.end();
      await watch.end();
      expect(watch.age()).toBeLessThan(0);
      await notifier.notify('bell', text('four'), 5000);
      expect(heard.length).toBe(3);
      expect(live.watches).toBe(0);
    });

    it('hear each notification of many on many objects', async () => {
      const maps = await pool('maps');
      const heard = new Map<string, number>();
      const names = Array.from({ length: 50 }, (_, i) => `bell ${i}`);
      await Promise.all(names.map((name) => maps.operate(name, [{ do: 'create', exclusive: true }])));
      const watches = await Promise.all(
        names.map((name) =>
          maps.watch(name, {
            notified: (message) => void heard.set(message.toString(), (heard.get(message.toString()) ?? 0) + 1),
            failed: () => {},
          }),
        ),
      );
      const notifications = names.flatMap((name) => [1, 2, 3, 4].map(() => maps.notify(name, text(name), 10_000)));
      await Promise.all(notifications);
      expect(heard).toEqual(new Map(names.map((name) => [name, 4])));
      await Promise.all(watches.map((watch) => watch.end()));
    });

    it('fail for what does not exist, and when what they watch is removed', async () => {
      const maps = await pool('maps');
      const none = { notified: () => {}, failed: () => {} };
      await expect(maps.watch('silent', none)).rejects.toMatchObject({ code: 'ENOENT' });
      await expect(maps.notify('silent', text('x'), 1000)).rejects.toMatchObject({ code: 'ENOENT' });
      await maps.operate('silent', [{ do: 'create', exclusive: true }]);
      const failures: number[] = [];
      const watch = await maps.watch('silent', { notified: () => {}, failed: (errno) => failures.push(errno) });
      await maps.operate('silent', [{ do: 'remove' }]);
      await expect.poll(() => failures.length).toBeGreaterThan(0);
      expect(failures[0]).toBe(errnos.ENOTCONN);
      expect(watch.age()).toBeLessThan(0);
      await watch.end();
    });

    it('are not waited for longer than the notifier says', async () => {
      const maps = await pool('maps');
      await maps.operate('frozen', [{ do: 'create', exclusive: true }]);
      const args = ['-c', ceph.conf, '-p', 'maps', '-N', ceph.namespace, 'watch', 'frozen'];
      const watcher = spawn('rados', args, { stdio: ['pipe', 'ignore', 'ignore'] });
      try {
        await expect.poll(() => ceph.rados('maps', 'listwatchers', 'frozen')).toContain('client.');
        watcher.kill('SIGSTOP');
        await expect(maps.notify('frozen', text('x'), 1000)).rejects.toMatchObject({ code: 'ETIMEDOUT' });
      } finally {
        watcher.kill('SIGKILL');
      }
    });
  });

  it('learns that Ceph has blocklisted it, in what it asks for and in what it watches', async () => {
    const victim = await client();
    const maps = await victim.pool('maps', ceph.namespace);
    await maps.operate('mine', [{ do: 'writeFull', data: text('mine') }]);
    const failures: number[] = [];
    await maps.watch('mine', { notified: () => {}, failed: (errno) => failures.push(errno) });
    const other = await client();
    for (const addr of victim.addresses) {
      await other.monitorCommand({ prefix: 'osd blocklist', blocklistop: 'add', addr });
    }
    await other.waitForLatestMap();
    const refusal = { code: 'ESHUTDOWN', message: expect.stringContaining('ceph osd blocklist ls') };
    await expect(maps.operate('mine', [{ do: 'remove' }])).rejects.toMatchObject(refusal);
    await expect(maps.stat('mine')).rejects.toMatchObject(refusal);
    await expect.poll(() => failures.length).toBeGreaterThan(0);
    await victim.close();
    expect(await ceph.read('maps', 'mine')).toEqual(text('mine'));
  });
});
