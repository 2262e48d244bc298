/** One item of the protocol document and what this server makes of it. */
import * as constants from '../../src/nbd/constants.js';

export interface Row {
  /** The protocol document's name, or what it is about. */
  readonly item: string;
  /** Where its value stands in src/nbd/constants.ts: `Option.GO`, `MAX_STRING`; null where it has none. */
  readonly constant: string | null;
  /** `yes`, or `no: …`, `in part: …` with the reason. */
  readonly supported: string;
  /** The first version of this package that has (or refuses) it. */
  readonly since: '1.0' | '1.1' | '1.4';
  /** Test file below test/, and the title of the test in it. */
  readonly test: { readonly file: string; readonly title: string };
}

export interface Section {
  readonly title: string;
  readonly rows: readonly Row[];
}

type Place = (title: string) => Row['test'];
const place =
  (file: string): Place =>
  (title) => ({ file, title });

/** Test files by short names. */
export const handshake = place('unit/nbd/conformance-handshake.test.ts');
export const transmission = place('unit/nbd/conformance-transmission.test.ts');
export const extended = place('unit/nbd/conformance-extended.test.ts');
export const tls = place('unit/nbd/tls.test.ts');
export const tlsCredentials = place('unit/nbd/tls-credentials.test.ts');
export const server = place('unit/nbd/server.test.ts');
export const commands = place('unit/nbd/commands.test.ts');
export const negotiation = place('unit/nbd/negotiation.test.ts');
export const inFile = place;

export const row = (
  item: string,
  constant: string | null,
  since: Row['since'],
  test: Row['test'],
  supported = 'yes',
): Row => ({ item, constant, supported, since, test });

/** Every constant's place and value; functions are none. */
export function allConstants(): Map<string, number | bigint | string> {
  const all = new Map<string, number | bigint | string>();
  for (const [name, value] of Object.entries(constants)) {
    if (typeof value === 'number' || typeof value === 'bigint' || typeof value === 'string') all.set(name, value);
    else if (typeof value === 'object')
      for (const [key, number] of Object.entries(value)) all.set(`${name}.${key}`, number);
  }
  return all;
}

/** The value as the protocol document writes it. */
function shown(constant: string, value: number | bigint | string): string {
  if (typeof value === 'string') return `\`${value}\``;
  if (constant.includes('MAGIC')) return `\`0x${value.toString(16)}\``;
  const number = Number(value);
  if (constant.startsWith('Reply.') && number >= 2 ** 31) return `2^31 + ${number - 2 ** 31}`;
  if (constant.startsWith('Chunk.') && number >= 2 ** 15) return `2^15 + ${number - 2 ** 15}`;
  if (/Flag\.|^STATE_|FLAG_DONE/.test(constant)) return `bit ${Math.log2(number)}`;
  if (constant === 'MAX_EXTENTS') return '2^20';
  return String(value);
}

/** Text that must not end a table's cell. */
const cell = (text: string): string => text.replaceAll('|', '\\|');

const HEAD = `# The NBD protocol: what is served

Each item of the [protocol document](https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md), with its extended headers, and of the
[URI document](https://github.com/NetworkBlockDevice/nbd/blob/master/doc/uri.md): whether this server has it (for URIs: the client), since which
version, and the test that shows it. Names are the protocol document's.

This file is made from the table in \`test/conformance\`; a test compares the two, looks for every constant of \`src/nbd/constants.ts\` in it and
for every test it names, and asks a running server for the options, flags and commands. To make it again:
\`npx vitest run --project unit test/unit/nbd/conformance-table.test.ts -u\`. How the server is fuzzed: \`test/fuzz/README.md\`.
`;

/** The whole document. */
export function render(sections: readonly Section[]): string {
  const values = allConstants();
  const parts = sections.map(({ title, rows }) => {
    const lines = rows.map(({ item, constant, supported, since, test }) => {
      const value = constant === null ? '' : shown(constant, values.get(constant) ?? '?');
      return `| ${cell(item)} | ${value} | ${cell(supported)} | ${since} | ${cell(`${test.file}: ${test.title}`)} |`;
    });
    return `## ${title}\n\n| item | value | supported | since | test |\n|---|---|---|---|---|\n${lines.join('\n')}\n`;
  });
  return [HEAD, ...parts].join('\n');
}
