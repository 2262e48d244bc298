/** All commands of vlmc. To load what one does not need would be the larger part of its time. */
import { Argument, type Command } from 'commander';
import { print } from '../common/io.js';
import { createProgram, runProgram } from '../common/program.js';
import type { Session } from '../common/session.js';
import { expandTwoLetterOptions } from './v0.js';

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
const ON_VOLUMES =
  'snapshot remove rm rename resize upgrade hash info open close lock unlock map mapinfo limit check'.split(' ');
/** Volumes and devices that unmap takes, no URIs. */
const LIST_MAPPED = `vlmc $config showmapped | awk -F '\\t+' 'NR > 1 { print $2; if ($3 ~ /^\\//) print $3 }'`;

type AddCommands = (program: Command, session: Session) => void;

/** The commands and their other names, in the order of the help, by the module that has them. */
const MODULES: readonly { readonly commands: string; readonly load: () => Promise<AddCommands> }[] = [
  {
    commands: 'create snapshot remove rm rename resize upgrade hash',
    load: async () => (await import('./volumes.js')).addVolumeCommands,
  },
  { commands: 'info list ls', load: async () => (await import('./info.js')).addInfoCommands },
  { commands: 'map unmap showmapped', load: async () => (await import('./map.js')).addMapCommands },
  { commands: 'open close lock unlock', load: async () => (await import('./lock.js')).addLockCommands },
  { commands: 'limit', load: async () => (await import('./limit.js')).addLimitCommand },
  { commands: 'mapinfo', load: async () => (await import('./mapinfo.js')).addMapinfoCommand },
  { commands: 'check', load: async () => (await import('./check/check.js')).addCheckCommand },
];

/** The command of a command line, if it is the first word after global options; else null. */
function commandOf(argv: readonly string[]): string | null {
  for (let i = 0; i < argv.length; i++) {
    const word = argv[i];
    if (word === '-c' || word === '--config') i++;
    else if (word !== '--json' && !word.startsWith('-c') && !word.startsWith('--config=')) return word;
  }
  return null;
}

/** The program, ready to parse: with the module of its command, with all for everything else (help, a command that there is not). */
export async function vlmcProgram(session: Session, argv: readonly string[]): Promise<Command> {
  const program = createProgram(session, 'Volumes of an Archipelago node: create, snapshot, clone, map, check.');
  program.addHelpText('after', EXAMPLES);
  const command = commandOf(argv);
  const module = MODULES.find(({ commands }) => commands.split(' ').some((name) => name === command));
  for (const { load } of module ? [module] : MODULES) (await load())(program, session);
  if (!module) addCompletionCommand(program, session);
  return program;
}

function addCompletionCommand(program: Command, session: Session): void {
  program
    .command('completion')
    .description('print a script for the shell: source <(vlmc completion bash)')
    .addArgument(new Argument('<shell>').choices(['bash']))
    .action(async () => {
      const { bashCompletion } = await import('../common/completion.js');
      const script = bashCompletion(program, {
        volumeCommands: ON_VOLUMES,
        volumeOptions: ['--snap', '--snapshots-of'],
        fileOptions: ['--table'],
        listNames: 'vlmc $config list',
        namesOf: { unmap: LIST_MAPPED },
      });
      await print(session.io, script);
    });
}

/** Runs a command line (the words after `vlmc`). @returns the exit status */
export async function vlmcMain(argv: readonly string[], session: Session): Promise<number> {
  const words = expandTwoLetterOptions(argv);
  return runProgram(await vlmcProgram(session, words), words, session);
}
