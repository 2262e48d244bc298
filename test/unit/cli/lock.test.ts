/** open, close, lock, unlock: what they ask whom, what they print, and how they end. */
import { afterAll, beforeEach, describe, expect, it } from 'vitest';
import { formatAge, hostOf } from '../../../src/cli/vlmc/lock-state.js';
import { Flag, Op } from '../../../src/requests/ops.js';
import { errnos, SystemError } from '../../../src/sys/errno.js';
import { FakeNode } from './fake-node.js';

const node = new FakeNode(undefined, '[blockerm]\nunique_str = here_1002\n');
const done = { status: 0, out: '', err: '' };
const refuse = (errno: number, message: string) => () => {
  throw new SystemError(errno, message);
};
const since = Date.UTC(2024, 4, 1, 10, 4);

/** Of a lock that this node has nothing to do with. */
const unused = { lock: null, open: null, byHand: false, lost: null, unclosed: null };

beforeEach(() => {
  node.reset();
  node.on('mapper', Op.LOCKINFO, () => unused);
});
afterAll(() => node.close());

/** The lock is somebody's until the mapper releases it, or the composer closes the volume. */
function lockedBy(owner: string, here: object = {}): { holder: string | null } {
  const lock: { holder: string | null } = { holder: owner };
  const info = () => (lock.holder === null ? null : { owner: lock.holder, since });
  node.on('mapper', Op.LOCKINFO, () => ({ ...unused, lock: info(), ...here }));
  node.on('maps', Op.LOCKINFO, info);
  node.on('mapper', Op.RELEASE, ({ flags }) => {
    if (lock.holder === null) throw new SystemError(errnos.ENOENT, 'volume1 is not locked');
    if ((flags & Flag.FORCE) === 0 && lock.holder !== 'here_1002') {
      throw new SystemError(errnos.EPERM, 'volume1 is locked by node2_1002');
    }
    const holder = lock.holder;
    lock.holder = null;
    return (flags & Flag.FORCE) === 0 ? undefined : { holder, confirmed: true, waitedMs: 40 };
  });
  node.on('composer', Op.CLOSE, () => {
    if (lock.holder === 'here_1002') lock.holder = null;
    return undefined;
  });
  return lock;
}

describe('open and close', () => {
  it.each([
    ['open', Op.OPEN, 'Volume opened\n'],
    ['close', Op.CLOSE, 'Volume closed\n'],
  ])('%s goes through the composer', async (word, op, out) => {
    node.on('composer', op, () => undefined);
    expect(await node.vlmc(word, 'volume1')).toEqual({ ...done, out });
    expect(node.asked('composer', op)[0].flags).toBe(0);
  });

  it('open --shared says so to the mapper and in the answer', async () => {
    node.on('composer', Op.OPEN, () => undefined);
    const { out } = await node.vlmc('--json', 'open', 'volume1', '--shared');
    expect(JSON.parse(out)).toEqual({ name: 'volume1', shared: true });
    expect(node.asked('composer', Op.OPEN)[0].flags).toBe(Flag.SHARED);
  });

  it('open keeps the option of v0 maps beside --shared', async () => {
    node.on('composer', Op.OPEN, () => undefined);
    await node.vlmc('open', '-v0', 'volume1', '--shared');
    expect(node.asked('composer', Op.OPEN)[0].flags).toBe(Flag.SHARED | Flag.ASSUMEV0);
  });

  it('a refusal names the holder', async () => {
    node.on('composer', Op.OPEN, refuse(errnos.EBUSY, 'volume volume1 is locked by node2_1002'));
    const { status, err } = await node.vlmc('open', 'volume1');
    expect({ status, err }).toEqual({
      status: 255,
      err: 'vlmc open failed: volume volume1 is locked by node2_1002\n',
    });
  });
});

