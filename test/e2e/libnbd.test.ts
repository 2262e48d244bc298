/**
 * libnbd driven from Python, where it does what its programs do not: options one by one, requests that it would itself refuse, chunks of
 * a read as they come, many requests in flight, several connections.
 */
import path from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { python, sha256 } from './harness/clients.js';
import { writeImage } from './harness/image.js';
import { useNode } from './harness/node.js';
import { programs } from './harness/requirements.js';
import { run } from './harness/run.js';
import { whateverTheStore } from './harness/stores.js';

const MiB = 1 << 20;
const BLOCK = 4 * MiB;
const SIZE = 64 * MiB;

/** What scripts begin with: `connect` makes a handle; `outcome` tells how a call ended. */
const PRELUDE = `
import nbd, sys, json
uri, image = sys.argv[1], sys.argv[2]
def connect(*contexts, uri=uri):
    h = nbd.NBD()
    for context in contexts: h.add_meta_context(context)
    h.connect_uri(uri)
    return h
def outcome(call):
    try:
        return call()
    except nbd.Error as e:
        return e.errno
`;

describe.runIf(programs('nbdsh', 'nbdcopy', 'qemu-io'))('libnbd', () => {
  const rig = useNode();
  let image: string;
  let imageHash: string;
  let uri: string;

  beforeAll(async () => {
    image = path.join(rig.node.dir, 'image.raw');
    imageHash = await writeImage(
      image,
      SIZE,
      { offset: 0, length: BLOCK, seed: 71 },
      { offset: 3 * BLOCK + 512, length: 5 * BLOCK, seed: 72 },
    );
    uri = await rig.node.create('libnbd-volume', SIZE);
    await run('nbdcopy', ['--flush', image, uri]);
    await rig.node.vlmc('snapshot', 'libnbd-volume', 'libnbd-snapshot');
  });

  async function script<T>(text: string, target = uri): Promise<T> {
    return JSON.parse(await python(PRELUDE + text, target, image)) as T;
  }

  whateverTheStore(it)('negotiates option by option: list, info, contexts, and then goes', async () => {
    const seen = await script<Record<string, unknown>>(`
h = nbd.NBD()
h.set_opt_mode(True)
h.add_meta_context("base:allocation")
h.connect_uri(uri)
names, contexts, wild = [], [], []
h.opt_list(lambda name, description: names.append(name))
h.set_export_name("libnbd-snapshot")
h.opt_info()
snapshot = [h.get_size(), h.is_read_only()]
h.set_export_name("no-such-export")
missing = outcome(h.opt_info)
h.set_export_name("libnbd-volume")
h.clear_meta_contexts()
h.opt_list_meta_context(lambda name: contexts.append(name))
h.add_meta_context("qemu:")
h.opt_list_meta_context(lambda name: wild.append(name))
h.clear_meta_contexts()
h.add_meta_context("base:allocation")
h.add_meta_context("x-unknown:context")
h.opt_go()
print(json.dumps({
  "names": sorted(names), "snapshot": snapshot, "missing": missing, "contexts": sorted(contexts), "wild": sorted(wild),
  "chosen": [h.can_meta_context("base:allocation"), h.can_meta_context("x-unknown:context")],
  "size": h.get_size(), "read": len(h.pread(512, 0)),
}))`);
    expect(seen).toEqual({
      names: ['libnbd-snapshot', 'libnbd-volume'],
      snapshot: [SIZE, true],
      missing: 'ENOENT',
      contexts: [
        'archipelago:diff:libnbd-snapshot',
        'archipelago:object',
        'base:allocation',
        'qemu:allocation-depth',
        'qemu:dirty-bitmap:libnbd-snapshot',
      ],
      wild: ['qemu:allocation-depth', 'qemu:dirty-bitmap:libnbd-snapshot'],
      chosen: [true, false],
      size: SIZE,
      read: 512,
    });
  });

  whateverTheStore(it)('gets invalid requests answered with the right error, and goes on', async () => {
    const errors = await script<unknown[]>(`
h = connect("base:allocation")
h.set_strict_mode(0)
size = h.get_size()
first = open(image, "rb").read(4096)
results = []
for call in (
    lambda: h.pread(512, size), lambda: h.pread(2, size - 1), lambda: h.pread(1, 2**62),
    lambda: h.pwrite(b"x", size), lambda: h.pwrite(b"xy", size - 1), lambda: h.zero(512, size), lambda: h.trim(512, size),
    lambda: h.cache(512, size), lambda: h.block_status(512, size, lambda *a: 0),
    lambda: h.pread(512, 0, 1 << 9), lambda: h.flush(1 << 7), lambda: h.trim(512, 0, nbd.CMD_FLAG_DF),
    lambda: h.pwrite(b"x", 0, nbd.CMD_FLAG_NO_HOLE),
):
    results.append(outcome(call))
    assert h.pread(4096, 0) == first
print(json.dumps(results))`);
    const { length } = errors;
    expect(errors).toEqual([
      ...['EINVAL', 'EINVAL', 'EINVAL'],
      ...['ENOSPC', 'ENOSPC', 'ENOSPC', 'EINVAL'],
      ...['EINVAL', 'EINVAL'],
      ...Array.from({ length: length - 9 }, () => 'EINVAL'),
    ]);
  });

  whateverTheStore(it)('is told in words why a request is refused', async () => {
    const words = await script<string[]>(`
h = connect()
h.set_strict_mode(0)
words = []
h.set_debug(True)
h.set_debug_callback(lambda context, message: words.append(message) and 0 or 0)
outcome(lambda: h.pread(512, h.get_size()))
outcome(lambda: h.pread(512, 0, 1 << 9))
print(json.dumps([w for w in words if "server" in w.lower() or "error" in w.lower()]))`);
    expect(words.join('\n')).toMatch(/past the end/);
    expect(words.join('\n')).toMatch(/flag/);
  });

  whateverTheStore(it)('refuses every write to a snapshot with EPERM', async () => {
    const target = rig.node.uri('libnbd-snapshot');
    const errors = await script<string[]>(
      `
h = connect()
h.set_strict_mode(0)
print(json.dumps([outcome(lambda: h.pwrite(b"x", 0)), outcome(lambda: h.trim(4096, 0)), outcome(lambda: h.zero(4096, 0)), h.is_read_only()]))`,
      target,
    );
    expect(errors).toEqual(['EPERM', 'EPERM', 'EPERM', true]);
    expect((await sha256(target)).sha256).toBe(imageHash);
  });

  whateverTheStore(it)('gets data and holes as chunks, and one chunk under DF', async () => {
    const seen = await script<{ data: number; hole: number; df: number[] }>(`
h = connect()
totals = {nbd.READ_DATA: 0, nbd.READ_HOLE: 0}
def chunk(data, offset, status, error): totals[status] += len(data)
content = h.pread_structured(${6 * BLOCK}, 0, chunk)
assert content == open(image, "rb").read(${6 * BLOCK})
df = []
for offset in (0, ${3 * BLOCK} - 32768, ${2 * BLOCK}):
    count = []
    assert len(h.pread_structured(65536, offset, lambda data, o, s, e: count.append(s) and 0 or 0, nbd.CMD_FLAG_DF)) == 65536
    df.append(len(count))
print(json.dumps({"data": totals[nbd.READ_DATA], "hole": totals[nbd.READ_HOLE], "df": df}))`);
    expect(seen).toEqual({ data: 4 * BLOCK, hole: 2 * BLOCK, df: [1, 1, 1] });
  });

  whateverTheStore(it)('tells the same extents in one answer and one by one', async () => {
    const seen = await script<{ all: number[][]; one: number[][] }>(`
h = connect("base:allocation")
def status(offset, flags):
    got = []
    h.block_status(h.get_size() - offset, offset, lambda c, o, entries, e: got.extend(entries) and 0 or 0, flags)
    return [got[i:i + 2] for i in range(0, len(got), 2)]
offset, one = 0, []
while offset < h.get_size():
    extents = status(offset, nbd.CMD_FLAG_REQ_ONE)
    assert len(extents) == 1
    if one and one[-1][1] == extents[0][1]: one[-1][0] += extents[0][0]
    else: one += extents
    offset += extents[0][0]
print(json.dumps({"all": status(0, 0), "one": one}))`);
    expect(seen.one).toEqual(seen.all);
    expect(seen.all).toEqual([
      [BLOCK, 0],
      [2 * BLOCK, 3],
      [6 * BLOCK, 0],
      [7 * BLOCK, 3],
    ]);
  });

  it('keeps 64 requests in flight, reads and writes mixed, and each gets its own answer', async () => {
    const target = await rig.node.create('flight-volume', SIZE);
    const result = await script<{ done: number; most: number }>(
      `
import random
h = connect()
step, total, chance = 32 * 1024, ${SIZE}, random.Random(5)
done = most = 0
wrong = []
def content(offset, round): return ((offset // step) * 4 + round).to_bytes(8, "big") * (step // 8)
def finish(error):
    global done
    if error.value: wrong.append(error.value)
    done += 1
    return 1
def drain(limit):
    global most
    most = max(most, h.aio_in_flight())
    while h.aio_in_flight() > limit: h.poll(-1)
reads = []
for round in range(2):
    order = list(range(0, total, step))
    chance.shuffle(order)
    for i, offset in enumerate(order):
        h.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(content(offset, round))), offset, completion=finish)
        # One that was written in the round before, and is not among those in flight now.
        if round == 1 and i + 200 < len(order):
            buffer = nbd.Buffer(step)
            reads.append((buffer, content(order[i + 200], 0)))
            h.aio_pread(buffer, order[i + 200], completion=finish)
        drain(63)
    drain(0)
assert not wrong and all(bytes(buffer.to_bytearray()) == expected for buffer, expected in reads)
for offset in order: assert h.pread(step, offset) == content(offset, 1)
print(json.dumps({"done": done, "most": most}))`,
      target,
    );
    expect(result.done).toBeGreaterThan((2 * SIZE) / 32768);
    expect(result.most).toBeGreaterThanOrEqual(32);
  });

  it('shows on every connection what was written on another and answered', async () => {
    const target = await rig.node.create('shared-volume', SIZE);
    await script(
      `
handles = [connect() for _ in range(4)]
assert all(h.can_multi_conn() for h in handles)
for i in range(200):
    writer, flusher = handles[i % 4], handles[(i + 1) % 4]
    offset, data = (i * 65537) % ${SIZE - 4096}, bytes([i % 255 + 1]) * 4096
    writer.pwrite(data, offset)
    flusher.flush()
    for reader in handles: assert reader.pread(4096, offset) == data
    if i % 5 == 0:
        flusher.zero(4096, offset, nbd.CMD_FLAG_FUA)
        for reader in handles: assert reader.pread(4096, offset) == bytes(4096)
print("null")`,
      target,
    );
  });

  it('zeroes, trims and caches as the flags say', async () => {
    const target = await rig.node.create('zero-volume', SIZE);
    const seen = await script<{ kept: number; hole: number }>(
      `
h = connect("base:allocation")
h.pwrite(b"\\x11" * ${2 * MiB} * 8, 0)
def flags_at(offset):
    got = []
    h.block_status(${BLOCK}, offset, lambda c, o, entries, e: got.extend(entries) and 0 or 0, nbd.CMD_FLAG_REQ_ONE)
    return got[1]
h.zero(${BLOCK}, 0, nbd.CMD_FLAG_NO_HOLE)
h.zero(${BLOCK}, ${BLOCK}, nbd.CMD_FLAG_FAST_ZERO)
h.trim(${BLOCK}, ${2 * BLOCK}, nbd.CMD_FLAG_FUA)
h.cache(${BLOCK}, ${3 * BLOCK})
for block in range(3): assert h.pread(${BLOCK}, block * ${BLOCK}) == bytes(${BLOCK})
assert h.pread(${BLOCK}, ${3 * BLOCK}) == b"\\x11" * ${BLOCK}
print(json.dumps({"kept": flags_at(0) & 1, "hole": flags_at(${2 * BLOCK}) & 1}))`,
      target,
    );
    expect(seen).toEqual({ kept: 0, hole: 1 });
  });

  whateverTheStore(it)('connects again after its connection was cut, and finds what was answered before', async () => {
    const target = await rig.node.create('again-volume', SIZE);
    await script(`h = connect(uri=uri)\nh.pwrite(b"\\x42" * 4096, 8192)\nh.flush()\nprint("null")`, target);
    await rig.node.archipelago('restart', '-f');
    await script(`h = connect()\nassert h.pread(4096, 8192) == b"\\x42" * 4096\nprint("null")`, target);
  });
});
