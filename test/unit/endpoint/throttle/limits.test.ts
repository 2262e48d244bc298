/** LIMIT, the file behind it, and that limits follow a volume by its id. */
import fs from 'node:fs';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { openLimits, openLimitsBeside } from '../../../../src/endpoint/throttle/open.js';
import { NO_LIMITS } from '../../../../src/endpoint/throttle/rates.js';
import { LimitsStore } from '../../../../src/endpoint/throttle/store.js';
import { VolumeLimits } from '../../../../src/endpoint/throttle/volume-limits.js';
import { Op } from '../../../../src/requests/ops.js';
import { encodeName } from '../../../../src/requests/structs.js';
import { PORTS } from '../../composer/stack.js';
import { Endpoint } from '../support.js';
import { FakeClock, FakeTicket } from './fake-clock.js';

const BLOCK = 65536;
let endpoint: Endpoint;

beforeEach(async () => {
  endpoint = await Endpoint.start();
  await endpoint.stack.create('first-volume', 2 * BLOCK, BLOCK);
});

afterEach(async () => {
  expect(await endpoint.stop()).toEqual([]);
});

const limit = (body: object): Promise<Record<string, unknown>> => endpoint.ask(Op.LIMIT, body);
const file = (): string => path.join(endpoint.directory, 'limits.json');

describe('LIMIT', () => {
  it('tells of a volume without limits', async () => {
    const told = await limit({ name: 'first-volume' });
    expect(told).toEqual({
      name: 'first-volume',
      id: expect.stringMatching(/^[0-9a-f]{32}$/),
      own: {},
      limits: NO_LIMITS,
      waiting: 0,
    });
    expect(fs.existsSync(file())).toBe(false);
  });

  it('changes what it is told, leaves the rest, and clears all', async () => {
    await limit({ name: 'first-volume', set: { iops: 100, bps: 1 << 20 } });
    const told = await limit({ name: 'first-volume', set: { bps: null, iopsMax: 200, burstSeconds: 5 } });
    expect(told).toMatchObject({ own: { iops: 100, iopsMax: 200, burstSeconds: 5 }, limits: { iops: 100, bps: 0 } });
    expect(await limit({})).toEqual({ volumes: [told] });
    expect(await limit({ name: 'first-volume', clear: true })).toMatchObject({ own: {}, limits: NO_LIMITS });
    expect(await limit({})).toEqual({ volumes: [] });
    expect(JSON.parse(fs.readFileSync(file(), 'utf8'))).toEqual([]);
  });

  it.each([
    ['a volume that is not there', { name: 'no-such-volume' }, 'ENOENT'],
    ['no name', { set: {} }, 'EINVAL'],
    ['a limit that there is not', { name: 'first-volume', set: { speed: 1 } }, 'EINVAL'],
    ['words', { name: 'first-volume', set: { iops: '100' } }, 'EINVAL'],
    ['less than nothing', { name: 'first-volume', set: { iops: -1 } }, 'EINVAL'],
    ['half a request', { name: 'first-volume', set: { iops: 1.5 } }, 'EINVAL'],
    ['a burst of no time', { name: 'first-volume', set: { burstSeconds: 0 } }, 'EINVAL'],
    ['a burst slower than its rate', { name: 'first-volume', set: { iops: 100, iopsMax: 50 } }, 'EINVAL'],
    ['a burst of what is not limited', { name: 'first-volume', set: { iopsMax: 50 } }, 'EINVAL'],
    ['a list', { name: 'first-volume', set: [] }, 'EINVAL'],
    ['both', { name: 'first-volume', set: {}, clear: true }, 'EINVAL'],
    ['an id of what is not cleared', { name: 'first-volume', id: '00' }, 'EINVAL'],
  ])('refuses %s', async (_what, body, code) => {
    await expect(limit(body)).rejects.toMatchObject({ code });
    expect(await limit({})).toEqual({ volumes: [] });
  });

  it('forgets a volume that is gone, by the id that it had', async () => {
    const { id } = await limit({ name: 'first-volume', set: { iops: 1 } });
    await endpoint.stack.client.call(PORTS.mapper, { op: Op.DELETE, target: 'first-volume' });
    await endpoint.stack.create('first-volume', BLOCK, BLOCK);
    expect(await limit({ name: 'first-volume' })).toMatchObject({ own: {} });
    await limit({ name: 'first-volume', id, clear: true });
    expect(await limit({})).toEqual({ volumes: [] });
  });

  it('of a volume that somebody removed without a word can be cleared by the name it had, and not set', async () => {
    await limit({ name: 'first-volume', set: { iops: 1 } });
    await endpoint.stack.client.call(PORTS.mapper, { op: Op.DELETE, target: 'first-volume' });
    await expect(limit({ name: 'first-volume', set: { iops: 2 } })).rejects.toMatchObject({ code: 'ENOENT' });
    await limit({ name: 'first-volume', clear: true });
    expect(await limit({})).toEqual({ volumes: [] });
    await expect(limit({ name: 'first-volume', clear: true })).rejects.toMatchObject({ code: 'ENOENT' });
  });

  it('keeps to a volume that is renamed, and not to the next of its name', async () => {
    await limit({ name: 'first-volume', set: { iops: 77 } });
    const rename = { op: Op.RENAME, target: 'first-volume', data: encodeName('second-volume') };
    await endpoint.stack.client.call(PORTS.mapper, rename);
    await endpoint.stack.create('first-volume', BLOCK, BLOCK);
    expect(await limit({ name: 'second-volume' })).toMatchObject({ own: { iops: 77 } });
    expect(await limit({ name: 'first-volume' })).toMatchObject({ own: {} });
  });
});

