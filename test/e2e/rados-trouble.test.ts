/**
 * Ceph that is slow, down or full, on a cluster with bluestore: clients see a pause, or ENOSPC, and never a wrong byte; commands end in bounded
 * time; `archipelago status` and the log say what is the matter; all goes on by itself when Ceph does.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import { clusterCommand, hasCeph, useOwnCluster } from '../support/ceph.js';
import { onCeph } from './harness/ceph-users.js';
import { qemuIo, tryQemuIo } from './harness/clients.js';
import { TestNode, useNode } from './harness/node.js';
import { Pulse } from './harness/pulse.js';
import { programs } from './harness/requirements.js';
import { describeOutcome, ended, killGroup, run, start } from './harness/run.js';
import { fioArguments } from './harness/verify-load.js';

const MiB = 1 << 20;
/** How long a node's commands wait for Ceph, in ms; on a busy machine they end later. */
const PATIENCE = 30_000;

describe.runIf(hasCeph() && programs('fio', 'qemu-io'))('a Ceph cluster', () => {
  const cluster = useOwnCluster('--bluestore', '--bytes', String(2048 * MiB));
  const settings = (namespace = 'trouble') => onCeph({ conf: cluster.conf, id: 'archipelago' }, namespace);
  const rig = useNode(() => ({ settings: settings() }));
  const ceph = async (...args: string[]): Promise<string> => (await run('ceph', ['-c', cluster.conf, ...args])).stdout;
  const pidOf = (daemon: string): number =>
    Number(readFileSync(path.join(cluster.directory, 'run', `${daemon}.pid`), 'utf8'));

  let pulse: Pulse | undefined;
  let stopped: number | undefined;
  const thaw = (): void => {
    if (stopped !== undefined) process.kill(stopped, 'SIGCONT');
    stopped = undefined;
  };
  afterEach(() => {
    thaw();
    pulse?.destroy();
    pulse = undefined;
  });

  const beating = async (volume: string): Promise<Pulse> => {
    pulse = await Pulse.on(await rig.node.create(volume, 8 * MiB), 8 * MiB);
    await goesOn(pulse);
    return pulse;
  };
  const status = async (): Promise<string> => (await rig.node.tryArchipelago('status')).stdout;
  const sound = async (): Promise<void> => {
    const outcome = await rig.node.tryVlmc(['--json', 'check', '--all']);
    expect((JSON.parse(outcome.stdout) as { errors: number }).errors, describeOutcome(outcome)).toBe(0);
  };

  /** A node that is started while no monitor answers. */
  const refusedStart = async (): Promise<void> => {
    const conf = path.join(cluster.directory, 'impatient.conf');
    writeFileSync(conf, readFileSync(cluster.conf, 'utf8').replace('[client]', '[client]\nclient mount timeout = 3'));
    const node = await TestNode.prepare({ settings: onCeph({ conf, id: 'archipelago' }, 'new') });
    try {
      const began = performance.now();
      const outcome = await node.tryArchipelago('start');
      console.log(
        `a start without a monitor ends after ${seconds(performance.now() - began)}: ${describeOutcome(outcome)}`,
      );
      expect(outcome.code).toBe(255);
      expect(outcome.stderr).toMatch(/pool blocks.*127\.0\.0\.1/s);
      expect(performance.now() - began).toBeLessThan(4 * PATIENCE);
    } finally {
      await node.dispose();
    }
  };

  it('whose OSD is killed under load and started again is a pause to clients, and nothing is lost', async () => {
    const heart = await beating('killed-osd-pulse');
    await underLoad(rig.node, 'killed-osd-load', async () => {
      await goesOn(heart);
      heart.begin();
      await clusterCommand('kill-osd', cluster.directory);
      const killed = performance.now();
      await expect.poll(() => heart.silence > 2000).toBe(true);
      await clusterCommand('start', cluster.directory);
      const back = performance.now();
      await goesOn(heart);
      console.log(
        `OSD killed and started again after ${seconds(back - killed)}: clients waited ${seconds(heart.longest)}, ` +
          `${seconds(Math.max(0, heart.longest - (back - killed)))} of it after the cluster served again`,
      );
    });
    await heart.stop();
    await sound();
  });

  it('whose monitor is killed goes on serving I/O, and takes commands again when it is back', async () => {
    const heart = await beating('killed-monitor-pulse');
    const monitor = pidOf('mon.a');
    await underLoad(rig.node, 'killed-monitor-load', async () => {
      heart.begin();
      process.kill(monitor, 'SIGKILL');
      await goesOn(heart, 100);
      await rig.node.vlmc('create', 'without-monitor', '--size', '16M');
      await refusedStart();
      await clusterCommand('start', cluster.directory);
      await goesOn(heart);
      console.log(`monitor killed and started again: clients waited ${seconds(heart.longest)} at most`);
    });
    await heart.stop();
    await qemuIo(rig.node.uri('without-monitor'), 'write -P 1 0 5M', 'read -P 1 0 5M');
    await sound();
  });

  it('that stands still: clients wait, commands and stop -f end with the reason, status tells, and all goes on after it', async () => {
    const { node } = rig;
    const heart = await beating('still-pulse');
    // A node that is stopped meanwhile, with a write that Ceph does not answer.
    const other = await TestNode.start({ placement: 'one process', settings: settings('other') });
    const cut = await Pulse.on(await other.create('cut-volume', 8 * MiB), 8 * MiB);
    let running: Promise<unknown> = Promise.resolve();
    try {
      await underLoad(node, 'still-load', async () => {
        await goesOn(heart);
        heart.begin();
        stopped = pidOf('osd.0');
        process.kill(stopped, 'SIGSTOP');
        const since = performance.now();
        const took = async <T>(work: Promise<T>): Promise<{ outcome: T; ms: number }> => ({
          outcome: await work,
          ms: performance.now() - since,
        });
        const commands = Promise.all([
          took(node.tryVlmc(['create', 'still-created', '--size', '16M'])),
          took(node.tryVlmc(['snapshot', 'killed-osd-load', 'still-snapshot'])),
          took(node.tryVlmc(['list'])),
        ]);
        const ending = expect
          .poll(() => cut.silence > 1000)
          .toBe(true)
          .then(() => took(other.tryArchipelago('stop', '-f')));
        running = Promise.allSettled([commands, ending]);

        await expect.poll(status, { timeout: 60_000 }).toMatch(/blockerb +running; .*Ceph has not answered for \d+ s/);
        // The log follows: it is looked at once a second.
        await expect.poll(() => node.logs(1000)).toMatch(/Ceph has not answered for 5 s: \d+ operations? waits?/);

        const [create, snapshot, list] = await commands;
        for (const { outcome, ms } of [create, snapshot, list]) {
          console.log(`while Ceph stands still, after ${seconds(ms)}: ${describeOutcome(outcome)}`);
          expect(outcome.code, describeOutcome(outcome)).toBe(255);
          expect(outcome.stderr, describeOutcome(outcome)).toMatch(/has not answered/);
          expect(ms).toBeLessThan(4 * PATIENCE);
        }
        const end = await ending;
        console.log(`stop -f ends after ${seconds(end.ms)}: ${describeOutcome(end.outcome)}`);
        expect(other.leftovers()).toEqual([]);
        expect(cut.failure).not.toBeNull();
        expect(end.ms).toBeLessThan(4 * PATIENCE);

        expect(heart.failure).toBeNull();
        thaw();
        await goesOn(heart);
        console.log(`OSD stood still: clients waited ${seconds(heart.longest)}`);
      });
      await heart.stop();
      expect(await status()).not.toMatch(/Ceph/);
      await expect.poll(() => node.logs(1000)).toMatch(/Ceph answers again, after \d+ s/);
      // What was given up while Ceph stood still was not done, or can be done again.
      await node.tryVlmc(['remove', 'still-created']);
      await node.vlmc('create', 'still-created', '--size', '16M');
      await sound();
      // The node that was stopped by force goes on with what it has in Ceph.
      await other.archipelago('start');
      await qemuIo(other.uri('cut-volume'), 'write -P 5 0 8M', 'read -P 5 0 8M');
      await other.vlmc('check', '--all');
    } finally {
      thaw();
      cut.destroy();
      await running;
      await other.dispose();
    }
  });

  it('that is full is ENOSPC to clients that need space, takes removals, and is writable again once it is not', async () => {
    const { node } = rig;
    const uri = await node.create('full-volume', 256 * MiB);
    await qemuIo(uri, 'write -P 1 0 64M', 'flush');
    await node.create('spare-volume', 64 * MiB);
    await qemuIo(node.uri('spare-volume'), 'write -P 9 0 32M');
    const ratios = async (...[nearfull, backfillfull, full]: readonly number[]): Promise<void> => {
      const set: [string, number][] = [
        ['full', full],
        ['backfillfull', backfillfull],
        ['nearfull', nearfull],
      ];
      // Each must not be above the next, whichever way they are moved.
      for (const [name, ratio] of full > 0.5 ? set : set.toReversed())
        await ceph('osd', `set-${name}-ratio`, String(ratio));
    };
    try {
      await ratios(0.01, 0.02, 0.03);
      // Each time elsewhere: what has been written once needs no more space.
      let next = 128;
      const outcome = () => tryQemuIo(uri, `write -P 3 ${next++}M 64k`);
      await expect.poll(async () => (await outcome()).code, { interval: 200 }).not.toBe(0);
      const refused = await outcome();
      expect(refused.stdout + refused.stderr, describeOutcome(refused)).toMatch(/No space left/);
      expect(await status()).toMatch(/full/);
      expect(node.logs(1000)).toMatch(/is full/);
      // What needs no space goes on.
      await qemuIo(uri, 'write -P 2 8M 64k', 'read -P 2 8M 64k', 'read -P 1 0 8M', 'discard 60M 4M', 'flush');
      const created = await node.tryVlmc(['create', 'more-volume', '--size', '1G']);
      expect(created.code, describeOutcome(created)).toBe(255);
      expect(created.stderr).toMatch(/space/i);
      await node.vlmc('remove', 'spare-volume');
    } finally {
      await ratios(0.85, 0.9, 0.95);
    }
    await expect.poll(async () => (await tryQemuIo(uri, 'write -P 3 248M 64k')).code, { interval: 200 }).toBe(0);
    await qemuIo(uri, 'read -P 3 248M 64k', 'read -P 2 8M 64k', 'read -P 1 9M 50M');
    await sound();
  });
});

