/** One input of the fuzzer: messages, how they are cut and sent. As text it is what the corpus keeps, for people to read. */

export interface Input {
  /** Which target takes it. */
  readonly target: string;
  /** Names and numbers a target understands: `transport raw`, `lag 7`, `cut 3`. */
  readonly settings: ReadonlyMap<string, string>;
  /** In the order they are sent; a mutation works on whole ones and on their bytes. */
  readonly messages: readonly Buffer[];
}

export const bytesOf = (input: Input): Buffer => Buffer.concat(input.messages);

/** Longest run of hex digits that is written as it is; longer runs of one byte are written as `byte*count`. */
const RUN = 8;

function printBytes(bytes: Buffer): string {
  const words: string[] = [];
  let plain = 0;
  const flush = (end: number): void => {
    if (end > plain) words.push(bytes.toString('hex', plain, end));
  };
  for (let at = 0; at < bytes.length; ) {
    let end = at + 1;
    while (end < bytes.length && bytes[end] === bytes[at]) end++;
    if (end - at > RUN) {
      flush(at);
      words.push(`${bytes.toString('hex', at, at + 1)}*${end - at}`);
      plain = end;
    }
    at = end;
  }
  flush(bytes.length);
  return words.join(' ');
}

function parseBytes(text: string): Buffer {
  const parts = text.split(/\s+/).filter((word) => word !== '');
  return Buffer.concat(
    parts.map((word) => {
      const [hex, count] = word.split('*');
      if (!/^([0-9a-f]{2})+$/.test(hex)) throw new Error(`no hex bytes: ${word}`);
      return count === undefined ? Buffer.from(hex, 'hex') : Buffer.alloc(Number(count), Number.parseInt(hex, 16));
    }),
  );
}

/** `name value` lines, then one `> hex` line for each message. */
export function printInput(input: Input, comment = ''): string {
  const lines = comment === '' ? [] : comment.split('\n').map((line) => `# ${line}`);
  lines.push(`target ${input.target}`);
  for (const [name, value] of input.settings) lines.push(`${name} ${value}`);
  for (const message of input.messages) lines.push(`> ${printBytes(message)}`.trimEnd());
  return `${lines.join('\n')}\n`;
}

/** @throws Error for a line that is none of these */
export function parseInput(text: string): Input {
  const settings = new Map<string, string>();
  const messages: Buffer[] = [];
  for (const line of text.split('\n').map((part) => part.trim())) {
    if (line === '' || line.startsWith('#')) continue;
    if (line.startsWith('>')) {
      messages.push(parseBytes(line.slice(1)));
      continue;
    }
    const space = line.indexOf(' ');
    if (space < 0) throw new Error(`neither a setting nor a message: ${line}`);
    settings.set(line.slice(0, space), line.slice(space + 1).trim());
  }
  const target = settings.get('target');
  if (target === undefined) throw new Error('the input names no target');
  settings.delete('target');
  return { target, settings, messages };
}
