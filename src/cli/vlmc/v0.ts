/** The options of commands that may address a v0 (Pithos) map, which has no header that says what it is. */
import { type Command, InvalidArgumentError } from 'commander';
import { Flag, NO_V0_SIZE } from '../../requests/ops.js';

export interface V0Options {
  readonly assume_v0?: boolean;
  readonly v0_size?: number;
}

/** Adds `-v0/--assume_v0` and `--v0_size BYTES`. */
export function withV0(command: Command): Command {
  return command
    .option('--assume-v0, --assume_v0', 'the map has no header: read it as a v0 (Pithos) map; short: -v0')
    .option('--v0-size, --v0_size <bytes>', "size of a v0 map's volume, -1 = whole blocks", parseV0Size);
}

/** What the options mean in a request. */
export function v0Request(options: V0Options): { flags: number; v0Size: number } {
  return { flags: options.assume_v0 ? Flag.ASSUMEV0 : 0, v0Size: options.v0_size ?? NO_V0_SIZE };
}

function parseV0Size(text: string): number {
  const value = Number(text);
  if (!/^-?\d+$/.test(text) || value < -1 || !Number.isSafeInteger(value)) {
    throw new InvalidArgumentError('It is a number of bytes, or -1.');
  }
  return value;
}

/** The original's short options of two letters, which option parsers of today refuse. */
const TWO_LETTERS: Readonly<Record<string, string>> = { '-v0': '--assume_v0', '-ro': '--readonly' };

/** Writes those out, up to `--`. */
export function expandTwoLetterOptions(argv: readonly string[]): string[] {
  const end = argv.indexOf('--');
  return argv.map((word, i) => (end >= 0 && i > end ? word : (TWO_LETTERS[word] ?? word)));
}
