/**
 * The command-line tools against a real node, as an administrator and a script use them: what they print, end with, change and leave
 * behind. What must be refused is in bad-requests.test.ts.
 */
import { existsSync } from 'node:fs';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { nbdinfo, qemuIo, qemuRead } from './harness/clients.js';
import { type TestNode, useNode } from './harness/node.js';
import { programs } from './harness/requirements.js';
import { attempt, describeOutcome, ended, type Outcome, start } from './harness/run.js';
import { whateverTheStore } from './harness/stores.js';
import { Wire } from './harness/wire.js';

const MiB = 1 << 20;
const BLOCK = 4 * MiB;
const bin = process.env.ARCHIPELAGO_TEST_BIN ?? path.resolve(import.meta.dirname, '../../dist/cli');

const tool = (name: string): string => path.join(bin, `${name}.js`);

function xseg(node: TestNode, args: readonly string[], input?: Buffer): Promise<Outcome> {
  return attempt(process.execPath, [tool('xseg'), `posix:${node.segment}:`, ...args], { input });
}

/** `<volume>_<epoch>_<block>`: what volumes call their objects. */
const objectName = (volume: string, epoch: number, block: number): string =>
  [volume, ...[epoch, block].map((n) => n.toString(16).padStart(16, '0'))].join('_');

