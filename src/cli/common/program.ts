/** What the commander-based tools share: global options, help, usage errors with status 2, expected errors with status 255. */
import fs from 'node:fs';
import { Command, CommanderError } from 'commander';
import { DEFAULT_CONFIG_PATH } from '../../config/index.js';
import { SystemError } from '../../sys/errno.js';
import { Exit } from './exit.js';
import { type Io, OutputClosed, printError, processIo } from './io.js';
import { type GlobalOptions, Session } from './session.js';

/**
 * A program with `-c CONF` and `--json`, which may stand before or after the subcommand. Subcommands are added to it afterwards:
 * they inherit how errors are shown.
 */
export function createProgram(session: Session, description: string): Command {
  const { io, name } = session;
  const program = new Command(name);
  program
    .description(description)
    .option('-c, --config <file>', `configuration file (default: ${DEFAULT_CONFIG_PATH}, or built-in defaults)`)
    .option('--json', 'print data as JSON')
    .version(version(), '--version', 'print the version')
    .showHelpAfterError(`(${name} COMMAND --help tells more)`)
    .exitOverride()
    .configureOutput({
      writeOut: (text) => void io.stdout.write(text),
      writeErr: (text) => void io.stderr.write(text),
      getOutHasColors: () => false,
      getErrHasColors: () => false,
    })
    .configureHelp({ showGlobalOptions: true })
    .hook('preAction', () => session.configure(program.opts<GlobalOptions>()));
  return program;
}

/** The version of the package that this file is in, compiled or not. */
function version(): string {
  const file = new URL('../../../package.json', import.meta.url);
  return (JSON.parse(fs.readFileSync(file, 'utf8')) as { version: string }).version;
}

/** Parses the arguments, runs the command, and turns whatever happens into an exit status. */
export async function runProgram(program: Command, argv: readonly string[], session: Session): Promise<number> {
  try {
    await program.parseAsync([...argv], { from: 'user' });
    return Exit.OK;
  } catch (error) {
    session.progress.clear();
    return statusOf(error, session.io);
  } finally {
    session.close();
  }
}

function statusOf(error: unknown, io: Io): number {
  // commander has said it already.
  if (error instanceof CommanderError) return error.exitCode === 0 ? Exit.OK : Exit.USAGE;
  if (error instanceof OutputClosed) return Exit.OK;
  // Problems were found and printed: there is nothing to add.
  if (error instanceof Problems) return Exit.FAILED;
  if (error instanceof SystemError) {
    printError(io, error.message);
    return Exit.FAILED;
  }
  throw error;
}

/** The command did its work, told what it found, and what it found is bad: exit 255 without another message. */
export class Problems extends Error {
  constructor() {
    super('problems were found');
    this.name = 'Problems';
  }
}

/**
 * The entry of a tool: runs it on this process's streams. Ctrl-C leaves the segment before the process ends, so that no port is left to
 * be recovered.
 */
export async function runTool(
  name: string,
  main: (argv: readonly string[], session: Session) => Promise<number>,
): Promise<void> {
  const session = new Session(name, processIo());
  leaveOnSignals(() => session.close());
  process.exitCode = await main(process.argv.slice(2), session);
}

/** Ends the process on a signal with the status that shells expect, after `leave`. */
export function leaveOnSignals(leave: () => void): void {
  for (const [signal, number] of [
    ['SIGHUP', 1],
    ['SIGINT', 2],
    ['SIGTERM', 15],
  ] as const) {
    process.once(signal, () => {
      leave();
      process.exit(128 + number);
    });
  }
}
