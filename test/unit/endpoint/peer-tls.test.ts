/** The endpoint as a role with TLS from its configuration: who comes in, what SIGHUP changes, and what a bad file does. */
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import type tls from 'node:tls';
import pino from 'pino';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { findRole, parseConfig } from '../../../src/config/load.js';
import { start } from '../../../src/endpoint/peer.js';
import { Option, Reply } from '../../../src/nbd/constants.js';
import { decodeServerEntry, encodeInfoRequest } from '../../../src/nbd/handshake-codec.js';
import type { RunningRole } from '../../../src/peer/role.js';
import { Stack } from '../composer/stack.js';
import { hasOpenssl, Pki, Talker } from '../nbd/tls-support.js';

const BLOCK = 65536;
const KEYS = { alice: '0a'.repeat(32), bob: '0b'.repeat(32) };

let stack: Stack;
let directory: string;
let role: RunningRole | null;
const lines: string[] = [];

const at = (name: string): string => path.join(directory, name);
function write(name: string, text: string): string {
  fs.writeFileSync(at(name), text);
  fs.chmodSync(at(name), 0o600);
  return at(name);
}

async function run(settings: string): Promise<string> {
  const text = `[ARCHIPELAGO]\nRUN_DIR = ${directory}\n[nbd]\nlisten =\nsocket = ${at('s')}\n${settings}`;
  const config = parseConfig(text, at('conf'));
  const found = findRole(config, 'nbd');
  if (!found) throw new Error('no nbd role');
  const log = pino({}, { write: (line: string) => void lines.push(JSON.parse(line).msg) });
  const ports = { first: found.portnoStart, last: found.portnoEnd };
  role = await start({ name: 'nbd', settings: found, config, segment: stack.segment, ports, log });
  return at('s');
}

async function as(identity: keyof typeof KEYS): Promise<Talker> {
  const psk = Buffer.from(KEYS[identity], 'hex');
  const options: tls.ConnectionOptions = {
    ciphers: 'TLS_AES_128_GCM_SHA256',
    pskCallback: () => ({ identity, psk }),
    checkServerIdentity: () => undefined,
  };
  return (await Talker.greeted(at('s'))).startTls(options);
}

async function names(talker: Talker): Promise<string[]> {
  const answers = await talker.ask(Option.LIST);
  return answers.slice(0, -1).map(({ data }) => decodeServerEntry(data).name);
}

beforeEach(async () => {
  lines.length = 0;
  role = null;
  directory = fs.mkdtempSync(path.join(os.tmpdir(), 'endpoint-tls-'));
  stack = await Stack.start();
  await stack.create('first-volume', BLOCK, BLOCK);
  await stack.create('second-volume', BLOCK, BLOCK);
});
afterEach(async () => {
  await role?.stop();
  fs.rmSync(directory, { recursive: true, force: true });
  expect(await stack.stop()).toEqual([]);
});

