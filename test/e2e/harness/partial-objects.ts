/** Stores that have partial objects (docs/formats.md), and where there can be any. */
import { spawnSync } from 'node:child_process';
import { closeSync, mkdtempSync, openSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { kernel } from '../../../src/blockers/file/kernel.js';

/** Paths of the objects' files below a store's directory that are marked as partial objects'. */
export function partialFiles(directory: string): string[] {
  return readdirSync(directory, { recursive: true, encoding: 'utf8' })
    .filter((file) => !file.startsWith('.archipelago'))
    .map((file) => path.join(directory, file))
    .filter((file) => (kernel.marks?.at(file) ?? null) !== null);
}

/**
 * Whether stores in the temporary directory can have partial objects: files can be marked, and do not share their blocks, as copies would do
 * instead. A loud skip otherwise.
 */
export function partialObjects(why: string): boolean {
  const directory = mkdtempSync(path.join(os.tmpdir(), 'archipelago-marks-'));
  try {
    const file = path.join(directory, 'file');
    writeFileSync(file, Buffer.alloc(65536, 1));
    if (canMark(file) && spawnSync('cp', ['--reflink=always', file, `${file}-`]).status !== 0) return true;
  } finally {
    rmSync(directory, { recursive: true });
  }
  console.warn(
    `SKIPPED: ${why} needs a temporary directory (TMPDIR) on ext4, XFS without reflink or tmpfs of Linux 6.6`,
  );
  return false;
}

function canMark(file: string): boolean {
  if (!kernel.marks?.suits(path.dirname(file))) return false;
  const fd = openSync(file, 'r+');
  try {
    kernel.marks.set(fd, Buffer.of(1));
    return true;
  } catch {
    return false;
  } finally {
    closeSync(fd);
  }
}
