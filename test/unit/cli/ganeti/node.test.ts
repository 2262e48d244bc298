/** A provider's call and a node that is being started again: what is asked again, what is not, and how long. */
import { type ChildProcess, spawn } from 'node:child_process';
import fs from 'node:fs';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { createInterface } from 'node:readline';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { BRIDGE_VERSION } from '../../../../src/bridge/protocol.js';
import { Node, type NodeOptions } from '../../../../src/cli/ganeti/node.js';
import { readRecord, writeRecord } from '../../../../src/cli/ganeti/records.js';
import { type Config, parseConfig } from '../../../../src/config/index.js';
import { Op } from '../../../../src/requests/ops.js';
import { errnoOf, errnos } from '../../../../src/sys/errno.js';

/** What the bridge does with a request: answers, or (null) hangs up, or ('silent') nothing. */
type Behaviour = object | null | 'silent';

let dir: string;
let config: Config;
let bridge: net.Server | null;
let supervisor: ChildProcess | null;
let node: Node | null;
/** Operations that came. */
let asked: number[];

beforeEach(() => {
  dir = fs.mkdtempSync(path.join(os.tmpdir(), 'ganeti-node-'));
  config = parseConfig(`[ARCHIPELAGO]\nRUN_DIR = ${dir}\n`, null);
  bridge = supervisor = node = null;
  asked = [];
});
afterEach(() => {
  node?.close();
  bridge?.close();
  supervisor?.kill('SIGKILL');
  fs.rmSync(dir, { recursive: true, force: true });
});

/** A bridge that behaves in turn as told, in the end as the last says. */
function listen(...behaviours: Behaviour[]): Promise<void> {
  bridge = net.createServer((socket) => {
    socket.on('error', () => {});
    socket.write(`${JSON.stringify({ bridge: BRIDGE_VERSION, segment: config.xseg.name })}\n`);
    createInterface(socket).on('line', (line) => {
      const { id, op } = JSON.parse(line) as { id: number; op: number };
      asked.push(op);
      const behaviour = behaviours.length > 1 ? behaviours.shift() : behaviours[0];
      if (behaviour === null) socket.destroy();
      else if (typeof behaviour === 'object') socket.write(`${JSON.stringify({ id, ...behaviour })}\n`);
    });
  });
  return new Promise((resolve) => bridge?.listen(path.join(dir, 'bridge.sock'), resolve));
}

/** A process that looks like the node's supervisor. */
async function supervise(): Promise<void> {
  supervisor = spawn(process.execPath, ['-e', 'console.log(1); setInterval(() => {}, 1000)', 'supervisor-main.js']);
  await new Promise((resolve) => supervisor?.stdout?.once('data', resolve));
  fs.writeFileSync(path.join(dir, 'supervisor.pid'), String(supervisor.pid));
}

const ask = (options: NodeOptions, repeatable: boolean): Promise<{ serviced: number }> => {
  node = new Node(config, options);
  return node.call('mapper', { op: Op.PING, target: '' }, { repeatable });
};
const connections = (): Promise<number> =>
  new Promise((resolve) => bridge?.getConnections((_error, count) => resolve(count)));
const failure = async (promise: Promise<unknown>): Promise<{ errno: number; message: string }> => {
  const error = await promise.then(
    () => new Error('it did not fail'),
    (reason: Error) => reason,
  );
  return { errno: errnoOf(error), message: error.message };
};
/** Longer than any test waits. */
const patient = { restartMs: 50_000 };

