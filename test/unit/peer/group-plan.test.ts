import { spawnSync } from 'node:child_process';
import { describe, expect, test } from 'vitest';
import { parseConfig } from '../../../src/config/index.js';
import { defaultPlan } from '../../../src/peer/group-plan.js';

const LARGE_PAGES = '--use-largepages=silent';

function plan(text: string, group: string) {
  const config = parseConfig(text, null);
  return defaultPlan(config, group.split('+'), { shareOutput: true, sockets: [] });
}

const args = (placement: string, group: string): readonly string[] =>
  plan(`[ARCHIPELAGO]\nPLACEMENT = ${placement}\n`, group).args;

describe('code on large pages', () => {
  const DEFAULT = 'blockerb+vlmcd+nbd blockerm+mapperd';
  const APART = 'blockerb blockerm mapperd vlmcd nbd';

  test.each([
    [DEFAULT, 'blockerb+vlmcd+nbd'],
    [APART, 'blockerb'],
    [APART, 'vlmcd'],
    [APART, 'nbd'],
  ])('PLACEMENT = %s: %s is on the data path', (placement, group) => {
    expect(args(placement, group)[0]).toBe(LARGE_PAGES);
  });

  test.each([
    [DEFAULT, 'blockerm+mapperd'],
    [APART, 'blockerm'],
    [APART, 'mapperd'],
  ])('PLACEMENT = %s: %s is not', (placement, group) => {
    expect(args(placement, group)).not.toContain(LARGE_PAGES);
  });

  test('this Node takes the option, and is quiet about it', () => {
    const { status, stderr } = spawnSync(process.execPath, [LARGE_PAGES, '-e', ''], { encoding: 'utf8' });
    expect([status, stderr]).toEqual([0, '']);
  });
});

test.each([
  ['as the defaults are, so that half of the pool syncs eight objects at a time', '', 16],
  ['and what nr_threads says more', '[blockerb]\nnr_threads = 20\n', 28],
])('threads for what blocks: %s', (_what, text, threads) => {
  expect(plan(text, 'blockerb+vlmcd+nbd').env.UV_THREADPOOL_SIZE).toBe(String(threads));
});
