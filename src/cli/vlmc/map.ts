/** The commands about exports and devices: map, unmap, showmapped. */
import { type Command, Option } from 'commander';
import { attempt } from '../common/exit.js';
import type { Session } from '../common/session.js';
import { mapVolume } from './attach.js';
import { untilThere } from './await-node.js';
import { unmapVolume } from './detach.js';
import { type MapOptions, parseConnections, parseSeconds, requestOf } from './map-options.js';
import { mapTable, unmapTable } from './map-table.js';
import { reachedBy } from './mapped.js';
import { DEFAULT_MAPTAB } from './maptab.js';
import { checkName } from './names.js';
import { show } from './show-mapped.js';
import { withV0 } from './v0.js';

const MAP_HELP = `
Examples:
  uri=$(vlmc map web-root)                  an export for NBD clients
  nbdcopy debian.raw "$uri"
  dev=$(vlmc map web-root --endpoint kernel)  a device of the kernel, as root
  mount "$dev" /mnt
  vlmc map --table                          all volumes of ${DEFAULT_MAPTAB}`;

const UNMAP_HELP = `
A device is flushed and detached; one that is mounted, open, swap, or used by device-mapper is refused, naming who uses it.

Examples:
  vlmc unmap web-root
  vlmc unmap /dev/nbd0
  vlmc unmap --table          all volumes of ${DEFAULT_MAPTAB}, the last one first`;

export function addMapCommands(program: Command, session: Session): void {
  const table = ['--table [file]', `the volumes of a table; default: ${DEFAULT_MAPTAB}`] as const;

  withV0(program.command('map [name]'))
    .description('offer a volume to NBD clients and print its URI, or attach it to the kernel and print the device')
    .option('--read-only, --readonly', 'refuse writes; short: -ro')
    .addOption(
      new Option('--endpoint <what>', 'kernel: a device /dev/nbdN, needs root; auto: a device where possible').choices([
        'kernel',
        'nbd',
        'auto',
      ]),
    )
    .option('--connections <n>', 'of a device, 1 to 16; default: device_connections of [nbd]', parseConnections)
    .option('--writethrough', 'every write is durable before its answer')
    .option('--socket', 'a unix socket of its own, for clients that cannot name an export (tapdisk)')
    .option(...table)
    .option('--wait <seconds>', 'wait for a node that is being started', parseSeconds)
    .addHelpText('after', MAP_HELP)
    .action(async (name: string | undefined, options: MapOptions, own: Command) => {
      refuseMixed(own, name, options.table, ['readonly', 'endpoint', 'connections', 'writethrough', 'socket']);
      if (options.connections !== undefined && options.endpoint === 'nbd')
        own.error('error: --connections is of a device: say --endpoint kernel');
      await map(session, name, options);
    });

  program
    .command('unmap [volume]')
    .description('end what map began; takes the device, the name or the URI')
    .option('-f, --force', 'also when clients are connected or programs have the device open; never when it is mounted')
    .option(...table)
    .addHelpText('after', UNMAP_HELP)
    .action(async (volume: string | undefined, options: { force?: boolean; table?: string | true }, own: Command) => {
      refuseMixed(own, volume, options.table, []);
      const force = options.force === true;
      if (volume === undefined) return unmapTable(session, tableFile(options.table), force);
      const reply = await attempt('vlmc unmap failed', () => unmapVolume(session, volume, force));
      await session.result(reply);
    });

  program
    .command('showmapped')
    .description('volumes that are mapped, and their devices')
    .option('-l, --long', 'also sizes, connections, since when, and how they are')
    .action((options: { long?: boolean }) => show(session, options.long === true));
}

const tableFile = (table: string | true | undefined): string => (typeof table === 'string' ? table : DEFAULT_MAPTAB);

/** A name or a table: one of them, and with a table nothing that its lines say. Ends the command otherwise. */
function refuseMixed(
  own: Command,
  name: string | undefined,
  table: string | true | undefined,
  ofLines: readonly string[],
): void {
  if (name === undefined && table === undefined) own.error('error: name a volume, or give --table');
  if (table === undefined) return;
  // `--table NAME` takes what was meant as a volume for the file: only a name after it is seen here.
  if (name !== undefined) own.error('error: a volume or --table, not both');
  const given = ofLines.find((option) => own.opts()[option] !== undefined);
  if (given !== undefined) own.error(`error: --${given} does not go with --table: its lines say that`);
}

async function map(session: Session, name: string | undefined, options: MapOptions): Promise<void> {
  if (name === undefined) return mapTable(session, tableFile(options.table), options.wait ?? 0);
  checkName(name);
  const reply = await attempt('vlmc map failed', async () => {
    if (options.wait !== undefined) await untilThere(session, options.wait);
    return mapVolume(session, requestOf(session, name, options));
  });
  const { uris, device } = reply;
  const path = device?.path ?? null;
  await session.result({ name, device: path, uris }, path ?? reachedBy({ uris }));
}
