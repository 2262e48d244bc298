/**
 * What an administrator does after a process was killed: verify names what it left and the command that helps, that command does, and
 * afterwards verify has nothing to say. Here no process does it unasked: none that serves is there.
 */
import type { ChildProcess } from 'node:child_process';
import { Writable } from 'node:stream';
import { afterEach, beforeAll, describe, expect, it } from 'vitest';
import { xsegMain } from '../../../src/cli/xseg/main.js';
import { type Port, type Request, report, type Segment, verify } from '../../../src/xseg/index.js';
import { H, P, R } from '../../../src/xseg/layout.js';
import { cleanUp, compiledXseg, createSegment, joinSegment, kill, startPeer, told, turn, until } from './help.js';

beforeAll(() => {
  compiledXseg();
}, 120_000);
afterEach(cleanUp);

interface Said {
  readonly status: number;
  readonly out: string;
  readonly err: string;
}

/** Runs the tool on a segment. */
async function xseg(segment: Segment, ...words: string[]): Promise<Said> {
  const text = { out: '', err: '' };
  const sink = (which: 'out' | 'err'): Writable =>
    new Writable({
      write: (chunk, _encoding, done) => {
        text[which] += String(chunk);
        done();
      },
    });
  const io = { stdout: sink('out'), stderr: sink('err'), stdin: process.stdin, env: {} };
  const status = await xsegMain([`posix:${segment.name}:`, ...words], io as unknown as Parameters<typeof xsegMain>[1]);
  return { status, ...text };
}

/** Does what verify says, command by command, until it says nothing more. Resolves to the commands. */
async function followAdvice(segment: Segment): Promise<string[]> {
  const done: string[] = [];
  for (;;) {
    const { status, out } = await xseg(segment, 'verify');
    if (status === 0) {
      expect(out).toBe('no problems\n');
      return done;
    }
    const [first] = out.split('\n');
    const command = first.slice(first.lastIndexOf(': ') + 2);
    if (done.length > 5) throw new Error(`verify goes on: ${out}`);
    done.push(command);
    expect((await xseg(segment, ...command.split(' '))).status).toBe(0);
  }
}

/** Everything that a segment has is free, but what the port keeps at hand. */
function expectEmpty(segment: Segment, ...ports: Port[]): void {
  for (const port of ports) port.giveBackSpare();
  expect(verify(segment)).toEqual([]);
  expect(report(segment)).toMatchObject({
    inFlight: 0,
    freePages: segment.geometry.heapPages,
    freeRequests: segment.geometry.requests,
    locks: [],
  });
}

const pidOf = (child: ChildProcess): number => child.pid as number;

