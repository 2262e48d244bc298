/** Runs an xseg command line. */
import { messageOf, SystemError } from '../../sys/errno.js';
import { Exit } from '../common/exit.js';
import { type Io, OutputClosed, print, printError } from '../common/io.js';
import { parseChain, type Step, UsageError } from './chain.js';
import type { XsegCommand } from './command.js';
import { xsegCompletion } from './completion.js';
import { helpText } from './help.js';
import { requestCommands } from './request-commands.js';
import { segmentCommands } from './segment-commands.js';
import { ChainState, JoinError } from './state.js';

/** The original's status for too few words. */
const EXIT_HELP = 1;

const commands = new Map([...segmentCommands, ...requestCommands].map((command) => [command.name, command]));

/**
 * @param words after the program's name
 * @param onState told the state of the chain, for whoever must leave the segment at once (a signal)
 * @returns the exit status
 */
export async function xsegMain(
  words: readonly string[],
  io: Io,
  onState: (state: ChainState) => void = () => {},
): Promise<number> {
  const rest = words.filter((word) => word !== '--json');
  const help = helpText(segmentCommands, requestCommands);
  if (rest.includes('--help') || rest.includes('-h')) {
    await print(io, help);
    return Exit.OK;
  }
  if (rest[0] === 'completion') {
    if (rest.length === 2 && rest[1] === 'bash') {
      await print(io, xsegCompletion([...commands.values()]));
      return Exit.OK;
    }
    printError(io, 'xseg: say completion bash');
    return Exit.FAILED;
  }
  if (rest.length < 2) {
    await print(io, help);
    return EXIT_HELP;
  }
  let chain: ReturnType<typeof parseChain<XsegCommand>>;
  try {
    chain = parseChain(rest, commands);
  } catch (error) {
    if (!(error instanceof UsageError)) throw error;
    printError(io, `xseg: ${error.message}`);
    return Exit.FAILED;
  }
  const state = new ChainState(io, chain.spec, rest.length < words.length);
  onState(state);
  try {
    let status: number = Exit.OK;
    for (const step of chain.steps) status = await runStep(state, step);
    return status;
  } catch (error) {
    if (error instanceof OutputClosed) return Exit.OK;
    if (!(error instanceof JoinError)) throw error;
    printError(io, `xseg: ${error.message}`);
    return Exit.FAILED;
  } finally {
    state.close();
  }
}

async function runStep(state: ChainState, { command, ...invocation }: Step<XsegCommand>): Promise<number> {
  try {
    const good = await command.run({ state, ...invocation });
    return good === false ? Exit.FAILED : Exit.OK;
  } catch (error) {
    if (!(error instanceof SystemError) || error instanceof JoinError) throw error;
    printError(state.io, `xseg: ${[command.name, ...invocation.args].join(' ')}: ${messageOf(error)} (${error.code})`);
    return Exit.FAILED;
  }
}
