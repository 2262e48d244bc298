/** Who may open what: the rules by themselves, and what a client of a guarded provider can and cannot learn. */
import { describe, expect, it } from 'vitest';
import { AccessRules } from '../../../src/endpoint/access-rules.js';
import { Authorisation, type GuardedProvider } from '../../../src/endpoint/authorisation.js';
import type { BlockDevice, Client, ClientTls, DeviceInfo } from '../../../src/nbd/index.js';
import { MemoryDisk, TlsRequiredError } from '../../../src/nbd/index.js';
import { errnos, SystemError } from '../../../src/sys/errno.js';

const plain: Client = { peer: '10.0.0.7:4711', tls: null };
const local: Client = { peer: 'unix', tls: null };
const secure = (who: Partial<ClientTls> = {}, peer = '10.0.0.7:4711'): Client => ({
  peer,
  tls: { protocol: 'TLSv1.3', subject: null, identity: null, ...who },
});
const alice = secure({ subject: 'CN=alice,OU=backup,O=Example' });
const bob = secure({ identity: 'bob' });

const rules = (...lines: string[]): AccessRules => AccessRules.parse(lines.join('\n'), '/etc/acl');
const allows = (some: AccessRules, name: string, client: Client): boolean => some.verdict([name], client) === 'allowed';

describe('rules', () => {
  it('the first that fits export and client decides; none means no', () => {
    const some = rules('deny secret* identity bob', 'allow secret* tls', 'allow web anyone');
    expect(allows(some, 'secret-1', bob)).toBe(false);
    expect(allows(some, 'secret-1', alice)).toBe(true);
    expect(allows(some, 'secret-1', plain)).toBe(false);
    expect(allows(some, 'web', plain)).toBe(true);
    expect(allows(some, 'other', alice)).toBe(false);
    expect(allows(rules('# nothing', ''), 'web', alice)).toBe(false);
  });

  it('anyone, unix, tls, subject and identity mean what they say', () => {
    const meant = (who: string) =>
      [plain, local, secure(), alice, bob, secure({ identity: 'bob' }, 'unix')].map((client) =>
        allows(rules(`allow vol ${who}`), 'vol', client),
      );
    expect(meant('anyone')).toEqual([true, true, true, true, true, true]);
    expect(meant('unix')).toEqual([false, true, false, false, false, true]);
    expect(meant('tls')).toEqual([false, false, true, true, true, true]);
    expect(meant('subject CN=alice,*')).toEqual([false, false, false, true, false, false]);
    expect(meant('identity bob')).toEqual([false, false, false, false, true, true]);
    expect(meant('subject *')).toEqual([false, false, false, true, false, false]);
    expect(meant('identity *')).toEqual([false, false, false, false, true, true]);
  });

  it('a subject is matched whole: a part of another name is not enough, nor another case', () => {
    const only = rules('allow vol subject CN=alice,O=Example');
    const named = (subject: string) => allows(only, 'vol', secure({ subject }));
    expect(named('CN=alice,O=Example')).toBe(true);
    for (const other of [
      'CN=alice,O=Example,C=GR',
      'UID=1,CN=alice,O=Example',
      'CN=alice\\,O=Example',
      'CN=Alice,O=Example',
      '',
    ]) {
      expect(named(other)).toBe(false);
    }
    const open = rules('allow vol subject CN=alice,*');
    expect(allows(open, 'vol', secure({ subject: 'CN=alice\\,O=Example,O=Evil' }))).toBe(false);
  });

  it('a comma within a part of a subject is none between parts', () => {
    const suffix = rules('allow vol subject *,O=Example');
    const middle = rules('allow vol subject *,OU=admins,*');
    expect(allows(suffix, 'vol', secure({ subject: 'CN=alice,O=Example' }))).toBe(true);
    expect(allows(suffix, 'vol', secure({ subject: 'CN=mallory\\,O=Example' }))).toBe(false);
    expect(allows(suffix, 'vol', secure({ subject: 'CN=mallory\\\\,O=Example' }))).toBe(true);
    expect(allows(middle, 'vol', secure({ subject: 'CN=mallory\\,OU=admins\\,x,O=Example' }))).toBe(false);
    expect(allows(middle, 'vol', secure({ subject: 'CN=alice,OU=admins,O=Example' }))).toBe(true);
    // Escapes in rules mean what they mean in names, and blanks behind commas nothing.
    expect(allows(rules('allow vol subject CN=a\\,b, O=E'), 'vol', secure({ subject: 'CN=a\\,b,O=E' }))).toBe(true);
    expect(allows(rules('allow vol subject CN=a\\2cb,O=E'), 'vol', secure({ subject: 'CN=a\\,b,O=E' }))).toBe(true);
    expect(allows(rules('allow vol subject CN=\\*'), 'vol', secure({ subject: 'CN=alice' }))).toBe(false);
    expect(allows(rules('allow vol subject CN=\\*'), 'vol', secure({ subject: 'CN=*' }))).toBe(true);
  });

  it('a rule for one of the names of an export decides about it', () => {
    const some = rules('deny vol identity bob', 'allow vol@snap anyone', 'allow vol tls');
    expect(some.verdict(['vol@snap', 'vol'], bob)).toBe('refused');
    expect(some.verdict(['vol@snap'], bob)).toBe('allowed');
    expect(some.verdict(['vol@other'], alice)).toBe('refused');
    expect(some.verdict(['vol@other', 'vol'], alice)).toBe('allowed');
    expect(some.verdict(['vol@other', 'vol'], plain)).toBe('needs TLS');
  });

  it('stars stand for anything, everything else for itself', () => {
    const matches = (pattern: string, name: string) => allows(rules(`allow ${pattern} anyone`), name, plain);
    for (const [pattern, name, expected] of [
      ['*', '', true],
      ['*', 'anything\nat all', true],
      ['a*c', 'ac', true],
      ['a*c', 'abcbc', true],
      ['a*c', 'abcb', false],
      ['ab*ba', 'aba', false],
      ['ab*ba', 'abba', true],
      ['*x*y*', 'axbyc', true],
      ['*x*y*', 'aybxc', false],
      ['a.c', 'abc', false],
      ['[a]', 'a', false],
      ['"two words"', 'two words', true],
      ['"quote\\"d"', 'quote"d', true],
    ] as const) {
      expect([pattern, name, matches(pattern, name)]).toEqual([pattern, name, expected]);
    }
  });

  it('a name made to be slow is not', () => {
    const pattern = rules(`allow ${'*a'.repeat(30)}*b anyone`);
    expect(allows(pattern, 'a'.repeat(4096), plain)).toBe(false);
  });

  it('a line that is no rule is named with its file and number', () => {
    for (const line of [
      'permit vol anyone',
      'allow vol',
      'allow vol everyone',
      'allow vol subject',
      'allow vol tls CN=x',
      'allow "vol anyone',
      'deny vol subject "CN=alice"',
      'deny vol subject /CN=alice',
      'deny vol subject alice',
    ]) {
      expect(() => rules('# first', line)).toThrow(/^\/etc\/acl, line 2: .* is no rule; write allow or deny/);
    }
  });

  it('knows where TLS might help', () => {
    const some = rules('deny no* anyone', 'allow a subject CN=*', 'allow b unix', 'deny c tls', 'allow c identity x');
    const might = (name: string, client = plain) => some.verdict([name], client) === 'needs TLS';
    expect(['a', 'b', 'no', 'none', 'zzz'].map((name) => might(name))).toEqual([true, false, false, false, false]);
    expect(might('a', secure())).toBe(false);
  });
});

