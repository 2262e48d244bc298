/** Clients that others wrote. Each is skipped, and says so, where it is not installed. */
import { execFile, spawnSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { promisify } from 'node:util';
import { describe, expect, test } from 'vitest';
import { serveMemory, temporaryDirectory, transports } from './support.js';

const run = promisify(execFile);
const MiB = 1024 * 1024;

const installed = (tool: string): boolean => spawnSync(tool, ['--version']).error === undefined;
const packages = {
  nbdinfo: 'libnbd-bin',
  nbdcopy: 'libnbd-bin',
  'qemu-io': 'qemu-utils',
  'qemu-img': 'qemu-utils',
  fio: 'fio',
};
const missing = Object.entries(packages).filter(([tool]) => !installed(tool));
for (const [tool, name] of missing) {
  console.warn(`SKIPPED: ${tool} is not installed, its tests do not run (apt-get install ${name})`);
}
const withTool = (tool: keyof typeof packages) => test.skipIf(missing.some(([name]) => name === tool));
const uriOf = (socket: string): string => `nbd+unix:///disk?socket=${socket}`;

describe.each(transports)('over the %s transport', (transport) => {
  withTool('nbdinfo')('nbdinfo shows what the export can do, its map, and the list', async () => {
    const { path: socket, disk } = await serveMemory(
      { size: 8 * MiB, info: { description: 'a test disk' } },
      { transport },
    );
    disk.write(Buffer.alloc(MiB, 1), 2 * MiB, MiB);
    const { exports } = JSON.parse((await run('nbdinfo', ['--json', uriOf(socket)])).stdout);
    expect(exports[0]).toMatchObject({
      'export-name': 'disk',
      'export-size': 8 * MiB,
      is_read_only: false,
      can_df: true,
      can_fast_zero: true,
      can_flush: true,
      can_fua: true,
      can_multi_conn: true,
      can_trim: true,
      can_zero: true,
      can_cache: true,
      contexts: ['base:allocation'],
      block_size_minimum: 1,
      block_size_preferred: 4096,
      block_size_maximum: 64 * MiB,
    });
    const map = JSON.parse((await run('nbdinfo', ['--map', '--json', uriOf(socket)])).stdout);
    expect(map.map(({ offset, length, type }: Record<string, number>) => [offset, length, type])).toEqual([
      [0, 2 * MiB, 3],
      [2 * MiB, MiB, 0],
      [3 * MiB, 5 * MiB, 3],
    ]);
    const list = JSON.parse((await run('nbdinfo', ['--list', '--json', uriOf(socket)])).stdout);
    expect(list.exports.map((entry: Record<string, string>) => entry['export-name'])).toEqual(['', 'disk']);
    expect(list.exports[1].description).toBe('a test disk');
  });

  withTool('nbdcopy')('nbdcopy copies in and out, over several connections, with holes', async () => {
    const { path: socket, disk } = await serveMemory({ size: 64 * MiB }, { transport });
    const directory = temporaryDirectory();
    const [source, target] = [path.join(directory, 'in'), path.join(directory, 'out')];
    const image = Buffer.alloc(64 * MiB);
    for (let at = 0; at < 62 * MiB; at += 3 * MiB) image.fill(at / MiB + 1, at, at + MiB + 12_345);
    fs.writeFileSync(source, image);
    await run('nbdcopy', ['--connections=4', source, uriOf(socket)]);
    expect(disk.extents(0, disk.size).some(({ flags }) => flags !== 0)).toBe(true);
    await run('nbdcopy', ['--connections=4', uriOf(socket), target]);
    expect(fs.readFileSync(target).equals(image)).toBe(true);
  });

  withTool('qemu-io')('qemu-io writes, zeroes, discards, and finds its patterns again', async () => {
    const { path: socket } = await serveMemory({ size: 64 * MiB }, { transport });
    const commands = [
      'write -P 0xaa 1000 100000',
      'read -P 0xaa 1000 100000',
      'write -f -P 0xbb 1M 33554432',
      'read -P 0xbb 1M 33554432',
      'write -z 2M 1M',
      'read -P 0 2M 1M',
      'discard 4M 1M',
      'read -P 0 4M 1M',
      'read -P 0xbb 5M 1M',
      'flush',
    ];
    const { stdout } = await run('qemu-io', [
      '-f',
      'raw',
      ...commands.flatMap((command) => ['-c', command]),
      uriOf(socket),
    ]);
    expect(stdout).not.toMatch(/fail|error/i);
    expect(stdout.match(/bytes at offset/g)).toHaveLength(9);
  });

  withTool('qemu-img')('qemu-img sees the map and finds an image equal to itself', async () => {
    const { path: socket, disk } = await serveMemory({ size: 16 * MiB }, { transport });
    disk.write(Buffer.alloc(MiB, 7), 4 * MiB, MiB);
    const { stdout } = await run('qemu-img', ['map', '--output=json', '-f', 'raw', uriOf(socket)]);
    const data = JSON.parse(stdout).filter((extent: { data: boolean }) => extent.data);
    expect(data).toMatchObject([{ start: 4 * MiB, length: MiB }]);
    const copy = path.join(temporaryDirectory(), 'copy.qcow2');
    await run('qemu-img', ['convert', '-f', 'raw', '-O', 'qcow2', uriOf(socket), copy]);
    await run('qemu-img', ['compare', '-f', 'raw', '-F', 'qcow2', uriOf(socket), copy]);
  });

  withTool('fio')('fio verifies what it wrote at random', async () => {
    const { path: socket } = await serveMemory({ size: 64 * MiB }, { transport });
    const directory = temporaryDirectory();
    const options = ['--name=verify', '--ioengine=nbd', `--uri=${uriOf(socket)}`, '--rw=randwrite', '--size=32M'];
    const checks = ['--bsrange=512-256k', '--blockalign=512', '--iodepth=16', '--verify=crc32c', '--do_verify=1'];
    const args = [...options, ...checks, '--randseed=7', '--output-format=json'];
    const { stdout: output } = await run('fio', args, { cwd: directory });
    const [job] = JSON.parse(output.slice(output.indexOf('{'))).jobs;
    expect(job.error).toBe(0);
    expect(job.read.total_ios).toBeGreaterThan(100);
  });
});
