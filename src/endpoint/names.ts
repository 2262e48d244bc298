/**
 * What export names mean: `vol@snap`, and times such as `vol@-1h` or `vol@2026-11-19T03:00`. Text only; which volumes and snapshots
 * there are is resolve.ts.
 */

const UNIT_MS: Readonly<Record<string, number>> = {
  s: 1000,
  m: 60_000,
  h: 3_600_000,
  d: 86_400_000,
  w: 604_800_000,
};
/** From the start to the end of a second. */
const LAST_MS = 999;
/** Names have few `@`; each costs a look at the store, and clients choose the names. */
const MAX_SPLITS = 4;

/** One way to read a name: the part before an `@` and the part after it. */
export interface SplitName {
  readonly volume: string;
  readonly selector: string;
}

/** How a name may be meant, the last `@` first: volumes may have `@` in their names, and snapshots too. */
export function splitName(name: string): SplitName[] {
  const splits: SplitName[] = [];
  for (let at = name.lastIndexOf('@'); at > 0 && splits.length < MAX_SPLITS; at = name.lastIndexOf('@', at - 1)) {
    if (at < name.length - 1) splits.push({ volume: name.slice(0, at), selector: name.slice(at + 1) });
  }
  return splits;
}

const RELATIVE = /^-(?:\d{1,9}[smhdw])+$/;
const SECONDS = /^\d{9,11}$/;
const DATE = /^(\d{4})-(\d\d)-(\d\d)(?:T(\d\d):(\d\d)(?::(\d\d))?(Z|[+-]\d\d:?\d\d)?)?$/;

/**
 * The time that a selector tells, in ms since the epoch; null when it is none.
 *
 *     -1h  -90m  -1d12h       so long before now; s, m, h, d (24 hours) and w, in any combination
 *     -0s                     Infinity: whatever there is, also by a node whose clock is ahead, or from before a clock was put back
 *     2026-11-19              the start of that day
 *     2026-11-19T03:00[:30]   local time of this node; with Z or e.g. +01:00 the time of that zone
 *     1763600000              seconds since 1970
 *
 * What is told to the second means the end of it: the time at which a snapshot is said to be taken leads to that snapshot.
 *
 * @param now ms since the epoch
 */
export function parseTime(selector: string, now: number): number | null {
  if (RELATIVE.test(selector)) {
    let back = 0;
    for (const [, count, unit] of selector.matchAll(/(\d+)([smhdw])/g)) back += Number(count) * UNIT_MS[unit];
    if (back === 0) return Number.POSITIVE_INFINITY;
    // No snapshot is older than that, and dates have an end.
    return Math.max(0, now - back);
  }
  if (SECONDS.test(selector)) return Number(selector) * 1000 + LAST_MS;
  const match = DATE.exec(selector);
  if (!match) return null;
  const [, year, month, day, hour = '0', minute = '0', second = '0', zone] = match;
  const parts = [year, month, day, hour, minute, second].map(Number);
  return isDate(parts) ? timeOf(parts, zone) + LAST_MS : null;
}

function isDate([year, month, day, hour, minute, second]: readonly number[]): boolean {
  if (month < 1 || month > 12 || day < 1 || hour > 23 || minute > 59 || second > 59) return false;
  // Day 0 of the next month is the last of this one.
  return day <= new Date(Date.UTC(year, month, 0)).getUTCDate();
}

function timeOf([year, month, day, hour, minute, second]: readonly number[], zone: string | undefined): number {
  if (zone === undefined) return new Date(year, month - 1, day, hour, minute, second).getTime();
  const utc = Date.UTC(year, month - 1, day, hour, minute, second);
  if (zone === 'Z') return utc;
  const sign = zone.startsWith('-') ? -1 : 1;
  const digits = zone.slice(1).replace(':', '');
  const minutes = Number(digits.slice(0, 2)) * 60 + Number(digits.slice(2));
  return utc - sign * minutes * UNIT_MS.m;
}

/** The last millisecond that a Date can be, and by its negative the first. */
const MAX_DATE = 8.64e15;

/**
 * A time as messages and descriptions tell it, e.g. `2026-11-19T03:00:00Z`; one that no Date can be as the nearest that can.
 * @param ms since the epoch
 */
export function formatTime(ms: number): string {
  const date = new Date(Math.max(-MAX_DATE, Math.min(MAX_DATE, ms)));
  return date.toISOString().replace(/\.\d+Z$/, 'Z');
}
