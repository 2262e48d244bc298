/**
 * archipelago-ganeti: what Ganeti's ExtStorage scripts do, and the list of Ganeti's disks. No library reads its command line, since that would
 * take longer than most calls.
 */
import { loadConfig } from '../../config/index.js';
import { errnos, messageOf, SystemError } from '../../sys/errno.js';
import { Exit } from '../common/exit.js';
import { type Io, OutputClosed, print, printError } from '../common/io.js';
import { attach, close, detach, open } from './access.js';
import type { Context } from './call.js';
import { readCall } from './environment.js';
import { Node } from './node.js';

type Action = (context: Context) => Promise<void>;

/** The scripts of a provider. What is called seldom is loaded when it is. */
export const ACTIONS: Readonly<Record<string, Action>> = {
  create: async (context) => (await import('./volumes.js')).create(context),
  attach,
  detach,
  remove: async (context) => (await import('./volumes.js')).remove(context),
  grow: async (context) => (await import('./volumes.js')).grow(context),
  setinfo: async (context) => (await import('./volumes.js')).setinfo(context),
  verify: async (context) => (await import('./verify.js')).verify(context),
  snapshot: async (context) => (await import('./volumes.js')).snapshot(context),
  open,
  close,
};

/** Prints a script for the shell: the one action that asks nobody. */
const COMPLETION = 'completion';

const GANETIS_CONFIGURATION = '/var/lib/ganeti/config.data';

const USAGE = `Usage: archipelago-ganeti [--config FILE] ACTION
       archipelago-ganeti [--config FILE] remove VOLUME
       archipelago-ganeti [--config FILE] list [--leaked [FILE]] [--json]
       archipelago-ganeti completion bash

The ExtStorage provider of Ganeti. ACTION is what Ganeti calls for, with the rest in the environment (ganeti-extstorage-interface(7)):
${Object.keys(ACTIONS).join(', ')}.

remove VOLUME  removes a disk that Ganeti does not know any more, and what was noted of it
list           the volumes that are disks of Ganeti, with their instances
  --leaked     only those that Ganeti does not know; FILE is its configuration, default ${GANETIS_CONFIGURATION}
  --json       as JSON

Exit status: 0 done; 1 failed, the reason is on standard error; 2 wrong usage.
`;

/** Exit status of a failed action: what Ganeti's documentation says, other than the tools'. */
const FAILED = 1;

/** The command line is wrong. */
class UsageError extends SystemError {
  constructor(message: string) {
    super(errnos.EINVAL, message);
    this.name = 'UsageError';
  }
}

interface Command {
  readonly config: string | null;
  readonly action: string;
  readonly words: readonly string[];
}

/** Runs the program and resolves to its exit status. */
export async function ganetiMain(argv: readonly string[], io: Io): Promise<number> {
  if (argv.includes('--help') || argv.includes('-h')) {
    io.stdout.write(USAGE);
    return Exit.OK;
  }
  let doing = '';
  try {
    const { config, action, words } = parse(argv);
    doing = action;
    if (action === COMPLETION) {
      if (words.join(' ') !== 'bash') throw new UsageError(`say ${COMPLETION} bash`);
      const { ganetiCompletion } = await import('./completion.js');
      await print(io, ganetiCompletion(Object.keys(ACTIONS)));
      return Exit.OK;
    }
    await runAction(action, words, config, io);
    return Exit.OK;
  } catch (error) {
    if (error instanceof OutputClosed) return Exit.OK;
    if (error instanceof UsageError) {
      printError(io, `${error.message} (archipelago-ganeti --help tells more)`);
      return Exit.USAGE;
    }
    // Whatever it is, Ganeti shows the last lines of what was said: it is one that says what was wanted, too.
    printError(
      io,
      oneLine(`${[`archipelago ${doing}`, io.env.VOL_NAME].filter(Boolean).join(' ')}: ${messageOf(error)}`),
    );
    return FAILED;
  }
}

const oneLine = (text: string): string => text.trim().replaceAll(/\s*\n\s*/g, '; ');

function parse(argv: readonly string[]): Command {
  let at = 0;
  let config: string | null = null;
  while (argv[at]?.startsWith('-')) {
    if (!['-c', '--config'].includes(argv[at])) throw new UsageError(`no such option: ${argv[at]}`);
    config = argv[at + 1] ?? '';
    if (config === '') throw new UsageError(`${argv[at]} needs a file`);
    at += 2;
  }
  const [action, ...words] = argv.slice(at);
  if (action === undefined) throw new UsageError('say what is to be done');
  if (![COMPLETION, 'list'].includes(action) && !Object.hasOwn(ACTIONS, action))
    throw new UsageError(`no such action: ${action}`);
  return { config, action, words };
}

async function runAction(action: string, words: readonly string[], file: string | null, io: Io): Promise<void> {
  const options = action === 'list' ? listOptions(words) : null;
  const named = words.length === 1 && action === 'remove' ? words[0] : undefined;
  if (options === null && named === undefined && words.length > 0) {
    throw new UsageError(`${action} takes nothing but the environment, not ${words.join(' ')}`);
  }
  // To verify there need not be a disk.
  const name = named ?? io.env.VOL_NAME ?? (action === 'verify' ? 'verify' : undefined);
  const made = action !== 'create' && action !== 'verify';
  const call = options === null ? readCall(io.env, { name, made }) : null;
  const config = loadConfig(file);
  const node = new Node(config);
  try {
    if (options !== null) {
      const { list } = await import('./list.js');
      await list(node, io, options);
    } else if (call !== null) {
      if (named !== undefined) await (await import('./list.js')).requireForgotten(node, named, GANETIS_CONFIGURATION);
      const kernel: Context['kernel'] = async () => new (await import('./kernel.js')).Kernel(config);
      await ACTIONS[action]({ call, node, kernel, io });
    }
  } finally {
    node.close();
  }
}

function listOptions(words: readonly string[]): { json: boolean; configuration: string | null } {
  let json = false;
  let configuration: string | null = null;
  for (let at = 0; at < words.length; at++) {
    if (words[at] === '--json') json = true;
    else if (words[at] !== '--leaked') throw new UsageError(`list has no option ${words[at]}`);
    else if (words[at + 1] === undefined || words[at + 1].startsWith('-')) configuration = GANETIS_CONFIGURATION;
    else configuration = words[++at];
  }
  return { json, configuration };
}