describe('lock', () => {
  it('takes the lock through the mapper, at once or not at all', async () => {
    node.on('mapper', Op.ACQUIRE, () => undefined);
    expect(await node.vlmc('lock', 'volume1')).toEqual({ ...done, out: 'Volume locked\n' });
    expect(node.asked('mapper', Op.ACQUIRE)[0].flags).toBe(Flag.NOSYNC);
    node.on('mapper', Op.ACQUIRE, refuse(errnos.EBUSY, 'volume1 is locked by node2_1002'));
    const { status, err } = await node.vlmc('lock', 'volume1');
    expect({ status, err }).toEqual({ status: 255, err: 'vlmc lock failed: volume1 is locked by node2_1002\n' });
    expect(node.asked('maps', Op.ACQUIRE)).toEqual([]);
  });

  it('needs the mapper, and says so', async () => {
    const bare = new FakeNode(['maps']);
    try {
      const { status, err } = await bare.vlmc('lock', 'volume1');
      expect(status).toBe(255);
      expect(err).toBe('vlmc lock failed: mapperd is not running (port 1001); see archipelago status\n');
    } finally {
      bare.close();
    }
  });
});

describe('lock --show', () => {
  it('names the holder, its host and since when, and takes nothing', async () => {
    expect((await node.vlmc('lock', 'volume1', '--show')).out).toBe('Volume volume1: not locked\n');
    lockedBy('node-2.example_1002');
    const lines = (await node.vlmc('lock', 'volume1', '--show')).out.split('\n');
    expect(lines[0]).toBe('Volume volume1: locked by node-2.example_1002 since 2024-05-01T10:04:00.000Z');
    expect(lines[1]).toMatch(/^ {2}host: {2}node-2\.example, for \d+ days/);
    expect(node.asked('mapper', Op.ACQUIRE)).toEqual([]);
  });

  it('is one document with --json', async () => {
    lockedBy('here_1002', { open: 'shared', byHand: true });
    const { out } = await node.vlmc('--json', 'lock', 'volume1', '--show');
    expect(JSON.parse(out)).toEqual({
      name: 'volume1',
      lock: { owner: 'here_1002', since, host: 'here', ageMs: expect.any(Number), here: true },
      open: 'shared',
      byHand: true,
      lost: null,
      unclosed: null,
    });
  });

  it('tells why a lock that nobody uses could not be given back', async () => {
    lockedBy('here_1002', { unclosed: { since, why: 'no space is left' } });
    const { out } = await node.vlmc('lock', 'volume1', '--show');
    expect(out).toMatch(
      /\n {2}kept: {2}since its last client left at 2024-05-01T10:04:00.000Z, and tried again: no space is left\n/,
    );
  });

  it('tells how it is open here, and that it was lost', async () => {
    lockedBy('node2_1002', { open: 'exclusive', lost: { holder: 'node2_1002', at: since } });
    const { out } = await node.vlmc('lock', 'volume1', '--show');
    expect(out).toMatch(/\n {2}here: {2}open exclusive\n/);
    expect(out).toMatch(/\n {2}lost: {2}the lock was taken by node2_1002 at 2024-05-01T10:04:00.000Z: .*vlmc close/);
  });

  it('works while the mapper does not run', async () => {
    const bare = new FakeNode(['maps']);
    try {
      bare.on('maps', Op.LOCKINFO, () => ({ owner: 'node2_1002', since: null }));
      const { status, out } = await bare.vlmc('lock', 'volume1', '--show');
      expect(status).toBe(0);
      expect(out).toMatch(/^Volume volume1: locked by node2_1002\n/);
    } finally {
      bare.close();
    }
  });

  it('fails when the store cannot tell', async () => {
    node.on('mapper', Op.LOCKINFO, refuse(errnos.EACCES, 'permission denied'));
    expect((await node.vlmc('lock', 'volume1', '--show')).status).toBe(255);
  });
});

