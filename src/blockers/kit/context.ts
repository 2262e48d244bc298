/** What the parts of the kit share: who runs the tests, stores of their own for them, and bytes to write. */
import { createHash } from 'node:crypto';
import type { Driver } from '../driver.js';
import { type OneIo, runIo } from '../object-io.js';

/** The part of a test runner that the kit needs; vitest and jest have it. */
export interface TestRunner {
  describe(name: string, body: () => void): void;
  it(name: string, body: () => Promise<void>): void;
  expect(value: unknown): Expectation;
}

export interface Expectation {
  toBe(expected: unknown): void;
  toEqual(expected: unknown): void;
  toMatchObject(expected: object): void;
  toMatch(expected: RegExp): void;
  readonly rejects: { toMatchObject(expected: object): Promise<void> };
}

/** One empty store for one test. */
export interface KitStore {
  /** Opened; its locks are owned by `owner` of make. */
  readonly driver: Driver;
  /** Another opened driver on the same store, as a second node has it. */
  another(owner: string): Promise<Driver>;
  /** Closes all drivers and removes the store. */
  dispose(): Promise<void>;
}

export interface KitOptions {
  /** For the tests' names. */
  readonly name: string;
  make(owner: string): Promise<KitStore>;
}

/** The runner and the store maker as the parts of the kit use them. */
export interface Kit {
  readonly expect: TestRunner['expect'];
  /** A group of tests. */
  group(name: string, body: () => void): void;
  /** A test with a store of its own. */
  test(name: string, body: (driver: Driver, store: KitStore) => Promise<void>): void;
  isEqual(got: Uint8Array, wanted: Uint8Array): void;
}

export function makeKit(options: KitOptions, { describe, it, expect }: TestRunner): Kit {
  return {
    expect,
    group: (name, body) => describe(`driver ${options.name}: ${name}`, body),
    test: (name, body) =>
      it(name, async () => {
        const store = await options.make('kit_1000');
        try {
          await body(store.driver, store);
        } finally {
          await store.dispose();
        }
      }),
    isEqual: (got, wanted) => expect(Buffer.compare(got, wanted)).toBe(0),
  };
}

/** Small numbers that look random and are the same in every run. */
export function randoms(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
}

/** `length` bytes without a zero among them, different for each seed. */
export const pattern = (length: number, seed: number): Buffer => {
  const next = randoms(seed);
  const bytes = Buffer.alloc(length);
  for (let i = 0; i < length; i++) bytes[i] = 1 + next(255);
  return bytes;
};

/** In lower-case hex. */
export const sha256 = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');

export const write = (driver: Driver, name: string, offset: number, data: Uint8Array, more: Partial<OneIo> = {}) =>
  runIo(driver, 'write', { name, offset, length: data.length, data, ...more });

export const read = async (driver: Driver, name: string, offset: number, length: number): Promise<Buffer> =>
  (await runIo(driver, 'read', { name, offset, length })).data;
