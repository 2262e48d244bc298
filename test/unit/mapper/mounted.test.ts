/** By what it is known that a file system was mounted anew, and that it is just not mounted: on real ones, in images. */
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { beforeEach, describe, expect, it, onTestFinished } from 'vitest';
import { Mounted } from '../../../src/sys/mounted.js';
import { temporaryDirectory } from './support.js';

const run = (command: string, ...args: string[]): void => void execFileSync(command, args, { stdio: 'pipe' });

/** Mounts of one test, which end with it. */
class Mounts {
  readonly #mounts: string[] = [];
  readonly #directory: string;

  constructor(directory: string) {
    this.#directory = directory;
    onTestFinished(() => {
      while (this.#mounts.length > 0) this.unmount();
    });
  }

  /** A new file system in an image. @returns the image */
  image(type: string, name: string): string {
    const image = path.join(this.#directory, name);
    fs.writeFileSync(image, '');
    // What mkfs.xfs asks for at least.
    fs.truncateSync(image, type === 'xfs' ? 320 << 20 : 16 << 20);
    run(`mkfs.${type}`, '-q', image);
    return image;
  }

  mount(...args: string[]): void {
    run('mount', ...args);
    this.#mounts.unshift(args.at(-1)!);
  }

  /** The last one. */
  unmount(): void {
    run('umount', this.#mounts.shift()!);
  }
}

/** Why images cannot be mounted here. */
const why = (error: unknown): string =>
  `an image cannot be mounted here (mkfs.ext4, mkfs.xfs, root and loop devices are needed): ${(error as Error).message}`;

it('the mount of an ext4 is the same until it is mounted anew, wherever else it is mounted meanwhile', ({ skip }) => {
  const directory = temporaryDirectory();
  const [at, other] = ['at', 'other'].map((name) => path.join(directory, name));
  for (const each of [at, other]) fs.mkdirSync(each);
  const mounts = new Mounts(directory);
  let image = '';
  try {
    image = mounts.image('ext4', 'image');
    mounts.mount('-o', 'loop', image, at);
  } catch (error) {
    skip(why(error));
  }
  const mounted = new Mounted(at);
  const first = mounted.id();
  expect(first).toMatch(/^[0-9a-f]+@\d+$/);
  mounts.mount('--bind', at, other);
  expect(new Mounted(other).id()).toBe(first);
  mounts.unmount();
  run('mount', '-o', 'remount,ro', at);
  expect(mounted.id()).toBe(first);
  // As earlier versions noted it.
  const number = first!.split('@')[0];
  expect([mounted.id(first), mounted.id(number)]).toEqual([first, number]);
  mounts.unmount();
  expect(mounted.id()).not.toBe(first);
  // What lies below may be of no device at all.
  mounts.mount('-t', 'tmpfs', 'none', at);
  const later = new Mounted(at);
  expect([mounted.id(), mounted.id(first), later.id()]).toEqual([null, null, null]);
  mounts.unmount();
  mounts.mount('-o', 'loop', image, at);
  expect(mounted.id()).toMatch(/^[0-9a-f]+@\d+$/);
  expect([first, number, null]).not.toContain(mounted.id(first));
  expect([first, number, null]).not.toContain(mounted.id(number));
  // One that never knew is only asked by whoever did.
  expect(later.id()).toBeNull();
  expect(later.id(first)).toBe(mounted.id());
  expect(later.id()).toBe(mounted.id());
});

describe.each(['ext4', 'xfs'])('a directory on which an %s is mounted, where there is one below', (type) => {
  let below: string;
  let at: string;
  let mounts: Mounts;
  let images: { readonly below: string; readonly at: string; readonly over: string };

  beforeEach(({ skip }) => {
    const directory = temporaryDirectory();
    mounts = new Mounts(directory);
    below = path.join(directory, 'below');
    at = path.join(below, 'at');
    fs.mkdirSync(below);
    try {
      images = {
        below: mounts.image(type, 'image-below'),
        at: mounts.image(type, 'image'),
        over: mounts.image(type, 'image-over'),
      };
      mounts.mount('-o', 'loop', images.below, below);
      fs.mkdirSync(at);
      mounts.mount('-o', 'loop', images.at, at);
    } catch (error) {
      skip(why(error));
    }
  });

  it('says nothing while that is not mounted, whoever asks, and also when what lies below was mounted anew meanwhile', () => {
    const mounted = new Mounted(at);
    const first = mounted.id();
    mounts.unmount();
    expect([mounted.id(first), new Mounted(at).id(first)]).toEqual([null, null]);
    mounts.unmount();
    mounts.mount('-o', 'loop', images.below, below);
    expect([mounted.id(first), new Mounted(at).id(first)]).toEqual([null, null]);
    mounts.mount('-o', 'loop', images.at, at);
    const second = mounted.id(first);
    expect([first, null]).not.toContain(second);
    expect(new Mounted(at).id(first)).toBe(second);
    expect([mounted.id(second), mounted.id()]).toEqual([second, second]);
  });

  it('says nothing while another one is mounted over it, which takes nothing away from it', () => {
    const mounted = new Mounted(at);
    const first = mounted.id();
    mounts.mount('-o', 'loop', images.over, at);
    expect([mounted.id(first), new Mounted(at).id(first)]).toEqual([null, null]);
    mounts.unmount();
    expect([mounted.id(first), new Mounted(at).id(first)]).toEqual([first, first]);
  });
});

it('the mount of what is not there, and of what no device is below, is not known', () => {
  expect(new Mounted('/nowhere').id()).toBeNull();
  expect(new Mounted('/proc').id()).toBeNull();
});