describe('unlock', () => {
  it("refuses to release another node's lock", async () => {
    const lock = lockedBy('node2_1002');
    const { status, err } = await node.vlmc('unlock', 'volume1');
    expect(status).toBe(255);
    expect(err).toMatch(
      /^vlmc unlock failed: volume volume1 is locked by node2_1002 since \S+, not by this node; vlmc close volume1 there, or vlmc unlock -f volume1 once node2 is down\n$/,
    );
    expect(lock.holder).toBe('node2_1002');
    expect(node.asked('composer', Op.CLOSE)).toEqual([]);
  });

  it('fails when nobody holds it', async () => {
    // As blockers begin what they say.
    node.on('mapper', Op.RELEASE, refuse(errnos.ENOENT, 'RELEASE: volume1 is not locked'));
    expect((await node.vlmc('unlock', 'volume1')).err).toBe('vlmc unlock failed: volume1 is not locked\n');
  });

  it('closes the volume when the lock is this node’s, so that what was written is there for the next', async () => {
    const lock = lockedBy('here_1002');
    expect(await node.vlmc('unlock', 'volume1')).toEqual({ ...done, out: 'Volume unlocked\n' });
    expect(lock.holder).toBeNull();
    expect(node.asked('mapper', Op.RELEASE)).toEqual([]);
  });

  it('releases a lock by hand that closing leaves', async () => {
    const lock = lockedBy('here_1002');
    node.on('composer', Op.CLOSE, refuse(errnos.ENOENT, 'there is no volume1'));
    node.on('mapper', Op.CLOSE, refuse(errnos.ENOENT, 'there is no volume1'));
    expect(await node.vlmc('unlock', 'volume1')).toEqual({ ...done, out: 'Volume unlocked\n' });
    expect(lock.holder).toBeNull();
  });

  it('refuses while a client uses the volume', async () => {
    const connections = [{ name: 'volume1', peer: 'unix', since: 0 }];
    node.on('endpoint', Op.SHOWMAPPED, () => ({ mapped: [], connections }));
    const { status, err } = await node.vlmc('unlock', 'volume1');
    expect(status).toBe(255);
    expect(err).toMatch(/in use by unix/);
  });

  it('-f breaks the lock, and tells that the old holder answered', async () => {
    const lock = lockedBy('node2_1002');
    const { status, out, err } = await node.vlmc('unlock', 'volume1', '-f');
    expect({ status, out }).toEqual({ status: 0, out: 'Volume unlocked\n' });
    expect(err).toBe('node2_1002 has answered: it writes no more to volume1\n');
    expect(lock.holder).toBeNull();
    const json = await node.vlmc('--json', 'unlock', 'volume1', '-f');
    expect(json.status).toBe(255);
  });

  it('-f tells what it means that the old holder did not answer', async () => {
    lockedBy('node2_1002');
    node.on('mapper', Op.RELEASE, () => ({ holder: { owner: 'node2_1002', since }, confirmed: false, waitedMs: 5000 }));
    const { status, out, err } = await node.vlmc('unlock', '-f', 'volume1');
    expect({ status, out }).toEqual({ status: 0, out: 'Volume unlocked\n' });
    expect(err).toMatch(/^node2_1002 did not answer; .*make sure that node2 is down/);
    const { out: json } = await node.vlmc('--json', 'unlock', '-f', 'volume1');
    expect(JSON.parse(json)).toEqual({
      name: 'volume1',
      holder: 'node2_1002',
      confirmed: false,
      fencedBy: 'time',
      fenced: null,
      waitedMs: expect.any(Number),
    });
  });

  it('-f tells that the stores refuse the old holder, which of them do not, and why', async () => {
    const did = (store: string, clients: string[]) => ({ store, clients, failed: null, able: true });
    const reason = "EACCES: this user may not do that; give it mon 'profile rbd'";
    const denied = { store: 'blocks', clients: [], failed: reason, able: true };
    const cannot = { store: 'blocks', clients: [], failed: 'it cannot refuse a node', able: false };
    const unlock = async (fenced: object[]) => {
      lockedBy('node2_1002');
      node.on('mapper', Op.RELEASE, () => ({ holder: 'node2_1002', confirmed: false, waitedMs: 5000, fenced }));
      const { err } = await node.vlmc('unlock', '-f', 'volume1');
      lockedBy('node2_1002');
      node.on('mapper', Op.RELEASE, () => ({ holder: 'node2_1002', confirmed: false, waitedMs: 5000, fenced }));
      const json = JSON.parse((await node.vlmc('--json', 'unlock', '-f', 'volume1')).out);
      expect(json).toMatchObject({ confirmed: false, fenced });
      return { err, by: json.fencedBy };
    };
    const both = await unlock([did('maps', ['10.0.0.2:0/17']), did('blocks', ['10.0.0.2:0/18'])]);
    expect(both.by).toBe('stores');
    expect(both.err).toMatch(
      /^node2_1002 did not answer .*refuses whatever it still sends.*10\.0\.0\.2:0\/17, 10\.0\.0\.2:0\/18\n$/,
    );
    const partly = await unlock([did('maps', ['10.0.0.2:0/17']), denied]);
    expect(partly.by).toBe('time');
    expect(partly.err).toMatch(/make sure that node2 is down before anybody writes/);
    expect(partly.err).toContain('The maps store refuses whatever node2 still sends.\n');
    expect(partly.err).toContain(`The blocks store was asked to refuse node2, and does not: ${reason}\n`);
    const files = await unlock([did('maps', ['10.0.0.2:0/17']), cannot]);
    expect(files.by).toBe('time');
    expect(files.err).toContain('The blocks store cannot refuse a node.\n');
    const none = await unlock([{ ...cannot, store: 'maps' }, cannot]);
    expect(none.by).toBe('time');
    expect(none.err.split('\n')).toHaveLength(2);
  });

  it('-f tells that a store does not refuse the node from which a holder that answered had taken the lock', async () => {
    lockedBy('node2_1002');
    const fenced = [
      { store: 'maps', clients: ['10.0.0.2:0/17'], failed: null, able: true },
      { store: 'blocks', clients: [], failed: 'no capability', able: true },
    ];
    node.on('mapper', Op.RELEASE, () => ({ holder: 'node2_1002', confirmed: true, waitedMs: 5000, fenced }));
    const { err } = await node.vlmc('unlock', '-f', 'volume1');
    expect(err).toMatch(/^node2_1002 has answered: it writes no more to volume1\n/);
    expect(err).toContain('which the blocks store does not refuse (no capability): its time was waited out');
    expect(err.split('\n')).toHaveLength(3);
  });

  it('-f of this node’s own lock closes the volume, and breaks nothing', async () => {
    lockedBy('here_1002');
    expect(await node.vlmc('unlock', '-f', 'volume1')).toEqual({ ...done, out: 'Volume unlocked\n' });
    expect(node.asked('composer', Op.CLOSE)).toHaveLength(1);
    expect(node.asked('mapper', Op.RELEASE)).toEqual([]);
  });

  it('-f needs the mapper, and says why', async () => {
    const bare = new FakeNode(['maps', 'endpoint']);
    try {
      bare.on('maps', Op.LOCKINFO, () => ({ owner: 'node2_1002', since }));
      const { status, err } = await bare.vlmc('unlock', '-f', 'volume1');
      expect(status).toBe(255);
      expect(err).toMatch(/^vlmc unlock failed: mapperd is not running .*nothing of node2 can reach the store\n$/);
    } finally {
      bare.close();
    }
  });

  it('--wait waits for another node, and takes nothing from it', async () => {
    let looks = 0;
    node.on('maps', Op.LOCKINFO, () => (++looks < 3 ? { owner: 'node2_1002', since } : null));
    expect(await node.vlmc('unlock', '--wait', 'volume1')).toEqual({ ...done, out: 'Volume unlocked\n' });
    expect(looks).toBe(3);
    expect(node.asked('mapper', Op.RELEASE)).toEqual([]);
  });

  it('--wait releases what is this node’s', async () => {
    const lock = lockedBy('here_1002');
    expect(await node.vlmc('unlock', '--wait', 'volume1')).toEqual({ ...done, out: 'Volume unlocked\n' });
    expect(lock.holder).toBeNull();
  });

  it('--wait ends after --timeout, names the holder and the way out', async () => {
    lockedBy('node2_1002');
    const { status, out, err } = await node.vlmc('unlock', '--wait', '--timeout', '0.3', 'volume1');
    expect({ status, out }).toEqual({ status: 255, out: '' });
    expect(err).toMatch(/still locked by node2_1002 since .*vlmc unlock -f volume1 once node2 is down\n$/);
  });

  it('a timeout that is no number, or without --wait, is refused', async () => {
    expect((await node.vlmc('unlock', '--wait', '--timeout', 'soon', 'volume1')).status).toBe(2);
    expect((await node.vlmc('unlock', '--timeout', '3', 'volume1')).err).toBe('--timeout goes with --wait\n');
  });
});

describe('owners and ages in words', () => {
  it('the host is the owner without its port, whatever the host is called', () => {
    expect(['node1_1002', 'a_b_7', 'plain', ''].map(hostOf)).toEqual(['node1', 'a_b', 'plain', 'an unknown host']);
  });

  it('an age has its two largest units', () => {
    expect([0, 59_000, 61_000, 7_200_000, 90_000_000, 200_000_000].map(formatAge)).toEqual([
      '0 s',
      '59 s',
      '1 min 1 s',
      '2 h',
      '1 day 1 h',
      '2 days 7 h',
    ]);
  });
});
