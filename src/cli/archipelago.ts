#!/usr/bin/env node
/**
 * `archipelago`: starts, stops and shows the roles of a node. Exit status: 0 done, 255 an error that is said on standard error
 * (status: something that should run does not), 2 wrong usage.
 */
import { Argument, Command, CommanderError } from 'commander';
import { DEFAULT_CONFIG_PATH, loadConfig } from '../config/index.js';
import { messageOf } from '../sys/errno.js';
import { type CommandContext, restart, start, status, stop } from './archipelago/commands.js';
import { BASH_COMPLETION } from './archipelago/completion.js';

const FAILURE = 255;
const USAGE = 2;

function context(program: Command): CommandContext {
  const options = program.opts<{ config?: string; json: boolean }>();
  return {
    config: loadConfig(options.config ?? null),
    json: options.json,
    out: {
      write: (text) => process.stdout.write(text),
      colours: process.stdout.isTTY === true && !process.env.NO_COLOR,
    },
    warn: (line) => process.stderr.write(`${line}\n`),
  };
}

function build(): Command {
  const program = new Command('archipelago')
    .description('Starts, stops and shows the roles of this node.')
    .version('1.0.0')
    .option('-c, --config <file>', `configuration (default: ${DEFAULT_CONFIG_PATH}, or none)`)
    .option('--json', 'print JSON', false)
    .addHelpText(
      'after',
      `
Examples:
  archipelago start                        start everything, return when it serves
  archipelago status                       one line for each role; exit status 255 when one does not run
  archipelago -c node2.conf stop -f        stop although volumes are mapped
  archipelago restart mapperd              restart one role, the others go on
  source <(archipelago completion bash)    complete commands and roles in bash`,
    )
    .exitOverride();

  program
    .command('start')
    .argument('[role]', 'this role only')
    .option('--foreground', 'do not go to the background; stop on Ctrl-C or SIGTERM', false)
    .description('start everything, or one role')
    .action((role: string | undefined, options: { foreground: boolean }) =>
      start(context(program), role ?? null, options),
    );

  const force = ['-f, --force', 'also while volumes are mapped or have clients'] as const;
  program
    .command('stop')
    .argument('[role]', 'this role only')
    .option(...force, false)
    .description('stop everything and remove the segment, or stop one role')
    .action((role: string | undefined, options: { force: boolean }) =>
      stop(context(program), role ?? null, options.force),
    );

  program
    .command('restart')
    .argument('[role]', 'this role only: it is stopped and started within its process')
    .option(...force, false)
    .description('stop and start everything, or one role')
    .action((role: string | undefined, options: { force: boolean }) =>
      restart(context(program), role ?? null, options.force),
    );

  program
    .command('status')
    .description('show whether each role runs')
    .action(async () => {
      if (!(await status(context(program)))) process.exitCode = FAILURE;
    });

  program
    .command('completion')
    .addArgument(new Argument('<what>', 'what to print').choices(['bash', 'roles']))
    .description('print a completion script, or the names of the roles')
    .action((what: string) => {
      const { config } = what === 'roles' ? context(program) : { config: null };
      process.stdout.write(config ? `${config.roles.map(({ name }) => name).join(' ')}\n` : BASH_COMPLETION);
    });

  for (const command of program.commands) command.exitOverride();
  return program;
}

async function main(): Promise<void> {
  try {
    await build().parseAsync();
  } catch (error) {
    if (error instanceof CommanderError) {
      // commander has said what is wrong already; --help and --version come here too.
      process.exitCode = error.exitCode === 0 ? 0 : USAGE;
      return;
    }
    const red = process.stderr.isTTY === true && !process.env.NO_COLOR;
    const message = messageOf(error);
    process.stderr.write(red ? `\x1b[31m${message}\x1b[0m\n` : `${message}\n`);
    process.exitCode = FAILURE;
  }
}

await main();
