/** What a process that was killed left is removed, and nothing else. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { expect, it, onTestFinished } from 'vitest';
import { Segment } from '../../../src/xseg/index.js';
import { ownSegment, removeLeft } from '../../support/own.js';

/** The pid of a process that has ended. */
async function deadPid(): Promise<number> {
  const child = spawn('true');
  await once(child, 'exit');
  return child.pid as number;
}

it('segments of a process that is dead go, with their bells; those of a living one, and of other names, stay', async () => {
  const pid = await deadPid();
  const own = ownSegment('some-part');
  const dead = own.replace(String(process.pid), String(pid));
  const other = `not-${dead}`;
  for (const name of [own, dead, other]) {
    Segment.create(`posix:${name}:16:8:16:12`).close();
    onTestFinished(() => {
      if (Segment.exists(`posix:${name}:`)) Segment.destroy(`posix:${name}:`);
    });
  }

  removeLeft();
  const there = (name: string): boolean[] => ['', '.bells'].map((part) => existsSync(`/dev/shm/${name}${part}`));
  expect([own, dead, other].map(there)).toEqual([
    [true, true],
    [false, false],
    [true, true],
  ]);
});