describe.runIf(programs('qemu-io', 'nbdinfo'))('vlmc', () => {
  const rig = useNode();

  interface Info {
    size: number;
    blockSize: number;
    epoch: number;
    readOnly: boolean;
    parent: string | null;
    blocks: Record<string, number>;
    allocated: { own: number; other: number; missing: number };
    lock: { owner: string; since: number } | null;
  }
  const info = (name: string): Promise<Info> => rig.node.vlmcJson<Info>('info', name);

  it('tells everything about volumes, snapshots and clones', async () => {
    const { node } = rig;
    const uri = await node.create('first-volume', 40 * MiB);
    await qemuIo(uri, `write -P 1 ${BLOCK} ${2 * BLOCK}`, 'flush');
    expect(await node.vlmc('snapshot', 'first-volume', 'first-snapshot')).toBe('Snapshot name: first-snapshot\n');
    expect(await node.vlmc('create', 'first-clone', '--snap', 'first-snapshot', '--size', '80M')).toBe('');
    await qemuIo(node.uri('first-clone'), `write -P 2 ${BLOCK} 4k`, 'flush');

    expect((await node.vlmc('info', 'first-volume')).split('\n')[0]).toBe(`Volume first-volume: size: ${40 * MiB}`);
    const clone = await info('first-clone');
    expect(clone).toMatchObject({ size: 80 * MiB, blockSize: BLOCK, readOnly: false, parent: 'first-snapshot' });
    expect(clone.blocks).toMatchObject({ total: 20, zero: 18, own: 1, shared: 1, foreign: 0, damaged: 0 });
    expect(clone.allocated.own).toBeGreaterThanOrEqual(4096);
    expect(await info('first-snapshot')).toMatchObject({ readOnly: true, blocks: { own: 0, shared: 2 } });

    const names = (await node.vlmc('list')).trim().split('\n').sort();
    expect(names).toEqual(['first-clone', 'first-snapshot', 'first-volume']);
    const { volumes } = await node.vlmcJson<{ volumes: { name: string; size: number }[] }>('ls');
    expect(volumes.map(({ name, size }) => [name, size])).toEqual([
      ['first-clone', 80 * MiB],
      ['first-snapshot', 40 * MiB],
      ['first-volume', 40 * MiB],
    ]);
  });

  it('mapinfo tells which object holds which block', async () => {
    const { blocks } = await rig.node.vlmcJson<{ blocks: object[] }>('mapinfo', 'first-clone');
    expect(blocks).toEqual([
      { index: 0, count: 1, flags: 'Z', object: null },
      { index: 1, count: 1, flags: 'WA', object: objectName('first-clone', 1, 1) },
      { index: 2, count: 1, flags: 'A', object: objectName('first-volume', 1, 2) },
      { index: 3, count: 17, flags: 'Z', object: null },
    ]);
  });

  it('resizes under a connected client, which sees the new size', async () => {
    const { node } = rig;
    const uri = await node.create('grown-volume', 8 * MiB);
    await node.vlmc('map', 'grown-volume');
    await qemuIo(uri, 'write -P 3 0 8M');
    const wire = await Wire.open(node.socket, 'grown-volume');
    try {
      expect(await node.vlmc('resize', 'grown-volume', '--size', '16M')).toMatch(/^Resized grown-volume to 16777216/);
      expect((await nbdinfo(uri))['export-size']).toBe(16 * MiB);
      await qemuIo(uri, 'read -P 3 0 8M', 'read -P 0 8M 8M', 'write -P 4 8M 8M');
      const refused = await node.tryVlmc(['resize', 'grown-volume', '--size', '6M']);
      expect(refused.code, describeOutcome(refused)).toBe(255);
      expect(refused.stderr).toMatch(/^vlmc resize failed: .*--force/);
      await node.vlmc('resize', 'grown-volume', '--size', '6M', '--force');
      await node.vlmc('resize', 'grown-volume', '--size', '12M');
      await qemuIo(uri, 'read -P 3 0 6M', 'read -P 0 6M 6M');
    } finally {
      wire.socket.destroy();
    }
    await node.vlmc('unmap', '-f', 'grown-volume');
    await node.vlmc('remove', 'grown-volume');
  });

  it('maps, lists, and refuses to unmap under a client', async () => {
    const { node } = rig;
    expect(await node.vlmc('showmapped')).toBe('No volumes mapped\n\n');
    const uri = await node.vlmc('map', 'first-volume');
    expect(uri).toBe(`${node.uri('first-volume')}\n`);
    expect(await node.vlmc('map', 'first-volume')).toBe(uri);
    expect(await node.vlmc('showmapped')).toBe(`id\timage\t\tdevice\n0\tfirst-volume\t${uri}`);
    for (const refused of [
      ['remove', 'first-volume'],
      ['rename', 'first-volume', 'other-volume'],
    ]) {
      const outcome = await node.tryVlmc(refused);
      expect(outcome.code, describeOutcome(outcome)).toBe(255);
    }
    const wire = await Wire.open(node.socket, 'first-volume');
    const outcome = await node.tryVlmc(['unmap', uri.trim()]);
    expect(outcome.code).toBe(255);
    expect(outcome.stderr).toMatch(/^vlmc unmap failed: .*in use/);
    await node.vlmc('unmap', '--force', uri.trim());
    await wire.ended();
    expect(await node.vlmc('showmapped')).toBe('No volumes mapped\n\n');
  });

  it('map --readonly refuses writes', async () => {
    const { node } = rig;
    await node.vlmc('map', '-ro', 'first-volume');
    expect(await nbdinfo(node.uri('first-volume'))).toMatchObject({ is_read_only: true });
    await qemuRead(node.uri('first-volume'), `read -P 1 ${BLOCK} ${BLOCK}`);
    await node.vlmc('unmap', 'first-volume');
  });

  it('opens, closes, locks and unlocks', async () => {
    const { node } = rig;
    const holder = async (): Promise<string | undefined> =>
      (await node.vlmcJson<{ lock: { owner: string } | null }>('lock', 'first-volume', '--show')).lock?.owner;
    await node.vlmc('close', 'first-volume');
    expect(await holder()).toBeUndefined();
    expect(await node.vlmc('open', 'first-volume')).toBe('Volume opened\n');
    expect(await holder()).toMatch(/_1002$/);
    expect(await node.vlmc('close', 'first-volume')).toBe('Volume closed\n');
    expect(await holder()).toBeUndefined();
    expect(await node.vlmc('lock', 'first-volume')).toBe('Volume locked\n');
    expect(await holder()).toMatch(/_1002$/);
    expect(await node.vlmc('unlock', 'first-volume')).toBe('Volume unlocked\n');
    expect(await holder()).toBeUndefined();
    expect((await node.tryVlmc(['unlock', 'first-volume'])).code).toBe(255);
    // An open volume that is unlocked by hand is closed: its next writer takes the lock again.
    await node.vlmc('open', 'first-volume');
    await node.vlmc('unlock', 'first-volume');
    expect(await holder()).toBeUndefined();
    await qemuIo(node.uri('first-volume'), `write -P 1 ${BLOCK} 4k`);
  });

  it('renames, removes, and lists what is deleted only on demand', async () => {
    const { node } = rig;
    await qemuIo(await node.create('named-volume', 8 * MiB), 'write -P 9 0 64k');
    expect(await node.vlmc('rename', 'named-volume', 'called-volume')).toBe('Renamed named-volume to called-volume\n');
    await qemuIo(node.uri('called-volume'), 'read -P 9 0 64k');
    expect(await node.vlmc('rm', 'called-volume')).toBe('');
    expect(await node.vlmc('list')).not.toMatch(/named-volume|called-volume/);
    expect(await node.vlmc('list', '--deleted')).toMatch(/called-volume/);
  });

  describe('check', () => {
    interface Report {
      good: boolean;
      errors: number;
      orphans: number;
      repaired: number;
      findings: { severity: string; kind: string; object?: string }[];
    }
    const orphans = [objectName('checked-volume', 0, 1), objectName('checked-volume', 1, 2)];

    beforeAll(async () => {
      const { node } = rig;
      await qemuIo(await node.create('checked-volume', 16 * MiB), 'write -P 1 0 4M', 'flush');
      await node.vlmc('snapshot', 'checked-volume', 'checked-snapshot');
      await qemuIo(node.uri('checked-volume'), 'write -P 2 0 4k', 'flush');
      await node.vlmc('close', 'checked-volume');
    });

    it('finds nothing in a store that is as it should be', async () => {
      expect(await rig.node.vlmc('check', '--all')).toMatch(/: 0 errors, 0 orphans, 0 notes\n$/);
    });

    it('finds orphans, and with --repair removes them and nothing else', async () => {
      const { node } = rig;
      for (const object of orphans) {
        const made = await xseg(node, [':1000', 'write', object, '0'], Buffer.from('left by a crash'));
        expect(made.code, describeOutcome(made)).toBe(0);
      }
      const outcome = await node.tryVlmc(['check', '--all', '--json']);
      expect(outcome.code, describeOutcome(outcome)).toBe(255);
      const found = JSON.parse(outcome.stdout) as Report;
      expect(found.findings.map(({ object }) => object).sort()).toEqual(orphans);
      const repaired = await node.vlmcJson<Report>('check', '--all', '--repair', '--age', '0');
      expect(repaired).toMatchObject({ good: true, orphans: 2, repaired: 2 });
      expect(await node.vlmc('check', '--all')).toMatch(/: 0 errors, 0 orphans, 0 notes\n$/);
      const { lock } = await node.vlmcJson<{ lock: object | null }>('lock', 'checked-volume', '--show');
      expect(lock).toBeNull();
      await qemuIo(node.uri('checked-volume'), 'read -P 2 0 4k', 'read -P 1 4k 4092k', 'write -P 5 8M 4k');
      await qemuRead(node.uri('checked-snapshot'), 'read -P 1 0 4M');
    });
  });

  it('works while a client writes, and leaves it alone', async () => {
    const { node } = rig;
    const uri = await node.create('busy-volume', 64 * MiB);
    const writing = start('qemu-io', ['-f', 'raw', '-c', 'write -P 6 0 64M', '-c', 'read -P 6 0 64M', uri]);
    const over = ended(writing);
    for (const words of [['info', 'busy-volume'], ['list'], ['check', 'busy-volume'], ['mapinfo', 'busy-volume']]) {
      const outcome = await node.tryVlmc(words);
      expect(outcome.code, describeOutcome(outcome)).toBe(0);
    }
    expect(await over).toEqual({ code: 0, signal: null });
  });

  it('ends quietly when the reader of its output is gone', async () => {
    const command = `"${process.execPath}" "${tool('vlmc')}" -c "${rig.node.conf}" mapinfo --all busy-volume | head -1`;
    const outcome = await attempt('bash', ['-o', 'pipefail', '-c', command]);
    expect(outcome.code, describeOutcome(outcome)).toBe(0);
    expect(outcome.stderr).toBe('');
  });
});