describe("a provider's call", () => {
  it('fails at once where no node runs, and not as if a volume were missing', async () => {
    const { errno, message } = await failure(ask(patient, true));
    expect(errno).toBe(errnos.ECONNREFUSED);
    expect(message).toBe(
      `the node is not running: nobody listens on ${dir}/bridge.sock; start it with archipelago start`,
    );
    expect(errnoOf(await new Node(config, patient).info('volume').catch((error) => error))).toBe(errnos.ECONNREFUSED);
  });

  it('takes a pidfile of a process that is something else for no node', async () => {
    fs.writeFileSync(path.join(dir, 'supervisor.pid'), String(process.pid));
    expect((await failure(ask(patient, true))).errno).toBe(errnos.ECONNREFUSED);
  });

  it('waits for a node whose supervisor is there', async () => {
    await supervise();
    const answer = ask(patient, false);
    await listen({ serviced: 3 });
    expect((await answer).serviced).toBe(3);
  });

  it('waits for a role that is not there yet, as nothing was done', async () => {
    await supervise();
    await listen({ errno: errnos.ECONNREFUSED, message: 'port 1001 is not bound' }, { serviced: 4 });
    expect((await ask(patient, false)).serviced).toBe(4);
    expect(asked).toHaveLength(2);
  });

  it('asks again what may be asked twice when the answer is lost, and nothing else', async () => {
    await supervise();
    await listen(null, { serviced: 5 });
    expect((await ask(patient, true)).serviced).toBe(5);
    expect(asked).toHaveLength(2);
    node?.close();
    bridge?.close();
    await listen(null, { serviced: 5 });
    const { errno, message } = await failure(ask(patient, false));
    expect(errno).toBe(errnos.ECONNRESET);
    expect(message).toContain('whether it was done is not known');
    expect(asked).toHaveLength(3);
  });

  it('asks for records again, too, which may be read and written twice', async () => {
    await supervise();
    await listen(null, { serviced: 1, data: Buffer.from('{"metadata":"m"}\n').toString('base64') }, null, {
      serviced: 1024,
    });
    node = new Node(config, patient);
    expect(await readRecord(node.maps(), 'disk')).toEqual({ metadata: 'm' });
    await writeRecord(node.maps(), 'disk', { metadata: 'n' });
    expect(asked).toEqual([Op.READ, Op.READ, Op.WRITE, Op.WRITE]);
  });

  it('reconnects once for all that was under way when the connection ended', async () => {
    await supervise();
    const hangUp = Array.from({ length: 2 }, () => null);
    await listen(...hangUp, { serviced: 8 });
    node = new Node(config, patient);
    const all = Array.from({ length: 4 }, () =>
      node?.call('mapper', { op: Op.PING, target: '' }, { repeatable: true }),
    );
    expect((await Promise.all(all)).map((reply) => reply?.serviced)).toEqual([8, 8, 8, 8]);
    node.close();
    await expect.poll(connections).toBe(0);
  });

  it('does not wait for ever for a record of a store that hangs', async () => {
    await supervise();
    await listen('silent');
    node = new Node(config, { answerMs: 100 });
    expect((await failure(readRecord(node.maps(), 'disk'))).message).toMatch(/^blockerm has not answered READ for 0 s/);
  });

  it('asks again what the bridge has turned away, as nobody was asked', async () => {
    await supervise();
    const away = { refused: true, message: 'the bridge is closed' };
    await listen(
      { id: null, errno: errnos.ESHUTDOWN, ...away },
      { errno: errnos.EAGAIN, ...away },
      { errno: errnos.ENOSPC, ...away },
      { serviced: 6 },
    );
    expect((await ask(patient, false)).serviced).toBe(6);
    expect(asked).toHaveLength(4);
    bridge?.close();
    // What it will never pass on is told at once; and the same errno of a peer is the peer's answer.
    for (const answer of [
      { errno: errnos.EINVAL, ...away },
      { errno: errnos.ENOSPC, message: 'full', serviced: 0 },
    ]) {
      node?.close();
      asked.length = 0;
      fs.rmSync(path.join(dir, 'bridge.sock'), { force: true });
      await listen(answer, { serviced: 7 });
      expect((await failure(ask(patient, false))).errno).toBe(answer.errno);
      expect(asked).toHaveLength(1);
      bridge?.close();
    }
  });

  it('gives up when its time is over, or the supervisor', async () => {
    await supervise();
    await listen({ errno: errnos.ECONNREFUSED, message: 'port 1001 is not bound' });
    expect((await failure(ask({ restartMs: 200 }, true))).message).toContain('mapperd is not running');
    expect(asked.length).toBeGreaterThan(1);
    const before = asked.length;
    supervisor?.kill('SIGKILL');
    await new Promise((resolve) => supervisor?.once('close', resolve));
    expect((await failure(ask(patient, true))).errno).toBe(errnos.ECONNREFUSED);
    expect(asked).toHaveLength(before + 1);
  });

  it("does not try again what a peer refuses: that is the peer's answer", async () => {
    await supervise();
    await listen({ errno: errnos.ENOENT, message: 'no volume', serviced: 0 });
    expect((await failure(ask(patient, true))).message).toBe('no volume');
    expect(await node?.info('volume')).toBeNull();
    expect(asked).toHaveLength(2);
  });

  it('says who has not answered, and where to look', async () => {
    await supervise();
    await listen('silent');
    const { errno, message } = await failure(ask({ answerMs: 100 }, true));
    expect(errno).toBe(errnos.ETIMEDOUT);
    expect(message).toBe('mapperd has not answered PING for 0 s; see archipelago status: a store may be down');
  });
});
