/** The completion script in a real bash: what it offers where. */
import { execFileSync } from 'node:child_process';
import type { Command } from 'commander';
import { expect, it } from 'vitest';
import { archipelagoProgram } from '../../../src/cli/archipelago/program.js';
import { Session } from '../../../src/cli/common/session.js';
import { ACTIONS, ganetiMain } from '../../../src/cli/ganeti/program.js';
import { vlmcMain, vlmcProgram } from '../../../src/cli/vlmc/program.js';
import { xsegMain } from '../../../src/cli/xseg/main.js';
import { Segment } from '../../../src/xseg/index.js';
import { ownSegment } from '../../support/own.js';
import { capture } from './capture.js';

/** A vlmc that knows some names, and a line of each completion: the words so far, and what is offered. */
const HARNESS = String.raw`
vlmc() {
  case "$*" in
    '-c node2.conf list') echo other-volume ;;
    *showmapped) printf 'id\timage\t\tdevice\n0\tvolume1\t/dev/nbd0\n1\tvolume2\tnbd+unix:///volume2?socket=/s\n-\tvolume3\t/dev/nbd1\n' ;;
    *list) printf 'volume1\nvolume9\n' ;;
  esac
}
try() {
  COMP_WORDS=("$@"); COMP_CWORD=$(($#-1))
  _vlmc_complete
  printf '%s\n' "${'$'}{COMPREPLY[*]}"
}
`;

it('completes volumes, what is mapped, the words of options, and files', async () => {
  const { out: script } = await capture({}, (io) => vlmcMain(['completion', 'bash'], new Session('vlmc', io)));
  const lines: [words: string, offered: string][] = [
    ["vlmc unmap ''", 'volume1 /dev/nbd0 volume2 volume3 /dev/nbd1'],
    ['vlmc unmap /dev', '/dev/nbd0 /dev/nbd1'],
    ['vlmc map v', 'volume1 volume9'],
    ['vlmc -c node2.conf remove o', 'other-volume'],
    ["vlmc map --endpoint ''", 'kernel nbd auto'],
    ['vlmc map volume1 --endpoint k', 'kernel'],
    ['vlmc map --conn', '--connections'],
    ['vlmc unmap --table /etc/passw', '/etc/passwd'],
    ['vlmc create volume2 --snap volume9', 'volume9'],
    ['vlmc showm', 'showmapped'],
  ];
  const program = [script, HARNESS, ...lines.map(([words]) => `try ${words}`)].join('\n');
  const offered = execFileSync('bash', ['--norc', '-c', program], { encoding: 'utf8' }).trimEnd().split('\n');
  // What else begins with /etc/passw is the machine's.
  expect(offered.map((line) => line.replace('/etc/passwd-', '').trim())).toEqual(lines.map(([, words]) => words));
});

it('completes the actions of archipelago-ganeti, the options of list, and disks to remove', async () => {
  const { out: script } = await capture({}, (io) => ganetiMain(['completion', 'bash'], io));
  const everything = [...Object.keys(ACTIONS), 'list', 'completion', '-c', '--config', '--help'].join(' ');
  const lines: [words: string, offered: string][] = [
    ["archipelago-ganeti ''", everything],
    ['archipelago-ganeti sn', 'snapshot'],
    ['archipelago-ganeti list -', '--leaked --json'],
    ['archipelago-ganeti list --leaked /etc/hostnam', '/etc/hostname'],
    ['archipelago-ganeti list --leaked --j', '--json'],
    ["archipelago-ganeti remove ''", 'disk1 disk2'],
    ['archipelago-ganeti -c other remove d', 'disk9'],
    ['archipelago-ganeti -c /etc/hostnam', '/etc/hostname'],
    ["archipelago-ganeti completion ''", 'bash'],
  ];
  const harness = String.raw`
archipelago-ganeti() {
  case "$*" in
    list) printf 'DISK  INSTANCE\ndisk1  web1\ndisk2  web2\n' ;;
    '-c other list') printf 'DISK\ndisk9  web9\n' ;;
  esac
}
try() { COMP_WORDS=("$@"); COMP_CWORD=$(($#-1)); _archipelago_ganeti_complete; printf '%s\n' "${'$'}{COMPREPLY[*]}"; }
`;
  const program = [script, harness, ...lines.map(([words]) => `try ${words}`)].join('\n');
  const offered = execFileSync('bash', ['--norc', '-c', program], { encoding: 'utf8' }).trimEnd().split('\n');
  expect(offered).toEqual(lines.map(([, words]) => words));
  const wrong = await capture({}, (io) => ganetiMain(['completion', 'zsh'], io));
  expect(wrong).toMatchObject({ status: 2, err: 'say completion bash (archipelago-ganeti --help tells more)\n' });
});

