/** What the tests of copies that are filled later share: stores with an object `source`, drivers on them, and what is looked at of their files. */
import fs from 'node:fs';
import { afterEach, beforeEach, expect, vi } from 'vitest';
import { FileDriver, type FileDriverSettings } from '../../../src/blockers/file/index.js';
import { kernel } from '../../../src/blockers/file/kernel.js';
import { hashedPath } from '../../../src/blockers/file/paths.js';
import { runIo } from '../../../src/blockers/object-io.js';
import { monotonicMs } from '../../../src/sys/clock.js';
import type { Mortal } from './mortal-system.js';
import { fileDriver, temporaryDirectory, write } from './support.js';

export const marks = kernel.marks!;
export const UNIT = 4096;
export const SIZE = 24 * UNIT;
export const SETTINGS: Partial<FileDriverSettings> = { partialCopies: true, partialLeast: 0 };

/** Bytes that differ from place to place. */
export function pattern(length: number, seed: number): Buffer {
  const out = Buffer.alloc(length);
  for (let at = 0; at + 4 <= length; at += 4) out.writeUInt32LE(((at + 1) * 2654435761 + seed * 97) >>> 0, at);
  return out;
}

export const copy = (driver: FileDriver, source: string, target: string, size = SIZE): Promise<void> =>
  driver.copy(source, target, size, { durable: false, exclusive: false });

/** A directory with object `source`, on which it is known that files cannot share their blocks. */
export async function prepared(content = pattern(SIZE, 1)): Promise<string> {
  const root = temporaryDirectory();
  const driver = await fileDriver(root);
  await write(driver, 'source', 0, content);
  await write(driver, 'any', 0, Buffer.from('any'));
  await copy(driver, 'any', 'whole');
  await driver.close();
  return root;
}

export async function store(content?: Buffer, more: Partial<FileDriverSettings> = {}) {
  const root = await prepared(content);
  return { root, driver: await fileDriver(root, { ...SETTINGS, ...more }) };
}

/** Never closed: it is to be killed. */
export async function mortalDriver(root: string, { system }: Mortal): Promise<FileDriver> {
  const driver = new FileDriver({ root, uniqueStr: 'test_1000', ...SETTINGS, system });
  await driver.open();
  return driver;
}

export const counts = (driver: FileDriver) =>
  (driver.status() as { partialCopies: { owed: number; begun: number; completed: number } }).partialCopies;

/** Is the object's file marked as partial? */
export function isPartial(root: string, name: string): boolean {
  const fd = fs.openSync(hashedPath(root, name), 'r');
  const mark = marks.get(fd);
  fs.closeSync(fd);
  return mark !== null;
}

export const content = (root: string, name: string): Buffer => fs.readFileSync(hashedPath(root, name));

/** As toEqual, which takes a second for a buffer of a megabyte. */
export function same(found: Buffer, expected: Buffer): void {
  if (!found.equals(expected)) expect(found).toEqual(expected);
}

export const changes = (
  driver: FileDriver,
  operation: 'trim' | 'writeZeroes',
  name: string,
  offset: number,
  length: number,
) => runIo(driver, operation, { name, offset, length, noHole: operation === 'writeZeroes' });

export const soon = (ms = 300_000): number => monotonicMs() + ms;

/** A copy that was made under a lock. */
export const copyInTime = (driver: FileDriver, source: string, target: string): Promise<void> =>
  driver.copy(source, target, SIZE, { durable: false, exclusive: false, deadline: soon() });

/** For each test of a file: what was written before its drivers was written by the test, and nothing of it has to survive a power cut. */
export function aloneWithTheKernel(): void {
  beforeEach(() => void vi.spyOn(kernel, 'syncfs').mockResolvedValue());
  afterEach(() => void vi.restoreAllMocks());
}
