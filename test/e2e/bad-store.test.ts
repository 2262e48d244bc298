/**
 * Stores in bad shape: damaged maps, objects that should not be, locks of others. The volume concerned fails with an error, its files are
 * left as they are for whoever repairs them, and every other volume goes on.
 */
import {
  appendFileSync,
  existsSync,
  mkdirSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { afterEach, beforeAll, describe, expect, it } from 'vitest';
import { qemuIo, qemuRead, sha256, tryQemuIo } from './harness/clients.js';
import { fingerprintTree } from './harness/golden.js';
import { Model } from './harness/model.js';
import { TestNode, useNode } from './harness/node.js';
import { programs } from './harness/requirements.js';
import { describeOutcome } from './harness/run.js';
import {
  dataObjectName,
  entry,
  header,
  isLocked,
  lockAs,
  mapDataName,
  objectPath,
  putObject,
} from './harness/store.js';
import { Command, request, Wire } from './harness/wire.js';

const MiB = 1 << 20;
const BLOCK = 4 * MiB;
const ZERO = 'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855';

describe.runIf(programs('qemu-io'))('a damaged map', () => {
  const rig = useNode();
  let count = 0;

  beforeAll(async () => {
    await rig.node.create('healthy-volume', 8 * MiB);
    await qemuIo(rig.node.uri('healthy-volume'), 'write -P 77 0 8M');
  });

  // Whatever the damage, the rest goes on.
  afterEach(async () => {
    await qemuIo(rig.node.uri('healthy-volume'), 'read -P 77 0 8M', 'write -P 77 1M 4k');
  });

  /** A closed volume of four blocks with data in the first and the third. */
  async function volume(): Promise<string> {
    count += 1;
    const name = `damaged-${count}`;
    await rig.node.create(name, 4 * BLOCK);
    await qemuIo(rig.node.uri(name), 'write -P 1 0 4M', 'write -P 2 8M 4M', 'flush');
    await rig.node.vlmc('close', name);
    return name;
  }

  /** The volume can be neither read nor written, and nothing in the store is changed by trying. */
  async function unusable(name: string): Promise<void> {
    const before = [...fingerprintTree(rig.node.maps)].filter(
      ([file]) => file.includes(name) && !file.endsWith('_lock'),
    );
    for (const command of ['read 0 4k', 'write -P 9 0 4k']) {
      const outcome = await tryQemuIo(rig.node.uri(name), command);
      expect(outcome.code, describeOutcome(outcome)).not.toBe(0);
    }
    const snapshot = await rig.node.tryVlmc(['snapshot', name, `${name}-snapshot`]);
    expect(snapshot.code, describeOutcome(snapshot)).toBe(255);
    expect(snapshot.stderr).toMatch(name);
    const after = [...fingerprintTree(rig.node.maps)].filter(
      ([file]) => file.includes(name) && !file.endsWith('_lock'),
    );
    expect(after).toEqual(before);
  }

  it.each([
    ['garbage', Buffer.from('this is no map at all, whatever its name says.')],
    ['empty', Buffer.alloc(0)],
    ['cut in the header', header({ size: BigInt(4 * BLOCK), blockSize: BLOCK }).subarray(0, 18)],
    ['of an unknown version', Buffer.concat([Buffer.from('AMF.'), Buffer.from([0, 0, 0, 9]), Buffer.alloc(24)])],
    ['with block size 0', header({ size: BigInt(4 * BLOCK), blockSize: 0 })],
    ['with a block size that is no power of two', header({ size: BigInt(4 * BLOCK), blockSize: 3_000_000 })],
    ['with an impossible size', header({ size: 0xffff_ffff_ffff_ffffn, blockSize: BLOCK })],
  ])('whose header is %s makes the volume unusable, no more', async (_, content) => {
    const name = await volume();
    putObject(rig.node.maps, name, content);
    await unusable(name);
  });

  it('whose header cannot be read makes the volume unusable, no more', async () => {
    const name = await volume();
    const file = objectPath(rig.node.maps, name);
    rmSync(file);
    // A directory in its place fails for root too, whom file modes do not stop.
    mkdirSync(file);
    const outcome = await tryQemuIo(rig.node.uri(name), 'read 0 4k');
    expect(outcome.code, describeOutcome(outcome)).not.toBe(0);
    expect((await rig.node.tryVlmc(['info', name])).code).toBe(255);
  });

  it('whose entries are missing makes the volume unusable, no more', async () => {
    const name = await volume();
    rmSync(objectPath(rig.node.maps, mapDataName(name)));
    await unusable(name);
  });

  it('whose entries are cut short yields no byte of the blocks that lost theirs, and no snapshot', async () => {
    const name = await volume();
    const file = objectPath(rig.node.maps, mapDataName(name));
    // Two entries, and a piece of the third.
    truncateSync(file, 2 * 128 + 40);
    const cut = readFileSync(file);
    for (const command of ['read 8M 4k', 'read 12M 4k', 'write -P 9 8M 4k', 'write -P 9 12M 4k']) {
      const outcome = await tryQemuIo(rig.node.uri(name), command);
      expect(outcome.code, describeOutcome(outcome)).not.toBe(0);
    }
    expect((await rig.node.tryVlmc(['snapshot', name, `${name}-snapshot`])).code).toBe(255);
    expect((await rig.node.tryVlmc(['check', name])).code).toBe(255);
    expect(readFileSync(file).equals(cut)).toBe(true);
  });

  it('whose entries are garbage makes the volume unusable, no more', async () => {
    const name = await volume();
    writeFileSync(objectPath(rig.node.maps, mapDataName(name)), Buffer.alloc(4 * 128, 0xa5));
    await unusable(name);
  });

  it('with an entry whose name is longer than an entry makes the volume unusable, no more', async () => {
    const name = await volume();
    const bad = entry({ flags: 3, name: dataObjectName(name, 1, 0), length: 0xffff });
    const rest = [1, 2, 3].map(() => entry({ flags: 4, name: ZERO }));
    writeFileSync(objectPath(rig.node.maps, mapDataName(name)), Buffer.concat([bad, ...rest]));
    await unusable(name);
  });
});

describe.runIf(programs('qemu-io', 'nbdcopy'))('an object', () => {
  const rig = useNode();

  it('that is longer than the block shows none of its excess, in the volume, its snapshot and a clone', async () => {
    const { node } = rig;
    const uri = await node.create('long-object', 2 * BLOCK);
    const model = new Model(2 * BLOCK).write(0, 4096, 5);
    await model.apply(uri);
    await node.vlmc('close', 'long-object');
    const file = objectPath(node.blocks, dataObjectName('long-object', 1, 0));
    truncateSync(file, BLOCK);
    appendFileSync(file, Buffer.alloc(100_000, 0xee));

    expect((await sha256(uri)).sha256).toBe(model.sha256);
    await node.vlmc('snapshot', 'long-object', 'long-snapshot');
    expect((await sha256(node.uri('long-snapshot'))).sha256).toBe(model.sha256);
    await node.vlmc('create', 'long-clone', '--snap', 'long-snapshot', '--size', '12M');
    const clone = model.copy(3 * BLOCK).write(BLOCK - 1, 2, 6);
    await clone.apply(node.uri('long-clone'));
    expect((await sha256(node.uri('long-clone'))).sha256).toBe(clone.sha256);
    expect(statSync(objectPath(node.blocks, dataObjectName('long-clone', 1, 0))).size).toBeLessThanOrEqual(BLOCK);
    const check = await node.tryVlmc(['check', 'long-snapshot']);
    expect(check.code, describeOutcome(check)).toBe(255);
    expect(check.stdout + check.stderr).toMatch(/long-object_0000000000000001_0000000000000000/);
  });

  it('that is missing below a snapshot is an error, never zeros, also for a clone that writes there', async () => {
    const { node } = rig;
    const uri = await node.create('lost-object', 2 * BLOCK);
    await qemuIo(uri, 'write -P 8 0 8M', 'flush');
    await node.vlmc('snapshot', 'lost-object', 'lost-snapshot');
    await node.vlmc('create', 'lost-clone', '--snap', 'lost-snapshot');
    for (const name of ['lost-object', 'lost-snapshot', 'lost-clone']) await node.tryVlmc(['close', name]);
    rmSync(objectPath(node.blocks, dataObjectName('lost-object', 1, 0)));

    await expect(qemuRead(node.uri('lost-snapshot'), 'read 0 4k')).rejects.toThrow();
    await qemuRead(node.uri('lost-snapshot'), 'read -P 8 4M 4M');
    for (const command of ['read 0 4k', 'write -P 9 0 4k']) {
      const outcome = await tryQemuIo(node.uri('lost-clone'), command);
      expect(outcome.code, describeOutcome(outcome)).not.toBe(0);
    }
    await qemuIo(node.uri('lost-clone'), 'write -P 9 4M 4k', 'read -P 9 4M 4k');
    const check = await node.tryVlmc(['check', 'lost-snapshot']);
    expect(check.code).toBe(255);
    expect(check.stdout + check.stderr).toMatch(/lost-object_0000000000000001_0000000000000000/);
  });

  it('that is missing below an own writable entry reads as zeros and can be written', async () => {
    const { node } = rig;
    const uri = await node.create('fresh-object', 2 * BLOCK);
    await qemuIo(uri, 'write -P 8 0 4k', 'flush');
    await node.vlmc('close', 'fresh-object');
    const file = objectPath(node.blocks, dataObjectName('fresh-object', 1, 0));
    rmSync(file);
    await qemuIo(uri, 'read -P 0 0 4M', 'write -P 9 8k 4k', 'read -P 9 8k 4k', 'read -P 0 0 8k');
    expect(existsSync(file)).toBe(true);
  });
});

describe.runIf(programs('qemu-io', 'nbdcopy'))('a lock held by another host', () => {
  const rig = useNode({ hostname: 'thishost', settings: { mapperd: { lock_wait: 1 } } });

  async function lockedVolume(name: string): Promise<string> {
    const uri = await rig.node.create(name, 8 * MiB);
    await qemuIo(uri, 'write -P 3 0 4M', 'flush');
    await rig.node.vlmc('close', name);
    lockAs(rig.node.maps, name, 'otherhost_1002');
    return uri;
  }

  it('leaves the volume readable', async () => {
    const uri = await lockedVolume('locked-read');
    expect((await sha256(uri)).sha256).toBe(new Model(8 * MiB).write(0, 4 * MiB, 3).sha256);
  });

  it('makes writes fail once lock_wait is over, and lets them through once it is released', async () => {
    const uri = await lockedVolume('locked-write');
    const outcome = await tryQemuIo(uri, 'write -P 4 0 4k');
    expect(outcome.code, describeOutcome(outcome)).not.toBe(0);
    rmSync(objectPath(rig.node.maps, 'locked-write_lock'));
    await qemuIo(uri, 'read -P 3 0 4M', 'write -P 4 0 4k', 'read -P 4 0 4k');
  });

  it.each([
    ['snapshot', ['snapshot', 'locked-change', 'locked-snapshot']],
    ['remove', ['remove', 'locked-change']],
    ['rename', ['rename', 'locked-change', 'locked-renamed']],
    ['resize', ['resize', 'locked-change', '--size', '16M']],
  ])('makes %s fail at once, naming the holder', async (_, args) => {
    if (!isLocked(rig.node.maps, 'locked-change')) await lockedVolume('locked-change');
    const outcome = await rig.node.tryVlmc(args);
    expect(outcome.code, describeOutcome(outcome)).toBe(255);
    expect(outcome.stderr).toMatch(/otherhost_1002/);
  });

  it('is shown with its holder, is not released by unlock, and is by unlock -f', async () => {
    await lockedVolume('locked-show');
    expect(await rig.node.vlmc('lock', '--show', 'locked-show')).toMatch(/otherhost_1002/);
    const refused = await rig.node.tryVlmc(['unlock', 'locked-show']);
    expect(refused.code, describeOutcome(refused)).toBe(255);
    expect(refused.stderr).toMatch(/otherhost_1002/);
    expect(isLocked(rig.node.maps, 'locked-show')).toBe(true);
    await rig.node.vlmc('unlock', '-f', 'locked-show');
    expect(isLocked(rig.node.maps, 'locked-show')).toBe(false);
  });

  it('is not mistaken for an own lock when its owner begins with this owner', async () => {
    await rig.node.create('locked-prefix', 8 * MiB);
    await rig.node.vlmc('close', 'locked-prefix');
    lockAs(rig.node.maps, 'locked-prefix', 'thishost_10021');
    const outcome = await rig.node.tryVlmc(['snapshot', 'locked-prefix', 'prefix-snapshot']);
    expect(outcome.code, describeOutcome(outcome)).toBe(255);
    expect(outcome.stderr).toMatch(/thishost_10021/);
  });
});

describe.runIf(programs('qemu-io', 'nbdcopy'))('two nodes on one store', () => {
  const first = useNode({ hostname: 'first', settings: { mapperd: { lock_wait: 1 } } });
  const second = useNode(() => ({
    hostname: 'second',
    maps: first.node.maps,
    blocks: first.node.blocks,
    settings: { mapperd: { lock_wait: 1 } },
  }));

  it('share reading, exclude each other in writing, and hand over by close', async () => {
    await first.node.create('shared-volume', 8 * MiB);
    // A client that stays keeps the volume open on its node, and so locked.
    const holder = await Wire.open(first.node.socket, 'shared-volume');
    await qemuIo(first.node.uri('shared-volume'), 'write -P 1 0 8M', 'flush');
    const lock = objectPath(first.node.maps, 'shared-volume_lock');
    expect(readFileSync(lock, 'latin1').replace(/\0+$/, '')).toBe('first_1002');
    await qemuIo(second.node.uri('shared-volume'), 'read -P 1 0 8M');
    expect((await tryQemuIo(second.node.uri('shared-volume'), 'write -P 2 0 4k')).code).not.toBe(0);

    // What the holder writes is what the other reads next: it caches nothing of a volume it has not locked.
    await qemuIo(first.node.uri('shared-volume'), 'write -P 3 4M 4k', 'flush');
    await qemuIo(second.node.uri('shared-volume'), 'read -P 3 4M 4k', 'read -P 1 0 4M');

    await first.node.vlmc('close', 'shared-volume');
    const newcomer = await Wire.open(second.node.socket, 'shared-volume');
    await qemuIo(second.node.uri('shared-volume'), 'write -P 4 0 4k', 'flush');
    expect(readFileSync(lock, 'latin1').replace(/\0+$/, '')).toBe('second_1002');
    // The first one's client is still there, and sees what the new holder wrote.
    holder.send(request(Command.READ, 0, 4096));
    expect(await holder.reply()).toBe(0);
    expect((await holder.take(4096)).every((byte) => byte === 4)).toBe(true);
    await qemuIo(first.node.uri('shared-volume'), 'read -P 4 0 4k', 'read -P 3 4M 4k');
    holder.vanish();
    newcomer.vanish();
  });

  it('see volumes that the other makes', async () => {
    await second.node.create('second-volume', 8 * MiB);
    expect(await first.node.vlmc('list')).toMatch(/^second-volume$/m);
    await qemuIo(first.node.uri('second-volume'), 'write -P 1 0 4k');
  });
});

describe('a store directory that is not there', () => {
  it('keeps the node from starting, with a message that names it', async () => {
    const node = await TestNode.prepare();
    rmSync(node.maps, { recursive: true });
    const outcome = await node.tryArchipelago('start');
    expect(outcome.code, describeOutcome(outcome)).toBe(255);
    expect(outcome.stderr + outcome.stdout).toMatch(node.maps);
    await node.dispose();
  });
});