const seconds = (ms: number): string => `${(ms / 1000).toFixed(1)} s`;

/** Some more requests are answered. @throws when the client has got an error */
async function goesOn(pulse: Pulse, more = 20): Promise<void> {
  const until = pulse.beats + more;
  await expect.poll(() => pulse.failure !== null || pulse.beats >= until, { interval: 20, timeout: 60_000 }).toBe(true);
  if (pulse.failure) throw pulse.failure;
}

/** Bytes that the blocker of blocks has stored since it was started. */
async function bytesWritten(node: TestNode): Promise<number> {
  const { stdout } = await node.tryArchipelago('status', '--json');
  const { roles } = JSON.parse(stdout) as { roles: { name: string; status: { bytesWritten: number } | null }[] };
  return roles.find(({ name }) => name === 'blockerb')?.status?.bytesWritten ?? 0;
}

/** fio writes a volume and reads all of it back by checksum while something happens; it must see no error. */
async function underLoad(node: TestNode, volume: string, happens: () => Promise<void>): Promise<void> {
  const uri = await node.create(volume, 64 * MiB);
  const fio = start('fio', [...fioArguments(uri), '--runtime=280'], {
    cwd: node.dir,
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let said = '';
  for (const stream of [fio.stdout, fio.stderr]) stream?.on('data', (chunk: Buffer) => (said += chunk.toString()));
  const end = ended(fio);
  try {
    const before = await bytesWritten(node);
    await expect
      .poll(async () => fio.exitCode ?? (await bytesWritten(node)) - before, { timeout: 60_000 })
      .toBeGreaterThan(4 * MiB);
    await happens();
    expect(fio.exitCode, said).toBe(null);
    // What is in flight is finished, and its results are told.
    fio.kill('SIGINT');
    const outcome = await end;
    expect(said).toMatch(/err= 0/);
    expect(said, JSON.stringify(outcome)).not.toMatch(/verify:|Input\/output error|err=[^ ]| err= [1-9]/);
  } finally {
    killGroup(fio);
  }
}
