/**
 * libnbd's own test programs for servers (its folder interop/), run against a node through `archipelago nbd` and, over TLS, against a node
 * that libnbd starts itself by socket activation.
 */
import { createHash } from 'node:crypto';
import { mkdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { afterAll, beforeAll, describe, it } from 'vitest';
import { Authority, credentialsDirectory, onlyIdentity, pskFile } from './harness/certificates.js';
import { qemuIo } from './harness/clients.js';
import { bin, TestNode, useNode } from './harness/node.js';
import { programs } from './harness/requirements.js';
import { attempt, BUILD_TIMEOUT, describeOutcome } from './harness/run.js';
import { entry, header, mapDataName } from './harness/store.js';
import { whateverTheStore } from './harness/stores.js';

const rig = path.resolve(import.meta.dirname, '../../scripts/rigs/libnbd-interop.sh');
/** Of map entries: their size, and what one without an object has for flags and name (SHA-256 of nothing). */
const ENTRY_SIZE = 128;
const ZERO = 4;
const ZERO_NAME = createHash('sha256').digest('hex');
const KiB = 1 << 10;
const MiB = 1 << 20;

/** Where the programs are; null with a loud line when they cannot be fetched. @throws when they cannot be and CI=true */
async function findPrograms(): Promise<string | null> {
  const outcome = await attempt(rig, [], { timeout: BUILD_TIMEOUT });
  if (outcome.code === 0) return outcome.stdout.trim();
  const message = `libnbd's test programs could not be built: ${describeOutcome(outcome)}`;
  if (process.env.CI === 'true') throw new Error(message);
  console.warn(`SKIPPED: ${message}`);
  return null;
}

const interop = programs('apt-get', 'cc', 'make', 'pkg-config', 'certtool', 'psktool', 'qemu-io')
  ? await findPrograms()
  : null;

/** Runs one of them; it must pass. Status 77 is its word for skipped, and no success either. */
async function passes(program: string, args: readonly string[], env: NodeJS.ProcessEnv = {}): Promise<void> {
  // One that fails may leave its server behind, which holds its output: both end at the latest then.
  const outcome = await attempt(path.join(interop as string, program), args, { env, timeout: 240_000 });
  if (outcome.code !== 0) throw new Error(describeOutcome(outcome));
}

/** The command line of `archipelago` for a node. */
const archipelago = (node: TestNode, ...args: string[]): string[] => [
  process.execPath,
  path.join(bin, 'archipelago.js'),
  '-c',
  node.conf,
  ...args,
];

/** Writes a program that runs `lines` of shell. */
function script(file: string, ...lines: string[]): string {
  writeFileSync(file, ['#!/bin/sh', ...lines, ''].join('\n'), { mode: 0o755 });
  return file;
}

/** A volume of 1 MiB, and its snapshot, which is what is served: to an export that can be written they would look into their file. */
async function snapshotOf(node: TestNode, name: string): Promise<string> {
  await node.create(name, MiB);
  const snapshot = `${name}-snapshot`;
  await node.vlmc('snapshot', name, snapshot);
  return snapshot;
}

/** An empty volume with blocks of another size than new ones get, put into the store as another program would. */
async function volumeOf(node: TestNode, name: string, size: number, blockSize: number): Promise<string> {
  const { maps } = node.stores;
  await maps.write(name, header({ size: BigInt(size), blockSize }));
  const perObject = blockSize / ENTRY_SIZE;
  const empty = Buffer.concat(Array(perObject).fill(entry({ flags: ZERO, name: ZERO_NAME })));
  for (let id = 0; id * perObject * blockSize < size; id++) await maps.write(mapDataName(name, id), empty);
  return node.uri(name);
}

describe.runIf(interop !== null)("libnbd's interop programs", () => {
  describe('with a server for a volume', () => {
    const rig = useNode();
    /** What a program starts with its file as argument. */
    const server = (name: string, ...lines: string[]): Record<string, string> => ({
      INTEROP_SERVER: script(path.join(rig.node.dir, name), ...lines),
      INTEROP_EXPORT: '',
    });
    const serving = (...args: string[]): string[] => archipelago(rig.node, 'nbd', ...args);

    whateverTheStore(it.each(['interop', 'interop-activation', 'socket-activation']))('%s', async (program) => {
      const snapshot = await snapshotOf(rig.node, `${program}-volume`);
      await passes(program, [], server(program, `exec ${serving(snapshot).join(' ')}`));
    });

    it('dirty-bitmap: allocation and what changed since a snapshot, in one answer', async () => {
      const uri = await volumeOf(rig.node, 'dirty-volume', MiB, 64 * KiB);
      await qemuIo(uri, 'write -P 1 0 128k', 'write -P 1 512k 64k');
      await rig.node.vlmc('snapshot', 'dirty-volume', 'dirty-snapshot');
      await qemuIo(uri, 'write -P 2 64k 64k', 'discard 512k 64k');
      await passes('dirty-bitmap', ['qemu:dirty-bitmap:dirty-snapshot', ...serving('dirty-volume')]);
    });

    it('block-status-payload: four contexts, and some of them', async () => {
      const uri = await rig.node.create('payload-volume', MiB);
      await rig.node.vlmc('snapshot', 'payload-volume', 'bitmap0');
      await qemuIo(uri, 'write -P 1 0 64k');
      await rig.node.vlmc('snapshot', 'payload-volume', 'bitmap1');
      await passes('block-status-payload', serving('payload-volume'));
    });
  });

  whateverTheStore(describe)('with a node of its own over TLS', () => {
    const directory = credentialsDirectory();
    const at = (name: string): string => path.join(directory.path, name);
    let server: string;
    let client: Record<string, string>;

    beforeAll(async () => {
      const authority = await Authority.create(directory.path, 'authority');
      server = await authority.server(at('server'), 1);
      const keys = await pskFile(at('keys/keys.psk'), 'alice');
      client = {
        INTEROP_PKI: await authority.client(at('client'), 'alice'),
        INTEROP_PSK: onlyIdentity(keys, 'alice', at('alice/keys.psk')),
      };
      mkdirSync(at('servers'));
    });
    afterAll(() => directory.dispose());

    it.each([
      ['interop-certs', 'required'],
      ['interop-certs-allow', 'required'],
      ['interop-certs-fallback', 'off'],
      ['interop-psk', 'required'],
      ['interop-psk-allow', 'required'],
      ['interop-psk-fallback', 'off'],
    ])('%s with TLS %s', async (program, tls) => {
      const credentials: Record<string, string> =
        tls === 'off' ? {} : { tls_directory: server, tls_psk_file: at('keys/keys.psk') };
      const nbd = { tls, socket_tls: tls, ...credentials };
      const node = await TestNode.prepare({ settings: { nbd } });
      try {
        await node.archipelago('start');
        await snapshotOf(node, 'activated');
        await node.archipelago('stop');
        const command = archipelago(node, 'start', '--foreground').join(' ');
        const file = script(path.join(at('servers'), program), `exec ${command}`);
        await passes(program, [], { ...client, INTEROP_SERVER: file, INTEROP_EXPORT: 'activated-snapshot' });
      } finally {
        await node.dispose();
      }
    });
  });
});
