/** Credentials from files: what is read, what is warned of, what is refused and with which words. */
import fs from 'node:fs';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { NbdTlsSettings } from '../../../src/config/types.js';
import { parsePskFile } from '../../../src/endpoint/psk-file.js';
import { isExposed, readCredentials, readRules } from '../../../src/endpoint/tls.js';
import { hasOpenssl, type KeyPair, Pki } from '../nbd/tls-support.js';

const none: NbdTlsSettings = {
  tcp: 'required',
  socket: 'off',
  insecureTcp: false,
  cert: null,
  key: null,
  ca: null,
  crl: null,
  directory: null,
  pskFile: null,
  verifyPeer: null,
  minVersion: 'TLSv1.2',
  acl: null,
};

describe('files of pre-shared keys', () => {
  const parse = (text: string, warnings: string[] = []) =>
    parsePskFile(text, '/keys', (message) => warnings.push(message));

  it('are lines of name and key', () => {
    const keys = parse(`alice:${'0a'.repeat(32)}\r\n\n# bob:00\nodd:name:${'FF'.repeat(16)}\n`);
    expect([...keys]).toEqual([
      ['alice', Buffer.alloc(32, 10)],
      ['odd:name', Buffer.alloc(16, 255)],
    ]);
  });

  it('that are wrong are named by file and line, without telling the key', () => {
    const key = '0a'.repeat(32);
    for (const line of [`alice${key}`, `:${key}`, 'alice:', 'alice:0', `alice:${key}x`, `alice:${'00'.repeat(257)}`]) {
      const error = (() => {
        try {
          parse(`good:${key}\n${line}`);
          return null;
        } catch (thrown) {
          return thrown as Error;
        }
      })();
      expect(error?.message).toMatch(/^\/keys, line 2: .*psktool/);
      expect(error?.message).not.toContain(key);
    }
    expect(() => parse(`a:${key}\na:${key}`)).toThrow(/a is there twice/);
    expect(() => parse('# nothing\n')).toThrow(/no pre-shared key/);
  });

  it('with a short key are worth a word', () => {
    const warnings: string[] = [];
    parse('alice:0011', warnings);
    expect(warnings).toEqual(['/keys, line 1: the key of alice has only 2 bytes']);
  });
});

describe('addresses', () => {
  it('need TLS where other machines reach them', () => {
    const off = { tcp: 'selective', insecureTcp: false } as const;
    for (const host of ['127.0.0.1', '127.9.9.9', '::1', '0:0::1', '::ffff:127.0.0.1', '::ffff:7f00:1', 'localhost'])
      expect(isExposed(host, off)).toBe(false);
    for (const host of ['0.0.0.0', '::', '10.0.0.1', 'fe80::1', 'disks.example', '::ffff:10.0.0.1', '127.example']) {
      expect(isExposed(host, off)).toBe(true);
      expect(isExposed(host, { ...off, tcp: 'required' })).toBe(false);
      expect(isExposed(host, { ...off, insecureTcp: true })).toBe(false);
    }
  });
});

