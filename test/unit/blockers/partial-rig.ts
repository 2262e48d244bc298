/** What the tests of partial objects share: stores with an object `source`, drivers on them, and what is looked at of their files. */
import fs from 'node:fs';
import path from 'node:path';
import { afterEach, beforeEach, expect, vi } from 'vitest';
import { FileDriver, type FileDriverSettings } from '../../../src/blockers/file/index.js';
import { kernel } from '../../../src/blockers/file/kernel.js';
import { BASES_DIRECTORY } from '../../../src/blockers/file/partial/bases.js';
import { LEDGERS_DIRECTORY } from '../../../src/blockers/file/partial/ledger.js';
import { decodeMark, decodeTail, type Tail, tailLength, tailOffset } from '../../../src/blockers/file/partial/tail.js';
import { hashedPath } from '../../../src/blockers/file/paths.js';
import { type OneIo, runIo } from '../../../src/blockers/object-io.js';
import { Op } from '../../../src/requests/ops.js';
import { monotonicMs } from '../../../src/sys/clock.js';
import { allocateMemory, freeMemory } from '../../../src/sys/libc.js';
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

/** A whole copy: nobody has said until when the target is his. */
export const copyWhole = (driver: FileDriver, source: string, target: string, size = SIZE): Promise<void> =>
  driver.copy(source, target, size, { durable: false, exclusive: false });

/** A directory with object `source`, on which it is known that files cannot share their blocks. */
export async function prepared(content = pattern(SIZE, 1), parent?: string): Promise<string> {
  const root = temporaryDirectory(parent);
  const driver = await fileDriver(root);
  await write(driver, 'source', 0, content);
  await write(driver, 'any', 0, Buffer.from('any'));
  await copyWhole(driver, 'any', 'whole');
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
  (driver.status() as { partialCopies: { made: number; completed: number } }).partialCopies;

/** Is the object's file marked as partial? */
export const isPartial = (root: string, name: string): boolean => marks.at(hashedPath(root, name)) !== null;

/** The object's file as it is. */
export const content = (root: string, name: string): Buffer => fs.readFileSync(hashedPath(root, name));

/** What a partial object's file says of itself. */
export function tailOf(root: string, name: string): Tail {
  const length = decodeMark(marks.at(hashedPath(root, name))!)!;
  const at = tailOffset(length);
  return decodeTail(content(root, name).subarray(at, at + tailLength(length)), length)!;
}

/** The state of each of its units, a digit each. */
export const statesOf = (root: string, name: string): string => [...tailOf(root, name).states].join('');

const list = (root: string, directory: string): string[] => {
  const all = path.join(root, directory);
  return fs.existsSync(all) ? fs.readdirSync(all) : [];
};
/** Names of the bases in the store. */
export const basesOf = (root: string): string[] => list(root, BASES_DIRECTORY);
/** Paths of the ledgers in the store. */
export const ledgersOf = (root: string): string[] =>
  list(root, LEDGERS_DIRECTORY).map((name) => path.join(root, LEDGERS_DIRECTORY, name));

/** All of the object is there for good, with exactly this content, and nothing is left of what it was a copy of. */
export function expectComplete(root: string, name: string, expected: Buffer): void {
  const isMarked = isPartial(root, name);
  if (isMarked) expect(statesOf(root, name)).toMatch(/^2+$/);
  const found = content(root, name);
  same(isMarked ? found.subarray(0, tailOf(root, name).length) : found, expected);
  expect(basesOf(root).filter((base) => base.endsWith(`-${name}`))).toEqual([]);
}

/** As toEqual, which takes a second for a buffer of a megabyte. */
export function same(found: Buffer, expected: Buffer): void {
  if (found.equals(expected)) return;
  expect(found.length).toBe(expected.length);
  const at = found.findIndex((byte, i) => byte !== expected[i]);
  expect(`byte ${at} (unit ${Math.floor(at / UNIT)}) is ${found[at]}`).toBe(`byte ${at} is ${expected[at]}`);
}

export const soon = (ms = 300_000): number => monotonicMs() + ms;

/** As write, under a lock. */
export const writeInTime = (
  driver: FileDriver,
  name: string,
  offset: number,
  data: Uint8Array,
  more: Partial<OneIo> = {},
) => write(driver, name, offset, data, { deadline: soon(), ...more });

/** A trim or zeroes, under a lock. */
export const changes = (
  driver: FileDriver,
  operation: 'trim' | 'writeZeroes',
  name: string,
  offset: number,
  length: number,
  more: Partial<OneIo> = {},
) => runIo(driver, operation, { name, offset, length, noHole: operation === 'writeZeroes', deadline: soon(), ...more });

/** A copy that was made under a lock: of what is large enough it is partial. */
export const copy = (driver: FileDriver, source: string, target: string, size = SIZE): Promise<void> =>
  driver.copy(source, target, size, { durable: false, exclusive: false, deadline: soon() });

/** What was overwritten at an offset. */
export function changed(original: Buffer, offset: number, data: Uint8Array): Buffer {
  const out = Buffer.alloc(Math.max(original.length, offset + data.length));
  original.copy(out);
  out.set(data, offset);
  return out;
}

/** The short way to the driver (Driver.direct), for what is open already. @returns what was read; null: it declined */
export function direct(
  driver: FileDriver,
  what: { name: string; hint: number; offset: number; deadline?: number } & ({ data: Buffer } | { length: number }),
): Buffer | null {
  const size = 'data' in what ? what.data.length : what.length;
  const memory = allocateMemory(size);
  try {
    if ('data' in what) memory.bytes.set(what.data);
    else memory.bytes.fill(0xa5);
    const done = driver.direct({
      op: 'data' in what ? Op.WRITE : Op.READ,
      offset: what.offset,
      size,
      address: memory.address,
      hint: what.hint,
      deadline: what.deadline ?? soon(),
      isNamed: (name) => Buffer.from(what.name).equals(name),
      clear: (from) => void memory.bytes.fill(0, from, size),
    });
    return done ? Buffer.from(memory.bytes.subarray(0, size)) : null;
  } finally {
    freeMemory(memory);
  }
}

/** The hint of an object that the driver has open, or opens now. */
export const hintOf = async (driver: FileDriver, name: string): Promise<number> =>
  (await runIo(driver, 'read', { name, offset: 0, length: 1 })).hint;

/** From now on it is another start of the machine: what was not flushed may be gone, and counts for nothing in any case. */
export function powerCut(stamp = 'another start'): void {
  vi.spyOn(marks, 'stamp').mockReturnValue(stamp);
}

/**
 * For each test of a file: what was written before its drivers was written by the test, and nothing of it has to survive a power cut. Nor has
 * anything else: what a cut leaves is the simulator's part (test/sim), and here it is the stamp that changes.
 */
export function aloneWithTheKernel(): void {
  beforeEach(() => {
    for (const call of ['syncfs', 'fsync', 'fdatasync'] as const) vi.spyOn(kernel, call).mockResolvedValue();
  });
  afterEach(() => void vi.restoreAllMocks());
}
