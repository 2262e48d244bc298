/**
 * Each role in a process of its own, killed with -9, stopped or hung under fio's verify load: its clients see a pause, no error and no
 * wrong byte, and what it held is recovered by itself.
 */
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { bin, type TestNode, useNode } from './harness/node.js';
import { programs } from './harness/requirements.js';
import { attempt, ended, killGroup, start } from './harness/run.js';
import { repeated } from './harness/stores.js';
import { fioArguments, newest, successor } from './harness/verify-load.js';

/** The supervisor waits longer before each. */
const KILLS = repeated ? 1 : 3;
/** Leases on volumes are good for so long after the last check of their locks, in ms. */
const LEASE_MS = 3000;

interface Status {
  roles: { name: string; state: string; restarts: number; lastFailure: string | null }[];
}

describe.runIf(programs('fio'))('one process per role', () => {
  const rig = useNode({ placement: 'one process per role' });

  const status = async (role: string): Promise<Status['roles'][number] | undefined> => {
    const { stdout } = await rig.node.tryArchipelago('status', '--json');
    return (JSON.parse(stdout) as Status).roles.find(({ name }) => name === role);
  };

  it.each(['mapperd', 'blockerm', 'blockerb', 'vlmcd'])(
    `is killed %s ${KILLS} times under load: a pause, no error`,
    async (role) => {
      const { node } = rig;
      const before = (await status(role))?.restarts ?? 0;
      await underLoad(node, `killed-${role}`, async (load) => {
        for (let i = 0; i < KILLS; i++) {
          await load.goesOn();
          const pid = node.rolePid(role);
          process.kill(pid, 'SIGKILL');
          await expect.poll(() => successor(node, role, pid), { interval: 20 }).toBe(true);
          // The load may go on without this role for a while: a process that is only starting would be ended otherwise.
          await expect.poll(() => status(role)).toMatchObject({ state: 'running' });
        }
        await load.goesOn();
      });
      expect(await status(role)).toMatchObject({ state: 'running', restarts: before + KILLS });
      expect((await status(role))?.lastFailure).toMatch(/SIGKILL/);
      await inOrder(node);
    },
  );

  it('goes on without an error when its mapper is dead for longer than a lease lasts', async () => {
    const { node } = rig;
    await underLoad(node, 'dead-mapper', async (load) => {
      await load.goesOn();
      // A supervisor that sleeps starts nobody again.
      const supervisor = node.rolePid('supervisor');
      process.kill(supervisor, 'SIGSTOP');
      try {
        process.kill(node.rolePid('mapperd'), 'SIGKILL');
        await passed(LEASE_MS + 1000);
      } finally {
        process.kill(supervisor, 'SIGCONT');
      }
      await load.goesOn();
    });
    await inOrder(node);
  });

  it('goes on without an error when the mapper is stopped for longer than a lease lasts, and started', async () => {
    const { node } = rig;
    await underLoad(node, 'stopped-mapper', async (load) => {
      await load.goesOn();
      await node.archipelago('stop', 'mapperd', '-f');
      await passed(LEASE_MS + 1000);
      await node.archipelago('start', 'mapperd');
      await load.goesOn();
    });
    await inOrder(node);
  });

  it('goes on without an error when the mapper hangs for longer than a lease lasts, and status tells that it does', async () => {
    const { node } = rig;
    await underLoad(node, 'hung-mapper', async (load) => {
      await load.goesOn();
      const pid = node.rolePid('mapperd');
      process.kill(pid, 'SIGSTOP');
      try {
        await passed(LEASE_MS + 1000);
        expect(await status('mapperd')).toMatchObject({ state: 'silent' });
      } finally {
        process.kill(pid, 'SIGCONT');
      }
      await load.goesOn();
    });
    await inOrder(node);
  });
});

interface Load {
  /** Resolves when the volumes' objects were written after this call. @throws when the load has ended */
  goesOn(): Promise<void>;
}

/** Writes a volume by fio and reads all of it back by checksum while something happens; fio must see no error. */
async function underLoad(node: TestNode, volume: string, happens: (load: Load) => Promise<void>): Promise<void> {
  const uri = await node.create(volume, '64M');
  const fio = start('fio', fioArguments(uri), { cwd: node.dir, stdio: ['ignore', 'pipe', 'pipe'] });
  let said = '';
  for (const stream of [fio.stdout, fio.stderr]) stream?.on('data', (chunk: Buffer) => (said += chunk.toString()));
  const end = ended(fio);
  const goesOn = async (): Promise<void> => {
    const since = await newest(node, volume);
    await expect
      .poll(async () => fio.exitCode !== null || (await newest(node, volume)) > since, {
        interval: 20,
        timeout: 60_000,
      })
      .toBe(true);
    expect(fio.exitCode, said).toBe(null);
  };
  try {
    await happens({ goesOn });
    // What is in flight is finished, and its results are told.
    fio.kill('SIGINT');
    const outcome = await end;
    expect(said).toMatch(/err= 0/);
    expect(said, JSON.stringify(outcome)).not.toMatch(/verify:|Input\/output error|err=[^ ]| err= [1-9]/);
  } finally {
    killGroup(fio);
  }
}

/** A stretch of time: what is tested is that it is too long for a lease. */
async function passed(ms: number): Promise<void> {
  const until = performance.now() + ms;
  await expect.poll(() => performance.now() >= until, { interval: 50 }).toBe(true);
}

/** Maps and objects agree, and nobody dead owns anything in the segment. */
async function inOrder(node: TestNode): Promise<void> {
  const check = await node.tryVlmc(['--json', 'check', '--all']);
  const { errors } = JSON.parse(check.stdout) as { errors: number };
  expect(errors, check.stdout).toBe(0);
  const verify = await attempt(process.execPath, [path.join(bin, 'xseg.js'), `posix:${node.segment}:`, 'verify']);
  expect(verify.code, verify.stdout + verify.stderr).toBe(0);
}
