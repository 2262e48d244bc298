/**
 * The command line of xseg: `SPEC [SRC:DST] COMMAND [ARGUMENT …] [COMMAND …]…`. Parsed and checked completely before any command
 * runs, so that a slip in the last word does not leave the first half done.
 */
import { errnos, SystemError } from '../../sys/errno.js';
import { parseSpec, type SegmentSpec } from '../../xseg/index.js';

/** What is wrong with the command line. */
export class UsageError extends SystemError {
  constructor(message: string) {
    super(errnos.EINVAL, message);
    this.name = 'UsageError';
  }
}

/** Source and destination of the requests that follow; the source null = any free dynamic port. */
export interface Ports {
  readonly src: number | null;
  readonly dst: number;
}

/** What the parser needs to know about a command. */
export interface CommandShape {
  readonly name: string;
  /** Words for its arguments; those that end in `?` may be left out at the end of the chain or before another command. */
  readonly args: readonly string[];
  /** Options it takes, e.g. `--fail`. */
  readonly options?: readonly string[];
  /** Does it send a request, and therefore need SRC:DST? */
  readonly sends?: boolean;
}

export interface Step<C extends CommandShape> {
  readonly command: C;
  readonly args: readonly string[];
  readonly options: ReadonlySet<string>;
  readonly ports: Ports | null;
}

export interface Chain<C extends CommandShape> {
  readonly spec: SegmentSpec;
  readonly steps: readonly Step<C>[];
}

/** Parses the words after the program's name. @throws UsageError */
export function parseChain<C extends CommandShape>(
  words: readonly string[],
  commands: ReadonlyMap<string, C>,
): Chain<C> {
  let spec: SegmentSpec;
  try {
    spec = parseSpec(words[0]);
  } catch (error) {
    throw new UsageError((error as Error).message);
  }
  const steps: Step<C>[] = [];
  let ports: Ports | null = null;
  for (let at = 1; at < words.length; ) {
    const word = words[at++];
    if (word.includes(':') && !commands.has(word)) {
      ports = parsePorts(word);
      continue;
    }
    const command = commands.get(word);
    if (!command) throw new UsageError(`there is no command ${word}; xseg --help lists them`);
    if (command.sends && !ports) {
      throw new UsageError(`${word} sends a request: say from which port to which first, e.g. 1012:1001 or :1001`);
    }
    const args: string[] = [];
    const options = new Set<string>();
    const takeOptions = (): void => {
      while (at < words.length && command.options?.includes(words[at])) options.add(words[at++]);
    };
    takeOptions();
    for (const name of command.args) {
      const optional = name.endsWith('?');
      if (at >= words.length || (optional && !/^\d+$/.test(words[at]))) {
        if (optional) break;
        throw new UsageError(`${word} needs ${command.args.map((a) => a.replace('?', '')).join(' ')}`);
      }
      args.push(words[at++]);
      takeOptions();
    }
    steps.push({ command, args, options, ports });
  }
  if (steps.length === 0) throw new UsageError('no command is given; xseg --help lists them');
  return { spec, steps };
}

function parsePorts(word: string): Ports {
  const match = /^(\d{0,5}):(\d{1,5})$/.exec(word);
  if (!match) throw new UsageError(`"${word}" is not SRC:DST, two port numbers (SRC may be left out)`);
  return { src: match[1] === '' ? null : Number(match[1]), dst: Number(match[2]) };
}

/** A number argument in bytes or of a port. @throws UsageError */
export function parseNumber(text: string, what: string): number {
  const value = Number(text);
  if (!/^\d+$/.test(text) || !Number.isSafeInteger(value)) throw new UsageError(`${what} "${text}" is not a number`);
  return value;
}
