/** A device that holds requests back: what waits takes no buffer, what is not to wait does not, and a connection's end is its end. */
import type net from 'node:net';
import { describe, expect, onTestFinished, test } from 'vitest';
import { connectNbd } from '../../../src/nbd/client-connect.js';
import { Command, Option } from '../../../src/nbd/constants.js';
import type { BlockDevice, Throttle, ThrottleTicket } from '../../../src/nbd/device.js';
import { encodeClientFlags, encodeOption } from '../../../src/nbd/handshake-codec.js';
import { MemoryDisk } from '../../../src/nbd/memory-device.js';
import type { NbdServer, NbdServerOptions } from '../../../src/nbd/server.js';
import { request } from './proto.js';
import { RawPeer, SteeredDevice, serve, transports } from './support.js';

const KiB = 1024;
const SIZE = 1024 * KiB;

/** Lets through what a test says. */
class Gate implements Throttle {
  readonly waiting: ThrottleTicket[] = [];
  readonly asked: { isWrite: boolean; bytes: number }[] = [];
  charged = 0;
  open = false;

  admit(ticket: ThrottleTicket): boolean {
    this.asked.push({ isWrite: ticket.isWrite, bytes: ticket.bytes });
    if (!this.open) this.waiting.push(ticket);
    return this.open;
  }

  charge(): void {
    this.charged++;
  }

  cancel(ticket: ThrottleTicket): void {
    this.waiting.splice(this.waiting.indexOf(ticket), 1);
  }

  next(): void {
    this.waiting.shift()?.granted();
  }
}

class GatedDevice extends SteeredDevice {
  throttle: Throttle | null;
  buffers = 0;
  /** What leave was called with. */
  readonly left: boolean[] = [];

  constructor(disk: MemoryDisk, gate: Gate) {
    super(disk);
    this.throttle = gate;
  }

  override allocate(length: number): ReturnType<BlockDevice['allocate']> {
    this.buffers++;
    return super.allocate(length);
  }
}

/** One that is told of goodbyes. */
class PoliteDevice extends GatedDevice {
  leave(isRead: boolean): void {
    this.left.push(isRead);
  }
}

interface Rig {
  readonly server: NbdServer;
  readonly path: string;
  readonly gate: Gate;
  readonly devices: GatedDevice[];
  readonly disk: MemoryDisk;
}

async function gated(options: NbdServerOptions): Promise<Rig> {
  const disk = new MemoryDisk({ size: SIZE, maxIo: 64 * KiB });
  const gate = new Gate();
  const devices: GatedDevice[] = [];
  const provider = {
    list: async () => [{ name: 'disk' }],
    describe: async () => ({ info: disk.info, size: disk.size }),
    open: async () => {
      const device = new PoliteDevice(disk, gate);
      devices.push(device);
      return device;
    },
  };
  return { ...(await serve(provider, options)), gate, devices, disk };
}

/** A raw peer in transmission, with simple replies. */
async function entered(where: net.NetConnectOpts): Promise<RawPeer> {
  const peer = await RawPeer.connect(where);
  peer.send(encodeClientFlags(3));
  peer.send(encodeOption(Option.EXPORT_NAME, Buffer.from('disk')));
  await peer.take(18 + 10);
  return peer;
}

