/** nbdcopy moves a gigabyte (less where it goes to a cluster) in and out over several connections without losing a byte, and keeps holes holes. */
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { open, rm, stat } from 'node:fs/promises';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { nbdmap, sha256 } from './harness/clients.js';
import { useNode } from './harness/node.js';
import { programs } from './harness/requirements.js';
import { run } from './harness/run.js';
import { repeated } from './harness/stores.js';

const MiB = 1 << 20;
const BLOCK = 4 * MiB;
/** Of the image; half of it is data, in two stretches. */
const SIZE = (repeated ? 256 : 1024) * MiB;
const STRETCH = SIZE / 4;

/** Fills `length` bytes at `offset` with bytes that differ everywhere: a generator, so a moved page is noticed. */
async function fill(file: string, offset: number, length: number, seed: number): Promise<void> {
  const handle = await open(file, 'r+');
  const chunk = Buffer.alloc(MiB);
  let state = seed;
  for (let done = 0; done < length; done += chunk.length) {
    for (let i = 0; i < chunk.length; i += 4) {
      state = (Math.imul(state, 1664525) + 1013904223) | 0;
      chunk.writeInt32LE(state, i);
    }
    await handle.write(chunk, 0, Math.min(chunk.length, length - done), offset + done);
  }
  await handle.close();
}

function hashFile(file: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const hash = createHash('sha256');
    createReadStream(file, { highWaterMark: 4 * MiB })
      .on('data', (chunk) => hash.update(chunk))
      .on('error', reject)
      .on('end', () => resolve(hash.digest('hex')));
  });
}

describe.runIf(programs('nbdcopy', 'nbdinfo'))('nbdcopy', () => {
  const rig = useNode();
  let image: string;
  let imageHash: string;

  beforeAll(async () => {
    image = path.join(rig.node.dir, 'image.raw');
    const handle = await open(image, 'w');
    await handle.truncate(SIZE);
    await handle.close();
    // They begin and end inside blocks; the rest is hole.
    await fill(image, SIZE / 8 + 512, STRETCH, 1);
    await fill(image, (SIZE / 8) * 5 - 4096, STRETCH, 2);
    imageHash = await hashFile(image);
  });

  afterAll(() => rm(image, { force: true }));

  it('copies a sparse image in over four connections, and out again to the same bytes', async () => {
    const uri = await rig.node.create('copy-volume', SIZE);
    await run('nbdcopy', ['--connections=4', '--requests=64', '--flush', image, uri]);
    expect(await sha256(uri)).toEqual({ sha256: imageHash, length: SIZE });

    const back = path.join(rig.node.dir, 'back.raw');
    await run('nbdcopy', ['--connections=4', '--requests=64', uri, back]);
    expect(await hashFile(back)).toBe(imageHash);
    const { blocks } = await stat(back);
    expect(blocks * 512).toBeLessThan(2.4 * STRETCH);
    await rm(back);
  });

  it('left no objects for the holes of the source', async () => {
    const data = (await nbdmap(rig.node.uri('copy-volume'))).filter((extent) => extent.type === 0);
    const covered = data.reduce((sum, extent) => sum + extent.length, 0);
    expect(covered).toBeGreaterThanOrEqual(2 * STRETCH);
    expect(covered).toBeLessThanOrEqual(2 * STRETCH + 4 * BLOCK);
  });

  it('copies from volume to volume over TCP', async () => {
    await rig.node.create('copy-target', SIZE);
    await run('nbdcopy', ['--connections=2', rig.node.tcpUri('copy-volume'), rig.node.tcpUri('copy-target')]);
    expect((await sha256(rig.node.uri('copy-target'))).sha256).toBe(imageHash);
  });

  it('zeroes a whole volume with --allocated, as write-zeroes that leave no hole', async () => {
    const empty = path.join(rig.node.dir, 'empty.raw');
    const handle = await open(empty, 'w');
    await handle.truncate(SIZE);
    await handle.close();
    await run('nbdcopy', ['--allocated', empty, rig.node.uri('copy-target')]);
    const { sha256: hash } = await sha256(rig.node.uri('copy-target'));
    expect(hash).toBe(await hashFile(empty));
  });
});
