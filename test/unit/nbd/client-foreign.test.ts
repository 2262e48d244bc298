/** The client with servers that others wrote. */
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { openNbd } from '../../../src/nbd/client-connect.js';
import type { ExtentAt } from '../../../src/nbd/client-extents.js';
import { NbdError } from '../../../src/nbd/errors.js';
import { formatNbdUri } from '../../../src/nbd/uri.js';
import { errnos } from '../../../src/sys/errno.js';
import { client, nbdkit, pattern, qemuNbd, withServer } from './client-support.js';
import { temporaryDirectory } from './support.js';

const KiB = 1024;
const MiB = 1024 * KiB;

async function collect(extents: AsyncIterable<ExtentAt>): Promise<[number, number, number][]> {
  const all: [number, number, number][] = [];
  for await (const { offset, length, flags } of extents) all.push([offset, length, flags]);
  return all;
}

/** A sparse file with data from 1 MiB to 2 MiB. */
function sparseFile(size: number, data: Buffer): string {
  const file = path.join(temporaryDirectory(), 'disk');
  const descriptor = fs.openSync(file, 'w');
  fs.ftruncateSync(descriptor, size);
  fs.writeSync(descriptor, data, 0, data.length, MiB);
  fs.closeSync(descriptor);
  return file;
}

const servers = {
  nbdkit: (file: string, ...args: string[]) => nbdkit(...args, 'file', file),
  'qemu-nbd': (file: string) => qemuNbd('-f', 'raw', '--discard=unmap', file),
} as const;

for (const [name, start] of Object.entries(servers)) {
  withServer(name as keyof typeof servers)(`${name}: every command does what it says`, async () => {
    const data = pattern(MiB, 3);
    const nbd = await client({ path: await start(sparseFile(8 * MiB, data)) }, { strict: false });
    expect(nbd.size).toBe(8 * MiB);
    expect(nbd.structured).toBe(true);
    expect(nbd.can).toMatchObject({ write: true, flush: true, fua: true, trim: true, writeZeroes: true, df: true });
    expect((await nbd.read(MiB, MiB)).equals(data)).toBe(true);
    // Over holes and data, in one piece and in as many as the server likes.
    const around = Buffer.concat([Buffer.alloc(MiB), data, Buffer.alloc(MiB)]);
    expect((await nbd.read(0, 3 * MiB)).equals(around)).toBe(true);
    expect((await nbd.read(MiB, 64 * KiB, { df: true })).equals(data.subarray(0, 64 * KiB))).toBe(true);
    expect(await collect(nbd.extents())).toEqual([
      [0, MiB, 3],
      [MiB, MiB, 0],
      [2 * MiB, 6 * MiB, 3],
    ]);
    expect(await collect(nbd.extents({ offset: MiB + 4096, length: 2 * MiB }))).toEqual([
      [MiB + 4096, MiB - 4096, 0],
      [2 * MiB, MiB + 4096, 3],
    ]);
    const one = await nbd.blockStatus(0, 8 * MiB, { reqOne: true });
    expect(one.get('base:allocation')).toEqual([{ length: MiB, flags: 3 }]);

    const other = pattern(100_000, 9);
    await nbd.write(5 * MiB, other, { fua: true });
    await nbd.flush();
    const target = new Uint8Array(other.length);
    await nbd.readInto(target, 5 * MiB);
    expect(Buffer.from(target).equals(other)).toBe(true);
    await nbd.writeZeroes(5 * MiB, 50_000);
    expect(
      (await nbd.read(5 * MiB, 100_000)).equals(Buffer.concat([Buffer.alloc(50_000), other.subarray(50_000)])),
    ).toBe(true);
    await nbd.trim(5 * MiB, MiB);
    await expect(nbd.read(8 * MiB - 512, 1024)).rejects.toMatchObject({ name: 'NbdError', errno: errnos.EINVAL });
    await expect(nbd.write(8 * MiB - 512, Buffer.alloc(1024))).rejects.toMatchObject({
      name: 'NbdError',
      errno: name === 'nbdkit' ? errnos.ENOSPC : errnos.EINVAL,
    });
    await nbd.disconnect();
    await expect(nbd.flush()).rejects.toMatchObject({ name: 'DisconnectedError' });
  });

  withServer(name as keyof typeof servers)(
    `${name}: hundreds of requests in flight, each with its own answer`,
    async () => {
      const nbd = await client(
        { path: await start(sparseFile(32 * MiB, Buffer.alloc(1))) },
        { maxInFlight: 64, maxInFlightBytes: 4 * MiB },
      );
      const blocks = Array.from({ length: 300 }, (_, i) => pattern(60_000 + i, i + 1));
      await Promise.all(blocks.map((block, i) => nbd.write(i * 70_000, block)));
      const back = await Promise.all(blocks.map((block, i) => nbd.read(i * 70_000, block.length)));
      expect(back.every((block, i) => block.equals(blocks[i]))).toBe(true);
    },
  );
}

