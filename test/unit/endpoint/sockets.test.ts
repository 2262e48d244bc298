/** Sockets of single volumes: any name of an export, durable writes, and that they come and go with the mapping. */
import fs from 'node:fs';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { VolumeSockets } from '../../../src/endpoint/sockets.js';
import { Flag, Op } from '../../../src/requests/ops.js';
import { Command, option, request, Wire } from '../../e2e/harness/wire.js';
import { Endpoint } from './support.js';

const BLOCK = 65536;
const OPT_EXPORT_NAME = 1;
let endpoint: Endpoint;
let wires: Wire[];

beforeEach(async () => {
  endpoint = await Endpoint.start('mapped');
  wires = [];
  await endpoint.stack.create('first-volume', 2 * BLOCK, BLOCK);
});

afterEach(async () => {
  vi.restoreAllMocks();
  for (const wire of wires) wire.vanish();
  expect(await endpoint.stop()).toEqual([]);
});

const mapWithSocket = () => endpoint.ask(Op.MAP, { name: 'first-volume', ownSocket: true });
const socketFile = (): string => path.join(endpoint.directory, 'vol-first-volume.sock');

/** A handshake with EXPORT_NAME; the size that the server tells. */
async function exportName(name: Buffer, flags: number): Promise<{ wire: Wire; size: number }> {
  const wire = await Wire.connect(socketFile());
  wires.push(wire);
  await wire.take(18);
  const clientFlags = Buffer.alloc(4);
  clientFlags.writeUInt32BE(flags);
  wire.send(clientFlags);
  wire.send(option(OPT_EXPORT_NAME, name));
  const reply = await wire.take(flags & 2 ? 10 : 134);
  return { wire, size: Number(reply.readBigUInt64BE(0)) };
}

describe('the socket of a volume', () => {
  it.each([
    ['tapdisk, with its NUL', Buffer.from('tapdisk_client\0')],
    ['nothing', Buffer.alloc(0)],
    ['the name of the volume', Buffer.from('first-volume')],
    ['the name of another', Buffer.from('other-volume')],
    ['bytes that are no text', Buffer.from([0xff, 0xfe, 0, 1])],
  ])('gives the volume to who asks for %s', async (_what, name) => {
    await mapWithSocket();
    expect((await exportName(name, 0)).size).toBe(2 * BLOCK);
    expect((await exportName(name, 3)).size).toBe(2 * BLOCK);
  });

  it('gives it by GO too, and its writes are durable before their answers', async () => {
    await mapWithSocket();
    const wire = await Wire.open(socketFile(), '');
    wires.push(wire);
    const submit = vi.spyOn(endpoint.port, 'submit');
    const flags: number[] = [];
    submit.mockImplementation(function (this: typeof endpoint.port, sent, to) {
      flags.push(sent.flags);
      return Object.getPrototypeOf(this).submit.call(this, sent, to);
    });
    wire.send(request(Command.WRITE, 0, 5));
    wire.send(Buffer.from('hello'));
    expect(await wire.reply()).toBe(0);
    wire.send(request(Command.READ, 0, 5));
    expect(await wire.reply()).toBe(0);
    expect((await wire.take(5)).toString()).toBe('hello');
    expect(flags).toEqual([Flag.MAY_PARK | Flag.FUA, 0]);
  });

  it('is there for owner and group, from MAP to UNMAP', async () => {
    await mapWithSocket();
    expect(fs.statSync(socketFile()).mode & 0o777).toBe(0o660);
    await mapWithSocket();
    await endpoint.ask(Op.UNMAP, { name: 'first-volume' });
    expect(fs.existsSync(socketFile())).toBe(false);
    await mapWithSocket();
    expect((await exportName(Buffer.alloc(0), 3)).size).toBe(2 * BLOCK);
    await expect(endpoint.ask(Op.UNMAP, { name: 'first-volume' })).rejects.toMatchObject({ code: 'EBUSY' });
    expect(fs.existsSync(socketFile())).toBe(true);
    await endpoint.ask(Op.UNMAP, { name: 'first-volume', force: true });
    await wires[0].ended();
    expect(endpoint.exports.connections()).toEqual([]);
  });

  it('gives nothing to who came by it and asks when it is gone, where all volumes are exports too', async () => {
    expect(await endpoint.stop()).toEqual([]);
    endpoint = await Endpoint.start('all');
    await endpoint.stack.create('first-volume', 2 * BLOCK, BLOCK);
    await endpoint.ask(Op.MAP, { name: 'first-volume', ownSocket: true, readOnly: true });
    const wire = await Wire.connect(socketFile());
    wires.push(wire);
    await wire.take(18);
    await endpoint.ask(Op.UNMAP, { name: 'first-volume' });
    wire.send(Buffer.from([0, 0, 0, 3]));
    wire.send(option(OPT_EXPORT_NAME, Buffer.alloc(0)));
    await wire.ended();
    expect(endpoint.exports.connections()).toEqual([]);
  });

  it('refuses a second mapping without it', async () => {
    await mapWithSocket();
    await expect(endpoint.ask(Op.MAP, { name: 'first-volume' })).rejects.toMatchObject({ code: 'EEXIST' });
  });

  it('leaves no mapping where it cannot be', async () => {
    fs.writeFileSync(socketFile(), 'something else');
    await expect(mapWithSocket()).rejects.toMatchObject({
      code: 'EADDRINUSE',
      message: expect.stringContaining(socketFile()),
    });
    expect(endpoint.registry.all()).toEqual([]);
    expect(fs.readFileSync(socketFile(), 'utf8')).toBe('something else');
    fs.rmSync(socketFile());
    await mapWithSocket();
  });

  it('comes back after a restart, and one that cannot does not keep others away', async () => {
    const errors: string[] = [];
    const log = { error: (message: string) => void errors.push(message) };
    const { server, exports, directory } = endpoint;
    await endpoint.ask(Op.MAP, { name: 'first-volume' });
    const sockets = new VolumeSockets({ server, exports, runDir: directory, log });
    fs.mkdirSync(path.join(directory, 'vol-blocked-volume.sock'));
    await sockets.restore(['blocked-volume', 'x'.repeat(200), 'first-volume']);
    expect(errors).toEqual([
      expect.stringMatching(/blocked-volume.*is no socket/),
      expect.stringMatching(/more than 107 bytes; use a shorter/),
    ]);
    expect((await exportName(Buffer.from('tapdisk_client\0'), 1)).size).toBe(2 * BLOCK);
  });
});
