/**
 * A running guest with its file system on a volume, and what docs/qemu.md says can be done meanwhile, in the words of that page: snapshots as they come and
 * of a frozen file system, a resize, space that is given back, restarts of the endpoint. The guest writes all the time and compares what it reads.
 */
import { mkdirSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import path from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { Manual, type Places } from './harness/manual.js';
import { bin, useNode } from './harness/node.js';
import { portrait } from './harness/portrait.js';
import { Monitor } from './harness/qmp.js';
import { programs } from './harness/requirements.js';
import { attempt, run } from './harness/run.js';
import { type Boot, buildBoot, buildGuestAgent, Machine } from './harness/vm.js';

const tools = programs(
  'qemu-system-x86_64',
  'nbdcopy',
  'mke2fs',
  'e2fsck',
  'dumpe2fs',
  'debugfs',
  'resize2fs',
  'busybox',
  'depmod',
  'cpio',
);
const MiB = 1 << 20;
const SIZE = 96 * MiB;
/** On a machine with other work; nothing here takes so long by itself. */
const LONG = 200_000;

describe.runIf(tools)('a qemu guest on a volume', () => {
  const rig = useNode({ store: 'files' });
  const manual = new Manual('qemu.md');
  let boot: Boot;
  let channels: string;
  let places: Places;
  let machine: Machine;
  let monitor: Monitor;
  let agent: Monitor;
  let failed = false;

  beforeAll(async () => {
    boot = await buildBoot(
      'qemu-guest',
      ['virtio_pci', 'virtio_blk', 'virtio-rng', 'virtio_console'],
      [await buildGuestAgent(), 'resize2fs'],
    );
    const { node } = rig;
    const image = path.join(node.dir, 'made.img');
    const options = 'lazy_itable_init=0,lazy_journal_init=0,root_owner=0:0';
    await run('mke2fs', ['-q', '-t', 'ext4', '-b', '4096', '-E', options, image, `${SIZE >> 10}k`]);
    await run('nbdcopy', [image, await node.create('web-data', SIZE)]);
    channels = path.join(node.dir, 'web1');
    mkdirSync(channels);
    places = { '/run/archipelago/nbd.sock': node.socket, '/run/web1': channels };
  });

  afterEach(async ({ task }) => {
    if (task.result?.state !== 'fail' || failed) return;
    failed = true;
    // The console without what its writer always says.
    console.error(machine?.console.replaceAll(/^RIG-FILE \d+\n/gm, '').slice(-8000));
    console.error(await portrait(monitor, machine?.pid));
    const report = [path.join(bin, 'xseg.js'), `posix:${rig.node.segment}:`, 'reportall'];
    console.error((await attempt(process.execPath, report)).stdout);
  });
  afterAll(() => {
    for (const channel of [monitor, agent]) channel?.close();
    machine?.kill();
  });

  /** Runs a line in the guest; it must succeed. Resolves to what the guest said meanwhile. */
  async function guest(line: string): Promise<string> {
    const from = machine.console.length;
    machine.type(line);
    const [, status] = await machine.expect(/^RIG-DONE (\d+)$/m, LONG);
    const said = machine.console.slice(from);
    expect(status, `${line}: ${said}`).toBe('0');
    return said;
  }
  const inGuest = (block: string): Promise<string> => guest(manual.text('sh', block, {}).trim());

  /** Gives the commands of a block to a monitor; resolves to what they returned. */
  async function tell(to: Monitor, block: string): Promise<unknown[]> {
    const answers: unknown[] = [];
    for (const { execute, arguments: parameters } of manual.commands(block, places))
      answers.push(await to.execute(execute, parameters));
    return answers;
  }

  /** The number of the last file that the guest knows to be durable. */
  const durable = (): number => Number([...machine.console.matchAll(/^RIG-FILE (\d+)$/gm)].at(-1)?.[1] ?? -1);

  /** Waits until the guest has made `count` more files. */
  async function more(count: number): Promise<void> {
    for (let i = 0; i < count; i++) {
      const [said] = await machine.expect(/^RIG-FILE \d+$|^RIG-FAIL.*$/m, LONG);
      expect(said).not.toContain('RIG-FAIL');
    }
  }

  /** An export's content as a file. */
  async function copy(volume: string): Promise<string> {
    const file = path.join(rig.node.dir, `${volume}.img`);
    await run('nbdcopy', [rig.node.uri(volume), file]);
    return file;
  }

  /** Whether the file system in an image waits for its journal to be replayed. */
  async function needsRecovery(image: string): Promise<boolean> {
    const { stdout } = await run('dumpe2fs', ['-h', image]);
    expect(stdout).toContain('has_journal');
    return stdout.includes('needs_recovery');
  }

  /** Compares the files 0 to `last` in an image with what the guest wrote to them. */
  async function expectFiles(image: string, last: number): Promise<void> {
    const directory = `${image}.files`;
    mkdirSync(directory);
    await run('debugfs', ['-R', `rdump /written ${directory}`, image]);
    const written = path.join(directory, 'written');
    expect(readdirSync(written).length).toBeGreaterThan(last);
    for (let n = 0; n <= last; n++) {
      const line = `file ${n} of the guest\n`;
      const length = ((n * 7919) % 60000) + 1;
      const expected = Buffer.from(line.repeat(Math.ceil(length / line.length))).subarray(0, length);
      expect(readFileSync(path.join(written, String(n))).equals(expected), `file ${n}`).toBe(true);
    }
    rmSync(directory, { recursive: true });
  }

  /** Bytes that the objects take on the disk, holes left out. */
  function taken(): number {
    const { blocks } = rig.node;
    return readdirSync(blocks, { recursive: true, encoding: 'utf8' })
      .map((file) => statSync(path.join(blocks, file), { throwIfNoEntry: false }))
      .reduce((sum, stat) => sum + (stat?.isFile() ? stat.blocks * 512 : 0), 0);
  }

  it('boots', async () => {
    const given = ['guest-blockdev', 'guest-channels'].map((block) => manual.arguments(block, places));
    machine = new Machine(boot, 'quiet', (await Promise.all(given)).flat());
    monitor = await Monitor.connect(path.join(channels, 'qmp.sock'));
    agent = await Monitor.agent(path.join(channels, 'agent.sock'));
    await machine.expect(/^RIG-READY$/m, LONG);
    await guest('kill -0 $(cat /tmp/agent.pid)');
    await agent.execute('guest-ping');
  });

  it('gives the space of a removed file back to the store', async () => {
    const before = taken();
    await guest('dd if=/dev/urandom of=/srv/large bs=1M count=24 conv=fsync 2>/dev/null');
    const full = taken();
    expect(full - before).toBeGreaterThanOrEqual(24 * MiB);
    await guest('rm /srv/large && sync');
    await inGuest('guest-trim');
    // What whole blocks have is given back by the next commit of the map.
    await expect.poll(() => full - taken(), { timeout: 60_000 }).toBeGreaterThanOrEqual(23 * MiB);
    console.log(`bytes of objects: ${before} before, ${full} with a file of 24 MiB, ${taken()} after fstrim`);
  });

  it('recovers, in a clone of a snapshot taken while it writes, all that it had flushed', async () => {
    await guest('writer &');
    await more(10);
    const last = durable();
    await manual.shell('guest-snapshot', rig.node);
    await manual.shell('guest-clone', rig.node);
    const image = await copy('web-again');
    expect(await needsRecovery(image)).toBe(true);
    const { code, stdout, stderr } = await attempt('e2fsck', ['-fp', image]);
    // 1: it was corrected; here that is the journal.
    expect([0, 1], stdout + stderr).toContain(code);
    expect(stdout + stderr).toMatch(/recovering journal/);
    await run('e2fsck', ['-fn', image]);
    await expectFiles(image, last);
  });

  it('has a clean file system in a snapshot taken while the agent has frozen it', async () => {
    await more(3);
    const last = durable();
    expect(await tell(agent, 'guest-freeze')).toEqual([1]);
    expect(await agent.execute('guest-fsfreeze-status')).toBe('frozen');
    await manual.shell('guest-frozen', rig.node);
    expect(await tell(agent, 'guest-thaw')).toEqual([1]);
    await more(3);
    const image = await copy('web-frozen');
    expect(await needsRecovery(image)).toBe(false);
    await run('e2fsck', ['-fn', image]);
    await expectFiles(image, last);
  });

  it('has one as well when it freezes its file system by itself', async () => {
    await inGuest('guest-freeze-by-hand');
    await rig.node.vlmc('snapshot', 'web-data', 'web-by-hand');
    await inGuest('guest-thaw-by-hand');
    expect(await needsRecovery(await copy('web-by-hand'))).toBe(false);
  });

  it('mounts a snapshot of the frozen file system, which is read-only, without a recovery', async () => {
    await tell(monitor, 'guest-plug');
    await guest('await "[ -b /dev/vdb ]"');
    await guest('dmesg -c >/tmp/dmesg');
    await inGuest('guest-mount');
    expect(await guest('cat /mnt/written/7')).toContain('file 7 of the guest');
    expect(await guest('dmesg; grep vdb /proc/mounts')).not.toMatch(/recover/i);
    await guest('umount /mnt');
    const [unplug, remove] = manual.commands('guest-unplug', places);
    await monitor.execute(unplug.execute, unplug.arguments);
    await monitor.event('DEVICE_DELETED');
    await monitor.execute(remove.execute, remove.arguments);
  });

  const sizeInGuest = (size: number): Promise<string> =>
    guest(`await '[ $(cat /sys/block/vda/size) = ${size / 512} ]'`);

  it('sees a larger disk while it writes, by another connection, and makes its file system larger', async () => {
    await manual.shell('guest-resize', rig.node);
    await expect(monitor.execute('block_resize', { 'node-name': 'disk0', size: 160 * MiB })).rejects.toThrow(
      'Cannot grow NBD nodes',
    );
    await tell(monitor, 'guest-reopen');
    await sizeInGuest(160 * MiB);
    await inGuest('guest-grow');
    await more(3);
  });

  it('goes on while the endpoint is restarted, and sees the size that the volume has since', async () => {
    await rig.node.vlmc('resize', 'web-data', '-s', '224M');
    for (let i = 0; i < 2; i++) {
      await manual.shell('guest-restart', rig.node);
      await more(5);
    }
    await tell(monitor, 'guest-resized');
    await sizeInGuest(224 * MiB);
    await inGuest('guest-grow');
    await more(3);
  });

  it('leaves, at the end, every file as it was written', async () => {
    await guest(': >/tmp/stop');
    await machine.expect(/^RIG-STOPPED$/m, LONG);
    expect(await guest('complaints || true')).not.toMatch(/error/i);
    const last = durable();
    await guest('umount /srv');
    machine.type('poweroff -f');
    await machine.off(60_000);
    const image = await copy('web-data');
    expect(statSync(image).size).toBe(224 * MiB);
    await run('e2fsck', ['-fn', image]);
    expect(await needsRecovery(image)).toBe(false);
    await expectFiles(image, last);
    const { stdout } = await run('dumpe2fs', ['-h', image]);
    expect(Number(/^Block count:\s+(\d+)$/m.exec(stdout)?.[1])).toBe((224 * MiB) / 4096);
    await rig.node.vlmc('check', 'web-data');
    expect(manual.unused().filter((name) => !name.startsWith('lines-'))).toEqual([]);
  });
});
