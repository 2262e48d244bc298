/** Connections for the kernel: what is left of them when they are handed over, and whether they are told to be alive. */
import fs from 'node:fs';
import net from 'node:net';
import { describe, expect, onTestFinished, test, vi } from 'vitest';
import { askSizes, closeLinks, type Link, openLink, openLinks } from '../../../src/devices/link.js';
import { aliveSockets } from '../../../src/devices/liveness.js';
import { NetlinkSocket } from '../../../src/devices/netlink.js';
import { SYSTEM_ROOTS } from '../../../src/devices/types.js';
import { Option, Reply, TransmissionFlag } from '../../../src/nbd/constants.js';
import { encodeInfoExport } from '../../../src/nbd/handshake-codec.js';
import { errnos } from '../../../src/sys/errno.js';
import { eventually, serveMemory, temporaryDirectory } from '../nbd/support.js';

const MiB = 1 << 20;
const READ = Buffer.from('25609513000000000000000000000001000000000000000000000200', 'hex');

const OPTION_MAGIC = 0x3e889045565a9n;

function reply(type: number, data: Uint8Array | string = ''): Buffer {
  const body = Buffer.from(data);
  const head = Buffer.alloc(20);
  head.writeBigUInt64BE(OPTION_MAGIC, 0);
  head.writeUInt32BE(Option.GO, 8);
  head.writeUInt32BE(type, 12);
  head.writeUInt32BE(body.length, 16);
  return Buffer.concat([head, body]);
}

/** An export that is larger than any. */
function huge(): Buffer {
  const info = encodeInfoExport(MiB, 1);
  info.writeBigUInt64BE(2n ** 63n, 2);
  return info;
}

/** An endpoint that greets, and answers GO with this in one piece; null: it says nothing at all. */
async function scripted(replies: readonly Buffer[] | null): Promise<{ path: string; open(): number }> {
  const path = `${temporaryDirectory()}/s`;
  const sockets: net.Socket[] = [];
  const server = net.createServer((socket) => {
    sockets.push(socket);
    socket.on('error', () => {});
    socket.resume();
    if (replies === null) return;
    socket.write(Buffer.concat([Buffer.from('NBDMAGICIHAVEOPT'), Buffer.from([0, 3])]));
    let received = 0;
    socket.on('data', (data) => {
      const before = received;
      received += data.length;
      // The flags, then a whole option.
      if (before <= 4 && received > 4) socket.write(Buffer.concat(replies));
    });
  });
  onTestFinished(() => {
    for (const socket of sockets) socket.destroy();
    server.close();
  });
  await new Promise<void>((resolve) => server.listen(path, resolve));
  return { path, open: () => sockets.filter(({ closed }) => !closed).length };
}

/** What the kernel says to a question about a socket, as an error. */
function notThere(question: Buffer | undefined, errno: number = errnos.ENOENT): Buffer {
  const message = Buffer.alloc(36);
  message.writeUInt32LE(36, 0);
  message.writeUInt16LE(2, 4);
  message.writeUInt32LE(question?.readUInt32LE(8) ?? 0, 8);
  message.writeInt32LE(-errno, 16);
  return message;
}

/** The other life of the descriptor, as the kernel's. */
const adopt = (link: Link): net.Socket => {
  const socket = new net.Socket({ fd: link.fd, readable: true, writable: true });
  onTestFinished(() => void socket.destroy());
  return socket;
};

