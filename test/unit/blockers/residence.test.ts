/** Lending files whose content is in the page cache. */
import fs from 'node:fs';
import path from 'node:path';
import { expect, it, onTestFinished } from 'vitest';
import { kernel } from '../../../src/blockers/file/kernel.js';
import { temporaryDirectory } from './support.js';

const KiB = 1024;

function file(): { fd: number; content: Buffer } {
  const fd = fs.openSync(path.join(temporaryDirectory(), 'object'), 'w+');
  onTestFinished(() => fs.closeSync(fd));
  const content = Buffer.from(Array.from({ length: 300 * KiB }, (_, i) => i % 251));
  fs.writeSync(fd, content, 0, content.length, 0);
  return { fd, content };
}

const lend = (fd: number, offset: number, length: number): number => kernel.lend?.(fd, offset, length) ?? -1;

it.each([
  [0, 300 * KiB],
  [4096, 128 * KiB],
  [1000, 130 * KiB + 7],
  [299 * KiB, KiB],
])('a range that is in the page cache is lent: %i, %i', (offset, length) => {
  const { fd, content } = file();
  const lent = lend(fd, offset, length);
  expect(lent).toBeGreaterThanOrEqual(0);
  expect(lent).not.toBe(fd);
  const bytes = Buffer.alloc(length);
  expect(fs.readSync(lent, bytes, 0, length, offset)).toBe(length);
  expect(bytes.equals(content.subarray(offset, offset + length))).toBe(true);
  fs.closeSync(lent);
});

it('a hole is not lent, nor what is not there', () => {
  const { fd } = file();
  fs.ftruncateSync(fd, 2048 * KiB);
  expect(lend(fd, 1024 * KiB, 128 * KiB)).toBe(-1);
  expect(lend(fd, 200 * KiB, 200 * KiB)).toBe(-1);
  expect(lend(fd, 2048 * KiB, 128 * KiB)).toBe(-1);
  expect(lend(fd, 1984 * KiB, 128 * KiB)).toBe(-1);
  expect(lend(-1, 0, 4096)).toBe(-1);
});
