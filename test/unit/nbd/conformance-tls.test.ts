/** What the protocol document asks of a server that offers TLS, or insists on it; and what an adversary in plaintext can do: nothing. */
import type net from 'node:net';
import tls from 'node:tls';
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest';
import { MemoryDisk, MemoryProvider } from '../../../src/nbd/memory-device.js';
import { NbdServer } from '../../../src/nbd/server.js';
import type { TlsMode } from '../../../src/nbd/tls.js';
import {
  ask,
  CMD,
  E,
  enter,
  execute,
  extendedRequest,
  greet,
  infoData,
  metaData,
  OPT,
  option,
  type Peer,
  REP,
  type Style,
  TFLAG,
  verdict,
} from './proto.js';
import { RawPeer, temporaryDirectory } from './support.js';
import { hasOpenssl, type KeyPair, Pki } from './tls-support.js';

const MiB = 1024 * 1024;

/** A peer inside of TLS. */
class TlsPeer implements Peer {
  readonly socket: tls.TLSSocket;
  #received = Buffer.alloc(0);
  #over = false;
  #wake: () => void = () => {};

  constructor(socket: tls.TLSSocket) {
    this.socket = socket;
    socket.on('data', (chunk: Buffer) => {
      this.#received = Buffer.concat([this.#received, chunk]);
      this.#wake();
    });
    const over = (): void => {
      this.#over = true;
      this.#wake();
    };
    socket.on('end', over).on('close', over).on('error', over);
    onTestFinished(() => void socket.destroy());
  }

  send(bytes: Uint8Array): void {
    this.socket.write(bytes);
  }