it('completes the segments of the machine, and the commands of xseg behind one', async () => {
  const { out: script } = await capture({}, (io) => xsegMain(['completion', 'bash'], io));
  const name = ownSegment('completion');
  const segment = Segment.create(`posix:${name}:16:8:16:12`);
  try {
    const lines: [line: string, offered: string][] = [
      [`xseg posix:${name.slice(0, -1)}`, `${name}:`],
      ['xseg comp', 'completion'],
      ['xseg completion ', 'bash'],
      [`xseg posix:${name}: reporta`, 'reportall'],
      [`xseg posix:${name}: bind 5 verif`, 'verify verify-fix'],
      [`xseg posix:${name}: --js`, '--json'],
    ];
    const harness = String.raw`try() { COMP_LINE=$1 COMP_POINT=${'$'}{#1}; _xseg_complete; printf '%s\n' "${'$'}{COMPREPLY[*]}"; }`;
    const program = [script, harness, ...lines.map(([line]) => `try '${line}'`)].join('\n');
    const offered = execFileSync('bash', ['--norc', '-c', program], { encoding: 'utf8' }).trimEnd().split('\n');
    expect(offered).toEqual(lines.map(([, words]) => words));
    const everything = execFileSync('bash', ['--norc', '-c', `${script}\n${harness}\ntry 'xseg posix:x: '`], {
      encoding: 'utf8',
    });
    const { out: help } = await capture({}, (io) => xsegMain(['--help'], io));
    const commands = [...help.matchAll(/^ {2}([a-z-]+) .*? {2}\S/gm)].map(([, command]) => command);
    expect(commands).toContain('reportall');
    const words = new Set(everything.trim().split(' '));
    expect(commands.filter((command) => command !== 'xseg' && !words.has(command))).toEqual([]);
  } finally {
    segment.close();
    Segment.destroy(`posix:${name}:`);
  }
  const wrong = await capture({}, (io) => xsegMain(['completion', 'zsh'], io));
  expect(wrong).toMatchObject({ status: 255, err: 'xseg: say completion bash\n' });
});

it.each(['vlmc', 'archipelago'])('offers each command and each option of %s', async (name) => {
  const main = { vlmc: vlmcProgram, archipelago: archipelagoProgram }[name] as typeof vlmcProgram;
  let commands: readonly Command[] = [];
  const { out: script } = await capture({}, async (io) => {
    const program = await main(new Session(name, io), []);
    commands = program.commands;
    await program.parseAsync(['completion', 'bash'], { from: 'user' });
    return 0;
  });
  const offers = (...words: string[]): string[] => {
    const line = words.map((word) => `'${word}'`).join(' ');
    const run = `COMP_WORDS=(${name} ${line}); COMP_CWORD=${words.length}; _${name}_complete; echo "${'$'}{COMPREPLY[*]}"`;
    return execFileSync('bash', ['--norc', '-c', `${script}\n${run}`], { encoding: 'utf8' })
      .trim()
      .split(' ');
  };
  const first = offers('');
  expect(commands.length).toBeGreaterThan(5);
  for (const command of commands) {
    expect(first).toEqual(expect.arrayContaining([command.name(), ...command.aliases()]));
    const options = command.options.flatMap(({ short, long }) => [short, long]).filter(Boolean);
    expect(offers(command.name(), '-')).toEqual(expect.arrayContaining([...options, '--config', '--json', '--help']));
  }
});