for (const replies of ['structured', 'simple'] as const) {
  withServer('nbdkit')(`nbdkit: data is the same with ${replies} replies`, async () => {
    const data = pattern(MiB, 5);
    const nbd = await client({ path: await nbdkit('file', sparseFile(4 * MiB, data)) }, { replies, strict: false });
    expect(nbd.structured).toBe(replies === 'structured');
    expect((await nbd.read(MiB, MiB)).equals(data)).toBe(true);
    await expect(nbd.read(4 * MiB, 512)).rejects.toMatchObject({ errno: errnos.EINVAL });
    expect((await nbd.read(MiB, 512)).equals(data.subarray(0, 512))).toBe(true);
  });
}

withServer('nbdkit')('nbdkit: a server without structured replies is spoken to in simple ones', async () => {
  const nbd = await client({ path: await nbdkit('--no-sr', 'memory', '1M') });
  expect([nbd.extended, nbd.structured, nbd.can.df, nbd.contexts]).toEqual([false, false, false, []]);
  await nbd.write(100, Buffer.from('hello'));
  expect((await nbd.read(100, 5)).toString()).toBe('hello');
  await expect(nbd.blockStatus(0, 512)).rejects.toMatchObject({ errno: errnos.EINVAL });
});

withServer('nbdkit')('nbdkit: the handshake without fixed newstyle is refused with a reason', async () => {
  const socket = await nbdkit('--mask-handshake=0', 'memory', '1M');
  await expect(client({ path: socket })).rejects.toMatchObject({ name: 'ProtocolError', message: /fixed newstyle/ });
});

withServer('nbdkit')('nbdkit: EXPORT_NAME works with the zeroes and without them', async () => {
  for (const mask of ['1', '3']) {
    const socket = await nbdkit(`--mask-handshake=${mask}`, 'memory', '1M');
    const handshake = await openNbd({ path: socket });
    const nbd = await handshake.exportName('');
    onTestFinished(() => nbd.destroy());
    expect(nbd.size).toBe(MiB);
    await nbd.write(0, Buffer.from('abc'));
    expect((await nbd.read(0, 3)).toString()).toBe('abc');
  }
});

withServer('nbdkit')('nbdkit: the oldstyle handshake is refused with a reason', async () => {
  const socket = await nbdkit('-o', 'memory', '1M');
  await expect(client({ path: socket })).rejects.toMatchObject({ name: 'ProtocolError', message: /oldstyle/ });
});

withServer('nbdkit')('nbdkit: answers that come late and in another order find their requests', async () => {
  const socket = await nbdkit('--filter=delay', '-t', '16', 'memory', '4M', 'delay-read=50ms');
  const nbd = await client({ path: socket });
  const data = pattern(2 * MiB, 11);
  await nbd.write(0, data);
  const places = Array.from({ length: 40 }, (_, i) => (i * 51_001) % (2 * MiB - 5000));
  const back = await Promise.all(places.map((offset) => nbd.read(offset, 5000)));
  expect(back.every((block, i) => block.equals(data.subarray(places[i], places[i] + 5000)))).toBe(true);
});

withServer('nbdkit')("nbdkit: a failing disk's error is the request's alone", async () => {
  const socket = await nbdkit('--filter=error', 'memory', '1M', 'error-pread=ENOSPC', 'error-pread-rate=100%');
  const nbd = await client({ path: socket });
  await nbd.write(0, Buffer.alloc(512));
  const error = await nbd.read(0, 512).catch((caught: unknown) => caught);
  expect(error).toBeInstanceOf(NbdError);
  expect(error).toMatchObject({ errno: errnos.ENOSPC, wire: 28, offset: null });
  await nbd.flush();
});

withServer('nbdkit')('nbdkit: a server that dies ends all that is in flight, and says so once', async () => {
  const socket = await nbdkit('--filter=exitlast', '--filter=delay', 'memory', '1M', 'delay-read=3600');
  const nbd = await client({ path: socket });
  const reads = [nbd.read(0, 512), nbd.read(512, 512)];
  const pid = Number(fs.readFileSync(path.join(path.dirname(socket), 'pid'), 'utf8'));
  process.kill(pid, 'SIGKILL');
  for (const read of reads) await expect(read).rejects.toMatchObject({ name: 'DisconnectedError' });
  expect(await nbd.closed).toMatchObject({ name: 'DisconnectedError' });
});

