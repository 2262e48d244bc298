/** TLS from the client's side: who is believed, who is not, and what a server or a man in the middle may try. */
import crypto from 'node:crypto';
import fs from 'node:fs';
import net from 'node:net';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest';
import { openNbd } from '../../../src/nbd/client-connect.js';
import type { TlsClientOptions } from '../../../src/nbd/client-tls.js';
import { Option, Reply } from '../../../src/nbd/constants.js';
import { encodeGreeting, encodeOptionReply } from '../../../src/nbd/handshake-codec.js';
import { MemoryDisk, MemoryProvider } from '../../../src/nbd/memory-device.js';
import { NbdServer } from '../../../src/nbd/server.js';
import type { TlsMode, TlsOptions } from '../../../src/nbd/tls.js';
import { formatNbdUri } from '../../../src/nbd/uri.js';
import { errnos } from '../../../src/sys/errno.js';
import { client, nbdkit, pattern, qemuNbd, withServer } from './client-support.js';
import { temporaryDirectory } from './support.js';
import { hasOpenssl, type KeyPair, Pki } from './tls-support.js';

const MiB = 1024 * 1024;
const key = crypto.randomBytes(32);

describe.skipIf(!hasOpenssl)('TLS', () => {
  let pki: Pki;
  let authority: KeyPair;
  let rogue: KeyPair;
  let server: KeyPair;
  let alice: KeyPair;
  /** As libnbd and qemu have it. */
  let certificates: string;
  let pskFile: string;

  beforeAll(() => {
    pki = new Pki();
    authority = pki.authority('/CN=authority');
    rogue = pki.authority('/CN=authority');
    server = pki.certificate(authority, '/CN=server');
    alice = pki.certificate(authority, '/CN=alice');
    certificates = path.join(pki.directory, 'certificates');
    fs.mkdirSync(certificates);
    const files = { 'ca-cert': authority.cert, 'client-cert': alice.cert, 'client-key': alice.key };
    const own = { 'server-cert': server.cert, 'server-key': server.key };
    for (const [name, text] of Object.entries({ ...files, ...own })) {
      fs.writeFileSync(path.join(certificates, `${name}.pem`), text);
    }
    pskFile = path.join(pki.directory, 'psk');
    fs.writeFileSync(pskFile, `bob:00ff\nalice:${key.toString('hex')}\n`);
  });
  afterAll(() => pki.remove());

  async function served(mode: TlsMode, tls?: TlsOptions): Promise<{ host: string; port: number }> {
    const provider = new MemoryProvider([['', new MemoryDisk({ size: 4 * MiB })]]);
    const nbdServer = new NbdServer(provider, { tls });
    onTestFinished(() => nbdServer.close());
    const address = await nbdServer.listen({ host: '127.0.0.1', port: 0 }, { tls: mode });
    if (!('port' in address)) throw new Error('it does not listen on TCP');
    return address;
  }
  const credentials = (): TlsOptions => ({ cert: server.cert, key: server.key });

  test.each(['TLSv1.2', 'TLSv1.3'] as const)('data goes both ways in %s, to a verified server', async (version) => {
    const address = await served('required', credentials());
    const nbd = await client(address, { tls: { ca: authority.cert, minVersion: version, maxVersion: version } });
    expect(nbd.tls).toMatchObject({ verified: true, protocol: version });
    const data = pattern(2 * MiB, 5);
    await nbd.write(1000, data);
    expect((await nbd.read(1000, data.length)).equals(data)).toBe(true);
    const many = await Promise.all(Array.from({ length: 50 }, (_, i) => nbd.read(1000 + i * 999, 999)));
    expect(many.every((bytes, i) => bytes.equals(data.subarray(i * 999, (i + 1) * 999)))).toBe(true);
    await nbd.disconnect();
  });

  test('a client certificate is shown to a server that asks for one', async () => {
    const address = await served('required', { ...credentials(), ca: authority.cert, verifyPeer: true });
    const nbd = await client(address, { tls: { ca: authority.cert, cert: alice.cert, key: alice.key } });
    await nbd.flush();
    await expect(client(address, { tls: { ca: authority.cert } })).rejects.toMatchObject({ errno: expect.any(Number) });
  });

  test.each([
    ['of a rogue authority of the same name', () => ({ ca: rogue.cert })],
    ['of an authority that is not trusted here', () => ({})],
    ['of another name', () => ({ ca: authority.cert, hostname: 'elsewhere.example' })],
  ])('a server certificate %s is refused', async (_, options) => {
    const address = await served('required', credentials());
    await expect(client(address, { tls: options() })).rejects.toMatchObject({
      errno: errnos.EACCES,
      message: /no TLS with the server/,
    });
    // Without verifying it works, and says so.
    const nbd = await client(address, { tls: { ...options(), verifyPeer: false } });
    expect(nbd.tls?.verified).toBe(false);
  });

  test('a name that was given counts, not the address', async () => {
    const address = await served('required', credentials());
    const nbd = await client(address, { tls: { ca: authority.cert, hostname: 'localhost' } });
    expect(nbd.tls?.verified).toBe(true);
  });

  test.each(['TLSv1.2', 'TLSv1.3'] as const)(
    'a pre-shared key is proof enough, anything else is none, in %s',
    async (version) => {
      const versions = { minVersion: version, maxVersion: version };
      const psk = (identity: string) => (identity === 'alice' ? key : null);
      const address = await served('required', { psk });
      const nbd = await client(address, { tls: { ...versions, psk: { identity: 'alice', key } } });
      expect(nbd.tls).toMatchObject({ verified: true, protocol: version });
      await nbd.write(0, Buffer.from('secret'));
      expect((await nbd.read(0, 6)).toString()).toBe('secret');
      const wrong = [
        { identity: 'alice', key: Buffer.alloc(32, 1) },
        { identity: 'mallory', key },
      ];
      for (const psk of wrong)
        await expect(client(address, { tls: { ...versions, psk } })).rejects.toMatchObject({ errno: errnos.EACCES });
      // The server has a certificate, even one that would verify, but not the key.
      const impostor = await served('required', credentials());
      const options: TlsClientOptions = {
        ...versions,
        psk: { identity: 'alice', key },
        ca: authority.cert,
        verifyPeer: false,
      };
      await expect(client(impostor, { tls: options })).rejects.toMatchObject({ errno: errnos.EACCES });
    },
  );

  test('required TLS does not fall back; allowed TLS does; TLS that is there is taken', async () => {
    const plain = await served('off');
    const tls = { ca: authority.cert };
    await expect(client(plain, { tls })).rejects.toMatchObject({ errno: errnos.EACCES, message: /required here/ });
    await expect(client(`nbds://127.0.0.1:${plain.port}`)).rejects.toMatchObject({ message: /required here/ });
    // An option cannot take back what nbds: says.
    const weakened = client(`nbds://127.0.0.1:${plain.port}`, { tls: { mode: 'allow' } });
    await expect(weakened).rejects.toMatchObject({ message: /required here/ });
    expect((await client(plain, { tls: { ...tls, mode: 'allow' } })).tls).toBeNull();
    const selective = await served('selective', credentials());
    expect((await client(selective, { tls: { ...tls, mode: 'allow' } })).tls).not.toBeNull();
    expect((await client(selective)).tls).toBeNull();
    // A server whose certificate is wrong is no server without TLS.
    const impostor = client(selective, { tls: { ca: rogue.cert, mode: 'allow' } });
    await expect(impostor).rejects.toMatchObject({ errno: errnos.EACCES });
  });

  test('a server that wants TLS says so to a client without', async () => {
    const address = await served('required', credentials());
    await expect(client(address)).rejects.toMatchObject({ name: 'NbdError', wire: Reply.ERR_TLS_REQD });
  });

  test('a unix socket is verified by an authority or a name, and not at all without both', async () => {
    const provider = new MemoryProvider([['', new MemoryDisk({ size: MiB })]]);
    const nbdServer = new NbdServer(provider, { tls: credentials() });
    onTestFinished(() => nbdServer.close());
    const socket = path.join(temporaryDirectory(), 's');
    await nbdServer.listen({ path: socket }, { tls: 'required' });
    const uri = (more: object) => formatNbdUri({ tls: true, socket, ...more });
    expect((await client(uri({ tlsCertificates: certificates }))).tls?.verified).toBe(true);
    expect((await client(uri({ tlsCertificates: certificates, tlsHostname: 'localhost' }))).tls?.verified).toBe(true);
    const other = client(uri({ tlsCertificates: certificates, tlsHostname: 'other' }));
    await expect(other).rejects.toMatchObject({ errno: errnos.EACCES });
    await expect(client(uri({}))).rejects.toMatchObject({ errno: errnos.EINVAL, message: /tls-hostname/ });
    expect((await client(uri({ tlsVerifyPeer: false }))).tls?.verified).toBe(false);
  });

  describe('with servers that others wrote', () => {
    withServer('nbdkit')('nbdkit with certificates', async () => {
      const socket = await nbdkit(
        '--tls=require',
        `--tls-certificates=${certificates}`,
        '--tls-verify-peer',
        'memory',
        '4M',
      );
      const nbd = await client(
        formatNbdUri({ tls: true, socket, tlsCertificates: certificates, tlsHostname: 'localhost' }),
      );
      expect(nbd.tls?.verified).toBe(true);
      expect(nbd.structured).toBe(true);
      const data = pattern(MiB, 2);
      await nbd.write(0, data);
      expect((await nbd.read(0, MiB)).equals(data)).toBe(true);
      await nbd.disconnect();
      await expect(client({ path: socket })).rejects.toMatchObject({ errno: errnos.EACCES });
      const stranger = client({ path: socket }, { tls: { ca: authority.cert, hostname: 'localhost' } });
      await expect(stranger).rejects.toMatchObject({ errno: expect.any(Number) });
    });

    withServer('nbdkit')('nbdkit with a pre-shared key', async () => {
      const socket = await nbdkit('--tls=require', `--tls-psk=${pskFile}`, 'memory', '4M');
      const nbd = await client(formatNbdUri({ tls: true, socket, user: 'alice', tlsPskFile: pskFile }));
      expect(nbd.tls?.verified).toBe(true);
      await nbd.write(0, Buffer.from('secret'));
      expect((await nbd.read(0, 6)).toString()).toBe('secret');
      const wrong = client({ path: socket }, { tls: { psk: { identity: 'alice', key: Buffer.alloc(32) } } });
      await expect(wrong).rejects.toMatchObject({ errno: errnos.EACCES });
    });

    withServer('qemu-nbd')('qemu-nbd with certificates, and with a pre-shared key', async () => {
      const file = path.join(temporaryDirectory(), 'disk');
      fs.writeFileSync(file, Buffer.alloc(MiB, 7));
      const x509 = `tls-creds-x509,id=t,endpoint=server,dir=${certificates},verify-peer=on`;
      const first = await qemuNbd('--object', x509, '--tls-creds', 't', '-f', 'raw', file);
      const nbd = await client(formatNbdUri({ tls: true, socket: first, tlsCertificates: certificates }));
      expect((await nbd.read(0, MiB)).every((byte) => byte === 7)).toBe(true);

      const directory = temporaryDirectory();
      fs.copyFileSync(pskFile, path.join(directory, 'keys.psk'));
      const shared = `tls-creds-psk,id=t,endpoint=server,dir=${directory}`;
      const second = await qemuNbd('--object', shared, '--tls-creds', 't', '-f', 'raw', file);
      const other = await client(formatNbdUri({ tls: true, socket: second, user: 'alice', tlsPskFile: pskFile }));
      expect(other.tls?.verified).toBe(true);
      expect((await other.read(0, MiB)).every((byte) => byte === 7)).toBe(true);
    });
  });
});

