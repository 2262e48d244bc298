/**
 * A node that runs out of something: space or inodes of one store, file descriptors, memory of the segment, places in queues. Whoever
 * asks for more gets an error or waits; everybody else goes on; when there is enough again nothing needs a restart.
 */
import { readdirSync } from 'node:fs';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it, onTestFailed } from 'vitest';
import { qemuIo, sha256, tryQemuIo } from './harness/clients.js';
import { Model } from './harness/model.js';
import { bin, type TestNode, useNode } from './harness/node.js';
import { programs, root } from './harness/requirements.js';
import { describeOutcome, type Outcome, run } from './harness/run.js';
import { empty, fill, fillInodes, useSmallDisk } from './harness/small-disk.js';
import { Command, request, Wire } from './harness/wire.js';

const KiB = 1 << 10;
const MiB = 1 << 20;
const BLOCK = 4 * MiB;
const usable = programs('qemu-io', 'nbdcopy');
const mounts = usable && root('mounting a small tmpfs');

/** Everything is as it should be: no finding but what an interrupted copy may leave behind. */
async function expectClean(node: TestNode): Promise<void> {
  const outcome = await node.tryVlmc(['check', '--all']);
  expect(outcome.code, describeOutcome(outcome)).toBe(0);
}

/** A vlmc command that must fail with this in its message. */
async function expectRefused(node: TestNode, args: readonly string[], message: RegExp): Promise<void> {
  const outcome = await node.tryVlmc(args);
  expect(outcome.code, describeOutcome(outcome)).toBe(255);
  expect(outcome.stderr).toMatch(message);
}

async function expectNoSpace(uri: string, ...commands: string[]): Promise<void> {
  const outcome = await tryQemuIo(uri, ...commands);
  expect(outcome.stdout + outcome.stderr, describeOutcome(outcome)).toMatch(/No space left/);
}

describe.runIf(mounts)('the store of the maps is full', () => {
  const disk = useSmallDisk('size=4m', ['maps']);
  const rig = useNode(() => ({ maps: disk.store('maps') }));
  const model = new Model(64 * MiB);

  it('new maps and snapshots fail, first writes that fit what the maps have go on, and so does I/O in place', async () => {
    const { node } = rig;
    const uri = await node.create('a-volume', 64 * MiB);
    await node.create('other-volume', 64 * MiB);
    await model.write(0, 6 * MiB, 1).apply(uri);
    // Its lock is a file, too: it is taken while there is room.
    await node.vlmc('open', 'a-volume');
    await fill(disk);
    await expectRefused(node, ['create', 'a-third', '--size', '1T'], /space/i);
    await expectRefused(node, ['snapshot', 'other-volume', 'a-snapshot'], /space/i);
    await model.write(MiB, 64 * KiB, 2).apply(uri);
    await qemuIo(uri, 'read -P 2 1M 64k', 'read -P 1 2M 4M', 'flush');
    await qemuIo(node.uri('other-volume'), 'read -P 0 0 64k');
    expect((await sha256(uri)).sha256).toBe(model.sha256);
  });

  it('is over with the first free page', async () => {
    const { node } = rig;
    empty(disk);
    const uri = node.uri('a-volume');
    await node.vlmc('snapshot', 'a-volume', 'a-snapshot');
    await node.create('a-third', '1G');
    await model.write(3 * MiB, 4 * MiB, 3).apply(uri);
    expect((await sha256(uri)).sha256).toBe(model.sha256);
    await expectClean(node);
  });
});

describe.runIf(mounts)('the store of the blocks is full', () => {
  const disk = useSmallDisk('size=32m', ['blocks']);
  const rig = useNode(() => ({ blocks: disk.store('blocks') }));
  const model = new Model(64 * MiB);

  it('copy-up and first writes are ENOSPC; snapshots, new volumes, flushes and I/O in place go on', async () => {
    const { node } = rig;
    const uri = await node.create('a-volume', 64 * MiB);
    const other = await node.create('other-volume', 64 * MiB);
    await model.write(0, 8 * MiB, 1).apply(uri);
    await qemuIo(other, 'write -P 7 0 4M', 'flush');
    await node.vlmc('snapshot', 'a-volume', 'a-snapshot');
    await fill(disk);
    // Copy-up of a shared block, and the first write to a block.
    await expectNoSpace(uri, 'write -P 2 1M 4k');
    await expectNoSpace(uri, 'write -P 2 40M 4k');
    await qemuIo(uri, 'flush', 'read -P 1 0 8M', 'read -P 0 40M 4M');
    await qemuIo(other, 'write -P 8 1M 1M', 'flush', 'read -P 8 1M 1M', 'read -P 7 2M 2M');
    await node.vlmc('snapshot', 'other-volume', 'other-snapshot');
    await node.create('a-third', '1G');
    await node.vlmc('create', 'a-clone', '--snap', 'a-snapshot');
    await expectNoSpace(node.uri('a-clone'), 'write -P 2 0 4k');
    await expectNoSpace(other, 'write -P 9 0 4k');
  });

  it('is over when there is space, and nothing of what failed is seen', async () => {
    const { node } = rig;
    empty(disk);
    const uri = node.uri('a-volume');
    expect((await sha256(uri)).sha256).toBe(model.sha256);
    await model
      .write(MiB, 4096, 2)
      .write(40 * MiB, 4096, 3)
      .apply(uri);
    expect((await sha256(uri)).sha256).toBe(model.sha256);
    await qemuIo(node.uri('a-clone'), 'write -P 2 0 4k', 'read -P 2 0 4k', 'read -P 1 4k 1M');
    await expectClean(node);
  });
});

