/** The volumes written by the original system (test/fixtures/golden), unpacked for a test, and its reader. */
import { createHash } from 'node:crypto';
import { readdirSync, readFileSync, statSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import path from 'node:path';
import { run } from './run.js';

const archive = path.resolve(import.meta.dirname, '../../fixtures/golden/golden.tar.gz');

/** One line of a list: what a volume must read back as. */
export interface GoldenVolume {
  readonly name: string;
  readonly size: number;
  readonly sha256: string;
  /** A version 0 map: it is mapped with these options. */
  readonly mapOptions: readonly string[];
}

/** Unpacks the archive below `directory` and resolves to where it is. */
export async function unpackGolden(directory: string): Promise<string> {
  const target = path.join(directory, 'golden');
  await mkdir(target, { recursive: true });
  await run('tar', ['-xzf', archive, '-C', target, '--no-same-owner']);
  return target;
}

/** Reads `SHA256` or `SHA256.direct`. */
export function readList(file: string): GoldenVolume[] {
  return readFileSync(file, 'utf8')
    .split('\n')
    .map((line) => line.trim().split(/\s+/))
    .filter(([name, size]) => name && !name.startsWith('#') && size)
    .map(([name, size, sha256, version, v0Size]) => ({
      name,
      size: Number(size),
      sha256,
      mapOptions: version === 'v0' ? ['--assume_v0', ...(v0Size ? ['--v0_size', v0Size] : [])] : [],
    }));
}

/** Path, mode, length and SHA-256 of every file below a directory: equal means byte-identical. */
export function fingerprintTree(directory: string): Map<string, string> {
  const files = new Map<string, string>();
  for (const entry of readdirSync(directory, { recursive: true, withFileTypes: true })) {
    const full = path.join(entry.parentPath, entry.name);
    const relative = path.relative(directory, full);
    if (entry.isDirectory()) {
      files.set(relative, 'directory');
    } else {
      const { mode, size } = statSync(full);
      const hash = createHash('sha256').update(readFileSync(full)).digest('hex');
      files.set(relative, `${mode.toString(8)} ${size} ${hash}`);
    }
  }
  return files;
}

export interface Reading {
  /** Of each volume: `SAME` or `DIFFER`. */
  readonly verdicts: readonly { name: string; verdict: string; line: string }[];
  /** Partial objects that were read. */
  readonly partial: number;
}

/**
 * What the independent reader says of a tree, which knows what the original knows.
 * @param tree the directory that holds maps/ and blocks/
 */
export const goldenReader = (golden: string, tree: string, list: string): Promise<Reading> =>
  readWith(path.join(golden, 'golden_reader.py'), tree, list);

/** As goldenReader, by one that knows partial objects, too. */
export const partialReader = (golden: string, tree: string, list: string): Promise<Reading> =>
  readWith(path.join(import.meta.dirname, 'partial_reader.py'), golden, tree, list);

async function readWith(...command: readonly string[]): Promise<Reading> {
  const { stdout } = await run('python3', command);
  const lines = stdout
    .trim()
    .split('\n')
    .map((line) => {
      const [verdict, name] = line.split(/\s+/);
      return { name, verdict, line };
    });
  const partial = lines.find(({ verdict }) => verdict === 'PARTIAL');
  return { verdicts: lines.filter((line) => line !== partial), partial: Number(partial?.name ?? 0) };
}
