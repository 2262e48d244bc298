/** What is said of a device that is not well. */
import { describe, expect, it } from 'vitest';
import { isNamed } from '../../../src/devices/context.js';
import type { Entry } from '../../../src/devices/table.js';
import { lostOf, troubleOf } from '../../../src/devices/trouble.js';

const entry: Entry = {
  index: 3,
  volume: 'vol',
  exportName: 'vol',
  identifier: 'archipelago:seg:vol',
  size: 512,
  readOnly: false,
  readOnlyAsked: false,
  connections: 3,
  since: 0,
  pid: 1,
  sockets: [11, 12, 13],
  state: 'attached',
};
const alive = (...states: [number, boolean][]): Map<number, boolean> => new Map(states);

describe('how many connections are lost', () => {
  it('is told only where all are known', () => {
    expect(lostOf(entry, alive([11, true], [12, true], [13, true]))).toBe(0);
    expect(lostOf(entry, alive([11, true], [12, false], [13, false]))).toBe(2);
    expect(lostOf({ ...entry, sockets: [11] }, alive([11, true]))).toBe(2);
    expect(lostOf(entry, alive([11, true]))).toBeNull();
    expect(lostOf({ ...entry, sockets: [] }, alive())).toBeNull();
  });
});

describe('the trouble with a device', () => {
  const again = 'nobody connects it again: run archipelago devices, or enable archipelago-devices.service';
  const keeper = 'the keeper (process 9) connects it again as soon as the node answers (archipelago status)';
  it.each([
    [0, 9, null],
    [null, 9, null],
    [0, null, `no keeper runs: after a restart of the node ${again}`],
    [3, 9, `it has no connection to the node, its requests wait; ${keeper}`],
    [3, null, `it has no connection to the node, its requests wait; ${again}`],
    [1, 9, `1 of 3 connections are lost; ${keeper}`],
  ])('with %s lost and keeper %s', (lost, pid, said) => {
    expect(troubleOf(entry, lost, pid)).toBe(said);
  });

  it('is that it was detached by force, whatever else', () => {
    expect(troubleOf({ ...entry, state: 'leaving' }, 3, null)).toMatch(/^it was detached by force and goes/);
  });
});

describe('what people call a device', () => {
  it.each([
    ['vol', true],
    ['/dev/nbd3', true],
    ['/dev/./nbd3', true],
    ['/dev/nbd30', false],
    ['nbd3', false],
    ['volume', false],
  ])('%s: %s', (name, means) => {
    expect(isNamed({ volume: 'vol', path: '/dev/nbd3' }, name)).toBe(means);
  });
});
