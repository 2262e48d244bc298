/**
 * Stock tapdisk's `nbd:` driver, byte for byte: it connects to a unix socket, asks for the export `tapdisk_client` with a NUL behind it,
 * knows READ, WRITE and DISC, never flushes, and gives up at the first error. What it was answered must survive a crash of the node.
 */
import { existsSync, statSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { qemuRead } from './harness/clients.js';
import { useNode } from './harness/node.js';
import { programs } from './harness/requirements.js';
import { Command, NBDMAGIC, option, Wire } from './harness/wire.js';

const MiB = 1 << 20;
const SIZE = 64 * MiB;
const OPT_EXPORT_NAME = 1;
const SECTOR = 512;

/** tapdisk's side of a connection. */
class Tapdisk {
  readonly wire: Wire;
  readonly size: number;
  #handle = 0;

  private constructor(wire: Wire, size: number) {
    this.wire = wire;
    this.size = size;
  }

  static async connect(socket: string): Promise<Tapdisk> {
    const wire = await Wire.connect(socket);
    const greeting = await wire.take(18);
    expect(greeting.subarray(0, 8)).toEqual(NBDMAGIC);
    // Fixed newstyle, and nothing else: 124 zeroes follow the answer.
    wire.send(Buffer.from([0, 0, 0, 1]));
    wire.send(option(OPT_EXPORT_NAME, Buffer.from('tapdisk_client\0')));
    const answer = await wire.take(8 + 2 + 124);
    expect(answer.subarray(10)).toEqual(Buffer.alloc(124));
    return new Tapdisk(wire, Number(answer.readBigUInt64BE(0)));
  }

  /** Sends a request with the cookie that tapdisk makes: `td` and five hexadecimal digits, and a NUL. */
  #send(type: number, offset: number, length: number): Buffer {
    const cookie = Buffer.alloc(8);
    cookie.write(`td${(this.#handle++ % 0xffff).toString(16).padStart(5, '0')}`);
    const bytes = Buffer.alloc(28);
    bytes.writeUInt32BE(0x25609513, 0);
    bytes.writeUInt32BE(type, 4);
    cookie.copy(bytes, 8);
    bytes.writeBigUInt64BE(BigInt(offset), 16);
    bytes.writeUInt32BE(length, 24);
    this.wire.send(bytes);
    return cookie;
  }

  /** The answer to a request: a simple reply without error. */
  async #answered(cookie: Buffer): Promise<void> {
    const reply = await this.wire.take(16);
    expect(reply.readUInt32BE(0)).toBe(0x67446698);
    expect(reply.readUInt32BE(4)).toBe(0);
    expect(reply.subarray(8)).toEqual(cookie);
  }

  async write(sector: number, data: Buffer): Promise<void> {
    const cookie = this.#send(Command.WRITE, sector * SECTOR, data.length);
    this.wire.send(data);
    await this.#answered(cookie);
  }

  async read(sector: number, length: number): Promise<Buffer> {
    await this.#answered(this.#send(Command.READ, sector * SECTOR, length));
    return this.wire.take(length);
  }

  disconnect(): Promise<void> {
    this.#send(Command.DISC, 0, 0);
    return this.wire.ended();
  }
}

describe('tapdisk', () => {
  const rig = useNode();
  const socket = (): string => path.join(rig.node.dir, 'run', 'vol-tapdisk-volume.sock');

  it('gets its volume by the socket that vlmc map --socket makes', async () => {
    await rig.node.create('tapdisk-volume', SIZE);
    const uri = (await rig.node.vlmc('map', 'tapdisk-volume', '--socket')).trim();
    expect(uri).toBe(`nbd+unix:///?socket=${socket()}`);
    expect(statSync(socket()).mode & 0o777).toBe(0o660);
    const tapdisk = await Tapdisk.connect(socket());
    expect(tapdisk.size).toBe(SIZE);
    for (let i = 0; i < 16; i++) await tapdisk.write(i * 8192, Buffer.alloc(44 * 1024, i + 1));
    for (let i = 0; i < 16; i++)
      expect(await tapdisk.read(i * 8192, 44 * 1024)).toEqual(Buffer.alloc(44 * 1024, i + 1));
    expect(await tapdisk.read(100, 4096)).toEqual(Buffer.alloc(4096));
    await tapdisk.disconnect();
  });

  it('finds the socket again after a restart, and its data after a crash', async () => {
    const tapdisk = await Tapdisk.connect(socket());
    await tapdisk.write(77, Buffer.alloc(SECTOR, 0xee));
    rig.node.kill();
    await tapdisk.wire.ended();
    await rig.node.tryArchipelago('stop', '-f');
    await rig.node.archipelago('start');
    const again = await Tapdisk.connect(socket());
    expect(await again.read(77, SECTOR)).toEqual(Buffer.alloc(SECTOR, 0xee));
    await again.disconnect();
  });

  it.runIf(programs('qemu-io'))('shares the volume with clients that call it by its name', async () => {
    await qemuRead(rig.node.uri('tapdisk-volume'), `read -P 0xee ${77 * SECTOR} ${SECTOR}`);
    await qemuRead(`nbd+unix:///?socket=${socket()}`, `read -P 0xee ${77 * SECTOR} ${SECTOR}`);
  });

  it('loses the socket with the mapping', async () => {
    await rig.node.vlmc('unmap', `nbd+unix:///?socket=${socket()}`);
    expect(existsSync(socket())).toBe(false);
  });
});
