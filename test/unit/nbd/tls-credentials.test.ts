/** Who is let in over TLS: certificates, pre-shared keys, both, and new ones put in their place. */
import crypto from 'node:crypto';
import { describe, expect, test } from 'vitest';
import { Option, Reply } from '../../../src/nbd/constants.js';
import type { TlsOptions } from '../../../src/nbd/tls.js';
import { eventually } from './support.js';
import {
  alice,
  as,
  authority,
  isServed,
  keys,
  pki,
  plainServer,
  psk,
  rogueAuthority,
  serve,
  serverPair,
  strictServer,
  trusting,
  usePki,
  withKey,
} from './tls-rig.js';
import { hasOpenssl, Talker } from './tls-support.js';

describe.skipIf(!hasOpenssl)('TLS', () => {
  usePki();

  describe('client certificates', () => {
    test.each(['TLSv1.2', 'TLSv1.3'] as const)('%s: the right one is let in and named', async (version) => {
      const { path, provider, server } = await serve('required', strictServer());
      const secure = await (await Talker.greeted(path)).startTls({
        ...as(alice),
        maxVersion: version,
        minVersion: version,
      });
      await secure.info(Option.GO, 'disk');
      const told = { protocol: version, subject: 'CN=alice,O=Example', identity: null };
      expect(provider.clients[0].tls).toEqual(told);
      expect(server.connections()[0].tls).toEqual(told);
    });

    test.each(['TLSv1.2', 'TLSv1.3'] as const)(
      '%s: that of another authority of the same name, an expired one, a server’s, and none are refused',
      async (version) => {
        const { path, provider, server, log } = await serve('required', strictServer());
        const rogue = pki.certificate(rogueAuthority, '/O=Example/CN=alice');
        const wrongUse = pki.certificate(authority, '/O=Example/CN=alice', 'extendedKeyUsage = serverAuth');
        const expired = pki.certificate(authority, '/O=Example/CN=alice', '', ['-days', '-1']);
        const limits = { maxVersion: version, minVersion: version };
        for (const options of [as(rogue), as(wrongUse), as(expired), trusting()]) {
          const served = isServed((await Talker.greeted(path)).startTls({ ...options, ...limits }));
          expect(await served).toBe(false);
        }
        expect(provider.clients).toEqual([]);
        await eventually(() => server.connections()).toEqual([]);
        expect(log.lines.filter((line) => line.includes('TLS handshake'))).toEqual([
          expect.stringMatching(/the client's certificate is refused: [A-Z_]*SIGNATURE/),
          "info unix: TLS handshake: the client's certificate is refused: INVALID_PURPOSE",
          "info unix: TLS handshake: the client's certificate is refused: CERT_HAS_EXPIRED",
          'info unix: TLS handshake: peer did not return a certificate',
        ]);
        expect(await isServed((await Talker.greeted(path)).startTls({ ...as(alice), ...limits }))).toBe(true);
      },
    );

    test('a session cannot be taken up again: who may come in is asked each time', async () => {
      const { path } = await serve('required', strictServer());
      for (const version of ['TLSv1.2', 'TLSv1.3'] as const) {
        const limits = { maxVersion: version, minVersion: version };
        const first = await (await Talker.greeted(path)).startTls({ ...as(alice), ...limits });
        const sessions: Buffer[] = [];
        first.tls.on('session', (session) => sessions.push(session));
        expect(await first.result(Option.LIST)).toBe(Reply.ACK);
        const kept = first.tls.getSession();
        if (kept) sessions.push(kept);
        expect(sessions.length).toBeGreaterThan(0);
        for (const session of sessions) {
          const bare = { ...trusting(), ...limits, session };
          expect(await isServed((await Talker.greeted(path)).startTls(bare))).toBe(false);
          const again = await (await Talker.greeted(path)).startTls({ ...as(alice), ...limits, session });
          expect(again.tls.isSessionReused()).toBe(false);
        }
      }
    });

    test('names come whole, most specific first, with what has a meaning escaped', async () => {
      const { path, provider } = await serve('required', strictServer());
      const cases: [string, string][] = [
        ['/C=GR/O=Example/OU=a/OU=b/CN=bob', 'CN=bob,OU=b,OU=a,O=Example,C=GR'],
        ['/O=Example/CN=alice,O=root', 'CN=alice\\,O=root,O=Example'],
        ['/CN=a \\+ b', 'CN=a \\+ b'],
        ['/CN=two+UID=u1/O=x', 'O=x,CN=two+UID=u1'],
        ['/CN=Ελένη', 'CN=Ελένη'],
      ];
      for (const [subject, expected] of cases) {
        const secure = await (await Talker.greeted(path)).startTls(as(pki.certificate(authority, subject)));
        await secure.info(Option.GO, 'disk');
        expect(provider.clients.at(-1)?.tls?.subject).toBe(expected);
      }
    });

    test('verifyPeer off asks for none and tells of none', async () => {
      const { path, provider } = await serve('required', { ...strictServer(), verifyPeer: false });
      const secure = await (await Talker.greeted(path)).startTls(as(alice));
      await secure.info(Option.GO, 'disk');
      expect(provider.clients[0].tls?.subject).toBeNull();
    });
  });

  describe('pre-shared keys', () => {
    const wrong = crypto.randomBytes(32);

    test.each(['TLSv1.2', 'TLSv1.3'] as const)('%s: with and without a certificate beside', async (version) => {
      for (const credentials of [{ psk }, { ...strictServer(), psk }, { ...plainServer(), psk }]) {
        const { path, provider } = await serve('required', credentials);
        for (const [identity, key] of keys) {
          const options = withKey(identity, key, { maxVersion: version, minVersion: version });
          const secure = await (await Talker.greeted(path)).startTls(options);
          await secure.info(Option.GO, 'disk');
          expect(provider.clients.at(-1)?.tls).toEqual({ protocol: version, subject: null, identity });
          const data = crypto.randomBytes(300_000);
          await secure.write(0, data);
          expect((await secure.read(0, data.length)).equals(data)).toBe(true);
        }
      }
    });

    test.each(['TLSv1.2', 'TLSv1.3'] as const)(
      '%s: a wrong key and an unknown identity are refused',
      async (version) => {
        for (const credentials of [{ psk }, { ...plainServer(), psk }, { ...strictServer(), psk }]) {
          const { path, provider } = await serve('required', credentials);
          for (const [identity, key] of [['alice', wrong] as const, ['mallory', wrong] as const]) {
            const options = withKey(identity, key, { ...trusting(), maxVersion: version, minVersion: version });
            expect(await isServed((await Talker.greeted(path)).startTls(options))).toBe(false);
          }
          // Nor is one who shows neither key nor certificate.
          expect(await isServed((await Talker.greeted(path)).startTls(trusting()))).toBe(false);
          expect(provider.clients).toEqual([]);
        }
      },
    );

    test('certificates and keys at the same server', async () => {
      const { path, provider } = await serve('required', { ...strictServer(), psk });
      await (await (await Talker.greeted(path)).startTls(as(alice))).info(Option.GO, 'disk');
      await (await (await Talker.greeted(path)).startTls(withKey('bob', keys.get('bob') as Buffer))).info(
        Option.GO,
        'disk',
      );
      expect(provider.clients.map(({ tls }) => [tls?.subject, tls?.identity])).toEqual([
        ['CN=alice,O=Example', null],
        [null, 'bob'],
      ]);
    });

    test('an identity that was named and not proven is not believed', async () => {
      // Only a cipher whose hash does not fit pre-shared keys: OpenSSL looks the key up and goes on with the certificate.
      const { path, provider } = await serve('required', { ...plainServer(), psk, verifyPeer: false });
      const options = withKey('alice', wrong, {
        ...trusting(),
        ciphers: 'TLS_AES_256_GCM_SHA384',
        minVersion: 'TLSv1.3',
      });
      const secure = await (await Talker.greeted(path)).startTls(options);
      await secure.info(Option.GO, 'disk');
      expect(provider.clients[0].tls).toEqual({ protocol: 'TLSv1.3', subject: null, identity: null });
    });
  });

  describe('new credentials', () => {
    test('are for those who come after; who is connected goes on', async () => {
      const { server, path } = await serve('required', plainServer());
      const before = await (await Talker.greeted(path)).startTls(trusting());
      await before.info(Option.GO, 'disk');
      const undecided = await Talker.greeted(path);
      const other = pki.certificate(rogueAuthority, '/CN=server');
      server.setTls({ cert: other.cert, key: other.key });
      await before.write(0, Buffer.from('still here'));
      await expect((await Talker.greeted(path)).startTls(trusting())).rejects.toThrow();
      const after = await undecided.startTls({ ca: rogueAuthority.cert });
      await after.info(Option.GO, 'disk');
      expect((await after.read(0, 10)).toString()).toBe('still here');
    });

    test('that cannot be used are refused with the reason, and the old ones stay', async () => {
      const { server, path } = await serve('required', plainServer());
      const bad: [TlsOptions, RegExp][] = [
        [{ cert: serverPair.cert, key: alice.key }, /key values mismatch/],
        [{ cert: 'nonsense', key: serverPair.key }, /cannot be used/],
        [{ cert: serverPair.cert }, /only one of them/],
        [{}, /needs a certificate with its key, or pre-shared keys/],
        [{ ...plainServer(), verifyPeer: true }, /needs their authority/],
      ];
      for (const [options, reason] of bad) expect(() => server.setTls(options)).toThrow(reason);
      expect(await isServed((await Talker.greeted(path)).startTls(trusting()))).toBe(true);
    });

    test('a key that was withdrawn opens nothing any more', async () => {
      const { server, path } = await serve('required', { psk });
      const bob = withKey('bob', keys.get('bob') as Buffer);
      expect(await isServed((await Talker.greeted(path)).startTls(bob))).toBe(true);
      server.setTls({ psk: (identity) => (identity === 'alice' ? psk(identity) : null) });
      expect(await isServed((await Talker.greeted(path)).startTls(bob))).toBe(false);
    });
  });
});
