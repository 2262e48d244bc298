/** By what it is known that a file system was mounted anew: on a real one, in an image. */
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { expect, it, onTestFinished } from 'vitest';
import { Mounted } from '../../../src/mapper/provisional/mounted.js';
import { temporaryDirectory } from './support.js';

const run = (command: string, ...args: string[]): void => void execFileSync(command, args, { stdio: 'pipe' });

it('the mount of an ext4 is the same until it is mounted anew, wherever else it is mounted meanwhile', ({ skip }) => {
  const directory = temporaryDirectory();
  const [image, at, other] = ['image', 'at', 'other'].map((name) => path.join(directory, name));
  for (const each of [at, other]) fs.mkdirSync(each);
  fs.writeFileSync(image, '');
  fs.truncateSync(image, 16 << 20);
  const mounts: string[] = [];
  onTestFinished(() => {
    for (const each of mounts) run('umount', each);
  });
  const mount = (...args: string[]): void => {
    run('mount', ...args);
    mounts.unshift(args.at(-1)!);
  };
  const unmount = (): void => run('umount', mounts.shift()!);
  try {
    run('mkfs.ext4', '-q', image);
    mount('-o', 'loop', image, at);
  } catch (error) {
    skip(`an image cannot be mounted here (mkfs.ext4, root and loop devices are needed): ${(error as Error).message}`);
  }
  const mounted = new Mounted(at);
  const first = mounted.id();
  expect(first).toMatch(/^[0-9a-f]+$/);
  mount('--bind', at, other);
  expect(new Mounted(other).id()).toBe(first);
  unmount();
  run('mount', '-o', 'remount,ro', at);
  expect(mounted.id()).toBe(first);
  unmount();
  expect(mounted.id()).not.toBe(first);
  // What lies below may be of no device at all.
  mount('-t', 'tmpfs', 'none', at);
  const later = new Mounted(at);
  expect([mounted.id(), mounted.id(), later.id()]).toEqual([null, null, null]);
  unmount();
  mount('-o', 'loop', image, at);
  expect(mounted.id()).toMatch(/^[0-9a-f]+$/);
  expect(mounted.id()).not.toBe(first);
  // One that never knew is only asked by whoever did.
  expect(later.id()).toBeNull();
  expect(later.id(true)).toBe(mounted.id());
  expect(later.id()).toBe(mounted.id());
});

it('the mount of what is not there, and of what no device is below, is not known', () => {
  expect(new Mounted('/nowhere').id()).toBeNull();
  expect(new Mounted('/proc').id()).toBeNull();
});