describe.runIf(mounts)('the store has no inodes left', () => {
  const disk = useSmallDisk('size=64m,nr_inodes=300');
  const rig = useNode(() => ({ maps: disk.store('maps'), blocks: disk.store('blocks') }));
  const model = new Model(64 * MiB);

  it('what needs a new file is ENOSPC, what does not goes on', async () => {
    const { node } = rig;
    const uri = await node.create('a-volume', 64 * MiB);
    await model.write(0, 8 * MiB, 1).apply(uri);
    await node.vlmc('snapshot', 'a-volume', 'a-snapshot');
    await model.write(0, 4096, 2).apply(uri);
    await node.vlmc('open', 'a-volume');
    await fillInodes(disk);
    await expectNoSpace(uri, 'write -P 3 5M 4k');
    await expectNoSpace(uri, 'write -P 3 40M 4k');
    await expectRefused(node, ['create', 'a-second', '--size', '1G'], /space/i);
    await expectRefused(node, ['snapshot', 'a-volume', 'second-one'], /space/i);
    await model.write(8192, 64 * KiB, 4).apply(uri);
    expect((await sha256(uri)).sha256).toBe(model.sha256);
  });

  it('a few inodes at a time: every step of an operation meets the end once, and leaves nothing half done', async () => {
    const { node } = rig;
    for (const spare of [1, 2, 3, 5]) {
      empty(disk);
      await fillInodes(disk, spare);
      const outcome = await node.tryVlmc(['snapshot', 'a-volume', `snapshot-${spare}`]);
      if (outcome.code !== 0) expect(outcome.stderr).toMatch(/space/i);
      expect((await sha256(node.uri('a-volume'))).sha256).toBe(model.sha256);
    }
  });

  it('is over when there are inodes again', async () => {
    const { node } = rig;
    empty(disk);
    const uri = node.uri('a-volume');
    await model
      .write(5 * MiB, 4096, 3)
      .write(40 * MiB, 4096, 5)
      .apply(uri);
    await node.vlmc('snapshot', 'a-volume', 'second-one');
    await node.create('a-second', '1G');
    expect((await sha256(uri)).sha256).toBe(model.sha256);
    await expectClean(node);
  });
});

describe.runIf(usable && programs('prlimit'))('a process has no file descriptors left', () => {
  const rig = useNode({ placement: 'default' });
  const blocks = 120;

  it('closes cached files and goes on; new connections wait for one that ends', async () => {
    const { node } = rig;
    const uri = await node.create('a-volume', blocks * BLOCK);
    await qemuIo(uri, 'write -P 1 0 4k', 'flush');
    const pid = node.rolePid('blockerb');
    const files = (): number[] => readdirSync(`/proc/${pid}/fd`).map(Number);
    const limit = async (count: number): Promise<void> => {
      await run('prlimit', ['--pid', String(pid), `--nofile=${count}:`]);
    };
    const steady = await Wire.open(node.socket, 'a-volume');
    const before = files();
    await limit(before.length + 12);
    // Far more objects than descriptors, twice: opened, closed and opened again.
    const all = Array.from({ length: blocks }, (_, i) => i * 4);
    await qemuIo(uri, ...all.map((at) => `write -P ${1 + (at % 250)} ${at}M 4k`), 'flush');
    await qemuIo(uri, ...all.map((at) => `read -P ${1 + (at % 250)} ${at}M 4k`));
    expect(files().length).toBeLessThan(before.length + 24);

    const wires: Wire[] = [];
    for (let i = 0; i < 24; i++) wires.push(await Wire.connect(node.socket));
    const first = await Wire.open(node.socket, 'a-volume').then(
      (wire) => wire,
      () => null,
    );
    first?.vanish();
    steady.send(Buffer.concat([request(Command.WRITE, 2 * MiB, 4096), Buffer.alloc(4096, 77)]));
    expect(await steady.reply()).toBe(0);
    for (const wire of [...wires, steady]) wire.vanish();
    await qemuIo(uri, 'read -P 1 0 4k', 'read -P 77 2M 4k');
    await limit(1024);
    await qemuIo(uri, 'write -P 9 1M 4k', 'read -P 9 1M 4k', 'flush');
    await node.vlmc('snapshot', 'a-volume', 'a-snapshot');
    await expectClean(node);
  });
});

