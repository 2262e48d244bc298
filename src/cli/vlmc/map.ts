/** The commands about exports: map, unmap, showmapped. */
import type { Command } from 'commander';
import { Op } from '../../requests/ops.js';
import { attempt, CliError } from '../common/exit.js';
import { print } from '../common/io.js';
import type { Session } from '../common/session.js';
import { device, type ShowMapped, showMapped } from './mapped.js';
import { checkName } from './names.js';
import { type V0Options, withV0 } from './v0.js';

export function addMapCommands(program: Command, session: Session): void {
  withV0(program.command('map <name>'))
    .description('offer a volume to NBD clients and print its URI')
    .option('--read-only, --readonly', 'refuse writes; short: -ro')
    .option('--writethrough', 'every write is durable before its answer')
    .option('--socket', 'a unix socket of its own, for clients that cannot name an export (tapdisk)')
    .addHelpText('after', '\nExamples:\n  uri=$(vlmc map web-root)\n  nbdcopy debian.raw "$uri"\n  vlmc unmap web-root')
    .action((name: string, options: MapOptions) => map(session, name, options));

  program
    .command('unmap <volume>')
    .description('end what map began; takes the name or the URI')
    .option('-f, --force', 'also when clients are connected: their connections are cut')
    .action((volume: string, options: { force?: boolean }) => unmap(session, volume, options.force === true));

  program
    .command('showmapped')
    .description('volumes that are mapped')
    .action(() => show(session));
}

interface MapOptions extends V0Options {
  readonly readonly?: boolean;
  readonly writethrough?: boolean;
  readonly socket?: boolean;
}

async function map(session: Session, name: string, options: MapOptions): Promise<void> {
  checkName(name);
  const body = {
    name,
    readOnly: options.readonly === true,
    assumeV0: options.assume_v0 === true,
    v0Size: options.v0_size ?? -1,
    writeThrough: options.writethrough === true,
    ownSocket: options.socket === true,
  };
  const reply = await attempt('vlmc map failed', async () => {
    const answer = await session.client.json<{ name?: string; uris: string[] }>('endpoint', Op.MAP, name, body);
    if (answer.uris.length === 0) throw new CliError('the endpoint listens nowhere: set socket or listen in [nbd]');
    return answer;
  });
  await session.result({ name, uris: reply.uris }, device(reply));
}

async function unmap(session: Session, volume: string, force: boolean): Promise<void> {
  const isUri = volume.includes('://');
  if (!isUri) checkName(volume);
  const body = isUri ? { uri: volume, force } : { name: volume, force };
  const reply = await attempt('vlmc unmap failed', () =>
    session.client.json<{ name?: string }>('endpoint', Op.UNMAP, isUri ? '' : volume, body),
  );
  await session.result({ name: reply.name ?? volume });
}

async function show(session: Session): Promise<void> {
  const shown = await attempt('vlmc showmapped failed', () => showMapped(session));
  if (session.json) await session.result(shown);
  else await print(session.io, formatMapped(shown));
}

/** The original's table: what scripts parse. */
export function formatMapped({ mapped }: Pick<ShowMapped, 'mapped'>): string {
  if (mapped.length === 0) return 'No volumes mapped\n\n';
  return ['id\timage\t\tdevice', ...mapped.map((m) => `${m.id}\t${m.name}\t${device(m)}`), ''].join('\n');
}
