/**
 * The driver kit: what every driver must do, as tests. A driver outside this project runs it with its own test runner:
 *
 *     import { describe, expect, it } from 'vitest';
 *     import { driverKit } from 'archipelago/driver-kit';
 *     driverKit({ name: 'mine', make: async () => ({ … }) }, { describe, expect, it });
 */
import { type KitOptions, makeKit, type TestRunner } from './kit/context.js';
import { copyTests } from './kit/copies.js';
import { ioTests } from './kit/io.js';
import { lockTests } from './kit/locks.js';
import { modelTests } from './kit/model.js';
import { nodeTests } from './kit/nodes.js';
import { objectTests } from './kit/objects.js';

export type { Expectation, KitOptions, KitStore, TestRunner } from './kit/context.js';

/** Registers the kit's tests for a driver. */
export function driverKit(options: KitOptions, runner: TestRunner): void {
  const kit = makeKit(options, runner);
  for (const register of [ioTests, objectTests, copyTests, lockTests, nodeTests, modelTests]) register(kit);
}
