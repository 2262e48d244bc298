/** From names to volumes: what wins, which snapshot a time means, what stays the same for a connection, and what is refused in words. */
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import type { Mapping } from '../../../src/endpoint/registry.js';
import { Resolver } from '../../../src/endpoint/resolve.js';
import { errnos, SystemError } from '../../../src/sys/errno.js';
import { FakeVolumes } from './fake-volumes.js';
import { someone } from './support.js';

const HOUR = 3_600_000;
const NOW = Date.UTC(2026, 10, 20, 12);
let volumes: FakeVolumes;

beforeEach(() => {
  vi.useFakeTimers({ now: NOW, toFake: ['Date'] });
  volumes = new FakeVolumes();
  volumes.set('web-root');
});

afterEach(() => {
  vi.useRealTimers();
});

function resolver(offer: 'all' | 'mapped' = 'all', mapped: readonly Partial<Mapping>[] = []): Resolver {
  const registry = { get: (name: string) => mapped.find((mapping) => mapping.name === name) as Mapping | undefined };
  return new Resolver({ volumes, registry, offer });
}

const resolve = async (name: string, from: Resolver = resolver(), client = someone()) => {
  const { volume, via, name: canonical } = await from.resolve(name, client);
  return [volume.name, via, canonical];
};

describe('a name', () => {
  it('that exists exactly wins over everything that it could mean besides', async () => {
    volumes
      .snapshot('monday', 'web-root', NOW - HOUR)
      .snapshot('web-root@monday', 'other', NOW)
      .set('web-root@-1h');
    expect(await resolve('web-root@monday')).toEqual(['web-root@monday', 'web-root@monday', 'web-root@monday']);
    expect(await resolve('web-root@-1h')).toEqual(['web-root@-1h', 'web-root@-1h', 'web-root@-1h']);
    expect(await resolve('web-root')).toEqual(['web-root', 'web-root', 'web-root']);
  });

  it('of a volume and one of its snapshots is that snapshot', async () => {
    volumes.snapshot('monday', 'web-root', NOW - HOUR);
    expect(await resolve('web-root@monday')).toEqual(['monday', 'web-root', 'web-root@monday']);
    expect(await resolve('monday')).toEqual(['monday', 'monday', 'monday']);
  });

  it('of a volume with an @ in its name, and of snapshots with one, means them', async () => {
    volumes.set('web@root').snapshot('at@noon', 'web@root', NOW).snapshot('at@night', 'web-root', NOW);
    expect(await resolve('web@root@at@noon')).toEqual(['at@noon', 'web@root', 'web@root@at@noon']);
    expect(await resolve('web-root@at@night')).toEqual(['at@night', 'web-root', 'web-root@at@night']);
    expect((await resolve('web@root@-0s'))[0]).toBe('at@noon');
  });

  it('of a snapshot wins over the time that it reads as', async () => {
    volumes.snapshot('2026-11-19', 'web-root', NOW).snapshot('older', 'web-root', NOW - 100 * HOUR);
    expect((await resolve('web-root@2026-11-19'))[0]).toBe('2026-11-19');
  });

  it.each([
    ['', 'no default export'],
    ['web-rood', 'no volume web-rood'],
    ['web-rood@-1h', 'no volume web-rood@-1h'],
    ['web-root@tuesday', 'volume web-root has no snapshot tuesday'],
    ['web-root@elsewhere', 'volume web-root has no snapshot elsewhere'],
    ['web-root@-1h', 'volume web-root has no snapshot with a time'],
  ])('%j is refused', async (name, message) => {
    volumes.snapshot('elsewhere', 'other-volume', NOW - 9 * HOUR);
    await expect(resolve(name)).rejects.toMatchObject({ code: 'ENOENT', message: expect.stringContaining(message) });
  });
});

