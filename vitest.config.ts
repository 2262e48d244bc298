import { defineConfig } from 'vitest/config';
import { hasCeph } from './test/support/ceph-cluster.js';

/** Files that print times which the documentation tells, or take all of a resource: one at a time, nothing beside them. */
const alone = ['exhaustion', 'fencing', 'migration', 'rados-trouble', 'torture'];

/**
 * Files that are about directories, or about no node at all: everything else runs on RADOS too. What they are about: modes and descriptors of files,
 * small disks, trees of the original, damage done to files; the library (fuzz), a configuration of its own (quickstart), clusters of their own.
 */
const onFiles = [
  'bad-store',
  'exhaustion',
  'full-disk',
  'fuzz',
  'golden',
  'quickstart',
  'vlmc-golden',
  'rados-caps',
  'rados-mixed',
  'rados-trouble',
];

const files = (names: readonly string[]): string[] => names.map((name) => `test/e2e/${name}.test.ts`);
const everything = 'test/e2e/**/*.test.ts';

const endToEnd = {
  pool: 'forks',
  testTimeout: 300_000,
  expect: { poll: { timeout: 30_000 } },
  hookTimeout: 300_000,
} as const;
const onRados = { env: { ARCHIPELAGO_TEST_STORE: 'rados' } };

/** One group after the other; two cores serve two files with whole nodes and real clients at a time. */
const beside = (groupOrder: number) => ({ maxWorkers: 2, sequence: { groupOrder } });
const oneByOne = (groupOrder: number) => ({ maxWorkers: 1, sequence: { groupOrder } });

const projects = [
  {
    test: {
      name: 'unit',
      include: ['test/unit/**/*.test.ts'],
      pool: 'forks' as const,
      testTimeout: 60_000,
      expect: { poll: { timeout: 20_000 } },
    },
  },
  { test: { name: 'e2e', include: [everything], exclude: files(alone), ...endToEnd, ...beside(1) } },
  { test: { name: 'e2e-alone', include: files(alone), ...endToEnd, ...oneByOne(2) } },
];

const both = alone.filter((name) => !onFiles.includes(name));
const rados = [
  {
    test: {
      name: 'rados',
      include: [everything],
      exclude: files([...alone, ...onFiles]),
      ...endToEnd,
      ...onRados,
      ...beside(3),
    },
  },
  { test: { name: 'rados-alone', include: files(both), ...endToEnd, ...onRados, ...oneByOne(4) } },
];

export default defineConfig({
  test: {
    // Of the whole run, for all projects: a Ceph cluster for the tests that ask for one.
    globalSetup: ['test/support/ceph-setup.ts'],
    projects: hasCeph() ? [...projects, ...rados] : projects,
  },
});