describe('pre-shared keys and rules', () => {
  const settings = () => `socket_tls = required\ntls_psk_file = ${at('keys')}\ntls_acl = ${at('acl')}\n`;

  it('decide who sees what; SIGHUP has them read again; who is connected goes on', async () => {
    write('keys', `alice:${KEYS.alice}\n`);
    write('acl', 'allow first* identity alice\n');
    const socket = await run(settings());
    const plain = await Talker.greeted(socket);
    expect(await plain.result(Option.LIST)).toBe(Reply.ERR_TLS_REQD);
    const alice = await as('alice');
    expect(await names(alice)).toEqual(['first-volume']);
    expect(await alice.result(Option.INFO, encodeInfoRequest('second-volume', []))).toBe(Reply.ERR_UNKNOWN);
    await alice.info(Option.GO, 'first-volume');
    await alice.write(0, Buffer.from('before'));
    expect(lines.at(-1)).toBe('unix (TLSv1.3, identity alice) opened first-volume');
    expect(role?.status()).toMatchObject({ connections: 2, connectionsInTls: 1 });
    await expect(as('bob')).rejects.toThrow();

    write('keys', `bob:${KEYS.bob}\n`);
    write('acl', 'allow second* identity bob\n');
    process.emit('SIGHUP');
    expect(lines.slice(-2)).toEqual(['TLS credentials read again', 'access rules read again']);
    expect((await alice.read(0, 6)).toString()).toBe('before');
    await expect(as('alice')).rejects.toThrow();
    expect(await names(await as('bob'))).toEqual(['second-volume']);
  });

  it('that cannot be used leave the old ones, each by itself', async () => {
    write('keys', `alice:${KEYS.alice}\n`);
    write('acl', 'allow first* identity alice\n');
    await run(settings());
    write('keys', 'nonsense\n');
    write('acl', 'allow second* identity alice\n');
    process.emit('SIGHUP');
    expect(lines.at(-2)).toMatch(/^the TLS credentials stay as they were: .*keys, line 1/);
    expect(await names(await as('alice'))).toEqual(['second-volume']);
    write('keys', `bob:${KEYS.bob}\n`);
    fs.rmSync(at('acl'));
    process.emit('SIGHUP');
    expect(lines.at(-1)).toMatch(/^the access rules stay as they were: cannot read/);
    expect(await names(await as('bob'))).toEqual([]);
  });

  it('that cannot be used keep it from starting, and leave nothing behind', async () => {
    const before = process.listenerCount('SIGHUP');
    await expect(run(settings())).rejects.toThrow(/cannot read the pre-shared keys .*keys: ENOENT/);
    write('keys', `alice:${KEYS.alice}\n`);
    await expect(run(settings())).rejects.toThrow(/cannot read the access rules .*acl: ENOENT/);
    write('acl', 'allow * anyone\n');
    await run(settings());
    expect(await names(await as('alice'))).toHaveLength(2);
    expect(process.listenerCount('SIGHUP')).toBe(before + 1);
    await role?.stop();
    role = null;
    expect(process.listenerCount('SIGHUP')).toBe(before);
  });
});

describe.skipIf(!hasOpenssl)('certificates', () => {
  it('are renewed by SIGHUP; a key that does not fit leaves the old ones', async () => {
    const pki = new Pki();
    try {
      const [old, renewed] = [pki.authority('/CN=old'), pki.authority('/CN=renewed')];
      const use = (authority: typeof old): void => {
        const pair = pki.certificate(authority, '/CN=server');
        write('server-cert.pem', pair.cert);
        write('server-key.pem', pair.key);
      };
      use(old);
      const socket = await run(`socket_tls = selective\ntls_directory = ${directory}\n`);
      const trust = async (ca: string) => (await Talker.greeted(socket)).startTls({ ca });
      expect(await names(await trust(old.cert))).toHaveLength(2);
      write('server-key.pem', pki.certificate(renewed, '/CN=other').key);
      process.emit('SIGHUP');
      expect(lines.at(-1)).toMatch(/stay as they were: the TLS key .* does not belong to the certificate/);
      expect(await names(await trust(old.cert))).toHaveLength(2);
      use(renewed);
      process.emit('SIGHUP');
      expect(lines.at(-1)).toBe('TLS credentials read again');
      await expect(trust(old.cert)).rejects.toThrow();
      expect(await names(await trust(renewed.cert))).toHaveLength(2);
      // From now on clients are verified; that the authority's file goes does not change that.
      write('ca-cert.pem', renewed.cert);
      process.emit('SIGHUP');
      fs.rmSync(at('ca-cert.pem'));
      process.emit('SIGHUP');
      expect(lines.at(-1)).toMatch(/stay as they were: .* has no ca-cert\.pem any more/);
      await expect(trust(renewed.cert).then(names)).rejects.toThrow();
    } finally {
      pki.remove();
    }
  });
});
