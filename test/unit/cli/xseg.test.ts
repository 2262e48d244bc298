/** The xseg tool: its chain of commands, on a real segment with peers that a test directs. */
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { afterAll, beforeEach, describe, expect, it } from 'vitest';
import { parseChain, UsageError } from '../../../src/cli/xseg/chain.js';
import { xsegMain } from '../../../src/cli/xseg/main.js';
import { Flag, Op } from '../../../src/requests/ops.js';
import { decodeClone, decodeName, encodeInfo, encodeName } from '../../../src/requests/structs.js';
import { errnos, SystemError } from '../../../src/sys/errno.js';
import { Segment } from '../../../src/xseg/index.js';
import { H, P } from '../../../src/xseg/layout.js';
import { ownSegment } from '../../support/own.js';
import { capture } from './capture.js';
import { FakeNode } from './fake-node.js';

const node = new FakeNode();
beforeEach(() => node.reset());
afterAll(() => node.close());

/** Writes another process into the port table, as if that one had bound the port. */
function pretendOwner(segment: Segment, port: number, pid: number): void {
  const word = segment.tables.portWord(port);
  segment.memory.u32[word + P.PID] = pid;
  segment.memory.u32[word + P.START] = 0;
}

describe('the command line', () => {
  const commands = new Map(
    [
      { name: 'verify', args: [] },
      { name: 'bind', args: ['PORT'] },
      { name: 'info', args: ['TARGET'], sends: true },
      { name: 'recover', args: ['PORT?'], options: ['--fail'] },
    ].map((command) => [command.name, command]),
  );
  const parse = (...words: string[]) => parseChain(['posix:x:', ...words], commands);

  it('is a chain in which SRC:DST holds for what follows', () => {
    const { steps } = parse('bind', '12', '12:500', 'info', 'a:b', ':7', 'info', 'verify');
    expect(steps.map((s) => [s.command.name, s.args, s.ports])).toEqual([
      ['bind', ['12'], null],
      ['info', ['a:b'], { src: 12, dst: 500 }],
      ['info', ['verify'], { src: null, dst: 7 }],
    ]);
  });

  it('may leave optional arguments out', () => {
    const { steps } = parse('recover', 'verify', 'recover', '--fail', '7', 'recover', '8', '--fail', 'recover');
    expect(steps.map((s) => [s.command.name, s.args, [...s.options]])).toEqual([
      ['recover', [], []],
      ['verify', [], []],
      ['recover', ['7'], ['--fail']],
      ['recover', ['8'], ['--fail']],
      ['recover', [], []],
    ]);
  });

  it.each([
    [['frob'], /no command frob/],
    [['info', 'x'], /say from which port to which first/],
    [['12:500', 'info'], /info needs TARGET/],
    [['12:x', 'info', 'x'], /not SRC:DST/],
    [['12:500'], /no command is given/],
  ])('%j is refused before anything runs', (words, message) => {
    expect(() => parse(...words)).toThrow(UsageError);
    expect(() => parse(...words)).toThrow(message);
  });

  it('with too few words prints the help, status 1', async () => {
    for (const words of [[], ['posix:x:']]) {
      const { status, out } = await capture({}, (io) => xsegMain(words, io));
      expect(status).toBe(1);
      expect(out).toMatch(/^Usage: xseg SPEC/);
    }
    expect((await capture({}, (io) => xsegMain(['--help'], io))).status).toBe(0);
  });

  it('with a bad spec or command is 255, and nothing ran', async () => {
    const { status, err } = await capture({}, (io) => xsegMain(['shm:x:', 'create'], io));
    expect(status).toBe(255);
    expect(err).toMatch(/type "shm" is not known/);
    expect((await node.xseg(':1001', 'ping', 'frob')).status).toBe(255);
    expect(node.seen).toEqual([]);
  });
});

