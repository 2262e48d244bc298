/** Limits of a volume: what can be limited, what a request of the command line or a file may say, and the buckets that follow. */
import { errnos, SystemError } from '../../sys/errno.js';
import { Bucket } from './bucket.js';

/** What can be limited, a second; 0: it is not. Totals hold for reads and writes together. */
export const RATES = ['iops', 'iopsRead', 'iopsWrite', 'bps', 'bpsRead', 'bpsWrite'] as const;
export type Rate = (typeof RATES)[number];
/** Rates of bursts, which may last `burstSeconds`; 0: none. */
export const MAXIMA = ['iopsMax', 'iopsReadMax', 'iopsWriteMax', 'bpsMax', 'bpsReadMax', 'bpsWriteMax'] as const;
export type Maximum = (typeof MAXIMA)[number];
const KEYS = [...RATES, ...MAXIMA, 'burstSeconds'] as const;
export type LimitKey = (typeof KEYS)[number];

/** Every limit. */
export type Limits = Readonly<Record<LimitKey, number>>;
/** What is set for one volume; the rest is as the configuration says. */
export type OwnLimits = Readonly<Partial<Limits>>;

/** The largest rate: 1 TB/s. */
export const MAX_RATE = 1e12;
/** The longest burst, in seconds. */
export const MAX_BURST = 86_400;
export const NO_LIMITS: Limits = {
  ...(Object.fromEntries(KEYS.map((key) => [key, 0])) as Record<LimitKey, number>),
  burstSeconds: 1,
};

const maximumOf = (rate: Rate): Maximum => `${rate}Max`;

/** Of what is set and what holds otherwise: what holds. */
export const effective = (own: OwnLimits, defaults: Limits): Limits => ({ ...defaults, ...own });

/** Anything is limited. */
export const isLimited = (limits: Limits): boolean => RATES.some((rate) => limits[rate] > 0);

/**
 * Checks what somebody wants to set.
 * @param changes a number for each limit that is to change; null: as the configuration says
 * @throws SystemError EINVAL naming what is wrong
 */
export function parseChanges(changes: unknown): Partial<Record<LimitKey, number | null>> {
  if (typeof changes !== 'object' || changes === null || Array.isArray(changes)) throw bad('limits are an object');
  const parsed: Partial<Record<LimitKey, number | null>> = {};
  for (const [name, value] of Object.entries(changes)) {
    const key = KEYS.find((known) => known === name);
    if (key === undefined) throw bad(`there is no limit ${JSON.stringify(name)}`);
    const [least, most] = key === 'burstSeconds' ? [1, MAX_BURST] : [0, MAX_RATE];
    if (value !== null && !(Number.isSafeInteger(value) && value >= least && value <= most)) {
      throw bad(`${key} is a whole number from ${least} to ${most}, not ${JSON.stringify(value)}`);
    }
    parsed[key] = value as number | null;
  }
  return parsed;
}

/**
 * What is set after a change.
 * @throws SystemError EINVAL: a burst below its rate, or without one
 */
export function changed(
  own: OwnLimits,
  changes: Partial<Record<LimitKey, number | null>>,
  defaults: Limits,
): OwnLimits {
  const after: Partial<Record<LimitKey, number>> = {};
  for (const key of KEYS) {
    const value = changes[key] === undefined ? own[key] : changes[key];
    if (value !== undefined && value !== null) after[key] = value;
  }
  const all = effective(after, defaults);
  for (const rate of RATES) {
    const maximum = all[maximumOf(rate)];
    if (after[maximumOf(rate)] === undefined || maximum === 0) continue;
    if (all[rate] === 0) throw bad(`${maximumOf(rate)} is a burst of ${rate}, which is not limited: set both`);
    if (maximum < all[rate]) {
      throw bad(`${maximumOf(rate)} (${maximum}) is less than ${rate} (${all[rate]}): a burst is faster than the rate`);
    }
  }
  return after;
}

/** Buckets that a request has to pass. */
export interface Buckets {
  readonly ofReads: readonly Bucket[];
  readonly ofWrites: readonly Bucket[];
  /** Some bucket is in both. */
  readonly shared: boolean;
}

/**
 * The buckets of some limits.
 * @param before those there were: one that stays the same keeps what is in it
 */
export function makeBuckets(limits: Limits, now: number, before: Buckets): Buckets {
  const old = new Set([...before.ofReads, ...before.ofWrites]);
  const made = (rate: Rate): Bucket[] =>
    bucketsOf(limits, rate, now).map((bucket) => {
      const same = [...old].find((known) => known.isLike(bucket));
      if (same === undefined) return bucket;
      old.delete(same);
      return same;
    });
  const [iops, iopsRead, iopsWrite, bps, bpsRead, bpsWrite] = RATES.map(made);
  return {
    ofReads: [...iops, ...bps, ...iopsRead, ...bpsRead],
    ofWrites: [...iops, ...bps, ...iopsWrite, ...bpsWrite],
    shared: iops.length + bps.length > 0,
  };
}

/** One bucket; with a burst one that holds the whole burst, and one that keeps that to its own rate. */
function bucketsOf(limits: Limits, rate: Rate, now: number): Bucket[] {
  const perSecond = limits[rate];
  const maximum = limits[maximumOf(rate)];
  const ofBytes = rate.startsWith('bps');
  if (perSecond === 0) return [];
  if (maximum <= perSecond) return [new Bucket(ofBytes, perSecond, now)];
  return [new Bucket(ofBytes, perSecond, now, maximum * limits.burstSeconds), new Bucket(ofBytes, maximum, now)];
}

const bad = (problem: string): SystemError => new SystemError(errnos.EINVAL, `limits: ${problem}`);
