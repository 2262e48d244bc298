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

/**
 * What the independent reader says of a tree: one verdict (`SAME` or `DIFFER`) for each volume.
 * @param tree the directory that holds maps/ and blocks/
 */
export async function goldenReader(
  golden: string,
  tree: string,
  list: string,
): Promise<{ name: string; verdict: string; line: string }[]> {
  const { stdout } = await run('python3', [path.join(golden, 'golden_reader.py'), tree, list]);
  return stdout
    .trim()
    .split('\n')
    .map((line) => {
      const [verdict, name] = line.split(/\s+/);
      return { name, verdict, line };
    });
}
