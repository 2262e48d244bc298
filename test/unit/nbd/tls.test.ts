/** STARTTLS: what is negotiated, what is refused, and what a connection is like inside. */
import crypto from 'node:crypto';
import type net from 'node:net';
import { Duplex, duplexPair } from 'node:stream';
import tls from 'node:tls';
import { describe, expect, onTestFinished, test } from 'vitest';
import { Command, Option, Reply, TransmissionFlag } from '../../../src/nbd/constants.js';
import type { BlockDevice, DeviceInfo, ExportProvider } from '../../../src/nbd/device.js';
import { TlsRequiredError } from '../../../src/nbd/errors.js';
import { encodeInfoRequest, encodeMetaRequest, encodeOption } from '../../../src/nbd/handshake-codec.js';
import { MemoryDisk, MemoryProvider } from '../../../src/nbd/memory-device.js';
import { NbdServer } from '../../../src/nbd/server.js';
import { eventually, SteeredProvider, temporaryDirectory, transports } from './support.js';
import { isServed, MiB, plainServer, serve, trusting, usePki } from './tls-rig.js';
import { hasOpenssl, Talker } from './tls-support.js';

describe.skipIf(!hasOpenssl)('TLS', () => {
  usePki();

  describe.each(transports)('over the %s transport', (transport) => {
    test.each(['TLSv1.2', 'TLSv1.3'] as const)(
      '%s carries the handshake and large requests unharmed',
      async (version) => {
        const { path, provider, server } = await serve('selective', plainServer(), { transport });
        const plain = await Talker.greeted(path);
        const secure = await plain.startTls({ ...trusting(), minVersion: version, maxVersion: version });
        expect((await secure.info(Option.GO, 'disk')).size).toBe(16 * MiB);
        const data = crypto.randomBytes(9 * MiB);
        await secure.write(12345, data);
        expect((await secure.read(12345, data.length)).equals(data)).toBe(true);
        for (let i = 0; i < 300; i++) await secure.write(i * 512, data.subarray(i, i + 512));
        expect((await secure.read(299 * 512, 512)).equals(data.subarray(299, 299 + 512))).toBe(true);
        const told = { protocol: version, subject: null, identity: null };
        expect(provider.clients).toEqual([{ peer: 'unix', tls: told }]);
        expect(server.connections()[0]).toMatchObject({ exportName: 'disk', tls: told });
        secure.request(Command.DISC, 0, 0);
        await secure.closed();
        await eventually(() => server.connections()).toEqual([]);
      },
    );

    test('many requests in flight both ways at the same time', async () => {
      const { path } = await serve('required', plainServer(), { transport });
      const secure = await (await Talker.greeted(path)).startTls(trusting());
      await secure.info(Option.GO, 'disk');
      const data = crypto.randomBytes(MiB);
      for (let i = 0; i < 16; i++) secure.request(Command.WRITE, i * MiB, MiB, data);
      for (let i = 0; i < 16; i++) await secure.reply();
      for (let i = 0; i < 16; i++) secure.request(Command.READ, i * MiB, MiB);
      for (let i = 0; i < 16; i++) {
        await secure.reply();
        expect((await secure.take(MiB)).equals(data)).toBe(true);
      }
    });

    test('nothing that was agreed on in plaintext holds inside', async () => {
      const { path } = await serve('selective', plainServer(), { transport });
      const plain = await Talker.greeted(path);
      for (const option of [Option.STRUCTURED_REPLY, Option.EXTENDED_HEADERS]) {
        expect(await plain.result(option)).toBe(Reply.ACK);
      }
      const choose = encodeMetaRequest('disk', ['base:allocation']);
      expect(await plain.ask(Option.SET_META_CONTEXT, choose)).toHaveLength(2);
      const secure = await plain.startTls(trusting());
      expect(await secure.result(Option.LIST_META_CONTEXT, choose)).toBe(Reply.ERR_INVALID);
      // Neither structured replies (which DF tells) nor extended headers (which would refuse them).
      const dependent = TransmissionFlag.SEND_DF | TransmissionFlag.BLOCK_STATUS_PAYLOAD;
      expect((await secure.info(Option.INFO, 'disk')).flags & dependent).toBe(0);
      expect(await secure.result(Option.STRUCTURED_REPLY)).toBe(Reply.ACK);
      await secure.info(Option.GO, 'disk');
      // No context is chosen, so block status has nothing to tell: an error chunk.
      secure.request(Command.BLOCK_STATUS, 0, 4096);
      const chunk = await secure.take(20);
      expect(chunk.readUInt16BE(6) & 0x8000).toBe(0x8000);
    });

    test.each([
      ['an option', encodeOption(Option.LIST)],
      ['one byte', Buffer.from([0x16])],
      ['much', Buffer.alloc(100_000, 0x16)],
    ])('%s behind STARTTLS in plaintext drops the connection and is told', async (_, rest) => {
      const { path, log, provider } = await serve('selective', plainServer(), { transport });
      const plain = await Talker.greeted(path);
      plain.stream.write(Buffer.concat([encodeOption(Option.STARTTLS), rest]));
      expect(await plain.closed()).toHaveLength(0);
      await eventually(() => log.lines.join('\n')).toContain('in plaintext behind STARTTLS');
      expect(provider.clients).toEqual([]);
    });

    test('a client that says nothing after STARTTLS, or half a hello, falls under the deadline', async () => {
      const { path, log, server } = await serve('required', plainServer(), { transport, limits: { handshakeMs: 60 } });
      for (const bytes of [Buffer.alloc(0), Buffer.from('160301', 'hex')]) {
        const plain = await Talker.greeted(path);
        expect(await plain.result(Option.STARTTLS)).toBe(Reply.ACK);
        plain.stream.write(bytes);
        await plain.closed();
      }
      await eventually(() => server.connections()).toEqual([]);
      expect(log.lines.filter((line) => line.includes('handshake was not done'))).toHaveLength(2);
    });

    test('a client that goes away instead of shaking hands, or talks nonsense, costs nothing', async () => {
      const { path, log, server } = await serve('required', plainServer(), { transport });
      const gone = await Talker.greeted(path);
      expect(await gone.result(Option.STARTTLS)).toBe(Reply.ACK);
      gone.stream.destroy();
      const odd = await Talker.greeted(path);
      expect(await odd.result(Option.STARTTLS)).toBe(Reply.ACK);
      odd.stream.write('GET / HTTP/1.1\r\n\r\n');
      await odd.closed();
      await eventually(() => server.connections()).toEqual([]);
      expect(log.lines.filter((line) => line.includes('TLS handshake'))).toHaveLength(2);
      expect(await isServed((await Talker.greeted(path)).startTls(trusting()))).toBe(true);
    });

    test.each([
      ['a broken record', Buffer.concat([Buffer.from('1703030020', 'hex'), crypto.randomBytes(32)])],
      ['nonsense', Buffer.from('GET / HTTP/1.1\r\n\r\n')],
      ['the end of the stream', null],
    ])('%s right behind the last bytes of the TLS handshake ends that connection alone', async (_, rest) => {
      const { path, server } = await serve('required', plainServer(), { transport });
      for (const version of ['TLSv1.2', 'TLSv1.3'] as const) {
        const plain = await Talker.greeted(path);
        expect(await plain.result(Option.STARTTLS)).toBe(Reply.ACK);
        const { stream } = plain;
        stream.removeAllListeners('data');
        let flights = 0;
        const meddler = new Duplex({
          read() {},
          writev(chunks, done) {
            const bytes = Buffer.concat(chunks.map(({ chunk }) => chunk as Buffer));
            if (++flights < 2) stream.write(bytes);
            else if (rest === null) stream.end(bytes);
            else stream.write(Buffer.concat([bytes, rest]));
            done();
          },
        });
        stream.on('data', (chunk) => meddler.push(chunk));
        const closed = new Promise((resolve) => stream.once('close', resolve).once('end', resolve));
        const limits = { minVersion: version, maxVersion: version };
        const socket = tls.connect({
          socket: meddler as net.Socket,
          servername: 'localhost',
          ...trusting(),
          ...limits,
        });
        socket.on('error', () => {});
        await closed;
        expect(flights).toBeGreaterThan(1);
        socket.destroy();
      }
      await eventually(() => server.connections()).toEqual([]);
      expect(await isServed((await Talker.greeted(path)).startTls(trusting()))).toBe(true);
    });

    test('requests before the end of the stream are answered', async () => {
      const { path, server } = await serve('required', plainServer(), { transport });
      const secure = await (await Talker.greeted(path)).startTls(trusting());
      await secure.info(Option.GO, 'disk');
      secure.request(Command.WRITE, 0, 3, Buffer.from('abc'));
      secure.request(Command.READ, 0, 3);
      secure.stream.end();
      await secure.reply();
      await secure.reply();
      expect((await secure.take(3)).toString()).toBe('abc');
      await secure.closed();
      await eventually(() => server.connections()).toEqual([]);
    });

    test('a connection that breaks off closes its device, with and without requests in it', async () => {
      const steered = new SteeredProvider(new MemoryDisk({ size: MiB }), (device) => {
        device.hook = (io) => {
          setImmediate(() => device.run(io));
          return true;
        };
      });
      const { path, server } = await serve('required', plainServer(), { transport, provider: steered });
      for (const requests of [0, 5]) {
        const plain = await Talker.greeted(path);
        const secure = await plain.startTls(trusting());
        await secure.info(Option.GO, 'disk');
        for (let i = 0; i < requests; i++) secure.request(Command.READ, 0, 65536);
        if (requests > 0) await secure.take(16);
        plain.stream.destroy();
      }
      await eventually(() => steered.devices.map(({ closed }) => closed)).toEqual([1, 1]);
      await eventually(() => server.connections()).toEqual([]);
    });

    test('a record that was tampered with ends the connection, and what it said is not done', async () => {
      const { path, server, log } = await serve('required', plainServer(), { transport });
      const plain = await Talker.greeted(path);
      const secure = await plain.startTls(trusting());
      await secure.info(Option.GO, 'disk');
      await secure.write(0, Buffer.from('good'));
      plain.stream.write(Buffer.concat([Buffer.from('1703030040', 'hex'), crypto.randomBytes(64)]));
      expect(await secure.closed()).toHaveLength(0);
      await eventually(() => server.connections()).toEqual([]);
      expect(log.lines.filter((line) => line.startsWith('error'))).toEqual([]);
    });

    test('a client that reads nothing for a while gets everything in the end', async () => {
      const { path } = await serve('required', plainServer(), { transport });
      const plain = await Talker.greeted(path);
      const secure = await plain.startTls(trusting());
      await secure.info(Option.GO, 'disk');
      const data = crypto.randomBytes(2 * MiB);
      await secure.write(0, data);
      secure.stream.pause();
      for (let i = 0; i < 8; i++) secure.request(Command.READ, 0, data.length);
      const other = await (await Talker.greeted(path)).startTls(trusting());
      await other.info(Option.GO, 'disk');
      expect((await other.read(0, data.length)).equals(data)).toBe(true);
      secure.stream.resume();
      for (let i = 0; i < 8; i++) {
        await secure.reply();
        expect((await secure.take(data.length)).equals(data)).toBe(true);
      }
    });
  });

  test('over a stream that is no socket', async () => {
    const { server, provider } = await serve('off', plainServer());
    const [near, far] = duplexPair();
    server.serve(near, { tls: 'required' });
    const talker = new Talker(far);
    await talker.take(18);
    far.write(Buffer.from([0, 0, 0, 3]));
    expect(await talker.result(Option.LIST)).toBe(Reply.ERR_TLS_REQD);
    const secure = await talker.startTls(trusting());
    await secure.info(Option.GO, 'disk');
    const data = crypto.randomBytes(300_000);
    await secure.write(5, data);
    expect((await secure.read(5, data.length)).equals(data)).toBe(true);
    secure.request(Command.DISC, 0, 0);
    await eventually(() => server.connections()).toEqual([]);
    expect(provider.clients).toHaveLength(1);
  });

  describe('modes', () => {
    test('off: STARTTLS is unsupported and nothing asks for it', async () => {
      const refusing: ExportProvider = {
        list: async () => [],
        describe: (): Promise<{ info: DeviceInfo; size: number }> => Promise.reject(new TlsRequiredError('TLS first')),
        open: (): Promise<BlockDevice> => Promise.reject(new TlsRequiredError('TLS first')),
      };
      const { path } = await serve('off', plainServer(), { provider: refusing });
      const plain = await Talker.greeted(path);
      expect(await plain.result(Option.STARTTLS)).toBe(Reply.ERR_UNSUP);
      expect(await plain.result(Option.STARTTLS, Buffer.alloc(1))).toBe(Reply.ERR_UNSUP);
      for (const option of [Option.INFO, Option.GO]) {
        expect(await plain.result(option, encodeInfoRequest('disk', []))).toBe(Reply.ERR_POLICY);
      }
    });

    test('selective: the client may stay in plaintext, unless the provider insists; inside it never hears of TLS', async () => {
      const info = new MemoryDisk({ size: MiB }).info;
      const insists: ExportProvider = {
        list: async () => [{ name: 'open' }],
        describe: async (name, client) => {
          if (name === 'secret' && client.tls === null) throw new TlsRequiredError('this export needs TLS');
          if (name === 'never') throw new TlsRequiredError('not even so');
          return { info, size: MiB };
        },
        open: async (name, client) => {
          await insists.describe(name, client);
          return new MemoryDisk({ size: MiB }).open();
        },
      };
      const { path } = await serve('selective', plainServer(), { provider: insists });
      const plain = await Talker.greeted(path);
      expect((await plain.info(Option.INFO, 'open')).size).toBe(MiB);
      for (const option of [Option.INFO, Option.GO]) {
        const [answer] = await plain.ask(option, encodeInfoRequest('secret', []));
        expect(answer).toEqual({ type: Reply.ERR_TLS_REQD, data: Buffer.from('this export needs TLS') });
      }
      const secure = await plain.startTls(trusting());
      expect(await secure.result(Option.GO, encodeInfoRequest('never', []))).toBe(Reply.ERR_POLICY);
      expect((await secure.info(Option.GO, 'secret')).size).toBe(MiB);
    });

    test('selective: EXPORT_NAME of an export that needs TLS closes the connection', async () => {
      const insists: ExportProvider = {
        list: async () => [],
        describe: (): Promise<{ info: DeviceInfo; size: number }> => Promise.reject(new TlsRequiredError('TLS first')),
        open: (): Promise<BlockDevice> => Promise.reject(new TlsRequiredError('TLS first')),
      };
      const { path } = await serve('selective', plainServer(), { provider: insists });
      const plain = await Talker.greeted(path);
      plain.stream.write(encodeOption(Option.EXPORT_NAME, Buffer.from('disk')));
      expect(await plain.closed()).toHaveLength(0);
    });

    test('required: every option but STARTTLS and ABORT is refused with TLS_REQD before, and none after', async () => {
      const { path, provider } = await serve('required', plainServer());
      const plain = await Talker.greeted(path);
      const others = [...Object.values(Option), 12, 0xffffffff].filter(
        (option) => option !== Option.STARTTLS && option !== Option.ABORT && option !== Option.EXPORT_NAME,
      );
      for (const option of others) {
        for (const data of [undefined, Buffer.alloc(5), encodeInfoRequest('disk', []), Buffer.alloc(100_000)]) {
          expect(await plain.result(option, data)).toBe(Reply.ERR_TLS_REQD);
        }
        if (option === others[5]) break;
      }
      const other = await Talker.greeted(path);
      for (const option of others.slice(5)) expect(await other.result(option)).toBe(Reply.ERR_TLS_REQD);
      const secure = await other.startTls(trusting());
      for (const option of others) expect(await secure.result(option)).not.toBe(Reply.ERR_TLS_REQD);
      const abort = await Talker.greeted(path);
      expect(await abort.result(Option.ABORT)).toBe(Reply.ACK);
      expect(provider.clients).toEqual([]);
    });

    test('required: EXPORT_NAME in plaintext closes the connection, inside it works', async () => {
      const { path, provider } = await serve('required', plainServer());
      const plain = await Talker.greeted(path);
      plain.stream.write(encodeOption(Option.EXPORT_NAME, Buffer.from('disk')));
      expect(await plain.closed()).toHaveLength(0);
      expect(provider.clients).toEqual([]);
      const secure = await (await Talker.greeted(path)).startTls(trusting());
      secure.stream.write(encodeOption(Option.EXPORT_NAME, Buffer.from('disk')));
      expect((await secure.take(10)).readBigUInt64BE()).toBe(BigInt(16 * MiB));
      await secure.write(0, Buffer.from('x'));
    });

    test('required: a client without the fixed handshake is closed, as it can neither start TLS nor be told to', async () => {
      const { path } = await serve('required', plainServer());
      const plain = await Talker.greeted(path, 0);
      expect(await plain.closed()).toHaveLength(0);
    });

    test('a second STARTTLS is invalid, and so is one with data', async () => {
      const { path } = await serve('selective', plainServer());
      const plain = await Talker.greeted(path);
      expect(await plain.result(Option.STARTTLS, Buffer.alloc(1))).toBe(Reply.ERR_INVALID);
      const secure = await plain.startTls(trusting());
      expect(await secure.result(Option.STARTTLS)).toBe(Reply.ERR_INVALID);
      expect(await secure.result(Option.LIST)).toBe(Reply.ACK);
    });

    test('a listener with TLS needs credentials', async () => {
      const server = new NbdServer(new MemoryProvider([]));
      onTestFinished(() => server.close());
      const path = `${temporaryDirectory()}/s`;
      await expect(server.listen({ path }, { tls: 'required' })).rejects.toThrow(/no credentials/);
    });

    test('TLS 1.1 is refused', async () => {
      const { path } = await serve('required', plainServer());
      const old = { ...trusting(), minVersion: 'TLSv1', maxVersion: 'TLSv1.1', ciphers: 'DEFAULT@SECLEVEL=0' } as const;
      await expect((await Talker.greeted(path)).startTls(old)).rejects.toThrow();
      const strict = await serve('required', { ...plainServer(), minVersion: 'TLSv1.3' });
      const middle = { ...trusting(), maxVersion: 'TLSv1.2' } as const;
      await expect((await Talker.greeted(strict.path)).startTls(middle)).rejects.toThrow();
    });

    test('over TCP, several clients at the same time', async () => {
      const { server, provider } = await serve('off', plainServer());
      const bound = await server.listen({ host: '127.0.0.1', port: 0 }, { tls: 'required' });
      if (!('port' in bound)) throw new Error('no port');
      const talkers = await Promise.all(
        Array.from({ length: 12 }, async () => (await Talker.greeted(bound.port)).startTls(trusting())),
      );
      await Promise.all(
        talkers.map(async (talker, i) => {
          await talker.info(Option.GO, 'disk');
          const data = crypto.randomBytes(100_000);
          await talker.write(i * MiB, data);
          expect((await talker.read(i * MiB, data.length)).equals(data)).toBe(true);
        }),
      );
      expect(provider.clients).toHaveLength(12);
    });
  });
});
