/** docs/tools.md and docs/ganeti.md against the tools: every command and option is there, and no other. */
import fs from 'node:fs';
import path from 'node:path';
import type { Command } from 'commander';
import { describe, expect, it } from 'vitest';
import { archipelagoProgram } from '../../../src/cli/archipelago/program.js';
import { Session } from '../../../src/cli/common/session.js';
import { ganetiMain } from '../../../src/cli/ganeti/program.js';
import { vlmcProgram } from '../../../src/cli/vlmc/program.js';
import { xsegMain } from '../../../src/cli/xseg/main.js';
import { capture } from './capture.js';

const docs = path.resolve(import.meta.dirname, '../../../docs');
const read = (file: string): string => fs.readFileSync(path.join(docs, file), 'utf8');
/** The chapter of a tool, with what is true of all tools. */
function chapter(tool: string): string {
  const [intro, ...chapters] = read('tools.md').split(/^## /m);
  const found = chapters.find((text) => text.startsWith(`${tool}\n`));
  return `${intro}\n${found ?? ''}`;
}

/** What is between backticks: code, not prose. */
const code = (text: string): string => [...text.matchAll(/`+([^`]+)`+/g)].map(([, words]) => words).join('\n');
const optionsIn = (text: string): Set<string> =>
  new Set([...text.matchAll(/(?<![\w-])--?[a-z][a-z0-9_-]*/gi)].map(([word]) => word));

interface Tool {
  readonly commands: readonly { readonly names: readonly string[]; readonly options: readonly string[][] }[];
  readonly options: readonly string[][];
}

const flagsOf = (command: Command): string[][] => command.options.map(({ flags }) => [...optionsIn(flags)]);

async function describeProgram(make: (session: Session) => Command | Promise<Command>, name: string): Promise<Tool> {
  let tool: Tool = { commands: [], options: [] };
  await capture({}, async (streams) => {
    const program = await make(new Session(name, streams));
    tool = {
      options: flagsOf(program),
      commands: program.commands.map((command) => ({
        names: [command.name(), ...command.aliases()],
        options: flagsOf(command),
      })),
    };
    return 0;
  });
  return tool;
}

describe.each([
  ['vlmc', (session: Session) => vlmcProgram(session, [])],
  ['archipelago', archipelagoProgram],
] as const)('docs/tools.md on %s', (name, make) => {
  it('has each command and each option, and knows no other', async () => {
    const { commands, options } = await describeProgram(make, name);
    const text = chapter(name);
    const words = new Set(code(text).split(/[\s[\]|\\,]+/));
    expect(commands.length).toBeGreaterThan(5);
    const missing = [
      ...commands.flatMap(({ names }) => names.filter((word) => !words.has(word))),
      ...[...commands, { names: [name], options }].flatMap(({ names, options: all }) =>
        all.filter((flags) => !flags.some((flag) => words.has(flag))).map((flags) => `${names[0]} ${flags.join('/')}`),
      ),
    ];
    expect(missing).toEqual([]);
    const there = new Set([
      ...options.flat(),
      ...commands.flatMap((command) => command.options.flat()),
      ...['--help', '-ro', '-v0'],
    ]);
    expect([...optionsIn(code(text))].filter((word) => !there.has(word))).toEqual([]);
  });
});

it('docs/tools.md has each command and option of xseg', async () => {
  const { out } = await capture({}, (streams) => xsegMain(['--help'], streams));
  const words = new Set(code(chapter('xseg')).split(/[\s[\]|\\,]+/));
  const commands = out.split('\n').flatMap((line) => /^ {2}([a-z-]+)/.exec(line)?.[1] ?? []);
  expect(commands.length).toBeGreaterThan(20);
  expect(commands.filter((command) => command !== 'xseg' && !words.has(command))).toEqual([]);
  const [usage] = out.split('\nExamples:');
  expect([...optionsIn(usage)].filter((option) => !words.has(option))).toEqual([]);
});

it('docs/ganeti.md has each action and option of archipelago-ganeti', async () => {
  const { out } = await capture({}, (streams) => ganetiMain(['--help'], streams));
  const text = code(read('ganeti.md'));
  const words = new Set(text.split(/[\s[\]|\\,/{}]+/));
  const actions = /^(create, .*)\.$/m.exec(out)?.[1].split(', ') ?? [];
  expect(actions.length).toBeGreaterThan(8);
  const missing = [...actions, 'list', ...optionsIn(out)].filter((word) => !words.has(word));
  expect(missing).toEqual([]);
});