/** Volumes `a`, `b`, `a@b` and snapshots `a1` of a, `b1` of b, `a@s` of a, which is called so; every difference is offered that names one of these, or a time. */
class Store implements GuardedProvider {
  readonly asked: string[] = [];
  readonly #disk = new MemoryDisk({ size: 4096 });
  readonly #names: readonly string[];

  constructor(...more: string[]) {
    this.#names = ['a', 'b', 'a1', 'b1', '2026-11-19', ...more];
  }

  async list(): Promise<{ name: string }[]> {
    return this.#names.map((name) => ({ name }));
  }
  async describe(name: string): Promise<{ info: DeviceInfo; size: number }> {
    this.asked.push(name);
    if (!this.#names.includes(name)) throw new SystemError(errnos.ENOENT, `${name} is not there`);
    return { info: this.#disk.info, size: 4096 };
  }
  async open(name: string): Promise<BlockDevice> {
    await this.describe(name);
    return this.#disk.open();
  }
  async metaContexts(name: string, query: string | null): Promise<readonly string[]> {
    await this.describe(name);
    return query === null ? ['base:allocation', 'archipelago:diff:a1', 'qemu:dirty-bitmap:b1'] : [query];
  }
  comparedWith(name: string, context: string): string | null {
    const [, snapshot] = /^(?:archipelago:diff|qemu:dirty-bitmap):(.*)$/.exec(context) ?? [];
    if (snapshot === undefined) return null;
    return this.#names.includes(snapshot) ? snapshot : `${name[0]}1`;
  }
  async siblings(name: string): Promise<ReadonlySet<string>> {
    return new Set([`${name[0]}1`]);
  }
  async volumesOf(name: string): Promise<readonly string[]> {
    this.asked.push(name);
    if (name === 'a@b') return [];
    if (['a@s', 'a@a1'].includes(name)) return ['a'];
    throw new SystemError(errnos.ENOENT, `${name} is not there`);
  }
}

async function failure(promise: Promise<unknown>): Promise<Error> {
  return promise.then(
    () => new Error('it was allowed'),
    (error: Error) => error,
  );
}

describe('a guarded provider', () => {
  it('without rules lets everything through', async () => {
    const guard = new Authorisation(new Store(), null);
    expect(await guard.list(plain)).toHaveLength(5);
    await guard.open('a', plain);
    expect(await guard.metaContexts('a', 'archipelago:diff:b1', true, plain)).toEqual(['archipelago:diff:b1']);
  });

  it('lists what may be opened and no more', async () => {
    const guard = new Authorisation(new Store(), rules('allow a* identity bob', 'allow b anyone'));
    const names = async (client: Client) => (await guard.list(client)).map(({ name }) => name);
    expect(await names(plain)).toEqual(['b']);
    expect(await names(bob)).toEqual(['a', 'b', 'a1']);
  });

  it('tells nothing about what may not be opened: neither asks for it nor answers differently', async () => {
    const store = new Store();
    const guard = new Authorisation(store, rules('allow b identity bob'));
    for (const [client, there, not] of [
      [bob, 'a', 'x'],
      [plain, 'a', 'x'],
    ] as const) {
      for (const ask of [
        (name: string) => guard.describe(name, client),
        (name: string) => guard.open(name, client),
        (name: string) => guard.metaContexts(name, null, false, client),
      ]) {
        const [one, other] = [await failure(ask(there)), await failure(ask(not))];
        expect(one.message.replace('"a"', '"x"')).toBe(other.message);
        expect(one).toMatchObject({ errno: errnos.ENOENT });
      }
    }
    expect(store.asked).toEqual([]);
    expect(await failure(guard.open('b', plain))).toBeInstanceOf(TlsRequiredError);
    expect(await failure(guard.open('b', alice))).not.toBeInstanceOf(TlsRequiredError);
    await guard.open('b', bob);
  });

  it('a rule for a volume is one for its snapshots, and not for a volume whose name begins like theirs', async () => {
    const store = new Store('a@b', 'a@s', 'a@a1');
    const guard = new Authorisation(store, rules('allow a identity bob', 'allow a@b identity carol', 'allow a unix'));
    const carol = secure({ identity: 'carol' });
    await guard.open('a@s', bob);
    await guard.open('a@a1', bob);
    await guard.open('a@b', carol);
    const [there, not] = [await failure(guard.open('a@b', bob)), await failure(guard.open('a@x', bob))];
    expect(there).toMatchObject({ errno: errnos.ENOENT });
    expect(there.message.replace('a@b', 'a@x')).toBe(not.message);
    expect(await failure(guard.describe('a@s', carol))).toMatchObject({ errno: errnos.ENOENT });
    const names = async (client: Client) => (await guard.list(client)).map(({ name }) => name);
    expect(await names(bob)).toEqual(['a', 'a@s', 'a@a1']);
    expect(await names(carol)).toEqual(['a@b']);
    // Who may open none of the names hears nothing of what is there.
    store.asked.length = 0;
    expect(await failure(guard.open('a@b', plain))).toBeInstanceOf(TlsRequiredError);
    expect(await failure(guard.open('a@x', plain))).toBeInstanceOf(TlsRequiredError);
    expect(await failure(guard.open('a@b', alice))).toMatchObject({ errno: errnos.ENOENT });
    expect(store.asked).toEqual([]);
    // What is forbidden for a volume is so for its snapshots.
    guard.setRules(rules('deny a anyone', 'allow * anyone'));
    expect(await names(bob)).toEqual(['b', 'a1', 'b1', '2026-11-19', 'a@b']);
  });

  it('offers differences from snapshots of the same volume, or that are allowed themselves', async () => {
    const guard = new Authorisation(
      new Store(),
      rules('allow a identity bob', 'allow b1 identity carol', 'allow a tls'),
    );
    const offered = (query: string | null, client: Client) => guard.metaContexts('a', query, true, client);
    expect(await offered(null, bob)).toEqual(['base:allocation', 'archipelago:diff:a1']);
    expect(await offered('qemu:dirty-bitmap:a1', bob)).toEqual(['qemu:dirty-bitmap:a1']);
    expect(await offered('qemu:dirty-bitmap:b1', bob)).toEqual([]);
    expect(await offered('archipelago:diff:b1', secure({ identity: 'carol' }))).toEqual(['archipelago:diff:b1']);
    // A time leads to a snapshot of the volume, unless there is another one that is called so.
    expect(await offered('archipelago:diff:-1h', bob)).toEqual(['archipelago:diff:-1h']);
    expect(await offered('archipelago:diff:2026-11-19', bob)).toEqual([]);
  });

  it('takes new rules for what is opened from now on', async () => {
    const guard = new Authorisation(new Store(), rules('allow a anyone'));
    await guard.open('a', plain);
    guard.setRules(rules('allow b anyone'));
    expect(await failure(guard.open('a', plain))).toMatchObject({ errno: errnos.ENOENT });
    await guard.open('b', plain);
  });
});