/** A server that answers the first option by `replies`, and whatever comes then by nothing. */
async function fake(replies: Buffer): Promise<{ socket: string; closed: Promise<void> }> {
  const socket = path.join(temporaryDirectory(), 's');
  let tell: () => void = () => {};
  const closed = new Promise<void>((resolve) => {
    tell = resolve;
  });
  const listener = net.createServer((stream) => {
    stream.on('error', () => {}).once('close', tell);
    let received = 0;
    stream.write(encodeGreeting(3));
    stream.on('data', (bytes) => {
      const before = received;
      received += bytes.length;
      if (before < 20 && received >= 20) stream.write(replies);
    });
  });
  onTestFinished(() => {
    listener.close();
  });
  await new Promise<void>((resolve) => listener.listen(socket, resolve));
  return { socket, closed };
}

const tls = { hostname: 'localhost' };

test('plaintext that follows the agreement to TLS is never taken for the server’s word', async () => {
  // What an attacker would like to be believed: structured replies were agreed on.
  const injected = encodeOptionReply(Option.STRUCTURED_REPLY, Reply.ACK);
  const { socket, closed } = await fake(Buffer.concat([encodeOptionReply(Option.STARTTLS, Reply.ACK), injected]));
  await expect(openNbd({ path: socket }, { tls })).rejects.toMatchObject({ errno: expect.any(Number) });
  await closed;
});

test('what is no TLS handshake ends the attempt', async () => {
  const { socket, closed } = await fake(encodeOptionReply(Option.STARTTLS, Reply.ACK));
  const attempt = openNbd({ path: socket }, { tls, timeoutMs: 200 });
  await expect(attempt).rejects.toMatchObject({ errno: errnos.ETIMEDOUT });
  await closed;
});

test.each([Reply.ERR_UNSUP, Reply.ERR_POLICY, Reply.ERR_INVALID])(
  'a refusal of TLS (%i) ends a connection that requires it',
  async (type) => {
    const { socket, closed } = await fake(encodeOptionReply(Option.STARTTLS, type, Buffer.from('not today')));
    await expect(openNbd({ path: socket }, { tls })).rejects.toMatchObject({
      errno: errnos.EACCES,
      message: /not today/,
    });
    await closed;
  },
);
