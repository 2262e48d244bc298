import { spawnSync } from 'node:child_process';
import { describe, expect, test } from 'vitest';
import { parseConfig } from '../../../src/config/index.js';
import { defaultPlan } from '../../../src/peer/group-plan.js';

const LARGE_PAGES = '--use-largepages=silent';

function args(placement: string, group: string): readonly string[] {
  const config = parseConfig(`[ARCHIPELAGO]\nPLACEMENT = ${placement}\n`, null);
  return defaultPlan(config, group.split('+'), { shareOutput: true, sockets: [] }).args;
}

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
