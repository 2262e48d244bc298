/** The completion script in a real bash: what it offers where. */
import { execFileSync } from 'node:child_process';
import { expect, it } from 'vitest';
import { Session } from '../../../src/cli/common/session.js';
import { vlmcMain } from '../../../src/cli/vlmc/program.js';
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