describe('a process was killed', () => {
  it.each([
    ['ports', 'ports'],
    ['requests', 'requests'],
    ['heap', 'heap'],
    ['requestQueue', 'request queue of port 3'],
    ['replyQueue', 'reply queue of port 3'],
  ])('with the lock of the %s', async (which, name) => {
    const segment = createSegment();
    const port = segment.bind(3);
    const holder = await startPeer(segment, 'lock', which, 3);
    expect((await xseg(segment, 'reportall')).out).toContain(`${name}: process ${pidOf(holder)}\n`);
    await kill(holder);
    const all = await xseg(segment, 'reportall');
    expect(all.out).toContain(`${name}: process ${pidOf(holder)} (dead: recoverlocks)`);
    expect(all.out).toMatch(new RegExp(`\n\\d+ +holder +${pidOf(holder)} \\(dead\\)`));
    const found = await xseg(segment, 'verify');
    expect(found.status).toBe(255);
    const owner = /recoverlocks (\d+)/.exec(found.out)?.[1];
    expect(found.out).toContain(
      `the lock of ${name} is held by dead process ${pidOf(holder)}: recoverlocks ${owner}\n`,
    );
    // Of another port: not that one.
    expect((await xseg(segment, 'recoverlocks', '1')).out).toBe('released 0 locks\n');
    expect((await xseg(segment, 'recoverlocks', String(owner))).out).toBe('released 1 locks\n');
    expect(await followAdvice(segment)).toEqual([`recoverport ${owner}`]);
    expect(JSON.parse((await xseg(segment, 'verify', '--json')).out)).toEqual({ problems: [], restart: false });
    expectEmpty(segment, port);
  });

  it.each(['state', 'slot'])(
    'in the middle of a push (%s): the request is gone with it, later ones arrive',
    async (how) => {
      const segment = createSegment();
      const asker = segment.bind(1);
      const server = joinSegment(segment).bind(3);
      await kill(await startPeer(segment, 'push', 3, how));
      expect(await followAdvice(segment)).toEqual([
        expect.stringMatching(/^recoverlocks \d+$/),
        expect.stringMatching(/^recoverport \d+$/),
      ]);
      const seen: number[] = [];
      server.serve((r) => {
        seen.push(r.op);
        r.succeed(0);
      });
      await asker.call(3, { op: 5 });
      expect(seen).toEqual([5]);
      expectEmpty(segment, asker, server);
    },
  );

  it('with records and buffers: recoverport says how many it freed', async () => {
    const segment = createSegment();
    const port = segment.bind(3);
    const keeper = await startPeer(segment, 'records', 10);
    await kill(keeper);
    const [command] = /recoverport \d+/.exec((await xseg(segment, 'verify')).out) as RegExpExecArray;
    const said = JSON.parse((await xseg(segment, '--json', ...command.split(' '))).out);
    expect(said).toMatchObject({ requeued: 0, failed: 0, waiting: 0, buffers: 10 });
    expect(said.freed).toBeGreaterThanOrEqual(10);
    expectEmpty(segment, port);
  });

  it('with accepted requests: they wait for its successor, or fail when that is asked for', async () => {
    const segment = createSegment();
    const asker = segment.bind(1);
    const take = async (): Promise<{ request: Request; answered: Promise<Request> }> => {
      const server = await startPeer(segment, 'echo', 2);
      const request = asker.getRequest() as Request;
      request.op = 99;
      const answered = new Promise<Request>((resolve) => {
        request.onReply = resolve;
      });
      asker.submit(request, 2);
      await told(server, 'holds');
      await kill(server);
      return { request, answered };
    };
    const first = await take();
    expect((await xseg(segment, 'verify')).out).toMatch(
      /^port 2 \(echo\) belongs to dead process \d+: recoverport 2\n$/,
    );
    expect((await xseg(segment, 'recoverport', '2')).out).toMatch(
      /^recovered port 2: 1 requests wait for its next owner,/,
    );
    expect((await xseg(segment, 'recoverport', '2')).out).toBe('port 2 is free\n');
    const successor = joinSegment(segment).bind(2);
    const seen: boolean[] = [];
    successor.serve((r) => {
      seen.push(r.redelivered);
      r.succeed(0);
    });
    expect((await first.answered).served).toBe(true);
    expect(seen).toEqual([true]);
    asker.putRequest(first.request);
    successor.close();

    const second = await take();
    expect((await xseg(segment, 'recoverport', '2', '--fail')).out).toContain('1 failed');
    expect((await second.answered).errno).toBe(5);
    asker.putRequest(second.request);
    expectEmpty(segment, asker);
  });

  it('while others worked for it: recoverport says that these are waited for', async () => {
    const segment = createSegment();
    const asker = segment.bind(1);
    const server = await startPeer(segment, 'echo', 2);
    const dead = await startPeer(segment, 'hold99', 2);
    await told(server, 'holds');
    await kill(dead);
    const [command, port] = /recoverport (\d+)/.exec((await xseg(segment, 'verify')).out) as RegExpExecArray;
    expect((await xseg(segment, ...command.split(' '))).out).toMatch(/1 wait for an answer/);
    expect(segment.leftBy(Number(port))).toBe(1);
    await kill(server);
    expect(await followAdvice(segment)).toEqual(['recoverport 2']);
    expect(segment.leftBy(Number(port))).toBe(0);
    expectEmpty(segment, asker);
  });
});

describe('memory that somebody wrote over', () => {
  it('is made anew where it can be: lists and queues', async () => {
    const segment = createSegment();
    const { u32 } = segment.memory;
    const asker = segment.bind(1);
    u32[H.FREE_REQUESTS] = 0xffff;
    u32[H.FREE_PAGES] = 1;
    u32[segment.geometry.pageTable / 4 + 1] = 77_777;
    u32[segment.tables.portWord(5) + P.REQUEST_TAIL] = 0x7000;
    u32[segment.tables.portWord(1) + P.REPLY_TAIL] = 0x7000;
    const { status, out } = await xseg(segment, 'verify');
    expect(status).toBe(255);
    for (const what of ['free request records', 'heap', 'request queue of port 5', 'reply queue of port 1']) {
      expect(out).toContain(what);
    }
    await xseg(segment, 'verify-fix');
    // The owner of port 1 empties its queue itself.
    await until(() => verify(segment).length === 0, 'all is well');
    const server = segment.bind(2);
    server.serve((r) => r.succeed(r.size));
    expect((await asker.call(2, { op: 1, size: 3, capacity: 100 })).serviced).toBe(3);
    await turn();
    expectEmpty(segment, asker, server);
  });

  it('is beyond repair where states are no states: verify says that only a restart helps', async () => {
    const segment = createSegment();
    const { u32 } = segment.memory;
    u32[segment.tables.requestWord(7) + R.STATE] = 17;
    u32[segment.tables.portWord(6) + P.STATE] = 9;
    // A block of a port that cannot be.
    u32[segment.geometry.pageTable / 4] = 0x8000fff5;
    for (const command of ['verify', 'verify-fix']) {
      const { status, out } = await xseg(segment, command);
      expect(status).toBe(255);
      for (const what of ['request 7 .* has unknown state 17', 'port 6 has an unknown state', 'unbound port 65525']) {
        expect(out).toMatch(new RegExp(`${what}: nothing less than archipelago restart helps\n`));
      }
    }
    expect(JSON.parse((await xseg(segment, '--json', 'verify')).out).restart).toBe(true);
  });

  it('belongs to other pids: a join says so, and the tool ends with 255', async () => {
    const segment = createSegment();
    segment.memory.u32[H.PID_NAMESPACE] ^= 1;
    const { status, err } = await xseg(segment, 'verify');
    expect(status).toBe(255);
    expect(err).toMatch(/another pid namespace/);
  });
});
