/**
 * Test programs that others wrote for their own servers, run against a node: nbd-tester-client of the reference implementation over TCP,
 * a unix socket, TLS, and as inetd starts a server.
 */
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Authority, credentialsDirectory } from './harness/certificates.js';
import { qemuIo, sha256 } from './harness/clients.js';
import { type TestNode, useNode } from './harness/node.js';
import { programs } from './harness/requirements.js';
import { attempt, BUILD_TIMEOUT, describeOutcome, type Outcome } from './harness/run.js';
import { repeated, whateverTheStore } from './harness/stores.js';

const bin = process.env.ARCHIPELAGO_TEST_BIN ?? path.resolve(import.meta.dirname, '../../dist/cli');
const rig = path.resolve(import.meta.dirname, '../../scripts/rigs/nbd-tester.sh');
/** The integrity tests count on zeros, and on this size. */
const SIZE = 50 << 20;
/** It writes a volume in pieces of 1 KiB, with a flush behind many of them: where each goes to a cluster the volume is a small one. */
const WRITTEN = repeated ? 4 << 20 : SIZE;

/** Where the tester is; null with a loud line when it cannot be fetched. @throws when it cannot be and CI=true */
async function findTester(): Promise<string | null> {
  const outcome = await attempt(rig, [], { timeout: BUILD_TIMEOUT });
  if (outcome.code === 0) return outcome.stdout.trim();
  const message = `nbd-tester-client could not be built: ${describeOutcome(outcome)}`;
  if (process.env.CI === 'true') throw new Error(message);
  console.warn(`SKIPPED: ${message}`);
  return null;
}

const tester = programs('apt-get', 'cc', 'pkg-config', 'certtool', 'nbdcopy', 'qemu-io') ? await findTester() : null;

describe.runIf(tester !== null)('nbd-tester-client', () => {
  const file = (name: string): string => path.join(tester as string, name);
  /** Runs it. Of what it says only the end is kept: it prints a line for each request. */
  function run(...args: string[]): Promise<Outcome> {
    return attempt('bash', [
      '-c',
      'set -o pipefail; "$@" 2>&1 | tail -c 2000',
      'tester',
      file('nbd-tester-client'),
      ...args,
    ]);
  }

  /** Runs it; it must pass. */
  async function passes(...args: string[]): Promise<void> {
    const outcome = await run(...args);
    if (outcome.code !== 0) throw new Error(describeOutcome(outcome));
  }

  describe('in plaintext', () => {
    const plain = useNode();
    const tcp = (volume: string): string[] => ['-N', volume, '127.0.0.1', String(plain.node.port)];
    const unix = (volume: string): string[] => ['-N', volume, '-u', plain.node.socket];

    async function volume(name: string, size = SIZE): Promise<string> {
      await plain.node.create(name, size);
      return name;
    }

    it('reads as fast as it can, over TCP and a unix socket', async () => {
      const name = await volume('read-volume');
      await passes(...tcp(name));
      await passes(...unix(name));
    });

    whateverTheStore(it)('passes its handshake test', async () => {
      const name = await volume('handshake-volume');
      await passes('-h', ...tcp(name));
      await passes('-h', ...unix(name));
    });

    whateverTheStore(it)('passes its test of oversized requests', async () => {
      await passes('-o', ...tcp(await volume('oversize-volume')));
    });

    it('writes, and writes with flushes', async () => {
      const name = await volume('write-volume', WRITTEN);
      await passes('-w', ...tcp(name));
      await passes('-w', '-f', ...tcp(name));
      await passes('-w', '-f', ...unix(name));
    });

    it('is refused writes to a snapshot, as it expects', async () => {
      const name = await volume('parent-volume');
      await qemuIo(plain.node.uri(name), `write -P 5 0 ${SIZE}`);
      await plain.node.vlmc('snapshot', name, 'tester-snapshot');
      const before = await sha256(plain.node.uri('tester-snapshot'));
      await passes('-w', '-F', ...tcp('tester-snapshot'));
      expect(await sha256(plain.node.uri('tester-snapshot'))).toEqual(before);
    });

    // Thousands of small requests, one after the other. What follows has larger ones.
    whateverTheStore(it)('finds every byte of its trace of a file system', async () => {
      await passes('-i', '-t', file('integrity-test.tr'), ...tcp(await volume('integrity-volume')));
    });

    it('finds every byte of its trace of requests of up to 48 MiB', async () => {
      await passes('-i', '-t', file('integrityhuge-test.tr'), ...unix(await volume('huge-volume')));
    });

    whateverTheStore(it)('is served as by inetd', async () => {
      const name = await volume('inetd-volume');
      const command = [process.execPath, path.join(bin, 'archipelago.js'), '-c', plain.node.conf, 'nbd', name];
      // It gives the server its socket as standard input alone; inetd would give it as standard output too.
      const inetd = ['-I', '--', 'sh', '-c', 'exec "$@" >&0', 'inetd', ...command];
      await passes('-N', name, ...inetd);
      await passes('-w', '-f', '-N', name, ...inetd);
    });
  });

  whateverTheStore(describe)('over TLS', () => {
    const directory = credentialsDirectory();
    let server: string;
    let client: string;
    let rogue: string;
    beforeAll(async () => {
      const authority = await Authority.create(directory.path, 'authority');
      server = await authority.server(path.join(directory.path, 'server'), 1);
      client = await authority.client(path.join(directory.path, 'client'), 'tester');
      const other = await Authority.create(directory.path, 'other');
      rogue = await other.client(path.join(directory.path, 'rogue'), 'tester');
    });
    afterAll(() => directory.dispose());
    const secure = useNode(() => ({ settings: { nbd: { tls: 'required', tls_directory: server } } }));
    const certificates = (of: string, ca = of): string[] => [
      ...['-C', path.join(of, 'client-cert.pem'), '-K', path.join(of, 'client-key.pem')],
      ...['-A', path.join(ca, 'ca-cert.pem'), '-H', 'localhost'],
    ];
    const tcp = (node: TestNode, volume: string): string[] => ['-N', volume, '127.0.0.1', String(node.port)];

    it('finds every byte of its trace of a file system', async () => {
      await secure.node.create('integrity-volume', SIZE);
      const trace = ['-i', '-t', file('integrity-test.tr')];
      await passes(...trace, ...certificates(client), ...tcp(secure.node, 'integrity-volume'));
    });

    it('is refused with the certificate of another authority, and without any TLS', async () => {
      await secure.node.create('closed-volume', SIZE);
      for (const options of [certificates(rogue, client), []]) {
        const outcome = await run(
          '-i',
          '-t',
          file('integrity-test.tr'),
          ...options,
          ...tcp(secure.node, 'closed-volume'),
        );
        expect(outcome.code).not.toBe(0);
      }
    });
  });
});
