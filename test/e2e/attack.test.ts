/** Clients that stop in the middle of something, against a whole node: who works does not notice, and the segment is free again afterwards. */
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { qemuIo } from './harness/clients.js';
import { bin, useNode } from './harness/node.js';
import { programs } from './harness/requirements.js';
import { run } from './harness/run.js';
import { Command, option, request, Wire } from './harness/wire.js';

const MiB = 1 << 20;
const OPT_LIST = 3;

interface SegmentReport {
  readonly inFlight: number;
  readonly heapPages: number;
  readonly freePages: number;
}

describe.runIf(programs('qemu-io'))('clients that stop', () => {
  const rig = useNode({ settings: { nbd: { handshake_timeout: 600 } } });

  const report = async (): Promise<SegmentReport> => {
    const xseg = path.join(bin, 'xseg.js');
    const { stdout } = await run(process.execPath, [xseg, `posix:${rig.node.segment}:`, '--json', 'reportall']);
    return JSON.parse(stdout) as SegmentReport;
  };

  /** Every way to stop, once. */
  async function stopped(): Promise<Wire[]> {
    const { socket } = rig.node;
    const open = (): Promise<Wire> => Wire.open(socket, 'attacked-volume');
    const [reader, whole, half, head, silent, listing] = await Promise.all([
      open(),
      open(),
      open(),
      open(),
      Wire.connect(socket),
      Wire.connect(socket),
    ]);
    for (const wire of [reader, whole]) wire.socket.pause();
    for (let i = 0; i < 64; i++) reader.send(request(Command.READ, 0, MiB, BigInt(i)));
    for (let i = 0; i < 3; i++) whole.send(request(Command.READ, 0, 48 * MiB, BigInt(i)));
    half.send(Buffer.concat([request(Command.WRITE, 60 * MiB, 4 * MiB), Buffer.alloc(MiB + 512)]));
    head.send(request(Command.WRITE, 60 * MiB, MiB));
    await listing.greet();
    listing.socket.pause();
    for (let i = 0; i < 20; i++) listing.send(option(OPT_LIST, Buffer.alloc(0)));
    return [reader, whole, half, head, silent, listing];
  }

  beforeAll(async () => {
    await rig.node.create('attacked-volume', 64 * MiB);
    await qemuIo(rig.node.uri('attacked-volume'), 'write -P 1 0 64M', 'flush');
  });

  it('in every way and in numbers leave the others their reads and writes, and nothing when they go', async () => {
    const uri = rig.node.uri('attacked-volume');
    const work = () => qemuIo(uri, 'read -P 1 0 32M', 'write -P 1 8M 16M', 'read -P 1 8M 16M', 'flush');
    const memory = (): number =>
      Number(/^VmRSS:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${rig.node.rolePid('nbd')}/status`, 'utf8'))?.[1]);
    const round = async (): Promise<void> => {
      const wires = (await Promise.all([stopped(), stopped(), stopped(), stopped()])).flat();
      try {
        await work();
      } finally {
        for (const wire of wires) wire.vanish();
      }
      await expect
        .poll(async () => (await rig.node.vlmcJson<{ connections: unknown[] }>('showmapped')).connections)
        .toEqual([]);
    };
    for (let i = 0; i < 2; i++) await round();
    const before = memory();
    for (let i = 0; i < 4; i++) await round();
    expect(memory() - before).toBeLessThan(192 * 1024);
    await expect.poll(async () => (await report()).inFlight).toBe(0);
    const { heapPages, freePages } = await report();
    expect(freePages / heapPages).toBeGreaterThan(0.7);
    await run(process.execPath, [path.join(bin, 'xseg.js'), `posix:${rig.node.segment}:`, 'verify']);
    // Of the half of a write what had come whole, a MiB, may have been stored; the rest was not.
    await qemuIo(uri, 'read -P 1 61M 3M');
  });
});
