/**
 * Clients that know extended headers: libnbd 1.22, qemu 10 and nbdkit 1.42. Lengths beyond 32 bits in one request, block status of
 * chosen contexts, and the same bytes and extents whatever form of replies was negotiated.
 */
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Authority, credentialsDirectory, pskFile } from './harness/certificates.js';
import { qemuIo, sha256 } from './harness/clients.js';
import { hashFile, writeImage } from './harness/image.js';
import { NewerClients } from './harness/newer.js';
import { useNode } from './harness/node.js';
import { programs } from './harness/requirements.js';
import { whateverTheStore } from './harness/stores.js';

const MiB = 2 ** 20;
const GiB = 2 ** 30;
const TiB = 2 ** 40;
const BLOCK = 4 * MiB;
const HOLE = 3;
const DATA = 0;

type Extents = [length: number, flags: number][];

/** Neighbours of one kind as one extent. */
function merged(extents: Extents): Extents {
  return extents.reduce<Extents>((all, [length, flags]) => {
    const last = all.at(-1);
    if (last?.[1] === flags) last[0] += length;
    else all.push([length, flags]);
    return all;
  }, []);
}

/** What the scripts begin with: a handle with all contexts of an argument list, and extents by context. */
const PRELUDE = `
import nbd, sys, json
extents = {}
def collect(context, offset, entries, error):
    extents.setdefault(context, []).extend(entries)
def connect(uri, *contexts):
    h = nbd.NBD()
    for context in contexts: h.add_meta_context(context)
    h.connect_uri(uri)
    return h
`;

const clients = programs('mmdebstrap', 'qemu-io', 'nbdcopy', 'certtool', 'psktool') ? await NewerClients.find() : null;