describe('the segment', () => {
  const spec = `posix:${ownSegment('xseg')}:64:32:32:12`;
  const run = (...words: string[]) => capture({}, (io) => xsegMain([spec, ...words], io));

  it('is created, joined, destroyed; 255 at once when it cannot be joined', async () => {
    const missing = await run('reportall', 'create');
    expect(missing.status).toBe(255);
    expect(missing.err).toMatch(/^xseg: cannot join segment archipelago-unit-xseg-/);
    expect(Segment.exists(spec)).toBe(false);
    expect(await run('create', 'join', 'verify')).toEqual({ status: 0, out: 'no problems\n', err: '' });
    const again = await run('create');
    expect(again.status).toBe(255);
    expect(again.err).toMatch(/^xseg: create: .*\(EEXIST\)\n$/);
    expect((await run('destroy')).status).toBe(0);
    expect(Segment.exists(spec)).toBe(false);
    expect((await run('destroy')).status).toBe(255);
  });

  it('is not destroyed under a living peer, unless by force', async () => {
    await run('create');
    const child = spawn(process.execPath, ['-e', 'process.stdin.resume(); console.log("up")']);
    await once(child.stdout, 'data');
    const segment = Segment.join(spec);
    segment.bind(5, { name: 'peer' });
    pretendOwner(segment, 5, child.pid as number);
    try {
      const refused = await run('destroy');
      expect(refused.status).toBe(255);
      expect(refused.err).toContain(`is in use by port 5 (peer, process ${child.pid}); stop the node first`);
      expect(Segment.exists(spec)).toBe(true);
      expect((await run('destroy', '--force')).status).toBe(0);
      expect(Segment.exists(spec)).toBe(false);
    } finally {
      child.stdin.end();
      await once(child, 'exit');
    }
  });

  it('is removed as the message says when another version left it', async () => {
    await run('create');
    const segment = Segment.join(spec);
    segment.memory.u32[H.ABI] += 1;
    segment.close();
    const refused = await run('destroy');
    expect(refused.status).toBe(255);
    const [, advice] = /remove it: xseg posix:archipelago-unit-xseg-\d+-\d+: (.*)\n$/.exec(refused.err) ?? [];
    expect(advice).toBeDefined();
    expect(await run(...advice.split(' '))).toEqual({ status: 0, out: '', err: '' });
    expect(Segment.exists(spec)).toBe(false);
  });

  it('reportall shows it with its ports, as text and as JSON', async () => {
    const { status, out } = await node.xseg('reportall');
    expect(status).toBe(0);
    expect(out).toMatch(/^segment +archipelago-unit-cli-.*, 64 MiB, 2048 ports, dynamic from 1024\n/);
    expect(out).toMatch(new RegExp(`\n1001 +mapper +${process.pid} `));
    const json = JSON.parse((await node.xseg('reportall', '--json')).out);
    expect(json).toMatchObject({ ports: 2048, dynamicFrom: 1024, inFlight: 0 });
    expect(json.bound.map((p: { port: number }) => p.port)).toEqual([500, 1000, 1001, 1002, 1023]);
    const one = JSON.parse((await node.xseg('--json', ':1001', 'report')).out);
    expect(one.map((p: { port: number }) => p.port)).toEqual([1001]);
  });

  it('verify finds dead owners, recoverport and verify-fix clean up after them', async () => {
    await run('create');
    const segment = Segment.join(spec);
    for (const port of [5, 6]) segment.bind(port, { name: 'victim' });
    for (const port of [5, 6]) pretendOwner(segment, port, spawnSync('true').pid);
    const found = await run('verify');
    expect(found.status).toBe(255);
    expect(found.out).toMatch(/port 5 \(victim\) belongs to dead process \d+: recoverport 5\n/);
    expect(found.out).toMatch(/recoverport 6\n/);
    expect(JSON.parse((await run('verify', '--json')).out).problems.length).toBeGreaterThan(1);

    const recovered = await run('recoverport', '5', '--fail');
    expect(recovered.status).toBe(0);
    expect(recovered.out).toMatch(/^recovered port 5: 0 requests wait for its next owner, .*0 failed/);
    expect((await run('verify')).out).not.toMatch(/recoverport 5/);

    expect(await run('verify-fix')).toEqual({
      status: 0,
      out: 'recovered 0 locks and 1 ports\nno problems\n',
      err: '',
    });
    expect((await run('recoverlocks', 'recoverlocks', '5')).out).toBe('released 0 locks\nreleased 0 locks\n');
    expect((await run('destroy')).status).toBe(0);
  });

  it('recoverport refuses a living owner and says that a free port is free', async () => {
    expect((await node.xseg('recoverport', '1001')).err).toMatch(/which is alive \(EBUSY\)/);
    expect(await node.xseg('recoverport', '7')).toEqual({ status: 0, out: 'port 7 is free\n', err: '' });
    expect((await node.xseg('recoverport', 'x')).err).toMatch(/port "x" is not a number/);
  });
});

