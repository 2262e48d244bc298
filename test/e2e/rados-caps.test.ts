/**
 * What the documentation tells an administrator of Ceph to allow is enough for everything, and with one capability less the message says
 * which. The capabilities are read from docs/rados.md.
 */
import { appendFileSync, readFileSync, writeFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { RadosDriver } from '../../src/blockers/rados/index.js';
import { hasCeph, useCeph } from '../support/ceph.js';
import { type Capabilities, type CephUser, documentedCapabilities, makeUser, onCeph } from './harness/ceph-users.js';
import { qemuIo, qemuRead, tryQemuIo } from './harness/clients.js';
import { TestNode } from './harness/node.js';
import { programs } from './harness/requirements.js';
import { describeOutcome } from './harness/run.js';

const MiB = 1 << 20;

interface Unlocked {
  readonly holder: string;
  readonly confirmed: boolean;
  readonly fenced:
    | readonly { readonly store: string; readonly clients: readonly string[]; readonly failed: string | null }[]
    | null;
}

describe.runIf(hasCeph() && programs('qemu-io'))('a user of Ceph', () => {
  const ceph = useCeph();
  const documented = documentedCapabilities('ceph auth get-or-create client.archipelago ');
  const users: CephUser[] = [];
  let names = 0;
  const nodes: TestNode[] = [];

  const user = async (capabilities: Capabilities): Promise<CephUser> => {
    const made = await makeUser(ceph.conf, `${ceph.namespace}-${names++}`, capabilities);
    users.push(made);
    return made;
  };
  /** A node as somebody with these capabilities would have it. */
  const node = async (capabilities: Capabilities, hostname: string): Promise<TestNode> => {
    const made = await TestNode.start({ hostname, settings: onCeph(await user(capabilities), ceph.namespace) });
    nodes.push(made);
    return made;
  };
  let a: TestNode;
  let b: TestNode;
  let c: TestNode;
  beforeAll(async () => {
    const limited = documentedCapabilities('ceph auth get-or-create client.archipelago-NAME');
    [a, b, c] = await Promise.all([
      node(documented, 'alpha'),
      node({ mon: documented.mon, osd: limited.osd.replaceAll('NAME', ceph.namespace) }, 'beta'),
      node({ mon: 'allow r', osd: documented.osd }, 'gamma'),
    ]);
  }, 120_000);
  afterAll(async () => {
    for (const made of nodes) made.signal('SIGCONT');
    for (const made of nodes) await made.dispose();
    for (const made of users) await made.remove();
  });

  it('with the documented capabilities can do all that volumes need', async () => {
    const uri = await a.create('first-volume', 16 * MiB);
    await qemuIo(
      uri,
      'write -P 1 0 6M',
      'discard 1M 1M',
      'write -z 5M 512k',
      'flush',
      'read -P 1 0 1M',
      'read -P 0 1M 1M',
    );
    await a.vlmc('snapshot', 'first-volume', 'first-snapshot');
    await a.vlmc('create', 'first-clone', '--snap', 'first-snapshot');
    await qemuIo(a.uri('first-clone'), 'write -P 2 0 64k', 'read -P 1 64k 64k');
    await qemuRead(a.uri('first-snapshot'), 'read -P 1 0 64k');
    await a.vlmc('resize', 'first-volume', '--size', '32M');
    await a.vlmc('open', 'first-volume');
    expect(await a.vlmc('lock', 'first-volume', '--show')).toContain('locked by alpha_1002');
    await a.vlmc('close', 'first-volume');
    await a.vlmc('rename', 'first-clone', 'first-renamed');
    await a.vlmc('remove', 'first-renamed');
    await a.vlmc('check', 'first-volume');
  });

  it.each([
    { who: 'kept to a namespace', of: () => b, name: 'namespaced' },
    { who: 'who may not blocklist', of: () => c, name: 'powerless' },
  ])('$who can too', async ({ of, name }) => {
    const uri = await of().create(name, 16 * MiB);
    await qemuIo(uri, 'write -P 1 0 6M', 'flush', 'read -P 1 0 6M');
    await of().vlmc('snapshot', name, `${name}-snapshot`);
    await qemuIo(uri, 'write -P 2 0 64k', 'read -P 1 64k 64k');
    await of().vlmc('check', name);
  });

  it('can have the OSDs refuse a node that stands still; one who may not is told which capability that takes', async () => {
    const volumes = ['fenced-volume', 'timed-volume'];
    for (const volume of volumes) {
      await qemuIo(await a.create(volume, 8 * MiB), 'write -P 1 0 8M', 'flush');
      await a.vlmc('open', volume);
    }
    a.signal('SIGSTOP');
    const [refused, timed] = await Promise.all([
      b.vlmcJson<Unlocked>('unlock', '-f', volumes[0]),
      c.tryVlmc(['unlock', '-f', volumes[1]]),
    ]);
    expect(refused).toMatchObject({ holder: 'alpha_1002', confirmed: false });
    const blocklist = await ceph.ceph('osd', 'blocklist', 'ls');
    for (const store of ['maps', 'blocks']) {
      const fenced = refused.fenced?.find((one) => one.store === store);
      expect(fenced, JSON.stringify(refused)).toMatchObject({ failed: null });
      expect(fenced?.clients.length).toBeGreaterThan(0);
      for (const client of fenced?.clients ?? []) expect(blocklist).toContain(client.split(' ')[1]);
    }
    expect(timed.code, describeOutcome(timed)).toBe(0);
    expect(timed.stderr, describeOutcome(timed)).toMatch(/profile rbd|osd blocklist/);

    await qemuIo(b.uri(volumes[0]), 'write -P 2 0 8M', 'flush');
    a.signal('SIGCONT');
    const late = await tryQemuIo(a.uri(volumes[0]), 'write -P 3 0 64k');
    expect(late.code, describeOutcome(late)).not.toBe(0);
    await qemuIo(b.uri(volumes[0]), 'read -P 2 0 8M');
    // Its other volumes go on with a new client.
    await qemuIo(a.uri('first-volume'), 'write -P 4 8M 64k', 'read -P 4 8M 64k');
  });

  /** What `archipelago start` says. */
  const refusedStart = async (settings: ReturnType<typeof onCeph>): Promise<string> => {
    const prepared = await TestNode.prepare({ settings });
    try {
      const outcome = await prepared.tryArchipelago('start');
      expect(outcome.code, describeOutcome(outcome)).toBe(255);
      return outcome.stderr;
    } finally {
      await prepared.dispose();
    }
  };
  /** What a blocker says that cannot be started: the start of a node prints it. */
  const refusedBlocker = async ({ conf, id }: CephUser, pool: string): Promise<string> => {
    const { namespace } = ceph;
    const driver = new RadosDriver({
      pool,
      namespace,
      conf,
      cephxId: id,
      uniqueStr: 'poor_1002',
      locks: pool === 'maps',
    });
    const opened = await driver.open().then(
      () => 'it was opened',
      (error: Error) => error.message,
    );
    await driver.close();
    return opened;
  };
  const needs = ({ id }: CephUser, osd: string): string =>
    `client.${id} needs mon '${documented.mon}' osd '${osd} namespace=${ceph.namespace}'`;

  it.each([
    { what: 'no x on the maps', pool: 'maps', osd: 'allow rw pool=maps', least: 'allow rwx pool=maps' },
    { what: 'no right to write maps', pool: 'maps', osd: 'allow rx pool=maps', least: 'allow rwx pool=maps' },
    { what: 'nothing on the blocks', pool: 'blocks', osd: 'allow rwx pool=maps', least: 'allow rw pool=blocks' },
    { what: 'no right to write blocks', pool: 'blocks', osd: 'allow r pool=blocks', least: 'allow rw pool=blocks' },
  ])('with $what cannot start a blocker, which says what is missing', async ({ pool, osd, least }) => {
    const poor = await user({ mon: documented.mon, osd });
    expect(await refusedBlocker(poor, pool)).toContain(needs(poor, least));
  });

  it('who may not lock cannot start a node, which says so', async () => {
    const poor = await user({ mon: documented.mon, osd: 'allow rw pool=maps, allow rw pool=blocks' });
    expect(await refusedStart(onCeph(poor, ceph.namespace))).toContain(needs(poor, 'allow rwx pool=maps'));
  });

  it('who is unknown, has a wrong key or no keyring, or whose pool does not exist, is told so', async () => {
    const [stranger, wrong, keyless, poolless] = await Promise.all([1, 2, 3, 4].map(() => user(documented)));
    await ceph.ceph('auth', 'del', `client.${stranger.id}`);
    const key = readFileSync(wrong.keyring, 'utf8');
    writeFileSync(wrong.keyring, key.replace(/key = \S+/, 'key = AQAAAAAAAAAAEAAAAAAAAAAAAAAAAAAAAAAAAA=='));
    appendFileSync(keyless.conf, `\n[client.${keyless.id}]\nkeyring = /nonexistent/keyring\n`);
    for (const poor of [stranger, wrong, keyless]) {
      const said = await refusedBlocker(poor, 'maps');
      console.log(said);
      expect(said).toContain(`client.${poor.id}`);
      expect(said).toMatch(/keyring/);
    }
    expect(await refusedBlocker(poolless, 'nowhere')).toMatch(/nowhere.*ceph osd pool create nowhere/s);
  });
});
