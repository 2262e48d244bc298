/** All commands of vlmc. */
import type { Command } from 'commander';
import { Argument } from 'commander';
import { bashCompletion } from '../common/completion.js';
import { print } from '../common/io.js';
import { createProgram, runProgram } from '../common/program.js';
import type { Session } from '../common/session.js';
import { addCheckCommand } from './check/check.js';
import { addInfoCommands } from './info.js';
import { addLockCommands } from './lock.js';
import { addMapCommands } from './map.js';
import { addMapinfoCommand } from './mapinfo.js';
import { expandTwoLetterOptions } from './v0.js';
import { addVolumeCommands } from './volumes.js';

const EXAMPLES = `
Examples:
  vlmc create web-root --size 10G         a blank volume of 10 GiB
  vlmc map web-root                       print the URI that NBD clients use
  vlmc snapshot web-root web-root-monday  freeze its present content
  vlmc create web-test --snap web-root-monday
  vlmc --json info web-test
  vlmc check --all

Exit status: 0 done, 255 it failed (the reason is on stderr), 2 the command line is wrong.`;

/** Commands whose first word is an existing volume, for completion. */
const ON_VOLUMES = 'snapshot remove rm rename resize upgrade hash info open close lock unlock map mapinfo check'.split(
  ' ',
);
/** Volumes and devices that unmap takes, no URIs. */
const LIST_MAPPED = `vlmc $config showmapped | awk -F '\\t+' 'NR > 1 { print $2; if ($3 ~ /^\\//) print $3 }'`;

/** The program, ready to parse. */
export function vlmcProgram(session: Session): Command {
  const program = createProgram(session, 'Volumes of an Archipelago node: create, snapshot, clone, map, check.');
  program.addHelpText('after', EXAMPLES);
  addVolumeCommands(program, session);
  addInfoCommands(program, session);
  addMapCommands(program, session);
  addLockCommands(program, session);
  addMapinfoCommand(program, session);
  addCheckCommand(program, session);
  program
    .command('completion')
    .description('print a script for the shell: source <(vlmc completion bash)')
    .addArgument(new Argument('<shell>').choices(['bash']))
    .action(() =>
      print(
        session.io,
        bashCompletion(program, {
          volumeCommands: ON_VOLUMES,
          volumeOptions: ['--snap', '--snapshots-of'],
          fileOptions: ['--table'],
          listNames: 'vlmc $config list',
          namesOf: { unmap: LIST_MAPPED },
        }),
      ),
    );
  return program;
}

/** Runs a command line (the words after `vlmc`). @returns the exit status */
export function vlmcMain(argv: readonly string[], session: Session): Promise<number> {
  return runProgram(vlmcProgram(session), expandTwoLetterOptions(argv), session);
}