describe('ports and requests', () => {
  it('bind and info of the original print what they did', async () => {
    node.on('composer', Op.INFO, () => encodeInfo({ size: 1 << 30 }));
    const { status, out } = await node.xseg('bind', '1012', '1012:500', 'info', 'volume1', 'wait', '1');
    expect({ status, out }).toEqual({ status: 0, out: 'bound port 1012\nsize: 1073741824\n' });
    expect(node.seen).toMatchObject([{ peer: 'composer', target: 'volume1', src: 1012 }]);
    expect(node.segment.portOwner(1012)).toBeNull();
  });

  it('a taken port is refused, a bound one can be freed, one that is not bound cannot', async () => {
    const { status, err } = await node.xseg('bind', '1001');
    expect(status).toBe(255);
    expect(err).toMatch(/port 1001 is taken by mapper.*\(EADDRINUSE\)/);
    expect((await node.xseg('bind', '1012', 'free', '1012')).status).toBe(0);
    expect((await node.xseg('free', '1012')).err).toMatch(/not bound by this command line/);
  });

  it('goes on behind a failure, and ends with the last status', async () => {
    node.on('mapper', Op.PING, () => undefined);
    const good = await node.xseg(':7', 'ping', ':1001', 'ping');
    expect({ status: good.status, out: good.out }).toEqual({ status: 0, out: 'port 1001 answers\n' });
    expect(good.err).toMatch(/^xseg: ping: no peer serves port 7.*\(ECONNREFUSED\)\n$/);
    expect((await node.xseg(':1001', 'ping', ':7', 'ping')).status).toBe(255);
  });

  it('refuses a target that no request can carry, and goes on', async () => {
    node.on('blocks', Op.PING, () => undefined);
    const { status, out, err } = await node.xseg(':1000', 'delete', 'x'.repeat(257), 'ping');
    expect({ status, out }).toEqual({ status: 0, out: 'port 1000 answers\n' });
    expect(err).toMatch(/at most 256 bytes, not 257 \(ENAMETOOLONG\)/);
  });

  it("says a peer's refusal with errno and message", async () => {
    node.on('maps', Op.ACQUIRE, () => {
      throw new SystemError(errnos.EBUSY, 'volume1 is locked by node2_1002');
    });
    expect(await node.xseg(':1002', 'acquire', 'volume1')).toEqual({
      status: 255,
      out: '',
      err: 'xseg: acquire volume1: volume1 is locked by node2_1002 (EBUSY)\n',
    });
  });

  it('reads to stdout and writes from stdin in pieces, every byte in its place', async () => {
    const object = Buffer.alloc(1_300_000);
    node.on('blocks', Op.READ, ({ offset, size }) => object.subarray(offset, offset + size));
    node.on('blocks', Op.WRITE, ({ offset, size, data }) => {
      data.copy(object, offset, 0, size);
      return undefined;
    });
    const content = Buffer.from(Array.from({ length: 1_200_000 }, (_, i) => (i * 31 + (i >>> 9)) & 255));
    const stdin = [content.subarray(0, 5), content.subarray(5, 700_000), content.subarray(700_000)];
    expect((await node.xsegWith({ stdin }, ':1000', 'write', 'object1', '1000')).status).toBe(0);
    expect(object.subarray(1000, 1000 + content.length).equals(content)).toBe(true);
    expect(object.subarray(0, 1000).every((byte) => byte === 0)).toBe(true);
    const { out, status } = await node.xseg(':1000', 'read', 'object1', '1000', String(content.length));
    expect(status).toBe(0);
    expect(Buffer.from(out, 'latin1').equals(content)).toBe(true);
    expect(Math.max(...node.seen.map(({ data }) => data.length))).toBeLessThanOrEqual(512 << 10);
  });

  it('carries names, sizes and flags where peers look for them', async () => {
    for (const op of [Op.COPY, Op.SNAPSHOT, Op.CLONE, Op.TRUNCATE, Op.RELEASE, Op.DELETE, Op.HASH, Op.STATUS]) {
      node.on('blocks', op, () =>
        op === Op.HASH ? encodeName('d'.repeat(64)) : op === Op.STATUS ? { up: true } : undefined,
      );
    }
    const { status, out, err } = await node.xseg(
      ...[':1000', 'copy', 'source', 'target', '4096', 'snapshot', 'volume1', 'snap-1'],
      ...['clone', 'snap-1', 'volume2', '1024', 'truncate', 'volume1', '512', '--force'],
      ...['release', 'volume1', '--force', 'delete', 'object1', 'hash', 'object1', '4194304', 'status'],
    );
    expect({ status, err }).toEqual({ status: 0, err: '' });
    expect(out).toBe(`${'d'.repeat(64)}\n{"up":true}\n`);
    const [copy, snapshot, clone, truncate, release, remove, hash] = node.seen;
    expect(copy).toMatchObject({ op: Op.COPY, target: 'target', size: 4096 });
    expect(decodeName(copy.data, 'test')).toBe('source');
    expect(snapshot.target).toBe('volume1');
    expect(decodeName(snapshot.data, 'test')).toBe('snap-1');
    expect(clone.target).toBe('volume2');
    expect(decodeClone(clone.data)).toEqual({ parent: 'snap-1', size: 1024 });
    expect(truncate).toMatchObject({ target: 'volume1', offset: 512, flags: Flag.FORCE });
    expect(release).toMatchObject({ target: 'volume1', flags: Flag.FORCE });
    expect(remove).toMatchObject({ op: Op.DELETE, target: 'object1' });
    expect(hash).toMatchObject({ target: 'object1', size: 4194304 });
  });

  it('signal rings a bell that is there, and refuses a port that is not', async () => {
    expect(await node.xseg('signal', '1001')).toEqual({ status: 0, out: '', err: '' });
    expect((await node.xseg('signal', '2048')).err).toMatch(/no port 2048, only 0 to 2047/);
  });
});
