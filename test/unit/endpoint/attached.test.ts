/** The endpoint of `archipelago nbd`: what its TCP clients meet, and that others come by the leave of who made their connection. */
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import pino from 'pino';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { parseConfig } from '../../../src/config/load.js';
import { type AttachedServer, attachedServer } from '../../../src/endpoint/attached.js';
import type { Client, ListenOptions } from '../../../src/nbd/index.js';
import { Stack } from '../composer/stack.js';

const remote: Client = { peer: '127.0.0.1:4711', tls: null };
const bob: Client = { ...remote, tls: { protocol: 'TLSv1.3', subject: null, identity: 'bob' } };

let stack: Stack;
let directory: string;
let attached: AttachedServer;

/** With these settings of its nbd role. */
function attach(settings: string, all = false): AttachedServer {
  const text = `[ARCHIPELAGO]\nRUN_DIR = ${directory}\n[nbd]\n${settings}`;
  const config = parseConfig(text, path.join(directory, 'conf'));
  const port = stack.segment.bind('dynamic', { name: 'attached' });
  attached = attachedServer({ config, port, volume: 'web-root', all, log: pino({ level: 'silent' }) });
  return attached;
}

function write(name: string, text: string): string {
  const file = path.join(directory, name);
  fs.writeFileSync(file, text, { mode: 0o600 });
  return file;
}

beforeEach(async () => {
  directory = fs.mkdtempSync(path.join(os.tmpdir(), 'attached-'));
  stack = await Stack.start();
  for (const name of ['web-root', 'secret']) await stack.create(name, 65536, 65536);
});
afterEach(async () => {
  await attached.server.close();
  fs.rmSync(directory, { recursive: true });
  await stack.stop();
});

it('serves TCP clients of other machines by TLS only, or where everybody may come', () => {
  const hosts = ['0.0.0.0', '::', '192.0.2.7', '::ffff:192.0.2.7'];
  const { overTcp } = attach('tls = off\n');
  for (const host of hosts)
    expect(() => overTcp(host)).toThrow(`to ${host}, which other machines reach: the nbd role needs`);
  for (const host of ['127.0.0.1', '::1', '::ffff:127.0.0.1']) expect(overTcp(host).tls).toBe('off');
  const keys = write('keys', `bob:${'0b'.repeat(32)}\n`);
  const required = attach(`tls = required\ntls_psk_file = ${keys}\n`);
  for (const host of hosts) expect(required.overTcp(host).tls).toBe('required');
  const open = attach('insecure_tcp = True\n');
  for (const host of hosts) expect(open.overTcp(host).tls).toBe('off');
});

it('keeps TCP clients to the access rules, whatever is its volume', async () => {
  const acl = write('acl', 'allow secret identity bob\n');
  const { provider } = attach(`tls_acl = ${acl}\n`, true).overTcp('127.0.0.1') as Required<ListenOptions>;
  await expect(provider.describe('', remote)).rejects.toMatchObject({ code: 'ENOENT' });
  await expect(provider.describe('web-root', bob)).rejects.toMatchObject({ code: 'ENOENT' });
  expect(await provider.describe('secret', bob)).toMatchObject({ size: 65536 });
  expect((await provider.list(bob)).map(({ name }) => name)).toEqual(['secret']);
});