describe.each(transports)('over the %s transport', (transport) => {
  const connect = async (rig: Rig) => {
    const client = await connectNbd({ path: rig.path });
    onTestFinished(() => client.disconnect().catch(() => {}));
    return client;
  };

  test('what waits has no buffer, goes on when it may, and is asked for once', async () => {
    const rig = await gated({ transport });
    const client = await connect(rig);
    const write = client.write(0, Buffer.alloc(256 * KiB, 7));
    await expect.poll(() => rig.gate.waiting.length).toBe(1);
    expect(rig.devices[0].buffers).toBe(0);
    rig.gate.next();
    await write;
    expect(rig.gate.asked).toEqual([{ isWrite: true, bytes: 256 * KiB }]);
    const read = client.read(0, 256 * KiB);
    await expect.poll(() => rig.gate.waiting.length).toBe(1);
    rig.gate.next();
    expect(await read).toEqual(Buffer.alloc(256 * KiB, 7));
    expect(rig.gate.asked).toEqual([
      { isWrite: true, bytes: 256 * KiB },
      { isWrite: false, bytes: 256 * KiB },
    ]);
  });

  test('only what moves or removes data is asked for; a trim moves none', async () => {
    const rig = await gated({ transport });
    rig.gate.open = true;
    const client = await connect(rig);
    await client.flush();
    await client.trim(0, 4096);
    await client.writeZeroes(0, 4096);
    await client.read(0, 0).catch(() => {});
    expect(rig.gate.asked).toEqual([
      { isWrite: true, bytes: 0 },
      { isWrite: true, bytes: 0 },
    ]);
  });

  test('of each connection one waits, and none keeps another from its turn', async () => {
    const rig = await gated({ transport });
    const [one, other] = [await connect(rig), await connect(rig)];
    const done: string[] = [];
    const some = [
      ...[1, 2, 3].map((i) => one.read(0, 4096).then(() => done.push(`one ${i}`))),
      other.read(0, 4096).then(() => done.push('other')),
    ];
    await expect.poll(() => rig.gate.waiting.length).toBe(2);
    rig.gate.next();
    rig.gate.next();
    await expect.poll(() => done).toHaveLength(2);
    expect(done).toContain('other');
    await expect.poll(() => rig.gate.waiting.length).toBe(1);
    rig.gate.open = true;
    rig.gate.next();
    await Promise.all(some);
  });

  test('a client that goes is not waited for, though it is read no more', async () => {
    const rig = await gated({ transport });
    const client = await connect(rig);
    const reads = Array.from({ length: 20 }, () => client.read(0, 4096).catch(() => {}));
    await expect.poll(() => rig.gate.waiting.length).toBe(1);
    client.destroy();
    await Promise.all(reads);
    await expect.poll(() => rig.server.connections().length, { timeout: 10_000 }).toBe(0);
    expect(rig.gate.waiting).toEqual([]);
    expect(rig.devices.map(({ closed, inFlight }) => [closed, inFlight])).toEqual([[1, 0]]);
  });

  test('a server that goes does not wait for it either', async () => {
    const rig = await gated({ transport });
    const client = await connect(rig);
    const data = Buffer.alloc(4096, 9);
    const write = client.write(0, data);
    await expect.poll(() => rig.gate.waiting.length).toBe(1);
    const closing = rig.server.close({ graceful: true, timeoutMs: 60_000 });
    await write;
    await closing;
    expect([rig.gate.waiting.length, rig.gate.charged]).toEqual([0, 1]);
    expect(rig.devices[0].submitted).toMatchObject([{ offset: 0, length: 4096 }]);
  });

  test('when nothing slows the device any more, nothing is asked', async () => {
    const rig = await gated({ transport });
    const client = await connect(rig);
    rig.devices[0].throttle = null;
    await client.write(0, Buffer.alloc(4096));
    expect(rig.gate.asked).toEqual([]);
  });
});

describe('a client that is held back, sends its last requests, and closes', () => {
  const COUNT = 12;
  const STEP = 4 * KiB;

  /** Writes to the first pages, by a client that is gone when the first of them may be done. @param close as it does */
  async function leave(
    goodbye: boolean,
    close: (socket: net.Socket) => void,
    listen?: (server: NbdServer) => Promise<net.NetConnectOpts>,
  ): Promise<{ device: GatedDevice; written: boolean[] }> {
    const rig = await gated({ limits: { inFlight: 4 } });
    const peer = await entered(listen ? await listen(rig.server) : { path: rig.path });
    for (let i = 0; i < COUNT; i++)
      peer.send(Buffer.concat([request({ type: Command.WRITE, offset: i * STEP, length: STEP }), filled]));
    // Half a request behind it is nothing.
    const last = request({ type: goodbye ? Command.DISC : Command.FLUSH });
    await new Promise((resolve) => peer.socket.write(last, resolve));
    await expect.poll(() => rig.gate.waiting.length).toBe(1);
    close(peer.socket);
    await expect.poll(() => rig.server.connections().length, { timeout: 10_000 }).toBe(0);
    const client = await connectNbd({ path: rig.path });
    rig.gate.open = true;
    const written: boolean[] = [];
    for (let i = 0; i < COUNT; i++) written.push((await client.read(i * STEP, STEP)).equals(filled));
    await client.disconnect();
    expect(rig.devices[0].inFlight).toBe(0);
    return { device: rig.devices[0], written };
  }
  const filled = Buffer.alloc(STEP, 9);
  const all = Array.from({ length: COUNT }, () => true);
  const ways: [string, (socket: net.Socket) => void][] = [
    ['its side', (socket) => void socket.end()],
    ['both sides', (socket) => void socket.destroy()],
  ];

  test.each(ways)('%s, over a unix socket: what comes before its goodbye is done', async (_, close) => {
    const { device, written } = await leave(true, close);
    expect(written).toEqual(all);
    expect(device.left[0]).toBe(false);
    expect(device.abandoned).toBe(0);
  });

  test.each(ways)('%s, over TCP: what comes before its goodbye is done', async (_, close) => {
    const { device, written } = await leave(true, close, async (server) => {
      const address = await server.listen({ host: '127.0.0.1', port: 0 });
      return 'port' in address ? { host: '127.0.0.1', port: address.port } : expect.unreachable();
    });
    expect(written).toEqual(all);
    expect(device.abandoned).toBe(0);
  });

  test.each(ways)('%s, without a goodbye: the device hears that it is gone', async (_, close) => {
    const { device } = await leave(false, close);
    expect(device.left).toEqual([]);
    expect(device.abandoned).toBeGreaterThan(0);
  });
});
