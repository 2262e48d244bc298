import { defineConfig } from 'vitest/config';

/** `npm run ganeti`: one cluster, one scene after the other, none after one that failed. */
export default defineConfig({
  test: {
    root: import.meta.dirname,
    include: ['*.test.ts'],
    pool: 'forks',
    bail: 1,
    testTimeout: 1_800_000,
    hookTimeout: 1_800_000,
    expect: { poll: { timeout: 60_000 } },
    reporters: ['verbose'],
  },
});