describe('a connection for the kernel', () => {
  test('is past the handshake, with simple replies, and nobody else reads from it', async () => {
    const { path, server } = await serveMemory({ size: 3 * MiB });
    const link = await openLink({ path }, 'disk');
    expect(link).toMatchObject({ size: 3 * MiB, minimumBlock: 1, inode: fs.fstatSync(link.fd).ino });
    expect(link.flags & (TransmissionFlag.SEND_FLUSH | TransmissionFlag.CAN_MULTI_CONN)).not.toBe(0);
    expect(link.flags & TransmissionFlag.SEND_DF).toBe(0);
    expect(server.connections()).toHaveLength(1);
    const socket = adopt(link);
    const answer = new Promise<Buffer>((resolve) => {
      const parts: Buffer[] = [];
      socket.on('data', (part) => {
        parts.push(part);
        const bytes = Buffer.concat(parts);
        if (bytes.length >= 16 + 512) resolve(bytes);
      });
    });
    socket.write(READ);
    expect((await answer).toString('hex', 0, 16)).toBe(`67446698${'00000000'}${'0000000000000001'}`);
    socket.destroy();
    await eventually(() => server.connections().length).toBe(0);
  });

  test('is there as often as is asked, or not at all', async () => {
    const { path, server } = await serveMemory({ size: MiB });
    const links = await openLinks({ path }, 'disk', 4);
    expect(new Set(links.map(({ inode }) => inode)).size).toBe(4);
    expect(server.connections()).toHaveLength(4);
    closeLinks(links);
    await eventually(() => server.connections().length).toBe(0);
    await expect(openLinks({ path }, 'other', 3)).rejects.toMatchObject({ code: 'ENOENT', message: /no export other/ });
    await eventually(() => server.connections().length).toBe(0);
  });

  test('is refused in words where nobody listens', async () => {
    const { path, server } = await serveMemory({ size: MiB });
    await server.close();
    await expect(openLink({ path }, 'disk')).rejects.toMatchObject({ code: 'ENOENT', message: /cannot connect to/ });
    await expect(askSizes({ path }, ['disk'])).rejects.toMatchObject({ code: 'ENOENT' });
  });

  test.each<[says: string, replies: Buffer[], code: string, message: RegExp]>([
    [
      'that it wants TLS',
      [reply(Reply.ERR_TLS_REQD)],
      'EOPNOTSUPP',
      /^\/.*\/s demands TLS, which a device of the kernel has not: set socket_tls = off \(or selective\) in \[nbd\]$/,
    ],
    ['no', [reply(Reply.ERR_POLICY, 'not\u0007 for you')], 'EACCES', /^the endpoint refuses disk: .*not.*for you$/],
    ['no without a word', [reply(Reply.ERR_POLICY)], 'EACCES', /^the endpoint refuses disk: \S+/],
    ['yes and no size', [reply(Reply.ACK)], 'EPROTO', /does not tell the size of disk$/],
    [
      'more than it was asked',
      [reply(Reply.INFO, encodeInfoExport(MiB, 1)), reply(Reply.ACK), Buffer.from('gREPLY')],
      'EPROTO',
      /sent more than its answer to the handshake$/,
    ],
    [
      'that it is larger than numbers',
      [reply(Reply.INFO, huge()), reply(Reply.ACK)],
      'EPROTO',
      /more than this client can address/,
    ],
  ])('is refused in words where the endpoint says %s', async (_says, replies, code, message) => {
    const { path, open } = await scripted(replies);
    await expect(openLink({ path }, 'disk')).rejects.toMatchObject({ code, message });
    await eventually(open).toBe(0);
  });

  test('is not waited for for ever', async () => {
    const { path } = await scripted(null);
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
    onTestFinished(() => void vi.useRealTimers());
    const link = openLink({ path }, 'disk');
    const refused = expect(link).rejects.toMatchObject({
      code: 'ETIMEDOUT',
      message: `the endpoint ${path} did not answer within 10 s`,
    });
    vi.advanceTimersByTime(10_000);
    await refused;
  });

  test('is asked for sizes without one, for more exports than one handshake may name', async () => {
    const { path, server } = await serveMemory({ size: 5 * MiB });
    const names = Array.from({ length: 40 }, (_, i) => (i % 3 === 0 ? 'gone' : 'disk'));
    expect(await askSizes({ path }, names)).toEqual(names.map((name) => (name === 'disk' ? 5 * MiB : null)));
    await eventually(() => server.connections().length).toBe(0);
  });
});

describe('whether it is alive', () => {
  /** Null: this kernel does not tell. */
  const isAlive = async (address: { path: string } | { host: string; port: number }, link: Link) =>
    (await aliveSockets(address, [link.inode], SYSTEM_ROOTS)).get(link.inode) ?? null;

  test('over a unix socket', async (context) => {
    const { path, server } = await serveMemory({ size: MiB });
    const link = await openLink({ path }, 'disk');
    const alive = await isAlive({ path }, link);
    if (alive === null) {
      closeLinks([link]);
      console.error('SKIPPED: this kernel has no unix_diag');
      context.skip();
    }
    expect(alive).toBe(true);
    await server.close();
    await eventually(() => isAlive({ path }, link)).toBe(false);
    closeLinks([link]);
    expect(await isAlive({ path }, link)).toBe(false);
  });

  test('cannot be told by a kernel that has no unix_diag, and answers "no such socket" to everything', async () => {
    vi.spyOn(NetlinkSocket.prototype, 'send').mockImplementation(async (question) => void asked.push(question));
    vi.spyOn(NetlinkSocket.prototype, 'receive').mockImplementation(async () => notThere(asked.at(-1)));
    onTestFinished(() => void vi.restoreAllMocks());
    const asked: Buffer[] = [];
    expect(await aliveSockets({ path: '/s' }, [7, 8], SYSTEM_ROOTS)).toEqual(new Map());
    expect(asked).not.toEqual([]);
  });

  test('is not told by an answer that is about another', async () => {
    const coming: Buffer[] = [];
    let before: Buffer | undefined;
    vi.spyOn(NetlinkSocket.prototype, 'send').mockImplementation(async (question) => {
      coming.push(notThere(before), notThere(question, errnos.EPERM));
      before = question;
    });
    vi.spyOn(NetlinkSocket.prototype, 'receive').mockImplementation(async () => coming.shift() ?? null);
    onTestFinished(() => void vi.restoreAllMocks());
    expect(await aliveSockets({ path: '/s' }, [7, 8], SYSTEM_ROOTS)).toEqual(new Map());
    expect(before?.readUInt32LE(24)).toBe(8);
    expect(coming).toEqual([]);
  });

  test('over TCP', async () => {
    const { server } = await serveMemory({ size: MiB });
    const bound = await server.listen({ host: '127.0.0.1', port: 0 });
    if (!('port' in bound)) throw new Error('no port');
    const address = { host: bound.host, port: bound.port };
    const link = await openLink(address, 'disk');
    expect(await isAlive(address, link)).toBe(true);
    await server.close();
    await eventually(() => isAlive(address, link)).toBe(false);
    closeLinks([link]);
  });
});