describe.runIf(usable)('the segment is small', () => {
  const rig = useNode({ settings: { XSEG: { SEGMENT_SIZE: 64 } } });
  beforeAll(async () => {
    await rig.node.create('a-volume', 512 * MiB);
    await rig.node.create('other-volume', 64 * MiB);
  });
  const wires: Wire[] = [];
  afterAll(() => {
    for (const wire of wires) wire.vanish();
  });
  const xseg = (command: string): Promise<Outcome> =>
    run(process.execPath, [path.join(bin, 'xseg.js'), `posix:${rig.node.segment}:`, command]);

  /** The answers that each flood of the test has got. */
  let floods: number[][] = [];

  /** If the test fails, says how far each flood came, and who waits for what. */
  function tellWhoWaits(): void {
    floods = [];
    onTestFailed(async () => {
      const status = await rig.node.archipelago('status', '--json');
      const { stdout } = await xseg('reportall');
      console.log(`answers of each flood: ${floods.map(({ length }) => length).join(', ')}\n${status}\n${stdout}`);
    });
  }

  /** Sends writes without looking at answers, then takes all of them. Resolves to their errnos. */
  async function flood(volume: string, at: (i: number) => number, count: number, length: number): Promise<number[]> {
    const errors: number[] = [];
    floods.push(errors);
    const wire = await Wire.open(rig.node.socket, volume);
    wires.push(wire);
    for (let i = 0; i < count; i++) {
      wire.send(Buffer.concat([request(Command.WRITE, at(i), length, BigInt(i)), Buffer.alloc(length, 1 + (i % 250))]));
    }
    for (let i = 0; i < count; i++) errors.push(await wire.reply());
    wire.send(request(Command.FLUSH, 0, 0));
    errors.push(await wire.reply());
    wire.vanish();
    return errors;
  }

  it('many large writes wait for its memory, and another volume goes on meanwhile', async () => {
    tellWhoWaits();
    const large = Array.from({ length: 6 }, (_, c) =>
      flood('a-volume', (i) => c * 64 * MiB + (i % 8) * 8 * MiB, 14, 8 * MiB),
    );
    let others = 0;
    const all = Promise.all(large);
    let over = false;
    const end = (): void => {
      over = true;
    };
    all.then(end, end);
    while (!over) {
      await qemuIo(rig.node.uri('other-volume'), 'write -P 5 1M 64k', 'read -P 5 1M 64k');
      others++;
    }
    for (const errors of await all) expect(errors.filter((errno) => errno !== 0)).toEqual([]);
    expect(others).toBeGreaterThan(0);
    for (let c = 0; c < 6; c++) {
      await qemuIo(rig.node.uri('a-volume'), ...[8, 13].map((i) => `read -P ${1 + i} ${c * 64 + (i % 8) * 8}M 8M`));
    }
  });

  it('10,000 queued writes on one connection, and as many over fifty, are all answered', async () => {
    tellWhoWaits();
    const one = await flood('a-volume', (i) => i * 4096, 10_000, 4096);
    expect(one).toHaveLength(10_001);
    expect(one.filter((errno) => errno !== 0)).toEqual([]);
    await qemuIo(rig.node.uri('a-volume'), ...[0, 4999, 9999].map((i) => `read -P ${1 + (i % 250)} ${i * 4096} 4k`));

    const many = await Promise.all(
      Array.from({ length: 50 }, (_, c) => flood('a-volume', (i) => 256 * MiB + (c * 200 + i) * 4096, 200, 4096)),
    );
    expect(many.flat().filter((errno) => errno !== 0)).toEqual([]);
    await qemuIo(rig.node.uri('a-volume'), `read -P 200 ${256 * MiB + (49 * 200 + 199) * 4096} 4k`);
  });

  it('keeps nothing of it: the node is idle, its memory free, its segment sound', async () => {
    await expectClean(rig.node);
    expect((await xseg('verify')).stdout).toBe('no problems\n');
  });
});