describe('a time', () => {
  beforeEach(() => {
    volumes
      .snapshot('hour-3', 'web-root', NOW - 3 * HOUR)
      .snapshot('hour-1', 'web-root', NOW - HOUR)
      .snapshot('hour-2', 'web-root', NOW - 2 * HOUR)
      .snapshot('others', 'other-volume', NOW - HOUR);
  });

  it.each([
    ['-0s', 'hour-1'],
    ['-1h', 'hour-1'],
    ['-61m', 'hour-2'],
    ['-2h59m', 'hour-3'],
    ['-3h', 'hour-3'],
    ['2026-11-20T10:30Z', 'hour-2'],
    [`${(NOW - 2 * HOUR) / 1000}`, 'hour-2'],
    ['2027-01-01', 'hour-1'],
  ])('%s means the newest snapshot that is not later', async (time, snapshot) => {
    expect(await resolve(`web-root@${time}`)).toEqual([snapshot, 'web-root', `web-root@${snapshot}`]);
  });

  it('of no time ago means the newest there is, even one that a node made whose clock is ahead', async () => {
    volumes.snapshot('ahead', 'web-root', NOW + 5000);
    expect((await resolve('web-root@-0s'))[0]).toBe('ahead');
    expect((await resolve('web-root@-1s'))[0]).toBe('hour-1');
  });

  it('before the oldest snapshot is refused with its name', async () => {
    await expect(resolve('web-root@-4h')).rejects.toMatchObject({
      code: 'ENOENT',
      message:
        'volume web-root has no snapshot from 2026-11-20T08:00:00Z or before; the oldest is hour-3 of 2026-11-20T09:00:00Z',
    });
  });

  it('passes over snapshots that are most likely, but not surely, of this volume', async () => {
    volumes.snapshot('guess', 'web-root', NOW - 1000, { guessed: true }).snapshot('undated', 'web-root');
    expect((await resolve('web-root@-0s'))[0]).toBe('hour-1');
    expect((await resolve('web-root@guess'))[0]).toBe('guess');
  });

  it('passes over a snapshot that went away, or was made anew, while it was looked for', async () => {
    const look = vi.spyOn(volumes, 'snapshotOf');
    look.mockImplementation(async (volume, name) => {
      if (name === 'hour-1') return null;
      const entry = await FakeVolumes.prototype.snapshotOf.call(volumes, volume, name);
      return entry && name === 'hour-2' ? { ...entry, created: NOW } : entry;
    });
    expect((await resolve('web-root@-0s'))[0]).toBe('hour-3');
  });

  it('that a snapshot is said to be taken at leads to it', async () => {
    volumes.snapshot('within', 'web-root', NOW - 1000 + 700);
    expect((await resolve('web-root@2026-11-20T11:59:59Z'))[0]).toBe('within');
    expect((await resolve('web-root@2026-11-20T11:59:58Z'))[0]).toBe('hour-1');
  });

  it('makes the mapper list the snapshots of a volume once for a connection, unless that failed', async () => {
    const names = resolver();
    const client = someone();
    const list = vi.spyOn(volumes, 'snapshotsOf');
    list.mockImplementationOnce(async function* () {
      yield* [];
      throw new SystemError(errnos.ECONNREFUSED, 'the mapper is restarted');
    });
    await expect(resolve('web-root@-1h', names, client)).rejects.toMatchObject({ code: 'ECONNREFUSED' });
    for (const time of ['-1h', '-2h', '-3h', '-0s']) await resolve(`web-root@${time}`, names, client);
    await expect(resolve('web-root@-9h', names, client)).rejects.toMatchObject({ code: 'ENOENT' });
    expect(list).toHaveBeenCalledTimes(2);
  });

  it('means the same for all of a connection, and for another one what is newest then', async () => {
    const names = resolver();
    const client = someone();
    expect((await resolve('web-root@-0s', names, client))[0]).toBe('hour-1');
    volumes.snapshot('hour-0', 'web-root', NOW);
    expect((await resolve('web-root@-0s', names, client))[0]).toBe('hour-1');
    expect((await resolve('web-root@-0s', names))[0]).toBe('hour-0');
  });
});

describe('with only mapped volumes offered', () => {
  it('a mapped volume brings its snapshots with it, and nothing else does', async () => {
    volumes
      .snapshot('monday', 'web-root', NOW - HOUR)
      .snapshot('web-root@noon', 'web-root', NOW)
      .set('other-volume')
      .snapshot('theirs', 'other-volume', NOW)
      .snapshot('web-root@theirs', 'other-volume', NOW);
    const mapped = resolver('mapped', [{ name: 'web-root', readOnly: true, writeThrough: true }]);
    expect(await mapped.resolve('web-root', someone())).toMatchObject({ readOnly: true, writeThrough: true });
    expect(await resolve('web-root@monday', mapped)).toEqual(['monday', 'web-root', 'web-root@monday']);
    expect(await resolve('web-root@noon', mapped)).toEqual(['web-root@noon', 'web-root', 'web-root@noon']);
    expect((await resolve('web-root@-1h', mapped))[0]).toBe('monday');
    for (const name of ['monday', 'other-volume', 'other-volume@theirs', 'web-root@theirs', 'no-volume', 'no@volume']) {
      await expect(resolve(name, mapped)).rejects.toMatchObject({ code: 'ENOENT' });
    }
    expect(volumes.asked).not.toContain('other-volume');
  });
});

it('tells which volumes a name is of: not every one that it begins with', async () => {
  volumes.set('a').set('a@b').snapshot('a@s', 'a', NOW).snapshot('monday', 'a@b', NOW).snapshot('deep', 'a@s', NOW);
  const names = resolver();
  const of = (name: string) => names.volumesOf(name, someone());
  expect(await of('a')).toEqual([]);
  expect(await of('a@b')).toEqual([]);
  expect(await of('a@s')).toEqual(['a']);
  expect(await of('a@b@monday')).toEqual(['a@b']);
  expect(await of('a@s@deep')).toEqual(['a@s', 'a']);
  await expect(of('a@monday')).rejects.toMatchObject({ code: 'ENOENT' });
});
