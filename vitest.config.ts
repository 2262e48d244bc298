import { availableParallelism } from 'node:os';
import { defineConfig } from 'vitest/config';
import { hasCeph } from './test/support/ceph-cluster.js';

/**
 * Files that are about directories, or about no node at all: everything else runs on RADOS too. What they are about: modes and descriptors of files,
 * small disks, trees of the original, damage done to files, maps written
 * as files, a node that libnbd starts by itself (libnbd-interop); what qemu is told (qemu-*); the library (fuzz), a configuration of its own (quickstart); RADOS itself, on
 * clusters of their own or mixed with files.
 */
const onFiles = [
  'bad-store',
  'exhaustion',
  'full-disk',
  'fuzz',
  'golden',
  'libnbd-interop',
  'qemu-*',
  'quickstart',
  'rados-*',
  'vlmc-golden',
];

/** What takes all of a resource, or waits until nobody has any: nothing runs beside it. */
const alone = ['exhaustion'];

const files = (names: readonly string[]): string[] => names.map((name) => `test/e2e/${name}.test.ts`);
const everything = 'test/e2e/**/*.test.ts';

const endToEnd = {
  pool: 'forks',
  testTimeout: 300_000,
  expect: { poll: { timeout: 30_000 } },
  hookTimeout: 300_000,
} as const;

/** One group after the other. */
const group = (groupOrder: number, maxWorkers: number) => ({ maxWorkers, sequence: { groupOrder } });
/** Two cores serve two files with whole nodes and real clients at a time. */
const WORKERS = 2;

const projects = [
  {
    test: {
      name: 'unit',
      include: ['test/unit/**/*.test.ts'],
      pool: 'forks' as const,
      testTimeout: 60_000,
      expect: { poll: { timeout: 20_000 } },
      ...group(0, Math.max(WORKERS, availableParallelism() - 1)),
    },
  },
  { test: { name: 'e2e', include: [everything], exclude: files(alone), ...endToEnd, ...group(1, WORKERS) } },
  { test: { name: 'e2e-alone', include: files(alone), ...endToEnd, ...group(2, 1) } },
];

const rados = {
  test: {
    name: 'rados',
    include: [everything],
    exclude: files(onFiles),
    ...endToEnd,
    env: { ARCHIPELAGO_TEST_STORE: 'rados' },
    ...group(3, WORKERS),
  },
};

export default defineConfig({
  test: {
    // Of the whole run, for all projects: a Ceph cluster for the tests that ask for one.
    globalSetup: ['test/support/ceph-setup.ts'],
    projects: hasCeph() ? [...projects, rados] : projects,
  },
});
