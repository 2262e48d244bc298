/** Reads that are answered with the content of a file, which the transport sends without copying it. */
import fs from 'node:fs';
import path from 'node:path';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { Io } from '../../../src/nbd/device.js';
import { IoCommand } from '../../../src/nbd/device.js';
import { MemoryDisk } from '../../../src/nbd/memory-device.js';
import type { NbdServerOptions } from '../../../src/nbd/server.js';
import { client, pattern } from './client-support.js';
import { eventually, SteeredProvider, serve, temporaryDirectory } from './support.js';

const KiB = 1024;
const MiB = 1024 * KiB;
const SIZE = 8 * MiB;

/** An export whose reads are answered with a file where that may be, and with the same from memory where not. */
async function exported(options: NbdServerOptions = {}) {
  const directory = temporaryDirectory();
  const file = path.join(directory, 'content');
  const image = pattern(SIZE);
  fs.writeFileSync(file, image);
  const disk = new MemoryDisk({ size: SIZE });
  disk.write(image, 0, SIZE);
  const asked: Io[] = [];
  /** What is lent: the file's path, and by how much its content is shifted. */
  const lent = { file };
  const provider = new SteeredProvider(disk, (device) => {
    device.hook = (io) => {
      if (io.command !== IoCommand.READ) return false;
      asked.push(io);
      if (!io.mayBeFile) return false;
      io.tag = 'lent';
      io.buffer?.bytes.fill(0xee);
      io.file = fs.openSync(lent.file, 'r');
      io.fileOffset = io.offset;
      io.complete(0);
      return true;
    };
  });
  return { ...(await serve(provider, options)), disk, image, file, asked, lent, directory };
}

/** Those that might have been answered with a file. */
const lentOf = (ios: readonly Io[]): Io[] => ios.filter(({ tag }) => tag === 'lent');

/** Descriptors of this process on files in a directory. */
function open(directory: string): number {
  return fs.readdirSync('/proc/self/fd').filter((fd) => {
    try {
      return fs.readlinkSync(`/proc/self/fd/${fd}`).startsWith(`${directory}/content`);
    } catch {
      return false;
    }
  }).length;
}

describe.each(['extended', 'structured', 'simple'] as const)('with %s replies', (replies) => {
  test('what is read is what the file has, with many in flight and more than the socket holds', async () => {
    const { path, image, directory } = await exported();
    const nbd = await client({ path }, { replies });
    const place = fc.tuple(fc.nat(SIZE - 2 * MiB), fc.integer({ min: 1, max: 2 * MiB }));
    await fc.assert(
      fc.asyncProperty(fc.array(place, { minLength: 1, maxLength: 40 }), async (places) => {
        const back = await Promise.all(places.map(([offset, length]) => nbd.read(offset, length)));
        back.forEach((bytes, i) => {
          expect(bytes.equals(image.subarray(places[i][0], places[i][0] + places[i][1]))).toBe(true);
        });
      }),
      { numRuns: 15 },
    );
    await eventually(() => open(directory)).toBe(0);
  });

  test('what the file has no more reads as zeros', async () => {
    const { path, image, file } = await exported();
    const nbd = await client({ path }, { replies });
    fs.truncateSync(file, MiB + 1000);
    for (const [offset, length] of [
      [MiB - 5000, 300 * KiB],
      [2 * MiB, 200 * KiB],
      [0, MiB],
    ]) {
      const expected = Buffer.concat([image.subarray(0, MiB + 1000), Buffer.alloc(SIZE)]);
      expect((await nbd.read(offset, length)).equals(expected.subarray(offset, offset + length))).toBe(true);
    }
  });
});

test('a client that leaves in the middle leaves no descriptor behind', async () => {
  const { path, asked, directory } = await exported();
  for (let i = 0; i < 5; i++) {
    const nbd = await client({ path });
    const before = asked.length;
    const reads = Array.from({ length: 20 }, (_, k) => nbd.read((k % 7) * MiB, MiB).catch(() => null));
    await eventually(() => asked.length).toBeGreaterThan(before + 2);
    nbd.destroy();
    await Promise.all(reads);
  }
  await eventually(() => open(directory)).toBe(0);
});

test('a file that can be neither sent nor read ends the connection', async () => {
  const { path: socket, directory, lent, asked } = await exported();
  lent.file = directory;
  const nbd = await client({ path: socket });
  await expect(nbd.read(0, 128 * KiB)).rejects.toThrow();
  expect(asked).toHaveLength(1);
});

test('over a stream no file is asked for', async () => {
  const { path, disk, asked } = await exported({ transport: 'stream' });
  disk.write(pattern(MiB, 5), 0, MiB);
  const nbd = await client({ path });
  expect((await nbd.read(0, MiB)).equals(pattern(MiB, 5))).toBe(true);
  expect(asked.length).toBeGreaterThan(0);
  expect(lentOf(asked)).toEqual([]);
});
