/** What stands after an `@`: times in all their forms, and what is none. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { formatTime, parseTime, splitName } from '../../../src/endpoint/names.js';

const NOW = Date.UTC(2026, 10, 20, 12, 0, 0);

describe('splitting a name', () => {
  it('begins with the last @, and is empty where nothing stands before or after one', () => {
    expect(splitName('web-root')).toEqual([]);
    expect(splitName('@web-root')).toEqual([]);
    expect(splitName('web-root@')).toEqual([]);
    expect(splitName('web-root@-1h')).toEqual([{ volume: 'web-root', selector: '-1h' }]);
    expect(splitName('web@root@snap')).toEqual([
      { volume: 'web@root', selector: 'snap' },
      { volume: 'web', selector: 'root@snap' },
    ]);
  });

  it('gives a client no way to make the server look often', () => {
    expect(splitName('x@'.repeat(1000).concat('y')).length).toBeLessThanOrEqual(4);
  });

  it('loses nothing of the name', () => {
    fc.assert(
      fc.property(fc.string(), (name) => {
        for (const { volume, selector } of splitName(name)) expect(`${volume}@${selector}`).toBe(name);
      }),
    );
  });
});

describe('times', () => {
  it.each([
    ['-0s', Number.POSITIVE_INFINITY],
    ['-1h', NOW - 3_600_000],
    ['-90m', NOW - 5_400_000],
    ['-1d12h', NOW - 129_600_000],
    ['-2w', NOW - 1_209_600_000],
    ['-1w1d1h1m1s', NOW - (604_800 + 86_400 + 3600 + 60 + 1) * 1000],
    ['-999999999w', 0],
    ['1763600000', 1_763_600_000_999],
    ['2026-11-19T03:00Z', Date.UTC(2026, 10, 19, 3) + 999],
    ['2026-11-19T03:00:30Z', Date.UTC(2026, 10, 19, 3, 0, 30) + 999],
    ['2026-11-19T03:00+01:00', Date.UTC(2026, 10, 19, 2) + 999],
    ['2026-11-19T03:00-0530', Date.UTC(2026, 10, 19, 8, 30) + 999],
    ['2026-11-19T03:00', new Date(2026, 10, 19, 3, 0, 0).getTime() + 999],
    ['2026-11-19', new Date(2026, 10, 19).getTime() + 999],
    ['2028-02-29', new Date(2028, 1, 29).getTime() + 999],
  ])('%s', (selector, time) => {
    expect(parseTime(selector, NOW)).toBe(time);
  });

  it.each([
    '',
    '-',
    '-1',
    '-h',
    '1h',
    '+1h',
    '-1y',
    '-1h ',
    'now',
    '20261119',
    '2026-13-01',
    '2026-02-30',
    '2027-02-29',
    '2026-11-00',
    '2026-11-19T24:00',
    '2026-11-19T03',
    '2026-11-19T03:60',
    '2026-11-19 03:00',
    '2026-11-19Z',
    '123456789012',
    'web-root-monday',
  ])('%j is none', (selector) => {
    expect(parseTime(selector, NOW)).toBeNull();
  });

  it('are told in a form that is a time again', () => {
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 4_000_000_000 }), (seconds) => {
        const last = seconds * 1000 + 999;
        expect(parseTime(formatTime(last), NOW)).toBe(last);
      }),
    );
  });
});
