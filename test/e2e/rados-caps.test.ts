/**
 * What the documentation tells an administrator of Ceph to allow is enough for everything, and with one capability less the message says
 * which. The capabilities are read from docs/rados.md.
 */
import { appendFileSync, readFileSync, writeFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
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
  const nodes: TestNode[] = [];

  const user = async (capabilities: Capabilities): Promise<CephUser> => {
    const made = await makeUser(ceph.conf, `${ceph.namespace}-${users.length}`, capabilities);
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

  it.each([
    { who: 'with the documented capabilities', of: () => a, name: 'documented' },
    { who: 'with those of a namespace', of: () => b, name: 'namespaced' },
    { who: 'who may not blocklist', of: () => c, name: 'powerless' },
  ])('$who can do all that a volume needs', async ({ of, name }) => {
    const own = of();
    const volume = `${name}-volume`;
    const uri = await own.create(volume, 16 * MiB);
    await qemuIo(
      uri,
      'write -P 1 0 6M',
      'discard 1M 1M',
      'write -z 5M 512k',
      'flush',
      'read -P 1 0 1M',
      'read -P 0 1M 1M',
    );
    await own.vlmc('snapshot', volume, `${name}-snapshot`);
    await own.vlmc('create', `${name}-clone`, '--snap', `${name}-snapshot`);
    await qemuIo(own.uri(`${name}-clone`), 'write -P 2 0 64k', 'read -P 1 64k 64k');
    await qemuRead(own.uri(`${name}-snapshot`), 'read -P 1 0 64k');
    await own.vlmc('resize', volume, '--size', '32M');
    await own.vlmc('open', volume);
    expect(await own.vlmc('lock', volume, '--show')).toContain(`locked by `);
    await own.vlmc('close', volume);
    await own.vlmc('rename', `${name}-clone`, `${name}-renamed`);
    await own.vlmc('remove', `${name}-renamed`);
    await own.vlmc('check', volume);
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
      for (const client of fenced?.clients ?? []) expect(blocklist).toContain(client);
    }
    expect(timed.code, describeOutcome(timed)).toBe(0);
    expect(timed.stderr, describeOutcome(timed)).toMatch(/profile rbd|osd blocklist/);

    await qemuIo(b.uri(volumes[0]), 'write -P 2 0 8M', 'flush');
    a.signal('SIGCONT');
    const late = await tryQemuIo(a.uri(volumes[0]), 'write -P 3 0 64k');
    expect(late.code, describeOutcome(late)).not.toBe(0);
    await qemuIo(b.uri(volumes[0]), 'read -P 2 0 8M');
    // Its other volumes go on with a new client.
    await qemuIo(a.uri('documented-volume'), 'write -P 4 8M 64k', 'read -P 4 8M 64k');
  });

  it.each([
    { what: 'no x on the maps', osd: 'allow rw pool=maps, allow rw pool=blocks', says: /rwx? .*pool=maps|class-read/ },
    { what: 'no right to write maps', osd: 'allow rx pool=maps, allow rw pool=blocks', says: /pool=maps/ },
    { what: 'nothing on the blocks', osd: 'allow rwx pool=maps', says: /pool=blocks/ },
    { what: 'no right to write blocks', osd: 'allow rwx pool=maps, allow r pool=blocks', says: /pool=blocks/ },
  ])('with $what cannot start a node, which says what is missing', async ({ osd, says }) => {
    const poor = await user({ mon: documented.mon, osd });
    const prepared = await TestNode.prepare({ settings: onCeph(poor, ceph.namespace) });
    try {
      const outcome = await prepared.tryArchipelago('start');
      expect(outcome.code, describeOutcome(outcome)).toBe(255);
      expect(outcome.stderr).toContain(`client.${poor.id}`);
      expect(outcome.stderr).toMatch(says);
    } finally {
      await prepared.dispose();
    }
  });

  it('who is unknown, has a wrong key or no keyring cannot start a node, which says so', async () => {
    const [stranger, wrong, keyless] = await Promise.all([1, 2, 3].map(() => user(documented)));
    await ceph.ceph('auth', 'del', `client.${stranger.id}`);
    const key = readFileSync(wrong.keyring, 'utf8');
    writeFileSync(wrong.keyring, key.replace(/key = \S+/, 'key = AQAAAAAAAAAAEAAAAAAAAAAAAAAAAAAAAAAAAA=='));
    appendFileSync(keyless.conf, `\n[client.${keyless.id}]\nkeyring = /nonexistent/keyring\n`);
    for (const poor of [stranger, wrong, keyless]) {
      const prepared = await TestNode.prepare({ settings: onCeph(poor, ceph.namespace) });
      try {
        const outcome = await prepared.tryArchipelago('start');
        expect(outcome.code, describeOutcome(outcome)).toBe(255);
        expect(outcome.stderr).toContain(`client.${poor.id}`);
        expect(outcome.stderr).toMatch(/keyring|key/);
      } finally {
        await prepared.dispose();
      }
    }
  });

  it('of a pool that does not exist is told how to make it', async () => {
    const settings = onCeph(await user(documented), ceph.namespace);
    const prepared = await TestNode.prepare({
      settings: { ...settings, blockerb: { ...settings.blockerb, pool: 'nowhere' } },
    });
    try {
      const outcome = await prepared.tryArchipelago('start');
      expect(outcome.code, describeOutcome(outcome)).toBe(255);
      expect(outcome.stderr).toMatch(/nowhere.*ceph osd pool create nowhere/s);
    } finally {
      await prepared.dispose();
    }
  });
});
