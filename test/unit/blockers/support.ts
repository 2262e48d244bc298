/** What the driver tests share: directories that go away, opened drivers, whole trees as data. */
import { createHash } from 'node:crypto';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { onTestFinished } from 'vitest';
import type { Driver } from '../../../src/blockers/driver.js';
import { FileDriver, type FileDriverSettings } from '../../../src/blockers/file/index.js';
import { type OneIo, runIo } from '../../../src/blockers/object-io.js';

export function temporaryDirectory(parent = os.tmpdir()): string {
  const directory = fs.mkdtempSync(path.join(parent, 'archipelago-blockers-'));
  onTestFinished(() => fs.rmSync(directory, { recursive: true, force: true }));
  return directory;
}

/** An opened file driver that is closed with the test. */
export async function fileDriver(root: string, settings: Partial<FileDriverSettings> = {}): Promise<FileDriver> {
  const driver = new FileDriver({ root, uniqueStr: 'test_1000', ...settings });
  await driver.open();
  onTestFinished(() => driver.close().catch(() => {}));
  return driver;
}

export const write = (driver: Driver, name: string, offset: number, data: Uint8Array, more: Partial<OneIo> = {}) =>
  runIo(driver, 'write', { name, offset, length: data.length, data, ...more });

export const read = async (driver: Driver, name: string, offset: number, length: number, hint = 0): Promise<Buffer> =>
  (await runIo(driver, 'read', { name, offset, length, hint })).data;

export async function listAll(driver: Driver, limit: number): Promise<string[]> {
  const names: string[] = [];
  for (let cursor: string | null = null; ; ) {
    const page = await driver.list(cursor, limit);
    names.push(...page.names);
    cursor = page.cursor;
    if (cursor === null) return names;
  }
}

/** Relative path → SHA-256 of every file, and `dir` for every directory. */
export function treeOf(root: string): Record<string, string> {
  const tree: Record<string, string> = {};
  for (const entry of fs.readdirSync(root, { recursive: true, withFileTypes: true })) {
    const file = path.join(entry.parentPath, entry.name);
    tree[path.relative(root, file)] = entry.isDirectory()
      ? 'dir'
      : createHash('sha256').update(fs.readFileSync(file)).digest('hex');
  }
  return tree;
}

/** Paths of the files in a tree. */
export function filesOf(root: string): string[] {
  return Object.entries(treeOf(root))
    .filter(([, content]) => content !== 'dir')
    .map(([file]) => path.join(root, file));
}
