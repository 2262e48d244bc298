/** Which meta contexts an export has: lists by namespace, exact names, snapshots and times in them. */
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { Contexts } from '../../../src/endpoint/contexts.js';
import { Resolver } from '../../../src/endpoint/resolve.js';
import { decodeMapStatus } from '../../../src/requests/json.js';
import { FakeVolumes } from './fake-volumes.js';
import { someone } from './support.js';

const HOUR = 3_600_000;
const NOW = Date.UTC(2026, 10, 20, 12);
let volumes: FakeVolumes;
let resolver: Resolver;
let contexts: Contexts;
let log: string[];

beforeEach(() => {
  vi.useFakeTimers({ now: NOW, toFake: ['Date'] });
  volumes = new FakeVolumes();
  volumes
    .set('web-root')
    .snapshot('hour-2', 'web-root', NOW - 2 * HOUR)
    .snapshot('hour-1', 'web-root', NOW - HOUR)
    .snapshot('debian', 'debian-master', NOW - 99 * HOUR)
    .set('cloned', { parent: 'debian' })
    .set('hour-bad', { damaged: true })
    .snapshot('coarse', 'other-volume', NOW, { blockSize: 65536 });
  resolver = new Resolver({ volumes, registry: { get: () => undefined }, offer: 'all' });
  log = [];
  contexts = new Contexts({ volumes, resolver, log: { info: (message) => void log.push(message) } });
});

afterEach(() => {
  vi.useRealTimers();
});

async function find(name: string, query: string | null, set = false, client = someone()): Promise<readonly string[]> {
  return contexts.find(name, await resolver.resolve(name, client), query, set, client);
}

const FIXED = ['base:allocation', 'qemu:allocation-depth', 'archipelago:object'];
const diffs = ['archipelago:diff:hour-1', 'archipelago:diff:hour-2'];
const bitmaps = ['qemu:dirty-bitmap:hour-1', 'qemu:dirty-bitmap:hour-2'];

describe('the list', () => {
  it.each([
    [null, [...FIXED, ...diffs, ...bitmaps]],
    ['base:', ['base:allocation']],
    ['qemu:', ['qemu:allocation-depth', ...bitmaps]],
    ['archipelago:', ['archipelago:object', ...diffs]],
    ['archipelago:diff:', diffs],
    ['qemu:dirty-bitmap:', bitmaps],
    ['other:', []],
    ['base:allocation', ['base:allocation']],
    ['qemu:dirty-bitmap:hour-2', ['qemu:dirty-bitmap:hour-2']],
    ['archipelago:diff:-90m', ['archipelago:diff:-90m']],
    ['archipelago:diff:debian', ['archipelago:diff:debian']],
    ['base:other', []],
  ])('for %s', async (query, names) => {
    expect(await find('web-root', query)).toEqual(names);
  });

  it('of a snapshot has the other snapshots of its volume, by whatever name it was opened', async () => {
    for (const name of ['hour-1', 'web-root@hour-1', 'web-root@-1h']) {
      expect(await find(name, 'archipelago:diff:')).toEqual(['archipelago:diff:hour-2']);
    }
  });

  it('of a clone has what it was cloned from', async () => {
    expect(await find('cloned', 'archipelago:diff:')).toEqual(['archipelago:diff:debian']);
    volumes.volumes.delete('debian');
    expect(await find('cloned', 'archipelago:diff:')).toEqual([]);
  });

  it('of a snapshot whose volume is gone has none', async () => {
    expect(await find('debian', 'archipelago:')).toEqual(['archipelago:object']);
  });
});

describe('choosing', () => {
  it('takes exact names only: a namespace chooses nothing', async () => {
    for (const query of ['base:', 'qemu:', 'qemu:dirty-bitmap:', 'archipelago:diff:', 'archipelago', '']) {
      expect(await find('web-root', query, true)).toEqual([]);
    }
    for (const query of [...FIXED, ...diffs, ...bitmaps]) expect(await find('web-root', query, true)).toEqual([query]);
  });

  it.each([
    ['web-root', 'nothing', 'there is no volume nothing'],
    ['web-root', 'cloned', 'cloned is not read-only'],
    ['web-root', 'coarse', 'blocks of 65536 bytes, not 4096'],
    ['web-root', '-3h', 'the oldest is hour-2'],
    ['web-root', 'a/slash', 'has a slash'],
    ['web-root', 'hour-bad', 'is damaged'],
  ])('offers for %s no difference from %s, and the log says why', async (name, from, why) => {
    expect(await find(name, `archipelago:diff:${from}`, true)).toEqual([]);
    expect(log).toEqual([expect.stringContaining(why)]);
  });

  it('is not kept from a snapshot or a clone by the damaged map that it comes from', async () => {
    volumes.snapshot('orphan-snap', 'volume-bad', NOW).set('orphan-clone', { parent: 'hour-bad' });
    volumes.set('volume-bad', { damaged: true });
    expect(await find('orphan-snap', null)).toEqual(FIXED);
    expect(await find('orphan-clone', null)).toEqual(FIXED);
    expect(await find('orphan-snap', 'archipelago:diff:hour-1', true)).toEqual(['archipelago:diff:hour-1']);
  });

  it('asks the mapper for the snapshot that a time meant when it was chosen', async () => {
    const client = someone();
    const requests = contexts.requests('web-root', client);
    const what = (name: string) => {
      const request = requests.get(name);
      return request && decodeMapStatus(request);
    };
    expect(what('qemu:allocation-depth')).toEqual({ what: 'depth' });
    expect(what('archipelago:object')).toEqual({ what: 'object' });
    expect(what('base:allocation')).toBeUndefined();
    expect(what('archipelago:diff:-0s')).toBeUndefined();
    expect(await find('web-root', 'archipelago:diff:-0s', true, client)).toEqual(['archipelago:diff:-0s']);
    volumes.snapshot('hour-0', 'web-root', NOW);
    expect(await find('web-root', 'archipelago:diff:-0s', true, client)).toEqual(['archipelago:diff:-0s']);
    expect(what('archipelago:diff:-0s')).toEqual({ what: 'diff', from: 'hour-1', epoch: 1 });
    expect(await find('web-root', 'qemu:dirty-bitmap:hour-2', true, client)).toEqual(['qemu:dirty-bitmap:hour-2']);
    expect(what('qemu:dirty-bitmap:hour-2')).toEqual({ what: 'diff', from: 'hour-2', epoch: 1 });
    expect(contexts.comparedWith('web-root', 'archipelago:diff:-0s', client)).toBe('hour-1');
    expect(contexts.comparedWith('web-root', 'qemu:dirty-bitmap:hour-2', client)).toBe('hour-2');
    expect(contexts.comparedWith('web-root', 'qemu:dirty-bitmap:hour-1', client)).toBe('hour-1');
    expect(contexts.comparedWith('web-root', 'qemu:allocation-depth', client)).toBeNull();
    // Nobody else's.
    expect(contexts.requests('web-root', someone()).has('archipelago:diff:-0s')).toBe(false);
    expect(contexts.requests('cloned', client).has('archipelago:diff:-0s')).toBe(false);
  });
});
