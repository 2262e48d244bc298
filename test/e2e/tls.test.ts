/**
 * TLS with the clients people have: libnbd, nbdcopy, qemu, nbdkit, nbd-client. Certificates and keys come from GnuTLS's tools. Who is
 * not meant to get in does not: rogue authorities, wrong keys, nobody's certificate, plaintext.
 */
import type { ChildProcess } from 'node:child_process';
import { copyFileSync, cpSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Authority, credentialsDirectory, onlyIdentity, pskFile } from './harness/certificates.js';
import { nbdinfo, nbdlist, python, sha256, throughNbdkit } from './harness/clients.js';
import { writeImage } from './harness/image.js';
import { type TestNode, useNode } from './harness/node.js';
import { programs } from './harness/requirements.js';
import { attempt, ended, killGroup, type Outcome, run, start } from './harness/run.js';

const MiB = 1 << 20;
const SIZE = 64 * MiB;

const there = programs(
  'certtool',
  'psktool',
  'nbdinfo',
  'nbdcopy',
  'nbdsh',
  'qemu-img',
  'qemu-io',
  'nbdkit',
  'nbd-client',
);

/** Everything the tests authenticate with. */
interface Credentials {
  readonly server: string;
  readonly alice: string;
  readonly bob: string;
  readonly nobody: string;
  readonly rogue: string;
  readonly keys: string;
  readonly carol: string;
  readonly wrong: string;
}

/** A client that proves who it is. */
type Way = { readonly certificates: string } | { readonly psk: string; readonly identity: string };

function query(way: Way): string {
  return 'psk' in way ? `tls-psk-file=${way.psk}` : `tls-certificates=${way.certificates}`;
}

function tcp(node: TestNode, volume: string, way: Way): string {
  const user = 'psk' in way ? `${way.identity}@` : '';
  return `nbds://${user}127.0.0.1:${node.port}/${volume}?${query(way)}`;
}

function unix(node: TestNode, volume: string, way: Way): string {
  const user = 'psk' in way ? `${way.identity}@` : '';
  return `nbds+unix://${user}/${volume}?socket=${node.socket}&${query(way)}`;
}

/** qemu's object of credentials, and the image options of an export that uses it. */
function qemu(node: TestNode, volume: string, way: Way, transport: 'tcp' | 'unix' = 'tcp'): [string[], string] {
  const object =
    'psk' in way
      ? `tls-creds-psk,id=tls0,dir=${path.dirname(way.psk)},username=${way.identity},endpoint=client`
      : `tls-creds-x509,id=tls0,dir=${way.certificates},endpoint=client,verify-peer=yes`;
  const server =
    transport === 'tcp'
      ? `server.type=inet,server.host=127.0.0.1,server.port=${node.port}`
      : `server.type=unix,server.path=${node.socket},tls-hostname=localhost`;
  return [['--object', object], `driver=nbd,${server},export=${volume},tls-creds=tls0`];
}