  async take(length: number): Promise<Buffer> {
    while (this.#received.length < length) {
      if (this.#over) throw new Error(`the server closed after ${this.#received.length} of ${length} bytes`);
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
    const bytes = this.#received.subarray(0, length);
    this.#received = this.#received.subarray(length);
    return bytes;
  }

  /** Resolves when the server has closed. */
  async closed(): Promise<void> {
    while (!this.#over) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
  }
}

/** Options a server knows or not, with data that fits or not; none that ends the handshake. */
const options: [number, Buffer][] = [0, 3, 4, 6, 8, 9, 10, 11, 12, 77, 0xffffffff].flatMap(
  (type): [number, Buffer][] => [
    [type, Buffer.alloc(0)],
    [type, infoData('disk')],
    [type, metaData('disk', ['base:allocation'])],
  ],
);

describe.skipIf(!hasOpenssl)('TLS', () => {
  let pki: Pki;
  let authority: KeyPair;
  let rogue: KeyPair;
  let serverPair: KeyPair;
  let alice: KeyPair;
  let impostor: KeyPair;

  beforeAll(() => {
    pki = new Pki();
    authority = pki.authority('/CN=Authority');
    rogue = pki.authority('/CN=Authority');
    serverPair = pki.certificate(authority, '/CN=server');
    alice = pki.certificate(authority, '/CN=alice');
    impostor = pki.certificate(rogue, '/CN=alice');
  });
  afterAll(() => pki.remove());

  async function serve(mode: TlsMode, clients: 'any' | 'verified' = 'any'): Promise<string> {
    const disk = new MemoryDisk({ size: 16 * MiB });
    const credentials = { cert: serverPair.cert, key: serverPair.key };
    const server = new NbdServer(new MemoryProvider([['disk', disk]]), {
      tls: clients === 'any' ? credentials : { ...credentials, ca: authority.cert },
    });
    onTestFinished(() => server.close());
    const path = `${temporaryDirectory()}/s`;
    await server.listen({ path }, { tls: mode });
    return path;
  }

  async function greeted(path: string, flags = 3): Promise<RawPeer> {
    const peer = await RawPeer.connect(path);
    await greet(peer, flags);
    return peer;
  }

  /** Takes a greeted peer into TLS; STARTTLS was acknowledged. */
  async function upgrade(peer: RawPeer, more: tls.ConnectionOptions = {}): Promise<TlsPeer> {
    const socket: net.Socket = peer.socket;
    socket.removeAllListeners('data');
    const secure = tls.connect({ socket, ca: authority.cert, servername: 'localhost', ...more });
    const inside = new TlsPeer(secure);
    await new Promise<void>((resolve, reject) => {
      secure.once('secureConnect', resolve);
      secure.once('error', reject);
      secure.once('close', () => reject(new Error('closed')));
    });
    return inside;
  }

  async function inside(path: string, more: tls.ConnectionOptions = {}): Promise<TlsPeer> {
    const peer = await greeted(path);
    expect(await verdict(peer, OPT.STARTTLS)).toBe(REP.ACK);
    return upgrade(peer, more);
  }

  /** enter() without the greeting, which is over when TLS begins. */
  async function entered(peer: Peer, style: Style): Promise<number> {
    if (style !== 'simple') {
      expect(await verdict(peer, style === 'extended' ? OPT.EXTENDED_HEADERS : OPT.STRUCTURED_REPLY)).toBe(REP.ACK);
    }
    const answers = await ask(peer, OPT.GO, infoData('disk'));
    expect(answers.at(-1)?.type).toBe(REP.ACK);
    return answers[0].data.readUInt16BE(10);
  }

  test('FORCEDTLS: every option is TLS_REQD before, none after', async () => {
    const path = await serve('required');
    for (const [type, data] of options) {
      expect(await verdict(await greeted(path), type, data), `option ${type}`).toBe(REP.ERR_TLS_REQD);
      expect(await verdict(await inside(path), type, data), `option ${type} inside`).not.toBe(REP.ERR_TLS_REQD);
    }
    expect(await verdict(await greeted(path), OPT.GO, infoData('disk'))).toBe(REP.ERR_TLS_REQD);
  });

  test('FORCEDTLS: no INFO reply tells anything before', async () => {
    const path = await serve('required');
    for (const name of ['disk', 'nowhere']) {
      for (const type of [OPT.INFO, OPT.GO, OPT.LIST]) {
        const answers = await ask(
          await greeted(path),
          type,
          type === OPT.LIST ? undefined : infoData(name, [0, 1, 2, 3]),
        );
        expect(answers.map((answer) => answer.type)).toEqual([REP.ERR_TLS_REQD]);
        expect(answers[0].data.includes('disk')).toBe(false);
      }
    }
  });

  test('FORCEDTLS: EXPORT_NAME ends the session, ABORT is acknowledged', async () => {
    const path = await serve('required');
    const old = await greeted(path);
    old.send(option(OPT.EXPORT_NAME, Buffer.from('disk')));
    expect(await old.closed()).toHaveLength(0);
    const peer = await greeted(path);
    expect(await verdict(peer, OPT.ABORT)).toBe(REP.ACK);
    expect(await peer.closed()).toHaveLength(0);
  });

  test.each(['selective', 'required'] as const)(
    '%s: a second STARTTLS is INVALID, the session goes on',
    async (mode) => {
      const peer = await inside(await serve(mode));
      expect(await verdict(peer, OPT.STARTTLS)).toBe(REP.ERR_INVALID);
      await entered(peer, 'structured');
      expect((await execute(peer, 'structured', { type: CMD.READ, length: 512 })).error).toBe(0);
    },
  );

  test.each(['selective', 'required'] as const)(
    '%s: STARTTLS with data is INVALID and begins nothing',
    async (mode) => {
      const peer = await greeted(await serve(mode));
      expect(await verdict(peer, OPT.STARTTLS, Buffer.from('x'))).toBe(REP.ERR_INVALID);
      expect(await verdict(peer, OPT.STARTTLS)).toBe(REP.ACK);
      await entered(await upgrade(peer), 'simple');
    },
  );

  test('SELECTIVETLS: the same server serves in plaintext and inside', async () => {
    const path = await serve('selective');
    const plain = await RawPeer.connect(path);
    await enter(plain, 'structured');
    expect((await execute(plain, 'structured', { type: CMD.READ, length: 512 })).error).toBe(0);
    await entered(await inside(path), 'structured');
    for (const [type, data] of options)
      expect(await verdict(await greeted(path), type, data), `option ${type}`).not.toBe(REP.ERR_TLS_REQD);
  });

  test('a client that did not agree to fixed newstyle is not taken into TLS', async () => {
    const peer = await greeted(await serve('selective'), 2);
    const answer = await verdict(peer, OPT.STARTTLS).catch(() => 'closed');
    expect(answer).not.toBe(REP.ACK);
  });

  test('what was negotiated in plaintext does not hold inside', async () => {
    const path = await serve('selective');
    for (const first of [OPT.STRUCTURED_REPLY, OPT.EXTENDED_HEADERS]) {
      const peer = await greeted(path);
      expect(await verdict(peer, first)).toBe(REP.ACK);
      expect(await verdict(peer, OPT.SET_META_CONTEXT, metaData('disk', ['base:allocation']))).toBe(REP.ACK);
      expect(await verdict(peer, OPT.STARTTLS)).toBe(REP.ACK);
      const secure = await upgrade(peer);
      expect(await verdict(secure, OPT.SET_META_CONTEXT, metaData('disk', ['base:allocation']))).toBe(REP.ERR_INVALID);
      const flags = await entered(secure, 'simple');
      expect(flags & (TFLAG.SEND_DF | TFLAG.BLOCK_STATUS_PAYLOAD)).toBe(0);
      expect((await execute(secure, 'simple', { type: CMD.READ, length: 512 })).simple).toBe(true);
      expect((await execute(secure, 'simple', { type: CMD.BLOCK_STATUS, length: 512 })).error).toBe(E.INVAL);
    }
    const chosen = await greeted(path);
    expect(await verdict(chosen, OPT.STRUCTURED_REPLY)).toBe(REP.ACK);
    expect(await verdict(chosen, OPT.SET_META_CONTEXT, metaData('disk', ['base:allocation']))).toBe(REP.ACK);
    expect(await verdict(chosen, OPT.STARTTLS)).toBe(REP.ACK);
    const secure = await upgrade(chosen);
    await entered(secure, 'structured');
    expect((await execute(secure, 'structured', { type: CMD.BLOCK_STATUS, length: 512 })).error).toBe(E.INVAL);
  });

  test.each([1, 5, 20, 1000])(
    '%i bytes of plaintext behind STARTTLS end the connection, unanswered',
    async (length) => {
      const path = await serve('selective');
      const injected = Buffer.concat([
        option(OPT.LIST),
        option(OPT.EXPORT_NAME, Buffer.from('disk')),
        Buffer.alloc(1000),
      ]);
      const peer = await greeted(path);
      peer.send(Buffer.concat([option(OPT.STARTTLS), injected.subarray(0, length)]));
      const said = await peer.closed();
      // At most the answer to STARTTLS was under way already.
      expect([0, 20]).toContain(said.length);
      expect(await verdict(await greeted(path), OPT.LIST)).toBe(REP.ACK);
    },
  );

  test('plaintext in place of the TLS handshake ends the connection', async () => {
    const path = await serve('selective');
    for (const bytes of [option(OPT.LIST), option(OPT.EXPORT_NAME, Buffer.from('disk')), Buffer.alloc(64)]) {
      const peer = await greeted(path);
      expect(await verdict(peer, OPT.STARTTLS)).toBe(REP.ACK);
      peer.send(bytes);
      const said = await peer.closed();
      // A TLS alert, perhaps; nothing of the protocol.
      expect(said.length === 0 || said[0] === 21).toBe(true);
    }
  });

  test('a certificate of another authority opens nothing, none opens nothing, a good one does', async () => {
    const path = await serve('required', 'verified');
    const served = async (more: tls.ConnectionOptions): Promise<boolean> => {
      try {
        return (await verdict(await inside(path, more), OPT.LIST)) === REP.ACK;
      } catch {
        return false;
      }
    };
    for (const version of ['TLSv1.2', 'TLSv1.3'] as const) {
      const versions = { minVersion: version, maxVersion: version };
      expect(await served({ ...versions, cert: impostor.cert, key: impostor.key })).toBe(false);
      expect(await served(versions)).toBe(false);
      expect(await served({ ...versions, cert: alice.cert, key: alice.key })).toBe(true);
    }
  });

  test.each(['simple', 'structured', 'extended'] as const)('data goes through TLS whole, %s replies', async (style) => {
    const peer = await inside(await serve('required'));
    await entered(peer, style);
    const data = Buffer.from(Array.from({ length: 3 * MiB }, (_, i) => (i * 7 + (i >> 9)) & 0xff));
    expect((await execute(peer, style, { type: CMD.WRITE, offset: 777, length: data.length }, data)).error).toBe(0);
    const { data: got } = await execute(peer, style, { type: CMD.READ, offset: 777, length: data.length });
    expect(got?.equals(data)).toBe(true);
    if (style === 'extended') peer.send(extendedRequest({ type: CMD.DISC }));
    else peer.send(Buffer.from(`25609513${'00000002'}${'00'.repeat(20)}`, 'hex'));
    await peer.closed();
  });
});
