/**
 * Requests that must be refused by the tools: each with exit status 255, a reason on standard error that names the thing, nothing on
 * standard output, nothing changed in the store, and no volume left open or locked.
 */
import { beforeAll, describe, expect, it } from 'vitest';
import { nbdlist, qemuIo } from './harness/clients.js';
import { useNode } from './harness/node.js';
import { programs } from './harness/requirements.js';
import { describeOutcome } from './harness/run.js';
import { whateverTheStore } from './harness/stores.js';
import { differences, fingerprint, type Tree } from './harness/tree.js';

describe.runIf(programs('qemu-io', 'nbdinfo'))('vlmc refuses', () => {
  const rig = useNode();

  beforeAll(async () => {
    const { node } = rig;
    await node.create('present-volume', '16M');
    await qemuIo(node.uri('present-volume'), 'write -P 1 0 8M');
    await node.vlmc('snapshot', 'present-volume', 'present-snapshot');
    await node.create('other-volume', '8M');
    await node.vlmc('snapshot', 'other-volume', 'other-snapshot');
    for (const name of ['present-volume', 'other-volume', 'present-snapshot']) await node.vlmc('close', name);
  });

  /** All but directories, and the lock objects of RADOS, which outlive their locks. */
  async function look(): Promise<Tree> {
    const { maps, blocks } = rig.node.stores;
    const tree = await fingerprint([maps, blocks]);
    const counts = ([name, { what }]: [string, { readonly what: string }]): boolean =>
      !what.startsWith('- ') && !(maps.onRados && name.endsWith('_lock'));
    return { ...tree, entries: new Map([...tree.entries].filter(counts)) };
  }
  let before: Tree;
  beforeAll(async () => {
    before = await look();
  });

  /** Runs a command that must be refused with `reason`; nothing may have changed. */
  async function refused(args: string[], reason: RegExp): Promise<void> {
    const outcome = await rig.node.tryVlmc(args);
    const said = describeOutcome(outcome);
    expect(outcome.code, said).toBe(255);
    expect(outcome.stdout, said).toBe('');
    expect(outcome.stderr, said).toMatch(reason);
    const earlier = before;
    before = await look();
    expect(differences(earlier, before)).toEqual([]);
  }

  it.each([
    ['info', ['info', 'no-such-volume']],
    ['snapshot', ['snapshot', 'no-such-volume', 'its-snapshot']],
    ['remove', ['remove', 'no-such-volume']],
    ['rename', ['rename', 'no-such-volume', 'other-name']],
    ['resize', ['resize', 'no-such-volume', '--size', '1G']],
    ['map', ['map', 'no-such-volume']],
    ['open', ['open', 'no-such-volume']],
    ['mapinfo', ['mapinfo', 'no-such-volume']],
    ['check', ['check', 'no-such-volume']],
    ['clone', ['create', 'some-clone', '--snap', 'no-such-volume']],
  ])('a missing volume: %s', async (_, args) => {
    await refused(args, /no-such-volume/);
  });

  whateverTheStore(it)('a name that is too short', () => refused(['create', 'abcde', '--size', '1G'], /at least.*6/));

  whateverTheStore(it)('a name that is too long', () =>
    refused(['create', 'n'.repeat(83), '--size', '1G'], /82|too long/i),
  );

  whateverTheStore(it.each(['archip_volume', 'volume_lock', 'vol_0123456789abcdef', 'vol_0123456789abcdef_more']))(
    'the reserved name %s',
    (name) => refused(['create', name, '--size', '1G'], /Invalid volume name/),
  );

  whateverTheStore(it.each(['archip_volume', 'snap_lock', 'snap1']))('the snapshot name %s', (name) =>
    refused(['snapshot', 'present-volume', name], /Invalid snapshot name|at least.*6/),
  );

  whateverTheStore(it)('the new name of a rename that is reserved', () =>
    refused(['rename', 'other-volume', 'other_lock'], /Invalid new name|Invalid volume name/),
  );

  it('a volume that exists already', () =>
    refused(['create', 'present-volume', '--size', '1G'], /present-volume.*exists/));

  it('a snapshot name that a snapshot has', () =>
    refused(['snapshot', 'present-volume', 'present-snapshot'], /present-snapshot.*exists/));

  it('a snapshot of a snapshot under a name in use', () =>
    refused(['snapshot', 'present-snapshot', 'other-snapshot'], /other-snapshot.*exists/));

  it('a snapshot name that a volume has', () =>
    refused(['snapshot', 'present-volume', 'other-volume'], /other-volume.*exists/));

  it('a rename onto a volume that exists', () =>
    refused(['rename', 'other-volume', 'present-volume'], /present-volume.*exists/));

  it('a clone that is smaller than its parent', () =>
    refused(['create', 'small-clone', '--snap', 'present-snapshot', '--size', '8M'], /smaller|present-snapshot/));

  it('a clone of a volume that is no snapshot', () =>
    refused(['create', 'wrong-clone', '--snap', 'present-volume'], /present-volume.*(snapshot|read-only)/i));

  whateverTheStore(it)('size 0', () => refused(['create', 'empty-volume', '--size', '0'], /size/i));

  whateverTheStore(it)('a size that is no multiple of 512', () =>
    refused(['create', 'odd-volume', '--size', '1000B'], /512/),
  );

  whateverTheStore(it)('a size that is no number', async () => {
    const outcome = await rig.node.tryVlmc(['create', 'word-volume', '--size', 'big']);
    expect([2, 255], describeOutcome(outcome)).toContain(outcome.code);
    expect(outcome.stderr).toMatch(/big/);
  });

  whateverTheStore(it)('neither size nor parent', () =>
    refused(['create', 'plain-volume'], /At least one of the size\/snap args/),
  );

  it('to shrink without --force', () => refused(['resize', 'present-volume', '--size', '8M'], /--force|shrink/));

  it('to resize a snapshot', () =>
    refused(['resize', 'present-snapshot', '--size', '32M', '--force'], /read-only|snapshot/i));

  it('to remove a mapped volume', async () => {
    const uri = (await rig.node.vlmc('map', 'other-volume')).trim();
    const outcome = await rig.node.tryVlmc(['remove', 'other-volume']);
    expect(outcome.code, describeOutcome(outcome)).toBe(255);
    expect(outcome.stderr).toMatch(/other-volume.*mapped/);
    await rig.node.vlmc('unmap', uri);
  });

  whateverTheStore(it)('an unknown command, with status 2 and a usage line', async () => {
    const outcome = await rig.node.tryVlmc(['frobnicate']);
    expect(outcome.code).toBe(2);
    expect(outcome.stderr).toMatch(/frobnicate/);
  });

  it('and nobody holds a lock', async () => {
    expect(await rig.node.stores.maps.held()).toEqual([]);
  });

  it('but takes the longest name there is', async () => {
    const name = 'n'.repeat(82);
    const uri = await rig.node.create(name, '8M');
    await qemuIo(uri, 'write -P 4 4M 4k', 'read -P 4 4M 4k');
    await rig.node.vlmc('remove', name);
  });

  it('and goes on as if nothing had been asked', async () => {
    await qemuIo(rig.node.uri('present-volume'), 'read -P 1 0 8M', 'read -P 0 8M 8M');
    const names = (await nbdlist(`nbd+unix:///?socket=${rig.node.socket}`)).map((e) => e['export-name']);
    expect(names.toSorted()).toEqual(['other-snapshot', 'other-volume', 'present-snapshot', 'present-volume']);
  });
});
