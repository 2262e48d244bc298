import { availableParallelism } from 'node:os';
import { defineConfig } from 'vitest/config';
import { BaseSequencer, type TestSpecification } from 'vitest/node';
import { hasCeph } from './test/support/ceph-cluster.js';

/** How a connection comes about, whatever a node keeps its objects in. Single tests of that kind are marked by `whateverTheStore`. */
const connections = ['activation', 'kernel-tls', 'stdio', 'tls'];

/**
 * Files that are about directories, or about no store at all: everything else runs on RADOS too. What they are about: modes and descriptors of files,
 * small disks, trees of the original, damage done to files; system calls (counts); connections; what qemu and Ganeti are told (qemu-*, ganeti*); the library (fuzz), a configuration of its own
 * (quickstart); RADOS itself, on clusters of their own or mixed with files.
 */
const onFiles = [
  ...connections,
  'bad-store',
  'bridge',
  'devices*',
  'counts',
  'exhaustion',
  'full-disk',
  'fuzz',
  'ganeti*',
  'golden',
  'qemu-*',
  'quickstart',
  'rados-*',
  'start-twice',
  'vlmc-golden',
  'vlmc-map',
];

/** What takes all of a resource, or waits until nobody has any: nothing runs beside it. */
const alone = ['exhaustion'];

/** Machines that run a node or are watched for many minutes, each on its own. ARCHIPELAGO_TEST_LONG=1 (npm run test:long). */
const long = ['devices-emulated', 'devices-long', 'ganeti-kernel'];

/** What takes longest begins first, so that nobody waits for it at the end. Vitest goes by the size of files. */
const longest = (
  'fencing devices ganeti-cluster placements filesystem fuzz torture peer-failure migration archipelago reconnect nodes-locks nbdkit interop ' +
  'kernel-tls operating-system qemu-guest migration-qemu ganeti sim/cuts sim/more-cuts sim/breaks'
).split(' ');

class LongestFirst extends BaseSequencer {
  override async sort(specifications: TestSpecification[]): Promise<TestSpecification[]> {
    const place = ({ moduleId }: TestSpecification): number => {
      const found = longest.findIndex((name) => moduleId.endsWith(`/${name}.test.ts`));
      return found < 0 ? longest.length : found;
    };
    return (await super.sort(specifications)).toSorted((a, b) => place(a) - place(b));
  }
}

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
/** Two cores serve two files with whole nodes and real clients at a time; three end sooner, where nothing else runs. */
const WORKERS = Number(process.env.ARCHIPELAGO_TEST_WORKERS ?? 2);

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
  {
    test: {
      name: 'e2e',
      include: [everything],
      exclude: files([...alone, ...long]),
      ...endToEnd,
      ...group(1, WORKERS),
    },
  },
  { test: { name: 'e2e-alone', include: files(alone), ...endToEnd, ...group(2, 1) } },
];

const rados = {
  test: {
    name: 'rados',
    include: [everything],
    exclude: files([...onFiles, ...long]),
    ...endToEnd,
    env: { ARCHIPELAGO_TEST_STORE: 'rados' },
    ...group(3, WORKERS),
  },
};

const longTests = { test: { name: 'long', include: files(long), ...endToEnd, ...group(0, 1) } };
const usual = hasCeph() ? [...projects, rados] : projects;

export default defineConfig({
  test: {
    // Of the whole run, for all projects: what killed ones left goes; a Ceph cluster for the tests that ask for one.
    globalSetup: ['test/support/left-setup.ts', 'test/support/ceph-setup.ts'],
    sequence: { sequencer: LongestFirst },
    projects: process.env.ARCHIPELAGO_TEST_LONG === '1' ? [longTests] : usual,
  },
});