withServer('nbdkit')('nbdkit: the list of exports, and one of them by a URI', async () => {
  const directory = temporaryDirectory();
  fs.writeFileSync(path.join(directory, 'first disk'), Buffer.alloc(MiB, 1));
  fs.writeFileSync(path.join(directory, 'sécond'), Buffer.alloc(2 * MiB, 2));
  const socket = await nbdkit('file', `dir=${directory}`);
  const handshake = await openNbd({ path: socket });
  onTestFinished(() => handshake.destroy());
  const exports = await handshake.list();
  expect(exports.map(({ name }) => name).sort()).toEqual(['first disk', 'sécond']);
  await handshake.abort();
  for (const [exportName, size] of [
    ['first disk', MiB],
    ['sécond', 2 * MiB],
  ] as const) {
    const nbd = await client(formatNbdUri({ socket, exportName }));
    expect(nbd.size).toBe(size);
  }
  const nobody = client(formatNbdUri({ socket, exportName: 'third' }));
  await expect(nobody).rejects.toMatchObject({ errno: expect.any(Number) });
});

withServer('qemu-nbd')('qemu-nbd: holes inside of a read are zeros, whatever the memory held', async () => {
  const file = sparseFile(4 * MiB, pattern(MiB, 17));
  const nbd = await client({ path: await qemuNbd('-f', 'raw', file) });
  const target = Buffer.alloc(4 * MiB, 0xee);
  await nbd.readInto(target, 0);
  expect(target.equals(fs.readFileSync(file))).toBe(true);
});

withServer('qemu-nbd')('qemu-nbd: several meta contexts, and a bitmap of changes', async () => {
  const file = path.join(temporaryDirectory(), 'disk.qcow2');
  execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', file, '8M']);
  execFileSync('qemu-img', ['bitmap', '--add', file, 'changes']);
  execFileSync('qemu-io', ['-f', 'qcow2', '-c', 'write 1M 1M', file]);
  const socket = await qemuNbd('-f', 'qcow2', '-A', '-B', 'changes', '-r', file);
  const names = ['qemu:dirty-bitmap:changes', 'base:allocation', 'qemu:allocation-depth', 'not:there'];
  const nbd = await client({ path: socket }, { metaContexts: names, strict: false });
  expect(nbd.can.write).toBe(false);
  expect(nbd.contexts.map(({ name }) => name).sort()).toEqual([...names.slice(0, 3)].sort());
  const status = await nbd.blockStatus(0, 8 * MiB);
  expect([...status.keys()].sort()).toEqual([...names.slice(0, 3)].sort());
  expect(await collect(nbd.extents({ context: 'qemu:dirty-bitmap:changes' }))).toEqual([
    [0, MiB, 0],
    [MiB, MiB, 1],
    [2 * MiB, 6 * MiB, 0],
  ]);
  const some = await nbd.blockStatus(0, 8 * MiB, { contexts: ['base:allocation'] });
  expect([...some.keys()]).toEqual(['base:allocation']);
  await expect(nbd.blockStatus(0, 512, { contexts: ['not:there'] })).rejects.toMatchObject({ errno: errnos.EINVAL });
  await expect(nbd.write(0, Buffer.alloc(512))).rejects.toMatchObject({
    name: 'NbdError',
    text: expect.stringMatching(/permission|only/i),
  });
});

withServer('qemu-nbd')('qemu-nbd: an unknown export is ENOENT in its words', async () => {
  const socket = await qemuNbd('-f', 'raw', '-x', 'here', sparseFile(2 * MiB, Buffer.alloc(1)));
  await expect(client({ path: socket }, { exportName: 'there' })).rejects.toMatchObject({
    name: 'NbdError',
    errno: errnos.ENOENT,
    message: /there/,
  });
  expect((await client({ path: socket }, { exportName: 'here' })).size).toBe(2 * MiB);
});

withServer('nbdkit')('nbdkit: extents of an export beyond 4 GiB come in several questions', async () => {
  const nbd = await client({ path: await nbdkit('--filter=nozero', 'memory', '20G') });
  expect(nbd.extended).toBe(false);
  await nbd.write(9 * 1024 * MiB, Buffer.alloc(64 * KiB, 1));
  expect(await collect(nbd.extents())).toEqual([
    [0, 9 * 1024 * MiB, 3],
    [9 * 1024 * MiB, 64 * KiB, 0],
    [9 * 1024 * MiB + 64 * KiB, 11 * 1024 * MiB - 64 * KiB, 3],
  ]);
  await expect(nbd.trim(0, 4 * 1024 * MiB)).rejects.toMatchObject({ errno: errnos.EOVERFLOW });
});

test('nobody listens: the error names the address', async () => {
  const nowhere = path.join(temporaryDirectory(), 'nobody');
  await expect(client({ path: nowhere })).rejects.toMatchObject({ errno: errnos.ENOENT, message: /nobody/ });
});