describe.runIf(there)('TLS', () => {
  const directory = credentialsDirectory();
  let credentials: Credentials;
  let authority: Authority;
  afterAll(() => directory.dispose());

  async function make(): Promise<Credentials> {
    const at = (name: string): string => path.join(directory.path, name);
    authority = await Authority.create(directory.path, 'good-authority');
    const rogue = await Authority.create(directory.path, 'rogue-authority');
    const keys = await pskFile(at('keys/keys.psk'), 'carol', 'dave');
    // A certificate of the rogue authority, for a client that itself trusts the server.
    const rogueClient = await rogue.client(at('rogue'), 'alice');
    copyFileSync(authority.certificate, path.join(rogueClient, 'ca-cert.pem'));
    return {
      server: await authority.server(at('server'), 1001),
      alice: await authority.client(at('alice'), 'alice'),
      bob: await authority.client(at('bob'), 'bob'),
      nobody: authority.nobody(at('nobody')),
      rogue: rogueClient,
      keys,
      carol: onlyIdentity(keys, 'carol', at('carol/keys.psk')),
      wrong: await pskFile(at('wrong/keys.psk'), 'carol'),
    };
  }

  beforeAll(async () => {
    credentials = await make();
  });

  describe('required', () => {
    // Its own copy: what is changed here must not change what other servers show.
    let files: string;
    const rig = useNode(() => {
      files = path.join(directory.path, 'required');
      cpSync(credentials.server, files, { recursive: true });
      const tls = { tls: 'required', socket_tls: 'required' };
      return { settings: { nbd: { ...tls, tls_directory: files, tls_psk_file: credentials.keys } } };
    });
    let image: string;
    let imageHash: string;
    const certificate = (): Way => ({ certificates: credentials.alice });
    const key = (): Way => ({ psk: credentials.carol, identity: 'carol' });

    beforeAll(async () => {
      image = path.join(rig.node.dir, 'image.raw');
      imageHash = await writeImage(
        image,
        SIZE,
        { offset: 512, length: 11 * MiB, seed: 61 },
        { offset: 30 * MiB + 1, length: 20 * MiB, seed: 62 },
      );
      await rig.node.vlmc('create', 'secret-volume', '--size', '64M');
      await run('nbdcopy', ['--connections=4', '--flush', image, tcp(rig.node, 'secret-volume', certificate())]);
    });

    it.each([
      ['a certificate over TCP', tcp, certificate],
      ['a certificate over a unix socket', unix, certificate],
      ['a pre-shared key over TCP', tcp, key],
      ['a pre-shared key over a unix socket', unix, key],
    ] as const)('serves libnbd with %s', async (_title, uri, way) => {
      const address = uri(rig.node, 'secret-volume', way());
      const { stdout } = await run('nbdinfo', [address]);
      expect(stdout).toMatch(/with TLS, using (structured|extended) packets/);
      expect(await nbdinfo(address)).toMatchObject({ 'export-size': SIZE, can_df: true, can_multi_conn: true });
      expect(await sha256(address)).toEqual({ sha256: imageHash, length: SIZE });
    });

    it('copies in over several connections with a pre-shared key, out with a certificate', async () => {
      await rig.node.vlmc('create', 'target-volume', '--size', '64M');
      const copy = ['--connections=4', '--requests=64', '--flush', image];
      await run('nbdcopy', [...copy, tcp(rig.node, 'target-volume', key())]);
      const back = path.join(rig.node.dir, 'back.raw');
      await run('nbdcopy', ['--connections=4', unix(rig.node, 'target-volume', certificate()), back]);
      await run('cmp', [image, back]);
    });

    it('keeps 64 requests in flight through TLS, and the answers belong to their requests', async () => {
      await rig.node.vlmc('create', 'flight-volume', '--size', '64M');
      const printed = await python(
        `
import nbd, sys, random
h = nbd.NBD()
h.set_uri_allow_local_file(True)
h.connect_uri(sys.argv[1])
step, total = 64 * 1024, 64 * 2**20
def content(offset): return (offset // step + 1).to_bytes(8, "big") * (step // 8)
def finish(error):
    assert error.value == 0
    return 1
order = list(range(0, total, step))
random.Random(7).shuffle(order)
for offset in order:
    h.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(content(offset))), offset, completion=finish)
    while h.aio_in_flight() >= 64: h.poll(-1)
while h.aio_in_flight(): h.poll(-1)
random.Random(8).shuffle(order)
buffers = {}
for offset in order:
    buffers[offset] = nbd.Buffer(step)
    h.aio_pread(buffers[offset], offset, completion=finish)
    while h.aio_in_flight() >= 64: h.poll(-1)
while h.aio_in_flight(): h.poll(-1)
print(all(bytes(buffers[offset].to_bytearray()) == content(offset) for offset in order), h.get_tls_negotiated())`,
        tcp(rig.node, 'flight-volume', certificate()),
      );
      expect(printed.trim()).toBe('True True');
    });

    it.each([
      ['a certificate', 'tcp', certificate],
      ['a certificate', 'unix', certificate],
      ['a pre-shared key', 'tcp', key],
      ['a pre-shared key', 'unix', key],
    ] as const)('serves qemu with %s over %s', async (_title, transport, way) => {
      const [object, options] = qemu(rig.node, 'secret-volume', way(), transport);
      const info = await run('qemu-img', ['info', '--output=json', ...object, '--image-opts', options]);
      expect(JSON.parse(info.stdout)).toMatchObject({ 'virtual-size': SIZE });
      const copied = path.join(rig.node.dir, 'qemu.raw');
      await run('qemu-img', ['convert', ...object, '--image-opts', options, '-O', 'raw', copied]);
      await run('cmp', [image, copied]);
    });

    it('serves qemu-io, and qemu-img convert into and compare with a volume', async () => {
      await rig.node.vlmc('create', 'qemu-volume', '--size', '64M');
      const [object, options] = qemu(rig.node, 'qemu-volume', certificate());
      const into = ['-f', 'raw', image, '--target-image-opts', options];
      await run('qemu-img', ['convert', '-n', '-W', ...object, ...into]);
      expect((await sha256(tcp(rig.node, 'qemu-volume', key()))).sha256).toBe(imageHash);
      const commands = [
        'write -P 9 1M 2M',
        'read -P 9 1M 2M',
        'write -z 2M 64k',
        'read -P 0 2M 64k',
        'discard 8M 4M',
        'flush',
      ];
      await run('qemu-io', [...object, ...commands.flatMap((command) => ['-c', command]), '--image-opts', options]);
      expect((await sha256(tcp(rig.node, 'qemu-volume', key()))).sha256).not.toBe(imageHash);
    });

    it("serves nbdkit's nbd plugin, whose filters compare what they get", async () => {
      const uri = `nbds://127.0.0.1:${rig.node.port}/secret-volume`;
      const parameters = [`tls-certificates=${credentials.alice}`, 'tls=require'];
      await throughNbdkit(uri, { filters: ['checkwrite'], parameters }, `nbdcopy ${image} "$uri"`);
    });

    it('lists its exports to nbd-client, and to nobody in plaintext', async () => {
      const address = ['-l', '127.0.0.1', String(rig.node.port)];
      const files = ['-certfile', 'client-cert.pem', '-keyfile', 'client-key.pem', '-cacertfile', 'ca-cert.pem'];
      const secure = ['-enable-tls', '-tlshostname', 'localhost', ...files];
      const listed = await attempt('nbd-client', [...address, ...secure], { cwd: credentials.alice });
      expect(listed.stdout + listed.stderr).toMatch(/secret-volume/);
      const plain = await attempt('nbd-client', address);
      expect(plain.code).not.toBe(0);
      expect(plain.stdout).not.toMatch(/secret-volume/);
    });

    it.each([
      ['a certificate of a rogue authority', () => ({ certificates: credentials.rogue })],
      ['no certificate at all', () => ({ certificates: credentials.nobody })],
      ['a wrong key', () => ({ psk: credentials.wrong, identity: 'carol' })],
      ['an unknown identity', () => ({ psk: credentials.carol, identity: 'mallory' })],
    ] as [string, () => Way][])('refuses %s', async (_title, way) => {
      for (const uri of [tcp, unix]) {
        const outcome = await attempt('nbdcopy', [uri(rig.node, 'secret-volume', way()), 'null:']);
        expect(outcome.code).not.toBe(0);
        const listed = await attempt('nbdinfo', ['--list', uri(rig.node, '', way())]);
        expect(listed.code).not.toBe(0);
        expect(listed.stdout).not.toMatch(/secret-volume/);
      }
      const refused = way();
      if ('psk' in refused) return;
      const [object, options] = qemu(rig.node, 'secret-volume', refused);
      const outcome = await attempt('qemu-img', ['info', ...object, '--image-opts', options]);
      expect(outcome.code).not.toBe(0);
    });

    it('refuses plaintext, and tells clients that TLS is needed', async () => {
      for (const uri of [rig.node.tcpUri('secret-volume'), rig.node.uri('secret-volume')]) {
        const outcomes = [
          await attempt('nbdcopy', [uri, 'null:']),
          await attempt('nbdinfo', ['--list', uri]),
          await attempt('qemu-img', ['info', uri]),
        ];
        for (const outcome of outcomes) {
          expect(outcome.code).not.toBe(0);
          expect(outcome.stdout).not.toMatch(/secret-volume/);
        }
        expect(outcomes[2].stderr).toMatch(/TLS/);
      }
    });

    it('goes on for good clients after all these', async () => {
      expect((await sha256(tcp(rig.node, 'secret-volume', key()))).sha256).toBe(imageHash);
    });

    it('refuses a client that trusts another authority, without harm to others', async () => {
      const stranger = path.join(directory.path, 'stranger');
      const other = await Authority.create(directory.path, 'other-authority');
      await authority.client(stranger, 'alice');
      copyFileSync(other.certificate, path.join(stranger, 'ca-cert.pem'));
      const outcome = await attempt('nbdinfo', [tcp(rig.node, 'secret-volume', { certificates: stranger })]);
      expect(outcome.code).not.toBe(0);
      await nbdinfo(tcp(rig.node, 'secret-volume', certificate()));
    });

    it('shows a new certificate after SIGHUP to new clients, while an old connection goes on', async () => {
      const serial = async (): Promise<string> => {
        const { stdout } = await run('certtool', ['-i', '--infile', path.join(files, 'server-cert.pem')]);
        return /Serial Number \(hex\): (\w+)/.exec(stdout)?.[1] ?? '';
      };
      const before = await serial();
      const old = await Session.open(tcp(rig.node, 'secret-volume', certificate()));
      try {
        expect(await old.ask('print(len(h.pread(4096, 0)))')).toBe('4096');

        // The new certificate is of an authority that clients do not know yet: who gets it can be told from who refuses it.
        const next = await Authority.create(directory.path, 'next-authority');
        const fresh = await next.server(path.join(directory.path, 'next-server'), 2002);
        for (const file of ['server-cert.pem', 'server-key.pem']) {
          copyFileSync(path.join(fresh, file), path.join(files, file));
        }
        // Clients of both authorities are let in; alice now trusts the new one.
        const both = [authority.certificate, next.certificate].map((file) => readFileSync(file, 'utf8')).join('');
        writeFileSync(path.join(files, 'ca-cert.pem'), both);
        expect(await serial()).not.toBe(before);
        const trusting = path.join(directory.path, 'trusting');
        await authority.client(trusting, 'alice');
        copyFileSync(next.certificate, path.join(trusting, 'ca-cert.pem'));
        const address = tcp(rig.node, 'secret-volume', { certificates: trusting });
        expect((await attempt('nbdinfo', [address])).code).not.toBe(0);

        process.kill(rig.node.rolePid('nbd'), 'SIGHUP');
        await expect.poll(() => attempt('nbdinfo', [address]).then(({ code }) => code)).toBe(0);
        // Who knows the old authority alone does not take the new certificate.
        expect((await attempt('nbdinfo', [tcp(rig.node, 'secret-volume', certificate())])).code).not.toBe(0);
        expect(await old.ask('print(len(h.pread(1 << 20, 4096)))')).toBe(String(MiB));
      } finally {
        await old.close();
      }
    });

    it('keeps the credentials it has when those in the files cannot be used', async () => {
      const file = path.join(files, 'server-key.pem');
      const good = readFileSync(file);
      const address = unix(rig.node, 'secret-volume', key());
      writeFileSync(file, 'this is no key\n');
      process.kill(rig.node.rolePid('nbd'), 'SIGHUP');
      await expect.poll(() => rig.node.logs()).toMatch(/(ERROR|WARN).*(server-key|credentials)/);
      await nbdinfo(address);
      writeFileSync(file, good);
    });
  });

  describe('selective, with rules', () => {
    const rig = useNode(() => {
      const rules = path.join(directory.path, 'rules');
      writeFileSync(
        rules,
        [
          '# who may open what',
          'allow public-* anyone',
          'allow alice-* subject CN=alice,O=good-authority',
          'allow carol-* identity carol',
          'allow common-* tls',
        ].join('\n'),
      );
      return {
        settings: {
          nbd: {
            tls: 'selective',
            socket_tls: 'off',
            tls_directory: credentials.server,
            tls_psk_file: credentials.keys,
            tls_acl: rules,
          },
        },
      };
    });
    const volumes = ['public-volume', 'alice-volume', 'carol-volume', 'common-volume'];
    const alice = (): Way => ({ certificates: credentials.alice });
    const carol = (): Way => ({ psk: credentials.carol, identity: 'carol' });
    const bob = (): Way => ({ certificates: credentials.bob });

    beforeAll(async () => {
      for (const volume of volumes) await rig.node.vlmc('create', volume, '--size', '8M');
    });

    async function openable(uri: (volume: string) => string): Promise<string[]> {
      const outcomes = await Promise.all(volumes.map((volume) => attempt('nbdinfo', ['--size', uri(volume)])));
      return volumes.filter((_, index) => outcomes[index].code === 0);
    }

    it('lets each client open what the rules say', async () => {
      expect(await openable((volume) => rig.node.tcpUri(volume))).toEqual(['public-volume']);
      expect(await openable((volume) => tcp(rig.node, volume, alice()))).toEqual([
        'public-volume',
        'alice-volume',
        'common-volume',
      ]);
      expect(await openable((volume) => tcp(rig.node, volume, bob()))).toEqual(['public-volume', 'common-volume']);
      expect(await openable((volume) => tcp(rig.node, volume, carol()))).toEqual([
        'public-volume',
        'carol-volume',
        'common-volume',
      ]);
    });

    it('lists to each client what it may open', async () => {
      const names = async (uri: string): Promise<string[]> =>
        (await nbdlist(uri)).map((entry) => entry['export-name']).toSorted();
      expect(await names(`nbd://127.0.0.1:${rig.node.port}/`)).toEqual(['public-volume']);
      expect(await names(tcp(rig.node, '', bob()))).toEqual(['common-volume', 'public-volume']);
      expect(await names(tcp(rig.node, '', carol()))).toEqual(['carol-volume', 'common-volume', 'public-volume']);
    });

    it('tells a plaintext client that TLS might help, and a known one that it will not', async () => {
      const plain = await attempt('qemu-img', ['info', rig.node.tcpUri('alice-volume')]);
      expect(plain.stderr).toMatch(/TLS/);
      const known = await attempt('nbdinfo', [tcp(rig.node, 'alice-volume', bob())]);
      expect(known.code).not.toBe(0);
    });

    it('lets a client that may use TLS do without, and one that wants it have it', async () => {
      const allow = (uri: string): Promise<Outcome> =>
        run('nbdkit', [
          '-U',
          '-',
          'nbd',
          `uri=${uri}`,
          'tls=on',
          `tls-certificates=${credentials.bob}`,
          '--run',
          'nbdinfo --size "$uri"',
        ]);
      expect((await allow(rig.node.tcpUri('public-volume'))).stdout.trim()).toBe(String(8 * MiB));
      const outcome = await run('nbdinfo', [tcp(rig.node, 'public-volume', bob())]);
      expect(outcome.stdout).toMatch(/with TLS/);
    });
  });

  describe('off', () => {
    const rig = useNode();

    it('refuses clients that insist on TLS, and serves those that do not', async () => {
      await rig.node.create('plain-volume', '8M');
      const uri = tcp(rig.node, 'plain-volume', { certificates: credentials.alice });
      // Without debugging libnbd does not show what the server says.
      const outcome = await attempt('nbdinfo', [uri], { env: { LIBNBD_DEBUG: '1' } });
      expect(outcome.code).not.toBe(0);
      expect(outcome.stderr).toMatch(/server error message: .*TLS/);
      await nbdinfo(rig.node.tcpUri('plain-volume'));
    });
  });
});

