/** Exports by name with meaning: a volume's snapshots by their names and by times, read-only, described, and known as what they are. */
import { afterEach, beforeAll, describe, expect, it } from 'vitest';
import { nbdinfo, qemuIo, sha256, tryQemuIo } from './harness/clients.js';
import { useNode } from './harness/node.js';
import { programs } from './harness/requirements.js';
import { attempt, run } from './harness/run.js';
import { Command, option, request, Wire } from './harness/wire.js';

const MiB = 1 << 20;
const OPT_INFO = 6;
const OPT_GO = 7;
const ENOENT = 0x80000006;

interface Told {
  /** The reply that ended the option, and its text. */
  readonly type: number;
  readonly text: string;
  readonly name?: string;
  readonly description?: string;
}

/** INFO or GO, asking for the canonical name and the description. */
async function ask(wire: Wire, which: number, name: string): Promise<Told> {
  const data = Buffer.alloc(4 + Buffer.byteLength(name) + 2 + 4);
  data.writeUInt32BE(Buffer.byteLength(name), 0);
  data.write(name, 4);
  data.writeUInt16BE(2, data.length - 6);
  data.writeUInt16BE(1, data.length - 4);
  data.writeUInt16BE(2, data.length - 2);
  wire.send(option(which, data));
  const texts: string[] = [];
  for (;;) {
    const head = await wire.take(20);
    const type = head.readUInt32BE(12);
    const body = await wire.take(head.readUInt32BE(16));
    if (type !== 3) return { type, text: body.toString(), name: texts[1], description: texts[2] };
    texts[body.readUInt16BE(0)] = body.toString('utf8', 2);
  }
}

const open: Wire[] = [];

/** A connection in negotiation. */
async function connect(socket: string): Promise<Wire> {
  const wire = await Wire.connect(socket);
  open.push(wire);
  await wire.greet();
  return wire;
}

afterEach(() => {
  for (const wire of open.splice(0)) wire.vanish();
});

describe.runIf(programs('nbdinfo', 'nbdcopy', 'qemu-io'))('an export', () => {
  const rig = useNode();
  const names = ['time-first', 'time-second', 'time-third'];
  const contents: string[] = [];

  beforeAll(async () => {
    const uri = await rig.node.create('time-volume', 16 * MiB);
    for (const [i, name] of names.entries()) {
      await qemuIo(uri, `write -P ${i + 1} 0 ${MiB}`);
      await rig.node.vlmc('snapshot', 'time-volume', name);
      contents.push((await sha256(rig.node.uri(name))).sha256);
    }
    await qemuIo(uri, `write -P 9 0 ${MiB}`);
    await rig.node.create('time-other', 16 * MiB);
    await rig.node.vlmc('snapshot', 'time-other', 'time-of-other');
  });

  const hash = async (name: string): Promise<string> => (await sha256(rig.node.uri(name))).sha256;

  it('of a volume and a snapshot is the snapshot, read-only', async () => {
    for (const [i, name] of names.entries()) {
      expect(await hash(`time-volume@${name}`)).toBe(contents[i]);
      expect(await nbdinfo(rig.node.uri(`time-volume@${name}`))).toMatchObject({
        is_read_only: true,
        'export-size': 16 * MiB,
      });
    }
    expect((await tryQemuIo(rig.node.uri('time-volume@time-first'), 'write 0 512')).code).not.toBe(0);
  });

  it('of a volume and a time is the newest snapshot that is not later, and tells its lasting name', async () => {
    expect(await hash('time-volume@-0s')).toBe(contents[2]);
    const wire = await connect(rig.node.socket);
    const { name, description } = await ask(wire, OPT_INFO, 'time-volume@-0s');
    expect(name).toBe('time-volume@time-third');
    expect(description).toMatch(
      /^snapshot of time-volume taken \d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ, 16777216 bytes in blocks of 4194304$/,
    );
    expect(await hash(name!)).toBe(contents[2]);
    const first = await ask(wire, OPT_INFO, 'time-first');
    const taken = Date.parse(/taken (\S+),/.exec(first.description!)![1]);
    // Seconds are cut off: the next one is not before the snapshot.
    const after = new Date(taken + 1000).toISOString().replace(/\.\d+Z$/, '+00:00');
    const oldest = await ask(wire, OPT_INFO, `time-volume@${after}`);
    expect(oldest.name).toMatch(/^time-volume@time-/);
  });

  it('means the same for INFO and GO, whatever is made between them', async () => {
    const wire = await connect(rig.node.socket);
    expect(await ask(wire, OPT_INFO, 'time-volume@-0s')).toMatchObject({ name: 'time-volume@time-third' });
    await rig.node.vlmc('snapshot', 'time-volume', 'time-fourth');
    expect(await ask(wire, OPT_GO, 'time-volume@-0s')).toMatchObject({ type: 1, name: 'time-volume@time-third' });
    wire.send(request(Command.READ, 0, 1));
    expect(await wire.reply()).toBe(0);
    expect(await wire.take(1)).toEqual(Buffer.from([3]));
    const another = await connect(rig.node.socket);
    expect(await ask(another, OPT_INFO, 'time-volume@-0s')).toMatchObject({ name: 'time-volume@time-fourth' });
    await rig.node.vlmc('remove', 'time-fourth');
  });

  it.each([
    ['time-volume@2001-01-01', 'the oldest is time-first of 20'],
    ['time-volume@time-of-other', 'volume time-volume has no snapshot time-of-other'],
    ['time-volume@no-such', 'volume time-volume has no snapshot no-such'],
    ['no-such-volume@-1h', 'no-such-volume@-1h'],
  ])('%s is refused in words', async (name, words) => {
    const told = await ask(await connect(rig.node.socket), OPT_GO, name);
    expect(told).toMatchObject({ type: ENOENT, text: expect.stringContaining(words) });
  });

  it('counts as a use of the snapshot that it is, whatever its client called it', async () => {
    const wire = await connect(rig.node.socket);
    expect(await ask(wire, OPT_GO, 'time-volume@-0s')).toMatchObject({ type: 1 });
    const removed = await rig.node.tryVlmc(['remove', 'time-third']);
    expect(removed.stderr).toContain('Volume time-third in use by unix');
    const { connections } = await rig.node.vlmcJson<{ connections: object[] }>('showmapped');
    expect(connections).toMatchObject([{ name: 'time-third', exportName: 'time-volume@-0s' }]);
    wire.send(request(Command.READ, 0, 1));
    expect(await wire.reply()).toBe(0);
  });

  it('by a context tells how deep its data lies and which objects hold it', async () => {
    const map = async (name: string, context: string) => {
      const { stdout } = await run('nbdinfo', ['--json', `--map=${context}`, rig.node.uri(name)]);
      return JSON.parse(stdout) as { length: number; type: number }[];
    };
    const depths = async (name: string) =>
      (await map(name, 'qemu:allocation-depth')).map(({ length, type }) => [length, type]);
    const zeros = [12 * MiB, 0];
    await qemuIo(rig.node.uri('time-volume'), `write -P 10 0 ${MiB}`);
    expect(await depths('time-volume')).toEqual([[4 * MiB, 1], zeros]);
    expect(await depths('time-third')).toEqual([[4 * MiB, 2], zeros]);
    const objects = new Set<number>();
    for (const name of ['time-volume', ...names]) objects.add((await map(name, 'archipelago:object'))[0].type);
    expect(objects.size).toBe(4);
  });
});