describe('limits of a node', () => {
  const volume = { id: '0123456789abcdef0123456789abcdef', name: 'some-volume' };
  const unknown = { id: null, name: 'some-volume' };
  const open = (defaults = NO_LIMITS, clock = new FakeClock()): VolumeLimits =>
    new VolumeLimits(new LimitsStore(file()), defaults, clock);

  it('are there again after a restart', () => {
    open().change(volume, { iops: 5, bpsWrite: 6 });
    expect(open().of(volume)).toMatchObject({ own: { iops: 5, bpsWrite: 6 }, limits: { iops: 5, bpsWrite: 6 } });
    expect(open().of(unknown)).toMatchObject({ own: {} });
  });

  it('that lean on the configuration are there again after a restart, also of one that has them no more', () => {
    const defaults = { ...NO_LIMITS, iops: 1000 };
    open(defaults).change(volume, { iopsMax: 5000 });
    expect(open(defaults).of(volume).limits).toMatchObject({ iops: 1000, iopsMax: 5000 });
    expect(open().join(volume).active).toBe(false);
  });

  it('are those of a name where the map tells no id', () => {
    open().change(unknown, { iops: 5 });
    expect(open().of(unknown)).toMatchObject({ own: { iops: 5 } });
    expect(open().of(volume)).toMatchObject({ own: {} });
  });

  it("are the configuration's where nothing is set; 0 sets none", () => {
    const limits = open({ ...NO_LIMITS, iops: 10, bps: 20 });
    expect(limits.of(volume).limits).toMatchObject({ iops: 10, bps: 20 });
    limits.change(volume, { iops: 0 });
    expect(limits.of(volume).limits).toMatchObject({ iops: 0, bps: 20 });
    limits.clear(volume);
    expect(limits.of(volume).limits).toMatchObject({ iops: 10, bps: 20 });
  });

  it.each([
    ['no JSON', '[{'],
    ['no list', '{}'],
    ['a volume without a name', '[{"id": null, "limits": {}}]'],
    ['a volume of a strange id', '[{"id": "x", "name": "some-volume", "limits": {}}]'],
    ['a rate in words', '[{"id": null, "name": "some-volume", "limits": {"iops": "1"}}]'],
  ])('are not read from %s, and the error names the file', (_what, text) => {
    fs.writeFileSync(file(), text);
    expect(() => open()).toThrow(`${file()} is damaged`);
  });

  it('keep no endpoint from serving when the file is damaged: its own puts it aside, one beside it leaves it', () => {
    const said: string[] = [];
    const log = { error: (message: string) => said.push(message) };
    const settings = { limitsFile: file(), limits: { ...NO_LIMITS, iops: 7 } };
    fs.writeFileSync(file(), '[{');
    expect(openLimitsBeside(settings, log).of(volume)).toMatchObject({ own: {}, limits: { iops: 7 } });
    expect(fs.readFileSync(file(), 'utf8')).toBe('[{');
    const limits = openLimits(settings, log);
    expect(limits.of(volume)).toMatchObject({ own: {}, limits: { iops: 7 } });
    expect(fs.existsSync(file())).toBe(false);
    expect(fs.readFileSync(`${file()}.damaged`, 'utf8')).toBe('[{');
    expect(said).toEqual([expect.stringContaining(file()), expect.stringContaining(`${file()}.damaged`)]);
    limits.change(volume, { iops: 5 });
    expect(openLimits(settings, log).of(volume)).toMatchObject({ own: { iops: 5 } });
    expect(said).toHaveLength(2);
  });

  it('that cannot be read are told as what they are, and stay', () => {
    fs.mkdirSync(file());
    const settings = { limitsFile: file(), limits: NO_LIMITS };
    expect(() => openLimits(settings, { error: () => {} })).toThrow('EISDIR');
    expect(fs.existsSync(`${file()}.damaged`)).toBe(false);
  });

  it('follow a file that another process changes, also for who waits', () => {
    const clock = new FakeClock();
    const [mine, theirs] = [open(NO_LIMITS, clock), open()];
    theirs.change(volume, { iops: 1 });
    mine.reload();
    const throttle = mine.join(volume);
    new FakeTicket(throttle, clock).ask();
    const waiting = new FakeTicket(throttle, clock).ask();
    expect(mine.of(volume).waiting).toBe(1);
    theirs.clear(volume);
    mine.reload();
    expect(waiting.begun).toHaveLength(1);
    fs.writeFileSync(file(), 'no JSON');
    expect(() => mine.reload()).toThrow('is damaged');
    fs.rmSync(file());
    mine.reload();
    expect(mine.all()).toEqual([]);
  });

  it('are one throttle for all connections, which owes what it owes over a reconnect', () => {
    const clock = new FakeClock();
    const limits = open({ ...NO_LIMITS, bps: 1 << 20 }, clock);
    const throttle = limits.join(volume);
    expect(limits.join(volume)).toBe(throttle);
    new FakeTicket(throttle, clock, { isWrite: true, bytes: 8 << 20 }).ask();
    limits.leave(volume);
    limits.leave(volume);
    expect(limits.join(volume)).toBe(throttle);
    limits.leave(volume);
    clock.pass(10_000);
    limits.join(unknown);
    expect(limits.join(volume)).not.toBe(throttle);
  });
});
