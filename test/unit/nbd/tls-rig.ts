/** A server with TLS for one test, whom it sees, and the certificates and keys that such tests share. */
import crypto from 'node:crypto';
import type tls from 'node:tls';
import { afterAll, beforeAll, onTestFinished } from 'vitest';
import { Option, Reply } from '../../../src/nbd/constants.js';
import type { BlockDevice, Client, ExportProvider } from '../../../src/nbd/device.js';
import { MemoryDisk, MemoryProvider } from '../../../src/nbd/memory-device.js';
import { type ListenOptions, NbdServer, type NbdServerOptions } from '../../../src/nbd/server.js';
import type { TlsMode, TlsOptions } from '../../../src/nbd/tls.js';
import { RecordingLog, temporaryDirectory } from './support.js';
import { type KeyPair, Pki, type Talker } from './tls-support.js';

export const MiB = 1024 * 1024;
export const keys = new Map([
  ['alice', crypto.randomBytes(32)],
  ['bob', crypto.randomBytes(16)],
]);
export const psk = (identity: string) => keys.get(identity) ?? null;
const ALL_CIPHERS =
  'TLS_AES_256_GCM_SHA384:TLS_AES_128_GCM_SHA256:ECDHE-PSK-AES256-CBC-SHA384:ECDHE-ECDSA-AES256-GCM-SHA384';

export let pki: Pki;
export let authority: KeyPair;
export let rogueAuthority: KeyPair;
export let serverPair: KeyPair;
export let alice: KeyPair;

/** Exports memory disks and remembers who asked. */
export class Witness extends MemoryProvider {
  readonly clients: Client[] = [];
  override async open(name: string, client?: Client): Promise<BlockDevice> {
    if (client) this.clients.push(client);
    return super.open(name);
  }
}

export interface Served {
  readonly server: NbdServer;
  readonly path: string;
  readonly log: RecordingLog;
  readonly provider: Witness;
}

export async function serve(
  mode: TlsMode,
  credentials: TlsOptions,
  options: NbdServerOptions & { provider?: ExportProvider } = {},
  listen: ListenOptions = {},
): Promise<Served> {
  const log = new RecordingLog();
  const disk = new MemoryDisk({ size: 16 * MiB, info: { metaContexts: ['base:allocation'] } });
  const provider = new Witness([['disk', disk]]);
  const server = new NbdServer(options.provider ?? provider, { log, tls: credentials, ...options });
  onTestFinished(() => server.close());
  const path = `${temporaryDirectory()}/s`;
  await server.listen({ path }, { tls: mode, ...listen });
  return { server, path, log, provider };
}

export const plainServer = (): TlsOptions => ({ cert: serverPair.cert, key: serverPair.key });
export const strictServer = (): TlsOptions => ({ ...plainServer(), ca: authority.cert });
export const trusting = (): tls.ConnectionOptions => ({ ca: authority.cert });
export const as = (pair: KeyPair): tls.ConnectionOptions => ({ ...trusting(), cert: pair.cert, key: pair.key });
export const withKey = (identity: string, key: Buffer, more: tls.ConnectionOptions = {}): tls.ConnectionOptions => ({
  ciphers: ALL_CIPHERS,
  pskCallback: () => ({ identity, psk: key }),
  checkServerIdentity: () => undefined,
  ...more,
});

/** Whether the client gets an answer inside TLS; a refused one sees its connection closed. */
export async function isServed(talker: Promise<Talker>): Promise<boolean> {
  try {
    return (await (await talker).result(Option.LIST)) === Reply.ACK;
  } catch {
    return false;
  }
}

/** Makes the certificates before the tests of a describe, and removes them after. */
export function usePki(): void {
  beforeAll(() => {
    pki = new Pki();
    authority = pki.authority('/CN=Authority');
    rogueAuthority = pki.authority('/CN=Authority');
    serverPair = pki.certificate(authority, '/CN=server');
    alice = pki.certificate(authority, '/O=Example/CN=alice');
  });
  afterAll(() => pki.remove());
}