describe.runIf(clients !== null)('newer clients', () => {
  const rig = useNode();
  const newer = clients as NewerClients;

  afterAll(() => newer.dispose());

  describe('on a volume of 16 TiB', () => {
    const size = 16 * TiB;
    let uri: string;

    beforeAll(async () => {
      await rig.node.create('wide-volume', '16T');
      uri = rig.node.tcpUri('wide-volume');
      await qemuIo(uri, `write -P 3 ${2 * BLOCK} ${2 * BLOCK}`, `write -P 4 ${size - BLOCK} ${BLOCK}`);
      await rig.node.vlmc('snapshot', 'wide-volume', 'wide-snapshot');
      await qemuIo(uri, `write -P 5 ${10 * TiB} ${BLOCK}`);
    });

    whateverTheStore(it)('negotiates extended headers, and says so', async () => {
      const { stdout } = await newer.run('nbdinfo', '--json', uri);
      expect(JSON.parse(stdout)).toMatchObject({
        structured: true,
        extended: true,
        exports: [
          {
            'export-size': size,
            can_block_status_payload: true,
            can_df: true,
            can_fast_zero: true,
            is_rotational: false,
            is_read_only: false,
            contexts: expect.arrayContaining(['base:allocation', 'qemu:allocation-depth', 'archipelago:object']),
          },
        ],
      });
    });

    it('tells all of it in one answer', async () => {
      const extents = await newer.python<Extents>(
        `${PRELUDE}
h = connect(sys.argv[1], "base:allocation")
assert h.get_extended_headers_negotiated()
h.block_status_64(h.get_size(), 0, collect)
print(json.dumps(extents["base:allocation"]))`,
        uri,
      );
      expect(extents).toEqual([
        [2 * BLOCK, HOLE],
        [2 * BLOCK, DATA],
        [10 * TiB - 4 * BLOCK, HOLE],
        [BLOCK, DATA],
        [6 * TiB - 2 * BLOCK, HOLE],
        [BLOCK, DATA],
      ]);
    });

    whateverTheStore(it)('answers a filtered block status with the chosen contexts alone', async () => {
      const seen = await newer.python<Record<'none' | 'one' | 'two', Record<string, Extents> | string>>(
        `${PRELUDE}
names = ["base:allocation", "qemu:allocation-depth", "qemu:dirty-bitmap:wide-snapshot", "archipelago:object"]
h = connect(sys.argv[1], *names)
def ask(*chosen):
    extents.clear()
    h.block_status_filter(6 * ${BLOCK}, 0, list(chosen), collect)
    return {context: list(entries) for context, entries in extents.items()}
try:
    ask()
    none = "answered"
except nbd.Error as e:
    none = e.errno
print(json.dumps({
  "none": none,
  "one": ask("qemu:allocation-depth"),
  "two": ask("base:allocation", "qemu:dirty-bitmap:wide-snapshot"),
}))`,
        uri,
      );
      expect(seen.none).toBe('EINVAL');
      expect(Object.keys(seen.one)).toEqual(['qemu:allocation-depth']);
      expect(Object.keys(seen.two).toSorted()).toEqual(['base:allocation', 'qemu:dirty-bitmap:wide-snapshot']);
    });

    it('tells the blocks that differ from a snapshot', async () => {
      const { stdout } = await newer.run('nbdinfo', '--json', '--map=qemu:dirty-bitmap:wide-snapshot', uri);
      const rows = JSON.parse(stdout) as { offset: number; length: number; type: number }[];
      const dirty = rows.filter(({ type }) => type === 1);
      expect(dirty.map(({ offset, length }) => [offset, length])).toEqual([[10 * TiB, BLOCK]]);
      expect(rows.reduce((sum, { length }) => sum + length, 0)).toBe(size);
    });

    it('makes zeros and holes of more than 4 GiB by one request', async () => {
      await rig.node.create('zeroed-volume', '16T');
      const target = rig.node.tcpUri('zeroed-volume');
      const places = [0, 5 * GiB, 7 * TiB, 8 * TiB - BLOCK, 8 * TiB, size - BLOCK];
      await qemuIo(target, ...places.map((offset) => `write -P 7 ${offset} ${BLOCK}`));
      const extents = await newer.python<Extents[]>(
        `${PRELUDE}
h = connect(sys.argv[1], "base:allocation")
def extents_now():
    extents.clear()
    h.block_status_64(h.get_size(), 0, collect)
    return list(extents["base:allocation"])
h.zero(8 * 2**40 - ${BLOCK} // 2, ${BLOCK} // 2, nbd.CMD_FLAG_FAST_ZERO)
zeroed = extents_now()
assert h.pread(${BLOCK}, 0) == b"\\x07" * (${BLOCK} // 2) + bytes(${BLOCK} // 2)
assert h.pread(${BLOCK}, 8 * 2**40) == b"\\x07" * ${BLOCK}
h.trim(h.get_size(), 0, nbd.CMD_FLAG_FUA)
print(json.dumps([zeroed, extents_now()]))`,
        target,
      );
      expect(extents.map(merged)).toEqual([
        [
          [BLOCK, DATA],
          [8 * TiB - BLOCK, HOLE],
          [BLOCK, DATA],
          [8 * TiB - 2 * BLOCK, HOLE],
          [BLOCK, DATA],
        ],
        [[size, HOLE]],
      ]);
    });

    whateverTheStore(it)('is mapped by qemu with data where data is', async () => {
      const { stdout } = await newer.run('qemu-img', 'map', '-f', 'raw', '--output=json', uri);
      const rows = JSON.parse(stdout) as { start: number; length: number; data: boolean }[];
      const data = rows.filter((row) => row.data).map(({ start, length }) => [start, length]);
      expect(data).toEqual([
        [2 * BLOCK, 2 * BLOCK],
        [10 * TiB, BLOCK],
        [size - BLOCK, BLOCK],
      ]);
    });
  });

  describe('with an image', () => {
    const size = 128 * MiB;
    let uri: string;
    let imageHash: string;
    const image = (): string => newer.inside('image.raw');

    beforeAll(async () => {
      imageHash = await writeImage(
        path.join(newer.directory, 'image.raw'),
        size,
        { offset: 4096, length: 9 * MiB, seed: 51 },
        { offset: 40 * MiB - 512, length: 30 * MiB + 1024, seed: 52 },
        { offset: size - 4097, length: 4097, seed: 53 },
      );
      await rig.node.create('newer-volume', size);
      uri = rig.node.tcpUri('newer-volume');
      await newer.run('nbdcopy', '--connections=4', '--flush', image(), uri);
    });

    it('copies it in and out', async () => {
      expect(await sha256(uri)).toEqual({ sha256: imageHash, length: size });
      await newer.run('nbdcopy', '--connections=4', uri, newer.inside('back.raw'));
      await newer.run('cmp', image(), newer.inside('back.raw'));
    });

    whateverTheStore(it)('reads the same bytes and extents by simple, structured and extended replies', async () => {
      const seen = await newer.python<{ hash: string; extents: Extents; extended: boolean }[]>(
        `${PRELUDE}
import hashlib
def look(structured, extended):
    h = nbd.NBD()
    h.set_request_structured_replies(structured)
    h.set_request_extended_headers(extended)
    if structured: h.add_meta_context("base:allocation")
    h.connect_uri(sys.argv[1])
    size, step, sum = h.get_size(), 3 * 2**20 + 511, hashlib.sha256()
    for offset in range(0, size, step):
        sum.update(h.pread(min(step, size - offset), offset))
    extents.clear()
    offset = 0
    while structured and offset < size:
        h.block_status_64(size - offset, offset, collect)
        offset = __builtins__.sum(length for length, flags in extents["base:allocation"])
    return {"hash": sum.hexdigest(), "extents": extents.get("base:allocation", []).copy(),
            "extended": h.get_extended_headers_negotiated()}
print(json.dumps([look(False, False), look(True, False), look(True, True)]))`,
        uri,
      );
      expect(seen.map(({ extended }) => extended)).toEqual([false, false, true]);
      expect(seen.map(({ hash }) => hash)).toEqual([imageHash, imageHash, imageHash]);
      expect(merged(seen[2].extents)).toEqual(merged(seen[1].extents));
      expect(merged(seen[1].extents).reduce((sum, [length]) => sum + length, 0)).toBe(size);
    });

    whateverTheStore(it)('gets holes as holes, data as data, and one chunk under DF', async () => {
      const seen = await newer.python<{ sparse: [number, number, number][]; df: number }>(
        `${PRELUDE}
h = connect(sys.argv[1])
chunks = []
def chunk(data, offset, status, error):
    chunks.append([status, offset, len(data)])
data = h.pread_structured(16 * 2**20, 0, chunk)
assert data == open(sys.argv[2], "rb").read(16 * 2**20)
sparse, chunks = sorted(chunks, key=lambda c: c[1]), []
h.pread_structured(65536, 9 * 2**20 - 4096, chunk, nbd.CMD_FLAG_DF)
print(json.dumps({"sparse": sparse, "df": len(chunks)}))`,
        uri,
        image(),
      );
      const READ_DATA = 1;
      const READ_HOLE = 2;
      // A server may cut chunks as it likes.
      const holes = seen.sparse.filter(([status]) => status === READ_HOLE);
      expect(holes[0][1]).toBe(3 * BLOCK);
      expect(holes.reduce((end, [, offset, length]) => (offset === end ? end + length : end), 3 * BLOCK)).toBe(
        4 * BLOCK,
      );
      expect(seen.sparse.some(([status, offset]) => status === READ_DATA && offset === 0)).toBe(true);
      expect(seen.sparse.reduce((sum, [, , length]) => sum + length, 0)).toBe(16 * MiB);
      expect(seen.df).toBe(1);
    });

    whateverTheStore(it)('is told errors and goes on', async () => {
      const errors = await newer.python<string[]>(
        `${PRELUDE}
h = connect(sys.argv[1], "base:allocation")
h.set_strict_mode(0)
size = h.get_size()
errors = []
for call in (
    lambda: h.pread(512, size),
    lambda: h.pread(1, 2**62),
    lambda: h.pwrite(bytes(512), size - 1),
    lambda: h.trim(size + 1, 0),
    lambda: h.zero(2**40, size - 512),
    lambda: h.cache(512, size),
    lambda: h.block_status_64(512, size, collect),
    lambda: h.flush(1 << 9),
    lambda: h.pread(512, 0, 1 << 12),
):
    try:
        call()
        errors.append("none")
    except nbd.Error as e:
        errors.append(e.errno)
    assert h.pread(4096, 4096) == open(sys.argv[2], "rb").read(8192)[4096:]
print(json.dumps(errors))`,
        uri,
        image(),
      );
      expect(errors).toEqual([
        'EINVAL',
        'EINVAL',
        'ENOSPC',
        'EINVAL',
        'ENOSPC',
        'EINVAL',
        'EINVAL',
        'EINVAL',
        'EINVAL',
      ]);
    });

    whateverTheStore(it)('keeps many requests in flight in both directions at once', async () => {
      await rig.node.create('flight-volume', size);
      const result = await newer.python<{ done: number; most: number }>(
        `${PRELUDE}
h = connect(sys.argv[1])
data = open(sys.argv[2], "rb").read()
step, most, done = 192 * 1024, 0, 0
def finish(error):
    global done
    if error.value == 0: done += 1
    return 1
def drain(limit):
    global most
    most = max(most, h.aio_in_flight())
    while h.aio_in_flight() > limit: h.poll(-1)
for offset in range(0, len(data), step):
    part = data[offset:offset + step]
    h.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(part)), offset, completion=finish)
    drain(63)
drain(0)
h.flush()
parts = []
for offset in range(0, len(data), step):
    buffer = nbd.Buffer(min(step, len(data) - offset))
    parts.append(buffer)
    h.aio_pread(buffer, offset, completion=finish)
    drain(63)
drain(0)
assert b"".join(bytes(part.to_bytearray()) for part in parts) == data
print(json.dumps({"done": done, "most": most}))`,
        rig.node.tcpUri('flight-volume'),
        image(),
      );
      expect(result.done).toBe(2 * Math.ceil(size / (192 * 1024)));
      expect(result.most).toBeGreaterThanOrEqual(32);
      expect((await sha256(rig.node.uri('flight-volume'))).sha256).toBe(imageHash);
    });

    whateverTheStore(it)('is converted by qemu, sparse, and compares equal', async () => {
      const target = newer.inside('target.qcow2');
      await newer.run('qemu-img', 'convert', '-O', 'qcow2', uri, target);
      await newer.run('qemu-img', 'compare', target, uri);
      await rig.node.create('converted-volume', size);
      const converted = rig.node.tcpUri('converted-volume');
      await newer.run('qemu-img', 'convert', '-n', '-m', '8', '-W', '-O', 'raw', target, converted);
      expect((await sha256(converted)).sha256).toBe(imageHash);
    });

    whateverTheStore(it)('is read, written and compared by qemu through every cache mode', async () => {
      await rig.node.create('modes-volume', size);
      const target = rig.node.tcpUri('modes-volume');
      for (const [index, mode] of ['writeback', 'writethrough', 'none'].entries()) {
        const offset = index * 8 * MiB;
        const commands = [
          `write -P ${index + 1} ${offset} 3M`,
          `write -z -u ${offset + MiB} 1M`,
          `read -P 0 ${offset + MiB} 1M`,
        ];
        const cached = commands.flatMap((command) => ['-c', command]);
        await newer.run('qemu-io', '-f', 'raw', '-t', mode, '-d', 'unmap', ...cached, target);
        await qemuIo(target, `read -P ${index + 1} ${offset} 1M`, `read -P ${index + 1} ${offset + 2 * MiB} 1M`);
      }
      await newer.run(
        'qemu-img',
        'bench',
        '-f',
        'raw',
        '-w',
        '-c',
        '2000',
        '-d',
        '64',
        '-s',
        '16k',
        '--flush-interval=500',
        target,
      );
    });

    whateverTheStore(it)('is the same behind the nbd plugin of nbdkit, and its filters agree', async () => {
      const through = (filters: string[], command: string, ...parameters: string[]): Promise<unknown> => {
        const chain = filters.map((filter) => `--filter=${filter}`);
        return newer.run('nbdkit', '-U', '-', ...chain, 'nbd', `uri=${uri}`, ...parameters, '--run', command);
      };
      await through(['checkwrite'], `nbdcopy --connections=4 ${image()} "$uri"`);
      await through(['blocksize'], `nbdcopy "$uri" - | cmp ${image()}`, 'minblock=4096', 'maxdata=128K', 'maxlen=1M');
      await through(['cow'], `nbdcopy ${image()} "$uri"`);
      await rig.node.create('behind-volume', size);
      const behind = rig.node.tcpUri('behind-volume');
      const copy = `nbdcopy --flush ${image()} "$uri"`;
      await newer.run('nbdkit', '-U', '-', '--filter=blocksize-policy', 'nbd', `uri=${behind}`, '--run', copy);
      expect((await sha256(behind)).sha256).toBe(imageHash);
    });

    it('gives a backup that fetches only what changed since a snapshot', async () => {
      await rig.node.vlmc('snapshot', 'newer-volume', 'newer-snapshot');
      await newer.run('nbdcopy', rig.node.tcpUri('newer-snapshot'), newer.inside('backup.raw'));
      await qemuIo(uri, 'write -P 77 50M 3M', 'write -z 8M 4M', 'discard 64M 4M', 'write -P 78 20M 1');
      const { fetched } = await newer.python<{ fetched: number }>(
        `${PRELUDE}
name = "qemu:dirty-bitmap:newer-snapshot"
h = connect(sys.argv[1], name)
size, offset, fetched = h.get_size(), 0, 0
with open(sys.argv[2], "r+b") as backup:
    while offset < size:
        extents.clear()
        h.block_status_64(size - offset, offset, collect)
        for length, flags in extents[name]:
            for part in range(offset, offset + length if flags & 1 else offset, 2**20):
                count = min(2**20, offset + length - part)
                backup.seek(part)
                backup.write(h.pread(count, part))
                fetched += count
            offset += length
print(json.dumps({"fetched": fetched}))`,
        uri,
        newer.inside('backup.raw'),
      );
      expect(fetched).toBeLessThanOrEqual(6 * BLOCK);
      const backup = await readFile(path.join(newer.directory, 'backup.raw'));
      await newer.run('nbdcopy', uri, newer.inside('now.raw'));
      expect(backup.equals(await readFile(path.join(newer.directory, 'now.raw')))).toBe(true);
    });
  });

  whateverTheStore(describe)('over TLS', () => {
    const size = 48 * MiB;
    const directory = credentialsDirectory();
    const secure = useNode(async () => {
      const authority = await Authority.create(directory.path, 'authority');
      const server = await authority.server(path.join(directory.path, 'server'), 1);
      await authority.client(path.join(newer.directory, 'alice'), 'alice');
      const keys = await pskFile(path.join(newer.directory, 'keys.psk'), 'carol');
      return { settings: { nbd: { tls: 'required', tls_directory: server, tls_psk_file: keys } } };
    });
    afterAll(() => directory.dispose());

    it('copies an image in with a certificate, and out with a pre-shared key, over extended headers', async () => {
      const hash = await writeImage(path.join(newer.directory, 'tls.raw'), size, {
        offset: 7,
        length: 30 * MiB,
        seed: 91,
      });
      await secure.node.create('tls-volume', size);
      const at = `127.0.0.1:${secure.node.port}/tls-volume`;
      const withCertificate = `nbds://${at}?tls-certificates=${newer.inside('alice')}`;
      const withKey = `nbds://carol@${at}?tls-psk-file=${newer.inside('keys.psk')}`;
      for (const uri of [withCertificate, withKey]) {
        const { stdout } = await newer.run('nbdinfo', uri);
        expect(stdout).toMatch(/with TLS, using extended packets/);
      }
      await newer.run('nbdcopy', '--connections=4', '--flush', newer.inside('tls.raw'), withCertificate);
      await newer.run('nbdcopy', '--connections=4', withKey, newer.inside('tls-back.raw'));
      await newer.run('cmp', newer.inside('tls.raw'), newer.inside('tls-back.raw'));
      expect(await hashFile(path.join(newer.directory, 'tls-back.raw'))).toBe(hash);

      const object = `tls-creds-x509,id=tls0,dir=${newer.inside('alice')},endpoint=client`;
      const server = `server.type=inet,server.host=127.0.0.1,server.port=${secure.node.port}`;
      const target = `driver=nbd,${server},export=tls-volume,tls-creds=tls0`;
      const into = ['-n', '-W', '-f', 'raw', newer.inside('tls.raw'), '--target-image-opts', target];
      await newer.run('qemu-img', 'convert', '--object', object, ...into);
      await newer.run('nbdcopy', withKey, newer.inside('tls-back.raw'));
      expect(await hashFile(path.join(newer.directory, 'tls-back.raw'))).toBe(hash);
    });
  });
});
