/** The subcommands of `archipelago` and their help. */
import { Argument, type Command, InvalidArgumentError } from 'commander';
import { bashCompletion } from '../common/completion.js';
import { print } from '../common/io.js';
import { createProgram } from '../common/program.js';
import type { Session } from '../common/session.js';
import type { CommandContext } from './commands.js';

export function archipelagoProgram(session: Session): Command {
  // Loaded when a command runs: help and completion need none of it.
  const commands = () => import('./commands.js');
  const context = (): CommandContext => ({
    config: session.config,
    json: session.json,
    io: session.io,
    devices: () => session.devices(),
  });
  const program = createProgram(session, 'Starts, stops and shows the roles of this node.').addHelpText(
    'after',
    `
Examples:
  archipelago start                        start everything, return when it serves
  archipelago status                       one line for each role; exit status 255 when one does not run
  archipelago -c node2.conf stop -f        stop although volumes are mapped
  archipelago restart mapperd              restart one role, the others go on
  archipelago complete --dry-run           what is partial in the stores of this node, and the room to make it whole
  source <(archipelago completion bash)    complete commands and roles in bash`,
  );

  program
    .command('start')
    .argument('[role]', 'this role only')
    .option('--foreground', 'do not go to the background; Ctrl-C and SIGTERM stop the node', false)
    .description('start everything, or one role; return when it serves')
    .action((role: string | undefined, { foreground }: { foreground: boolean }) =>
      commands().then(({ start }) => start(context(), role ?? null, { foreground })),
    );

  const force = ['-f, --force', 'also while volumes are mapped or have clients', false] as const;
  program
    .command('stop')
    .argument('[role]', 'this role only')
    .option(...force)
    .description('stop everything and remove the segment, or stop one role')
    .action((role: string | undefined, options: { force: boolean }) =>
      commands().then(({ stop }) => stop(context(), role ?? null, options.force)),
    );

  program
    .command('restart')
    .argument('[role]', 'this role only: it is stopped and started within its process, its clients wait meanwhile')
    .option(...force)
    .description('stop and start everything, or one role')
    .action((role: string | undefined, options: { force: boolean }) =>
      commands().then(({ restart }) => restart(context(), role ?? null, options.force)),
    );

  program
    .command('status')
    .description('show whether each role runs; exit status 255 when one does not')
    .action(() => commands().then(({ status }) => status(context())));

  program
    .command('nbd')
    .argument('[volume]', 'the default export; the only one without --all')
    .option('--all', 'every volume is an export, by its name', false)
    .option(
      '--exit-idle <seconds>',
      'end when there was no client for so long; only with sockets that were handed over',
      parseSeconds,
    )
    .option('-v, --verbose', 'tell on standard error what happens', false)
    .description(
      'serve the running node to one client on standard input and output, or on sockets that were handed over',
    )
    .addHelpText(
      'after',
      `
For inetd, systemd's socket units (LISTEN_FDS), and clients that start their server:
  nbdinfo -- [ archipelago nbd web1 ]
  nbdsh -c 'h.connect_systemd_socket_activation(["archipelago", "nbd", "web1"])' -c 'print(h.get_size())'
  socat TCP-LISTEN:10810,bind=127.0.0.1,fork,reuseaddr EXEC:'archipelago nbd web1'`,
    )
    .action(
      async (
        volume: string | undefined,
        given: { all: boolean; exitIdle?: number; verbose: boolean },
        own: Command,
      ) => {
        const { all, exitIdle = null, verbose } = given;
        const { serveNbd, spareTheClient } = await import('./nbd.js');
        spareTheClient();
        if (volume === undefined && !all)
          own.error('name a volume to serve, or give --all for every volume by its name');
        await serveNbd(session, { volume: volume ?? null, all, exitIdle, verbose });
      },
    );

  program
    .command('devices')
    .option('--while-attached', 'end when there is no device any more', false)
    .description('keep the devices that vlmc map made of volumes connected, until a signal; root only')
    .action(({ whileAttached }: { whileAttached: boolean }) =>
      import('./devices.js').then(({ runKeeper }) => runKeeper(session, { whileAttached })),
    );

  program
    .command('complete')
    .option('--dry-run', 'tell what there is to do and how much room it takes, also while nodes run', false)
    .description('make each partial object whole, for older versions, the original, or NFS; no node may use the stores')
    .addHelpText(
      'after',
      `
Copies of blocks may be partial (partial_copies). What does not know that reads zeros in them. This makes whole copies of all of them, in each
directory that the configuration has for objects. It can be interrupted, and run again:
  archipelago stop && archipelago complete`,
    )
    .action(({ dryRun }: { dryRun: boolean }) =>
      import('./complete.js').then(({ complete }) => complete(session, { dryRun })),
    );

  program
    .command('completion')
    .addArgument(new Argument('<what>', 'a script for bash, or the names of the roles').choices(['bash', 'roles']))
    .description('print what a shell needs to complete commands: source <(archipelago completion bash)')
    .action((what: string) => {
      const withRoles = {
        volumeCommands: ['start', 'stop', 'restart'],
        listNames: 'archipelago $config completion roles',
      };
      const roles = (): string => `${session.config.roles.map(({ name }) => name).join(' ')}\n`;
      return print(session.io, what === 'bash' ? bashCompletion(program, withRoles) : roles());
    });

  return program;
}

/** @throws InvalidArgumentError which makes it a wrong command line */
function parseSeconds(text: string): number {
  if (!/^\d{1,9}(\.\d{1,3})?$/.test(text)) throw new InvalidArgumentError('It must be a number of seconds.');
  return Number(text);
}