describe.skipIf(!hasOpenssl)('credentials', () => {
  let pki: Pki;
  let authority: KeyPair;
  let server: KeyPair;
  const read = (settings: Partial<NbdTlsSettings>, warnings: string[] = []) =>
    readCredentials({ ...none, ...settings }, (message) => warnings.push(message));
  const file = (name: string, text: string, mode = 0o600): string => {
    const at = path.join(pki.directory, name);
    fs.writeFileSync(at, text);
    fs.chmodSync(at, mode);
    return at;
  };
  beforeAll(() => {
    pki = new Pki();
    authority = pki.authority('/CN=Authority');
    server = pki.certificate(authority, '/CN=server', '', ['-days', '300']);
  });
  afterAll(() => pki.remove());

  it('are not looked at where nobody uses TLS', () => {
    expect(read({ tcp: 'off', cert: '/not/there', key: '/not/there' })).toBeNull();
  });

  it('come from single files', () => {
    const warnings: string[] = [];
    const options = read({ cert: server.certFile, key: server.keyFile }, warnings);
    expect(options).toMatchObject({ cert: server.cert, key: server.key, ca: undefined, psk: undefined });
    expect(warnings).toEqual([expect.stringMatching(/^clients in TLS are not asked who they are/)]);
    warnings.length = 0;
    read({ cert: server.certFile, key: server.keyFile, verifyPeer: false }, warnings);
    const keys = read({ pskFile: file('keys', `alice:${'0a'.repeat(32)}\n`) }, warnings);
    expect(keys?.psk?.('alice')).toEqual(Buffer.alloc(32, 10));
    expect(keys?.psk?.('bob')).toBeNull();
    expect(warnings).toEqual([]);
  });

  it('come from a directory as qemu has it, with or without authorities', () => {
    const directory = path.join(pki.directory, 'dir');
    fs.mkdirSync(directory);
    fs.copyFileSync(server.certFile, path.join(directory, 'server-cert.pem'));
    expect(() => read({ directory })).toThrow(/server-key\.pem: ENOENT/);
    fs.copyFileSync(server.keyFile, path.join(directory, 'server-key.pem'));
    expect(read({ directory })).toMatchObject({ cert: server.cert, ca: undefined });
    fs.copyFileSync(authority.certFile, path.join(directory, 'ca-cert.pem'));
    expect(read({ directory })).toMatchObject({ ca: authority.cert });
    expect(read({ directory, verifyPeer: false })).toMatchObject({ verifyPeer: false });
  });

  it('that come from a directory do not lose what clients are verified by', () => {
    const directory = path.join(pki.directory, 'losing');
    fs.mkdirSync(directory);
    fs.copyFileSync(server.certFile, path.join(directory, 'server-cert.pem'));
    fs.copyFileSync(server.keyFile, path.join(directory, 'server-key.pem'));
    const ca = path.join(directory, 'ca-cert.pem');
    fs.copyFileSync(authority.certFile, ca);
    const settings = { ...none, directory };
    const before = readCredentials(settings, () => {});
    expect(readCredentials(settings, () => {}, before)).toMatchObject({ ca: authority.cert });
    fs.rmSync(ca);
    expect(() => readCredentials(settings, () => {}, before)).toThrow(/has no ca-cert\.pem any more; put it back/);
    fs.symlinkSync('/not/there', ca);
    expect(() => read({ directory })).toThrow(/cannot read the clients' authorities .*ENOENT/);
  });

  it('that others can read, or that are out of their time, are warned of', () => {
    const warnings: string[] = [];
    const open = file('open.pem', server.key, 0o644);
    read({ cert: server.certFile, key: open, verifyPeer: false }, warnings);
    expect(warnings).toEqual([`${open} (the TLS key) is open to every account: chmod o= ${open}`]);
    const expired = pki.certificate(authority, '/CN=old', '', ['-days', '-1']);
    const soon = pki.certificate(authority, '/CN=soon', '', ['-days', '3']);
    warnings.length = 0;
    read({ cert: expired.certFile, key: expired.keyFile, verifyPeer: false }, warnings);
    read({ cert: soon.certFile, key: soon.keyFile, verifyPeer: false }, warnings);
    expect(warnings).toEqual([
      expect.stringMatching(/the certificate expired on .*; put a new one there and send SIGHUP/),
      expect.stringMatching(/the certificate expires on/),
    ]);
  });

  it('that cannot be used are named with the way out', () => {
    const { certFile: cert, keyFile: key } = server;
    const locked = file(
      'locked.pem',
      '-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n',
    );
    const junk = file('junk.pem', 'junk');
    for (const [settings, words] of [
      [{ cert: '/not/there', key }, 'cannot read the TLS certificate /not/there: ENOENT'],
      [{ cert, key: '/not/there' }, 'cannot read the TLS key /not/there: ENOENT'],
      [{ cert, key: authority.keyFile }, `the TLS key ${authority.keyFile} does not belong to the certificate ${cert}`],
      [{ cert, key: locked }, `the TLS key ${locked} has a passphrase; write one without: openssl pkey`],
      [{ cert, key: junk }, `${junk} holds no private key in PEM form`],
      [{ cert: junk, key }, `${junk} holds no certificate in PEM form`],
      [{ cert, key, ca: junk }, `${junk} holds no certificate in PEM form; it must be that of the clients' authority`],
      [{ cert, key, pskFile: '/not/there' }, 'cannot read the pre-shared keys /not/there: ENOENT'],
    ] as [Partial<NbdTlsSettings>, string][]) {
      expect(() => read(settings)).toThrow(words);
    }
  });

  it('rules come from their file', () => {
    expect(readRules(none)).toBeNull();
    const acl = file('acl', 'allow vol anyone\n');
    expect(readRules({ ...none, acl })?.verdict(['vol'], { peer: 'unix', tls: null })).toBe('allowed');
    expect(() => readRules({ ...none, acl: '/not/there' })).toThrow(
      'cannot read the access rules (tls_acl) /not/there: ENOENT',
    );
    expect(() => readRules({ ...none, acl: file('bad', 'x') })).toThrow(/bad, line 1: "x" is no rule/);
  });
});
