/** The command about limits: how much the clients of a volume may do a second. */
import { type Command, InvalidArgumentError } from 'commander';
import { attempt, CliError } from '../common/exit.js';
import type { Session } from '../common/session.js';
import {
  askLimits,
  formatLimits,
  LIMITS,
  type LimitChanges,
  type LimitName,
  listLimits,
  type VolumeLimits,
} from './limits.js';
import { checkName } from './names.js';

const HELP = `
Limits hold for all connections of the volume on this node together, from now on and after restarts; they follow it when it is renamed, and go
when it is removed. 0: no limit; default: as the configuration says. Bytes may have a unit: 512K, 100M, 1G.

Examples:
  vlmc limit web-root --iops 500 --bps 100M
  vlmc limit web-root --iops-max 2000 --burst-seconds 30   faster for a while, after a quiet time
  vlmc limit web-root                                       what is in force
  vlmc limit                                                all volumes that have limits
  vlmc limit web-root --clear`;

const UNITS: Readonly<Record<string, number>> = { '': 1, K: 2 ** 10, M: 2 ** 20, G: 2 ** 30 };

export function addLimitCommand(program: Command, session: Session): void {
  const command = program
    .command('limit [name]')
    .description('tell or change how many requests and bytes a second the clients of a volume get');
  for (const { option, help, ofBytes } of LIMITS)
    command.option(`${option} <n>`, help, ofBytes ? parseBytes : parseCount);
  command
    .option('--clear', 'no limits but those of the configuration')
    .option('--show', 'only tell what is in force')
    .addHelpText('after', HELP)
    .action(async (name: string | undefined, options: LimitOptions, own: Command) => {
      const { clear, show, ...changes } = options;
      const changing = Object.keys(changes).length > 0;
      const meant = [clear === true, show === true, changing].filter(Boolean).length;
      if (meant > 1) own.error('error: give limits, --clear or --show, one of them');
      if (name === undefined && meant > 0 && show !== true) own.error('error: name the volume');
      if (name === undefined) return listAll(session);
      await limit(session, name, { clear: clear === true, changes: changing ? changesOf(changes) : null });
    });
}

/** What the configuration says. commander has no use for a null that a parser returns. */
const DEFAULT = 'default';
type Given = number | typeof DEFAULT;

interface LimitOptions extends Readonly<Partial<Record<LimitName, Given>>> {
  readonly clear?: boolean;
  readonly show?: boolean;
}

const changesOf = (given: Partial<Record<LimitName, Given>>): LimitChanges =>
  Object.fromEntries(Object.entries(given).map(([name, value]) => [name, value === DEFAULT ? null : value]));

async function limit(
  session: Session,
  name: string,
  { clear, changes }: { clear: boolean; changes: LimitChanges | null },
): Promise<void> {
  checkName(name);
  const body = { name, ...(clear ? { clear } : {}), ...(changes === null ? {} : { set: changes }) };
  const limits = await attempt('vlmc limit failed', () =>
    askLimits<VolumeLimits>(session, needEndpoint(session, body)),
  );
  await session.result(limits, `Volume ${name}: ${describe(limits)}`);
}

async function listAll(session: Session): Promise<void> {
  const volumes = await attempt('vlmc limit failed', () => {
    needEndpoint(session, {});
    return listLimits(session);
  });
  await session.result({ volumes }, volumes.map((volume) => `${volume.name}: ${describe(volume)}`).join('\n'));
}

function needEndpoint(session: Session, body: object): object {
  if (session.client.find('endpoint')) return body;
  throw new CliError('this node has no role of the type nbd, which is where clients are limited');
}

function describe(volume: VolumeLimits): string {
  const words = formatLimits(volume.limits) || 'no limits';
  if (volume.waiting === 0) return words;
  return `${words}; ${volume.waiting} connection${volume.waiting > 1 ? 's wait' : ' waits'}`;
}

const asDefault = (text: string): boolean => text.toLowerCase() === DEFAULT;

function parseCount(text: string): Given {
  if (asDefault(text)) return DEFAULT;
  if (!/^\d{1,12}$/.test(text)) throw new InvalidArgumentError('It is a number, 0 for no limit, or default.');
  return Number(text);
}

function parseBytes(text: string): Given {
  if (asDefault(text)) return DEFAULT;
  const match = /^(\d{1,12})([KMG]?)(?:i?B)?$/i.exec(text);
  if (!match) {
    throw new InvalidArgumentError('It is a number of bytes, also as 512K, 100M or 1G, 0 for no limit, or default.');
  }
  return Number(match[1]) * UNITS[match[2].toUpperCase()];
}