describe.runIf(programs('nbdinfo'))('where only mapped volumes are exports', () => {
  const rig = useNode({ settings: { nbd: { exports: 'mapped' } } });

  beforeAll(async () => {
    await rig.node.create('shown-volume', 16 * MiB);
    await rig.node.vlmc('snapshot', 'shown-volume', 'shown-snapshot');
    await rig.node.vlmc('map', 'shown-volume');
  });

  it('a mapped volume brings its snapshots with it', async () => {
    for (const name of ['shown-volume@shown-snapshot', 'shown-volume@-0s']) {
      expect(await nbdinfo(rig.node.uri(name))).toMatchObject({ is_read_only: true });
    }
    expect((await attempt('nbdinfo', [rig.node.uri('shown-snapshot')])).code).toBe(1);
  });

  it('unmapping ends them, and is refused while one is in use', async () => {
    const wire = await connect(rig.node.socket);
    expect(await ask(wire, OPT_GO, 'shown-volume@-0s')).toMatchObject({ type: 1 });
    const refused = await rig.node.tryVlmc(['unmap', 'shown-volume']);
    expect(refused.stderr).toContain('in use by 1 connection');
    await rig.node.vlmc('unmap', '-f', 'shown-volume');
    await wire.ended();
    expect((await attempt('nbdinfo', [rig.node.uri('shown-volume@shown-snapshot')])).code).toBe(1);
  });
});

describe('a client that may resize', () => {
  const rig = useNode({ settings: { nbd: { allow_resize: 'True' } } });
  const RESIZE = 8;

  it('makes the volume larger for all, and never smaller', async () => {
    await rig.node.create('grow-volume', 16 * MiB);
    const wire = await connect(rig.node.socket);
    const other = await connect(rig.node.socket);
    for (const each of [wire, other]) expect(await ask(each, OPT_GO, 'grow-volume')).toMatchObject({ type: 1 });
    wire.send(request(RESIZE, 32 * MiB, 0));
    expect(await wire.reply()).toBe(0);
    other.send(Buffer.concat([request(Command.WRITE, 32 * MiB - 5, 5), Buffer.from('hello')]));
    expect(await other.reply()).toBe(0);
    wire.send(request(RESIZE, 16 * MiB, 0));
    expect(await wire.reply()).toBe(22);
    expect(await rig.node.vlmc('info', 'grow-volume', '--no-allocated')).toContain(`size: ${32 * MiB}`);
  });
});