/** A libnbd connection that stays open: Python lines are sent to it, each answers with one line. */
class Session {
  readonly #child: ChildProcess;
  readonly #lines: string[] = [];
  #wake: () => void = () => {};
  #rest = '';
  #over = false;

  private constructor(uri: string) {
    const script = `
import nbd, sys
h = nbd.NBD()
h.set_uri_allow_local_file(True)
h.connect_uri(sys.argv[1])
print("connected", flush=True)
for line in sys.stdin:
    try:
        exec(line)
    except nbd.Error as e:
        print(e)
    sys.stdout.flush()
`;
    this.#child = start('/usr/bin/python3', ['-c', script, uri], { stdio: ['pipe', 'pipe', 'inherit'] });
    this.#child.stdout?.on('data', (chunk: Buffer) => {
      const lines = (this.#rest + chunk.toString()).split('\n');
      this.#rest = lines.pop() ?? '';
      this.#lines.push(...lines);
      this.#wake();
    });
    this.#child.once('close', () => {
      this.#over = true;
      this.#wake();
    });
  }

  static async open(uri: string): Promise<Session> {
    const session = new Session(uri);
    expect(await session.#line()).toBe('connected');
    return session;
  }

  /** Runs one line of Python with the handle `h`; resolves to the line it prints. */
  ask(line: string): Promise<string> {
    this.#child.stdin?.write(`${line}\n`);
    return this.#line();
  }

  async close(): Promise<void> {
    const end = this.#over ? null : ended(this.#child);
    this.#child.stdin?.end();
    killGroup(this.#child);
    await end;
  }

  async #line(): Promise<string> {
    for (;;) {
      const line = this.#lines.shift();
      if (line !== undefined) return line;
      if (this.#over) throw new Error('the session ended');
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
  }
}
