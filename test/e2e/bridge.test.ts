/** The bridge of a real node: who uses it, and what becomes of commands when it is not there, hangs, or is restarted meanwhile. */
import { chmodSync, existsSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { BridgeClient } from '../../src/bridge/client.js';
import { ganetiMain } from '../../src/cli/ganeti/program.js';
import { loadConfig } from '../../src/config/index.js';
import { Op } from '../../src/requests/ops.js';
import { capture, type Outcome as Said } from '../unit/cli/capture.js';
import { bin, useNode } from './harness/node.js';
import { anotherAccount } from './harness/requirements.js';
import { attempt, describeOutcome, type Outcome } from './harness/run.js';
import { vlmcDone, vlmcHere } from './harness/vlmc-here.js';

type Change = () => Promise<Said>;

/** Kills `role` as soon as it is there: the one before may have been killed a moment ago. */
const kill = (role: string): Promise<void> =>
  vi.waitFor(() => void process.kill(rig.node.rolePid(role), 'SIGKILL'), { timeout: 30_000, interval: 5 });

const rig = useNode({ placement: 'default' });
const socket = (): string => path.join(rig.node.dir, 'run', 'bridge.sock');

beforeAll(async () => {
  await rig.node.vlmc('create', 'first-volume', '--size', '64M');
});

/** A command in a process of its own, and the native libraries of packages that it loaded. */
async function loaded(...words: string[]): Promise<{ outcome: Outcome; native: string[] }> {
  const tell = path.join(rig.node.dir, 'tell.cjs');
  const file = path.join(rig.node.dir, 'native.json');
  const code = `process.on('exit', () => {
    const { sharedObjects } = process.report.getReport();
    require('fs').writeFileSync(${JSON.stringify(file)}, JSON.stringify(sharedObjects.filter((name) => name.endsWith('.node'))));
  });`;
  writeFileSync(tell, code);
  const args = ['-r', tell, path.join(bin, 'vlmc.js'), '-c', rig.node.conf, ...words];
  const outcome = await attempt(process.execPath, args);
  return { outcome, native: JSON.parse(readFileSync(file, 'utf8')) as string[] };
}

describe('a command that asks one thing', () => {
  it.each([['info', 'first-volume'], ['list'], ['showmapped']])(
    'loads no native library: vlmc %s',
    async (...words) => {
      const { outcome, native } = await loaded(...words);
      expect(outcome.code, describeOutcome(outcome)).toBe(0);
      expect(native).toEqual([]);
    },
  );

  it('unlike one that joins the segment', async () => {
    const { outcome, native } = await loaded('check', 'first-volume');
    expect(outcome.code, describeOutcome(outcome)).toBe(0);
    expect(native.length).toBe(1);
  });
});

describe('the socket', () => {
  it('is for the node’s user and group, and gone with the nbd role', async () => {
    expect(statSync(socket()).mode & 0o777).toBe(0o660);
    const ino = statSync(socket()).ino;
    await rig.node.archipelago('stop', 'nbd');
    try {
      expect(existsSync(socket())).toBe(false);
      // What needs no endpoint is asked over the segment.
      expect(await rig.node.vlmc('list')).toBe('first-volume\n');
      const shown = await rig.node.tryVlmc(['map', 'first-volume', '--endpoint', 'nbd']);
      expect(shown).toMatchObject({ code: 255, stderr: expect.stringContaining('nbd is not running (port 1023)') });
    } finally {
      await rig.node.archipelago('start', 'nbd');
    }
    expect(statSync(socket()).ino).not.toBe(ino);
  });

  const tool = path.join(bin, 'vlmc.js');
  it.runIf(anotherAccount(tool, 'another user'))(
    'is of no use to another user, who is told what the segment tells',
    async () => {
      chmodSync(rig.node.dir, 0o755);
      const args = [tool, '-c', rig.node.conf, 'list'];
      const outcome = await attempt('setpriv', [
        '--reuid=65534',
        '--regid=65534',
        '--clear-groups',
        process.execPath,
        ...args,
      ]);
      expect(outcome).toMatchObject({
        code: 255,
        stdout: '',
        stderr: expect.stringContaining('cannot reach the node: '),
      });
    },
  );
});

describe('a node whose endpoint', () => {
  it('is restarted answers every command meanwhile', async () => {
    const { conf } = rig.node;
    let restarting = true;
    const asked: string[] = [];
    const ask = async (): Promise<void> => {
      do {
        asked.push(await vlmcDone(conf, 'list'));
        await vlmcDone(conf, 'info', 'first-volume');
      } while (restarting);
    };
    const asking = Promise.all(Array.from({ length: 4 }, ask));
    for (let i = 0; i < 2; i++) await rig.node.archipelago('restart', 'nbd');
    restarting = false;
    await asking;
    expect(new Set(asked)).toEqual(new Set(['first-volume\n']));
  });

  it('was killed has a bridge again', async () => {
    process.kill(rig.node.rolePid('nbd'), 'SIGKILL');
    const config = loadConfig(rig.node.conf);
    const ask = async (): Promise<number> => {
      const client = await BridgeClient.connect(config);
      const { size } = await client.json<{ size: number }>('mapper', Op.STAT, 'first-volume', {});
      client.close();
      return size;
    };
    await expect.poll(() => ask().catch(() => 0)).toBe(64 << 20);
    await vlmcDone(rig.node.conf, 'open', 'first-volume');
    await vlmcDone(rig.node.conf, 'close', 'first-volume');
  });

  it('and mapper die again and again makes each change once, and says so', async () => {
    const { conf } = rig.node;
    const provider = (action: string, name: string, env: Record<string, string> = {}): Promise<Said> =>
      capture({ env: { VOL_NAME: name, ...env } }, (io) => ganetiMain(['-c', conf, action], io));
    const changes = {
      vlmc: (name: string): Change[] => [
        () => vlmcHere(conf, ['create', name, '-s', '1M']),
        () => vlmcHere(conf, ['snapshot', name, `${name}-snap`]),
        () => vlmcHere(conf, ['create', `${name}-clone`, '--snap', `${name}-snap`]),
        () => vlmcHere(conf, ['rename', `${name}-clone`, `${name}-moved`]),
        ...['moved', 'snap'].map((end) => () => vlmcHere(conf, ['remove', `${name}-${end}`])),
        () => vlmcHere(conf, ['remove', name]),
      ],
      provider: (name: string): Change[] => [
        () => provider('create', name, { VOL_SIZE: '1' }),
        () => provider('setinfo', name, { VOL_METADATA: 'originstname+web' }),
        () => provider('grow', name, { VOL_SIZE: '1', VOL_NEW_SIZE: '2' }),
        () => provider('snapshot', name, { VOL_SNAPSHOT_NAME: `${name}.snap` }),
        ...[`${name}.snap`, name].map((end) => () => provider('remove', end)),
      ],
    };
    let over = false;
    let done = 0;
    const turnedAway: string[] = [];
    const work = async (who: 'vlmc' | 'provider', worker: number): Promise<void> => {
      for (let round = 0; !over; round++) {
        for (const change of changes[who](`${who}-disk-${worker}-${round}`)) {
          let outcome = await change();
          // A role that is not there has begun nothing: whoever asks again finds nothing done.
          for (; /is not running/.test(outcome.err); outcome = await change()) turnedAway.push(outcome.err);
          expect(outcome).toMatchObject({ status: 0, err: '' });
          done++;
        }
      }
    };
    const working = Promise.all([work('vlmc', 0), work('vlmc', 1), work('provider', 2), work('provider', 3)]);
    working.catch(() => {});
    for (const role of ['nbd', 'mapperd', 'nbd', 'nbd', 'nbd']) {
      const before = done;
      const enough = expect.poll(() => done, { timeout: 120_000, interval: 5 }).toBeGreaterThan(before + 8);
      // A change that fails ends the test, with what it said.
      await Promise.race([working, enough]);
      await kill(role);
    }
    over = true;
    await working;
    expect(await vlmcDone(conf, 'list')).toBe('first-volume\n');
    console.log(`${done} changes, ${turnedAway.length} of them asked again because a role was not running`);
    // Five times the patience of what it waits for, and what follows.
  }, 900_000);

  describe('hangs', () => {
    afterAll(() => {
      process.kill(rig.node.rolePid('nbd'), 'SIGCONT');
    });

    it('is asked over the segment what others of its processes know', async () => {
      // One that has just been started would stand still in the middle of something, with a lock of the segment.
      await vlmcDone(rig.node.conf, 'showmapped');
      await sleep(100);
      process.kill(rig.node.rolePid('nbd'), 'SIGSTOP');
      const { status, out, err } = await vlmcHere(rig.node.conf, ['list']);
      expect({ status, out, err }).toEqual({ status: 0, out: 'first-volume\n', err: '' });
    });
  });
});
