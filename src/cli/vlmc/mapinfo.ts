/** `vlmc mapinfo`: which object holds which block. Entries are fetched and printed piece by piece, whatever the volume's size. */
import { type Command, InvalidArgumentError } from 'commander';
import { attempt, CliError } from '../common/exit.js';
import { print } from '../common/io.js';
import type { Session } from '../common/session.js';
import { EntryFlag, type MapEntry, openMap } from './entries.js';
import { checkName } from './names.js';
import { type V0Options, v0Request, withV0 } from './v0.js';

export function addMapinfoCommand(program: Command, session: Session): void {
  withV0(program.command('mapinfo <name>'))
    .description('which object holds which block of a volume: block, flags, object')
    .option('--blocks <range>', 'only these blocks, e.g. 7 or 0-9 or 100-', parseRange)
    .option('--all', 'a line for every zero block, instead of one for a run of them')
    .addHelpText(
      'after',
      '\nFlags: W writable in place, A owned by Archipelago, Z reads as zeros, D deleted; - none (shared image block)',
    )
    .action((name: string, options: MapinfoOptions) => mapinfo(session, name, options));
}

interface BlockRange {
  readonly first: number;
  /** Inclusive. */
  readonly last: number;
}

interface MapinfoOptions extends V0Options {
  readonly blocks?: BlockRange;
  readonly all?: boolean;
}

function parseRange(text: string): BlockRange {
  const match = /^(\d+)(?:(-)(\d*))?$/.exec(text);
  const first = Number(match?.[1]);
  const last = match?.[2] === undefined ? first : match[3] === '' ? Number.MAX_SAFE_INTEGER : Number(match[3]);
  if (!match || last < first) throw new InvalidArgumentError('A block (7) or a range (0-9, 100-).');
  return { first, last };
}

async function mapinfo(session: Session, name: string, options: MapinfoOptions): Promise<void> {
  checkName(name);
  await attempt('vlmc mapinfo failed', async () => {
    const map = await openMap(session.client, name, v0Request(options));
    const first = options.blocks?.first ?? 0;
    const last = Math.min(options.blocks?.last ?? map.blockCount - 1, map.blockCount - 1);
    if (first >= map.blockCount) {
      throw new CliError(`volume ${name} has ${map.blockCount} blocks: there is no block ${first}`);
    }
    const writer = session.json ? new JsonRows(session) : new TextRows(session);
    const { size, blockSize } = map;
    writer.begin({ name, size, blockSize });
    const join = new Joiner(options.all === true);
    for await (const entries of map.pieces(first, last - first + 1)) {
      for (const entry of entries) writer.rows(join.take(entry));
      await writer.drain();
    }
    writer.rows(join.rest());
    await writer.end();
  });
}

interface Run extends MapEntry {
  /** Blocks it covers. */
  readonly count: number;
}

/** Joins neighbouring zero blocks, unless every one is wanted. */
class Joiner {
  readonly #all: boolean;
  #zeros: (MapEntry & { count: number }) | null = null;

  constructor(all: boolean) {
    this.#all = all;
  }

  /** The rows that an entry completes. */
  take(entry: MapEntry): Run[] {
    const zero = (entry.flags & EntryFlag.ZERO) !== 0 && !this.#all;
    if (zero && this.#zeros?.flags === entry.flags) {
      this.#zeros.count++;
      return [];
    }
    const rows: Run[] = this.rest();
    if (zero) this.#zeros = { ...entry, count: 1 };
    else rows.push({ ...entry, count: 1 });
    return rows;
  }

  /** The row that is still open. */
  rest(): Run[] {
    const rows = this.#zeros ? [this.#zeros] : [];
    this.#zeros = null;
    return rows;
  }
}

/** The letters of an entry's flags, `-` for none. */
export function formatFlags(flags: number): string {
  const letters: [number, string][] = [
    [EntryFlag.WRITABLE, 'W'],
    [EntryFlag.ARCHIP, 'A'],
    [EntryFlag.ZERO, 'Z'],
    [EntryFlag.DELETED, 'D'],
  ];
  return letters.map(([bit, letter]) => (flags & bit ? letter : '')).join('') || '-';
}

interface Head {
  readonly name: string;
  readonly size: number;
  readonly blockSize: number;
}

/** Rows are gathered: a write for each would be most of the time. */
abstract class Rows {
  readonly #session: Session;
  protected text = '';

  constructor(session: Session) {
    this.#session = session;
  }

  abstract begin(head: Head): void;
  abstract rows(runs: readonly Run[]): void;
  abstract end(): Promise<void>;

  /** Prints what was gathered. */
  async drain(): Promise<void> {
    const { text } = this;
    this.text = '';
    if (text !== '') await print(this.#session.io, text);
  }
}

class TextRows extends Rows {
  override begin(head: Head): void {
    this.text += `Volume ${head.name}: size: ${head.size} block size: ${head.blockSize}\nblock\tflags\tobject\n`;
  }
  override rows(runs: readonly Run[]): void {
    for (const { index, count, flags, object } of runs) {
      const blocks = count === 1 ? `${index}` : `${index}-${index + count - 1}`;
      this.text += `${blocks}\t${formatFlags(flags)}\t${object || '-'}\n`;
    }
  }
  override end(): Promise<void> {
    return this.drain();
  }
}

/** One JSON document, written as it comes. */
class JsonRows extends Rows {
  #comma = '';
  override begin(head: Head): void {
    this.text += `${JSON.stringify(head).slice(0, -1)},"blocks":[`;
  }
  override rows(runs: readonly Run[]): void {
    for (const { index, count, flags, object } of runs) {
      const row = { index, count, flags: formatFlags(flags), object: object || null };
      this.text += `${this.#comma}\n${JSON.stringify(row)}`;
      this.#comma = ',';
    }
  }
  override end(): Promise<void> {
    this.text += '\n]}\n';
    return this.drain();
  }
}
