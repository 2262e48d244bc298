/**
 * fio writes random sizes at random places at several depths and reads all of it back by checksum: on a fresh volume, over what is
 * there already, and on a clone whose every first write copies a shared block.
 */
import { readFile, rm } from 'node:fs/promises';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { sha256 } from './harness/clients.js';
import { useNode } from './harness/node.js';
import { programs } from './harness/requirements.js';
import { run } from './harness/run.js';
import { repeated } from './harness/stores.js';

/** What each depth writes, in MiB. */
const WRITTEN = repeated ? 16 : 48;

interface FioJob {
  error: number;
  read: { io_bytes: number };
  write: { io_bytes: number };
}

describe.runIf(programs('fio', 'nbdcopy'))('fio', () => {
  const rig = useNode();

  /** One run; resolves to what it wrote and what it read back. */
  async function verify(uri: string, ...options: string[]): Promise<{ written: number; read: number }> {
    const output = path.join(rig.node.dir, 'fio.json');
    const args = ['--name=verify', '--ioengine=nbd', `--uri=${uri}`, '--rw=randwrite', '--randrepeat=1'];
    const checks = ['--verify=crc32c', '--do_verify=1', '--verify_fatal=1', '--verify_backlog=512'];
    // fio keeps a state file of verification in its working directory.
    await run('fio', [...args, ...checks, ...options, '--output-format=json', `--output=${output}`], {
      cwd: rig.node.dir,
    });
    // The nbd engine may print a line before the JSON.
    const text = await readFile(output, 'utf8');
    await rm(output);
    const { jobs } = JSON.parse(text.slice(text.indexOf('{'))) as { jobs: FioJob[] };
    expect(jobs.map((job) => job.error)).toEqual(jobs.map(() => 0));
    return {
      written: jobs.reduce((sum, job) => sum + job.write.io_bytes, 0),
      read: jobs.reduce((sum, job) => sum + job.read.io_bytes, 0),
    };
  }

  it.each([
    { depth: 1, sizes: '512-16k', align: 512, seed: 11 },
    { depth: 8, sizes: '4k-128k', align: 4096, seed: 12 },
    { depth: 64, sizes: '512-1m', align: 512, seed: 13 },
  ])('verifies random writes of $sizes at depth $depth', async ({ depth, sizes, align, seed }) => {
    const uri = await rig.node.create(`fio-depth-${depth}`, '128M');
    const options = [`--iodepth=${depth}`, `--bsrange=${sizes}`, `--blockalign=${align}`, `--randseed=${seed}`];
    const { written, read } = await verify(uri, ...options, '--size=128m', `--io_size=${WRITTEN}m`);
    expect(written).toBeGreaterThanOrEqual(WRITTEN << 20);
    expect(read).toBeGreaterThanOrEqual(written);
  });

  it('verifies four jobs on four connections, each on its own quarter', async () => {
    const uri = await rig.node.create('fio-parallel', '128M');
    const parts = ['--numjobs=4', '--offset_increment=32m', '--size=32m'];
    const { written } = await verify(uri, ...parts, '--iodepth=16', '--bsrange=4k-64k', '--group_reporting');
    expect(written).toBeGreaterThanOrEqual(96 << 20);
  });

  it('verifies first writes to a clone, and the snapshot below it does not change', async () => {
    await rig.node.vlmc('snapshot', 'fio-parallel', 'fio-snapshot');
    const before = await sha256(rig.node.uri('fio-snapshot'));
    await rig.node.vlmc('create', 'fio-clone-1', '--snap', 'fio-snapshot');
    await verify(
      rig.node.uri('fio-clone-1'),
      '--iodepth=32',
      '--bsrange=512-64k',
      '--blockalign=512',
      '--size=128m',
      '--io_size=24m',
    );
    expect(await sha256(rig.node.uri('fio-snapshot'))).toEqual(before);
  });

  it('verifies durable writes', async () => {
    const uri = await rig.node.create('fio-sync-1', '64M');
    const { written } = await verify(uri, '--iodepth=4', '--bs=16k', '--fsync=8', '--size=64m', '--io_size=8m');
    expect(written).toBeGreaterThanOrEqual(8 << 20);
  });
});
