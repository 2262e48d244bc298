/**
 * Clients that misbehave: garbage, half requests, absurd lengths, connections that vanish in the middle of a write. The server ends that
 * connection (or answers with an error), serves everybody else, and holds on to nothing of the client that left.
 */
import { readFileSync } from 'node:fs';
import { afterEach, beforeAll, describe, expect, it } from 'vitest';
import { nbdinfo, qemuIo } from './harness/clients.js';
import { useNode } from './harness/node.js';
import { programs } from './harness/requirements.js';
import { ended, killGroup, start } from './harness/run.js';
import { whateverTheStore } from './harness/stores.js';
import { Command, IHAVEOPT, option, request, Wire } from './harness/wire.js';

const MiB = 1 << 20;
const EINVAL = 22;
const ENOSPC = 28;

describe.runIf(programs('qemu-io', 'nbdinfo', 'nbdcopy'))('a client that', () => {
  // Who is cut off is cut off for what it did.
  const rig = useNode({ settings: { nbd: { handshake_timeout: 3600 } } });
  const wires: Wire[] = [];

  const connect = async (): Promise<Wire> => {
    const wire = await Wire.connect(rig.node.socket);
    wires.push(wire);
    return wire;
  };
  const open = async (volume: string): Promise<Wire> => {
    const wire = await Wire.open(rig.node.socket, volume);
    wires.push(wire);
    return wire;
  };

  beforeAll(async () => {
    await rig.node.create('victim-volume', 64 * MiB);
    await qemuIo(rig.node.uri('victim-volume'), 'write -P 1 0 64M', 'flush');
  });

  // Whatever it did, the next client is served.
  afterEach(async () => {
    for (const wire of wires.splice(0)) wire.socket.destroy();
    await qemuIo(rig.node.uri('victim-volume'), 'read -P 1 32M 4M', 'write -P 1 33M 4k');
  });

  it.each([
    ['zeros', Buffer.alloc(1024)],
    ['ones', Buffer.alloc(1024, 0xff)],
    ['a request for a web page', Buffer.from('GET / HTTP/1.1\r\nHost: localhost\r\n\r\n')],
    ['a TLS hello', Buffer.from('16030100a5010000a10303', 'hex')],
    ['an option without its magic', Buffer.concat([Buffer.from([0, 0, 0, 3]), Buffer.alloc(16, 0x41)])],
  ])('greets with %s is cut off', async (_, bytes) => {
    const wire = await connect();
    wire.send(bytes);
    await wire.ended();
  });

  whateverTheStore(it)('announces an option of four gigabytes is cut off', async () => {
    const wire = await connect();
    await wire.greet();
    const head = Buffer.alloc(16);
    IHAVEOPT.copy(head);
    head.writeUInt32BE(7, 8);
    head.writeUInt32BE(0xffff_ffff, 12);
    wire.send(head);
    await wire.ended();
  });

  whateverTheStore(it)('leaves in the middle of an option is forgotten', async () => {
    const wire = await connect();
    await wire.greet();
    wire.send(option(7, Buffer.alloc(40)).subarray(0, 30));
    wire.vanish();
    await nbdinfo(rig.node.uri('victim-volume'));
  });

  whateverTheStore(it)('sends a request without its magic is cut off', async () => {
    const wire = await open('victim-volume');
    wire.send(Buffer.alloc(28, 0x42));
    await wire.ended();
  });

  whateverTheStore(it)('sends an unknown command gets EINVAL and can go on', async () => {
    const wire = await open('victim-volume');
    wire.send(request(99, 0, 0));
    expect(await wire.reply()).toBe(EINVAL);
    wire.send(request(Command.READ, 32 * MiB, 512));
    expect(await wire.reply()).toBe(0);
    expect((await wire.take(512)).every((byte) => byte === 1)).toBe(true);
  });

  whateverTheStore(it)('reads or writes beyond the end gets EINVAL or ENOSPC and can go on', async () => {
    const wire = await open('victim-volume');
    wire.send(request(Command.READ, 64 * MiB - 512, 1024));
    expect(await wire.reply()).toBe(EINVAL);
    wire.send(Buffer.concat([request(Command.WRITE, 64 * MiB, 512), Buffer.alloc(512)]));
    expect(await wire.reply()).toBe(ENOSPC);
    wire.send(request(Command.READ, Number.MAX_SAFE_INTEGER, 512));
    expect(await wire.reply()).toBe(EINVAL);
    wire.send(request(Command.FLUSH, 0, 0));
    expect(await wire.reply()).toBe(0);
  });

  it('announces a write of four gigabytes is not believed: it gets no memory for it, and nobody waits', async () => {
    const wire = await open('victim-volume');
    const before = residentKiB(rig.node.rolePid('nbd'));
    wire.send(request(Command.WRITE, 0, 0xffff_ffff));
    // The server may end the connection, or read and drop what comes to keep in step; 128 MiB show that it keeps nothing.
    const chunk = Buffer.alloc(MiB, 9);
    let over = false;
    const end = wire.ended().then(() => {
      over = true;
    });
    for (let i = 0; i < 128 && !over; i++) {
      await Promise.race([new Promise<void>((resolve) => wire.socket.write(chunk, () => resolve())), end]);
    }
    await qemuIo(rig.node.uri('victim-volume'), 'read -P 1 0 1M');
    expect(residentKiB(rig.node.rolePid('nbd')) - before).toBeLessThan(96 * 1024);
    wire.vanish();
    await qemuIo(rig.node.uri('victim-volume'), 'read -P 1 0 64M');
  });

  it('vanishes in the middle of a write leaves each sector old or new, and nothing locked', async () => {
    await rig.node.create('vanish-volume', 16 * MiB);
    await qemuIo(rig.node.uri('vanish-volume'), 'write -P 1 0 16M', 'flush');
    const wire = await open('vanish-volume');
    const payload = Buffer.alloc(8 * MiB, 2);
    wire.send(Buffer.concat([request(Command.WRITE, 0, payload.length), payload.subarray(0, 3 * MiB + 1000)]));
    await new Promise<void>((resolve) => wire.socket.write('', () => resolve()));
    wire.vanish();
    // Map changes wait for requests in flight: that they succeed shows that nothing of the half request is left.
    await rig.node.vlmc('snapshot', 'vanish-volume', 'vanish-snapshot');
    const reader = await open('vanish-volume');
    reader.send(request(Command.READ, 0, 16 * MiB));
    expect(await reader.reply()).toBe(0);
    const bytes = await reader.take(16 * MiB);
    expect(bytes.subarray(8 * MiB).every((byte) => byte === 1)).toBe(true);
    for (let at = 0; at < 8 * MiB; at += 512) {
      const sector = bytes.subarray(at, at + 512);
      if (!sector.every((byte) => byte === sector[0]) || (sector[0] !== 1 && sector[0] !== 2)) {
        expect.fail(`sector at ${at} is neither old nor new`);
      }
    }
    reader.send(request(Command.DISC, 0, 0));
    await reader.ended();
    await rig.node.vlmc('remove', 'vanish-volume');
  });

  it('vanishes with reads outstanding is forgotten', async () => {
    const wire = await open('victim-volume');
    for (let i = 0; i < 100; i++) wire.send(request(Command.READ, (i % 60) * MiB, MiB, BigInt(i)));
    await wire.reply();
    wire.vanish();
    await rig.node.vlmc('close', 'victim-volume');
  });

  whateverTheStore(it)('never reads its replies holds up nobody else', async () => {
    const wire = await open('victim-volume');
    wire.socket.pause();
    for (let i = 0; i < 64; i++) wire.send(request(Command.READ, 0, 32 * MiB, BigInt(i)));
    await qemuIo(rig.node.uri('victim-volume'), 'read -P 1 0 64M', 'write -P 1 0 16M', 'flush');
  });

  it('is killed in the middle of a copy leaves a volume that works', async () => {
    const target = await rig.node.create('killed-volume', 64 * MiB);
    const copy = start('nbdcopy', ['--progress=3', rig.node.uri('victim-volume'), target], {
      stdio: ['ignore', 'ignore', 'ignore', 'pipe'],
    });
    const over = ended(copy);
    await new Promise((resolve) => copy.stdio[3]?.once('data', resolve));
    killGroup(copy);
    await over;
    await qemuIo(target, 'write -P 5 0 64M', 'read -P 5 0 64M');
    await rig.node.vlmc('remove', 'killed-volume');
  });
});

whateverTheStore(describe)('clients that never negotiate', () => {
  // Nobody else is to be that quick.
  const rig = useNode({ settings: { nbd: { handshake_timeout: 2 } } });

  it('are cut off when their time is over, a hundred of them, and leave no connection behind', async () => {
    const wires = await Promise.all(Array.from({ length: 100 }, () => Wire.connect(rig.node.socket)));
    await Promise.all(wires.map((wire) => wire.ended()));
    const { connections } = await rig.node.vlmcJson<{ connections: unknown[] }>('showmapped');
    expect(connections).toEqual([]);
  });
});

function residentKiB(pid: number): number {
  return Number(/^VmRSS:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]);
}