whateverTheStore(describe)('xseg', () => {
  const rig = useNode();

  beforeAll(() => rig.node.create('seen-volume', 32 * MiB));

  it("asks peers as the original's did", async () => {
    const outcome = await xseg(rig.node, ['bind', '1012', '1012:500', 'info', 'seen-volume', 'wait', '1']);
    expect(outcome).toMatchObject({ code: 0, stdout: `bound port 1012\nsize: ${32 * MiB}\n`, stderr: '' });
  });

  it('writes and reads a volume and its objects', async () => {
    const data = Buffer.from(Array.from({ length: 70_000 }, (_, i) => 32 + (i % 90)));
    const at = String(BLOCK - 4096);
    const written = await xseg(rig.node, [':500', 'write', 'seen-volume', at], data);
    expect(written.code, describeOutcome(written)).toBe(0);
    const read = await xseg(rig.node, [':500', 'read', 'seen-volume', at, String(data.length)]);
    expect(read.stdout).toBe(data.toString());
    const object = await xseg(rig.node, [':1000', 'read', objectName('seen-volume', 1, 1), '0', '100']);
    expect(object.stdout).toBe(data.toString('utf8', 4096, 4196));
  });

  it('shows ports of every role, and finds a running node in order', async () => {
    const { stdout } = await xseg(rig.node, ['reportall', '--json']);
    const { bound } = JSON.parse(stdout) as { bound: { port: number; alive: boolean }[] };
    expect(bound.map(({ port }) => port)).toEqual(expect.arrayContaining([500, 1000, 1001, 1002, 1023]));
    expect(bound.every(({ alive }) => alive)).toBe(true);
    const verified = await xseg(rig.node, ['verify']);
    expect(verified.code, describeOutcome(verified)).toBe(0);
    const refused = await xseg(rig.node, ['destroy']);
    expect(refused.code).toBe(255);
    expect(existsSync(`/dev/shm/${rig.node.segment}`)).toBe(true);
  });

  it('cleans up after a tool that was killed', async () => {
    // It waits for a standard input that does not end, with a port bound.
    const args = [tool('xseg'), `posix:${rig.node.segment}:`, 'bind', '1013', '1013:500', 'write', 'seen-volume', '0'];
    const child = start(process.execPath, args, { stdio: ['pipe', 'pipe', 'ignore'] });
    await new Promise((resolve) => child.stdout?.once('data', resolve));
    const over = ended(child);
    child.kill('SIGKILL');
    await over;
    // The node may have been quicker: its peers recover dead ports that they meet.
    const fixed = await xseg(rig.node, ['verify-fix']);
    expect(fixed.code, describeOutcome(fixed)).toBe(0);
    const again = await xseg(rig.node, ['bind', '1013', '1013:500', 'ping']);
    expect(again).toMatchObject({ code: 0, stdout: 'bound port 1013\nport 500 answers\n' });
  });

  it('leaves no port behind when it is interrupted', async () => {
    const args = [tool('xseg'), `posix:${rig.node.segment}:`, 'bind', '1014', '1014:500', 'write', 'seen-volume', '0'];
    const child = start(process.execPath, args, { stdio: ['pipe', 'pipe', 'ignore'] });
    await new Promise((resolve) => child.stdout?.once('data', resolve));
    const over = ended(child);
    child.kill('SIGINT');
    expect(await over).toEqual({ code: 130, signal: null });
    const { stdout } = await xseg(rig.node, ['reportall']);
    expect(stdout).not.toMatch(/^1014 /m);
  });

  afterAll(async () => {
    await rig.node.vlmc('remove', 'seen-volume');
  });
});
