/** `vlmc check`: do maps and objects agree? Its options and help. */
import { type Command, InvalidArgumentError } from 'commander';
import type { Session } from '../../common/session.js';

const HELP = `
What is checked: every map can be read; every object that it names exists and is no longer
than a block, and is of that block; no object that one map writes in place is named by another; no epoch in an object's name is ahead of
what its volume may use; no object of a volume's name pattern is left that no map names (an orphan: it only takes space). What crashes have
left is told: interrupted deletions and renamings with the way out, maps that were never finished, locks of no volume. All of it
may run while volumes are in use: what looks wrong is looked at again before it is told.

--repair deletes orphans of volumes that are not open anywhere and finishes interrupted deletions, and changes nothing else; --dry-run with it
only tells what would be done.

Examples:
  vlmc check web-root
  vlmc check --all --repair --dry-run
  vlmc --json check --all

Exit status: 255 when there are errors or orphans left.`;

/** Objects younger than this are kept by a repair: ten times what the slowest copy-up takes. */
const DEFAULT_AGE_S = 60;

export function addCheckCommand(program: Command, session: Session): void {
  program
    .command('check [name]')
    .description('check that maps and objects agree, of one volume or all')
    .option('--all', 'all volumes and snapshots')
    .option('--repair', 'delete orphans and finish interrupted deletions, where that is safe')
    .option('--dry-run', 'with --repair: only tell what it would do')
    .option(
      '--age <seconds>',
      'with --repair: keep objects that were changed within this time',
      parseAge,
      DEFAULT_AGE_S,
    )
    .addHelpText('after', HELP)
    .action(async (name: string | undefined, options: CheckOptions) => {
      // Loaded when it runs: it is the larger half of vlmc.
      const { check } = await import('./run.js');
      await check(session, name, options);
    });
}

function parseAge(text: string): number {
  if (!/^\d+$/.test(text)) throw new InvalidArgumentError('It is a number of seconds.');
  return Number(text);
}

export interface CheckOptions {
  readonly all?: boolean;
  readonly repair?: boolean;
  readonly dryRun?: boolean;
  /** Seconds. */
  readonly age: number;
}
