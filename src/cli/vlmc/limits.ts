/** Limits of volumes as the tools see them: what can be limited, asking the endpoint, and the words for it. */
import { Op } from '../../requests/ops.js';
import type { Session } from '../common/session.js';
import { formatSize } from './size.js';

/** What can be limited, by the endpoint's names. */
export type LimitName =
  | `${'iops' | 'bps'}${'' | 'Read' | 'Write'}${'' | 'Max'}`
  /** How long a burst may last. */
  | 'burstSeconds';
/** null: as the configuration says. */
export type LimitChanges = Readonly<Partial<Record<LimitName, number | null>>>;

interface Limit {
  readonly name: LimitName;
  readonly option: string;
  readonly help: string;
  readonly ofBytes: boolean;
}

const rate = (name: LimitName, option: string, help: string): Limit => ({
  name,
  option,
  help,
  ofBytes: name.startsWith('bps'),
});

export const LIMITS: readonly Limit[] = [
  rate('iops', '--iops', 'requests a second'),
  rate('iopsRead', '--iops-read', 'reads a second'),
  rate('iopsWrite', '--iops-write', 'writes, trims and write-zeroes a second'),
  rate('bps', '--bps', 'bytes a second'),
  rate('bpsRead', '--bps-read', 'bytes read a second'),
  rate('bpsWrite', '--bps-write', 'bytes written a second'),
  rate('iopsMax', '--iops-max', 'requests a second of a burst'),
  rate('iopsReadMax', '--iops-read-max', 'reads a second of a burst'),
  rate('iopsWriteMax', '--iops-write-max', 'writes a second of a burst'),
  rate('bpsMax', '--bps-max', 'bytes a second of a burst'),
  rate('bpsReadMax', '--bps-read-max', 'bytes read a second of a burst'),
  rate('bpsWriteMax', '--bps-write-max', 'bytes written a second of a burst'),
  rate('burstSeconds', '--burst-seconds', 'how long a burst may last; 1 unless told'),
];

/** What the endpoint tells of one volume. */
export interface VolumeLimits {
  readonly name: string;
  /** null: its map has none, and the limits are those of the name. */
  readonly id: string | null;
  /** Set for it. */
  readonly own: Readonly<Partial<Record<LimitName, number>>>;
  /** In force; 0: no limit. */
  readonly limits: Readonly<Record<LimitName, number>>;
  /** Connections whose next request waits. */
  readonly waiting: number;
}

/** Asks the endpoint. @param body see docs/xseg-protocol.md, LIMIT */
export const askLimits = <T>(session: Session, body: object): Promise<T> =>
  session.client.json<T>('endpoint', Op.LIMIT, '', body);

/** All volumes for which limits are set. */
export async function listLimits(session: Session): Promise<readonly VolumeLimits[]> {
  return (await askLimits<{ volumes: VolumeLimits[] }>(session, {})).volumes;
}

/** The limits of a volume; null where there is no endpoint to tell, or none that knows of limits. */
export async function limitsOf(session: Session, name: string): Promise<VolumeLimits | null> {
  if (!session.client.find('endpoint')) return null;
  try {
    return await askLimits<VolumeLimits>(session, { name });
  } catch {
    // What asks for them in passing has another business.
    return null;
  }
}

/** After a volume is gone: what was set for it is forgotten. @param limits of it, before it went */
export async function forgetLimits(session: Session, limits: VolumeLimits | null): Promise<void> {
  if (limits === null || Object.keys(limits.own).length === 0) return;
  const { id, name } = limits;
  await askLimits(session, { id, name, clear: true });
}

/** One line; '': nothing is limited. */
export function formatLimits(limits: VolumeLimits['limits']): string {
  const words: string[] = [];
  const amount = (value: number, ofBytes: boolean): string => (ofBytes ? `${formatSize(value)}/s` : String(value));
  for (const { name, option, ofBytes } of LIMITS) {
    const value = limits[name];
    if (name === 'burstSeconds' || name.endsWith('Max') || !(value > 0)) continue;
    const maximum = limits[`${name}Max` as LimitName];
    const bursts = maximum > value ? ` (${amount(maximum, ofBytes)} for ${limits.burstSeconds} s)` : '';
    words.push(`${option.slice(2)} ${amount(value, ofBytes)}${bursts}`);
  }
  return words.join(', ');
}
