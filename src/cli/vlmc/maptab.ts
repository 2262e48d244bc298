/**
 * The table of volumes that are mapped at boot: a line `VOLUME OPTIONS` for each, options separated by commas, or `-` for none. Reading it is
 * apart from using it: a table with a mistake in its last line maps nothing of its first.
 */
import fs from 'node:fs';
import type { MapEndpoint } from '../../config/types.js';
import { MAX_CONNECTIONS } from '../../devices/types.js';
import { errnoOf, errnos, messageOf } from '../../sys/errno.js';
import { CliError } from '../common/exit.js';
import { checkName } from './names.js';

export const DEFAULT_MAPTAB = '/etc/archipelago/maptab';

/** What a line says. */
export interface MaptabEntry {
  readonly volume: string;
  /** Of the file, from 1. */
  readonly line: number;
  /** null: as `vlmc map` without --endpoint. */
  readonly endpoint: MapEndpoint | null;
  readonly readOnly: boolean;
  readonly writeThrough: boolean;
  /** null: as configured. */
  readonly connections: number | null;
  /** That it cannot be mapped is no failure. */
  readonly nofail: boolean;
}

const OPTIONS = 'kernel, nbd, auto, ro, rw, writethrough, connections=N, nofail';

/** @throws CliError naming the file, and the line that is not understood */
export function readMaptab(file: string): MaptabEntry[] {
  let text: string;
  try {
    text = fs.readFileSync(file, 'utf8');
  } catch (error) {
    const none = errnoOf(error) === errnos.ENOENT;
    const why = none ? `there is no ${file}: write a line "VOLUME OPTIONS" for each volume` : messageOf(error);
    throw new CliError(`cannot read the table: ${why}`, errnoOf(error), { cause: error });
  }
  return parseMaptab(text, file);
}

/** @param file for messages @throws CliError naming file and line */
export function parseMaptab(text: string, file: string): MaptabEntry[] {
  const entries: MaptabEntry[] = [];
  for (const [index, raw] of text.split(/\r?\n/).entries()) {
    const words = raw.replace(/(^|\s)#.*$/, '').trim();
    if (words === '') continue;
    const line = index + 1;
    try {
      const entry = parseLine(words, line);
      const before = entries.find(({ volume }) => volume === entry.volume);
      if (before) throw new CliError(`${entry.volume} is there twice, first in line ${before.line}`);
      entries.push(entry);
    } catch (error) {
      throw new CliError(`${file}:${line}: ${messageOf(error)}`, errnoOf(error), { cause: error });
    }
  }
  return entries;
}

function parseLine(text: string, line: number): MaptabEntry {
  const [volume, options = '-', ...more] = text.split(/\s+/);
  if (more.length > 0) throw new CliError(`"${more[0]}" is one word too many; options are separated by commas alone`);
  checkName(volume);
  let endpoint: MapEndpoint | null = null;
  let connections: number | null = null;
  const flags = new Set<string>();
  for (const option of options === '-' ? [] : options.split(',')) {
    const [key, value] = option.split('=', 2);
    if (key === 'connections' && /^\d{1,3}$/.test(value ?? '')) {
      connections = Number(value);
      if (connections < 1 || connections > MAX_CONNECTIONS)
        throw new CliError(`${option}: a device has from 1 to ${MAX_CONNECTIONS} connections`);
    } else if (option === 'kernel' || option === 'nbd' || option === 'auto') {
      if (endpoint !== null && endpoint !== option) throw new CliError(`${endpoint} and ${option} exclude each other`);
      endpoint = option;
    } else if (option === 'ro' || option === 'rw' || option === 'writethrough' || option === 'nofail') {
      flags.add(option);
    } else {
      throw new CliError(`the option "${option}" is not known; there are ${OPTIONS}, or - for none`);
    }
  }
  if (flags.has('ro') && flags.has('rw')) throw new CliError('ro and rw exclude each other');
  if (connections !== null && endpoint === 'nbd') throw new CliError('connections are those of a device: say kernel');
  return {
    volume,
    line,
    endpoint,
    readOnly: flags.has('ro'),
    writeThrough: flags.has('writethrough'),
    connections,
    nofail: flags.has('nofail'),
  };
}
