import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    // Of the whole run, for all projects: a Ceph cluster for the tests that ask for one.
    globalSetup: ['test/support/ceph-setup.ts'],
    projects: [
      {
        test: {
          name: 'unit',
          include: ['test/unit/**/*.test.ts'],
          pool: 'forks',
          testTimeout: 60_000,
          expect: { poll: { timeout: 20_000 } },
        },
      },
      {
        test: {
          name: 'e2e',
          include: ['test/e2e/**/*.test.ts'],
          pool: 'forks',
          // Each file starts whole nodes and real clients; two cores serve one such file at a time.
          fileParallelism: false,
          testTimeout: 300_000,
          expect: { poll: { timeout: 30_000 } },
          hookTimeout: 300_000,
        },
      },
    ],
  },
});
