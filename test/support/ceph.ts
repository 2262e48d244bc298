/**
 * Ceph for tests: one cluster of scripts/rigs/ceph.sh per run, started when the first test needs it, and a namespace for each describe.
 *
 *     describe.runIf(hasCeph())('locks on RADOS', () => {
 *       const ceph = useCeph();
 *       it('…', async () => {
 *         const cluster = await connect({ conf: ceph.conf, id: ceph.user });
 *         const pool = await cluster.pool('maps', ceph.namespace);
 *
 * `ceph.user` has only the capabilities that the documentation asks for. ARCHIPELAGO_TEST_CEPH_CONF names the ceph.conf of a cluster that runs already
 * (made by the script) to use instead.
 */
import { randomBytes } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterAll, afterEach, beforeAll } from 'vitest';
import { guard, unguard } from '../e2e/harness/guard.js';
import { attempt, type Outcome, type RunOptions, run } from '../e2e/harness/run.js';
import { cephCluster, clusterCommand, root } from './ceph-cluster.js';
import { clusterReport } from './ceph-report.js';

export { cephCluster, clusterCommand, hasCeph } from './ceph-cluster.js';

/** Ceph's Python module looks into the store, so that what this project wrote is read by another. */
const objectsScript = path.join(root, 'test/support/objects.py');

/** Pools of the cluster. */
export const POOLS = ['maps', 'blocks'] as const;

/** User with the least capabilities that work, without "client.". */
export const USER = 'archipelago';

/** A name that no other test has used. */
export function makeNamespace(): string {
  return `test-${randomBytes(6).toString('hex')}`;
}

/** An object as Ceph's own client finds it. */
export interface StoredObject {
  readonly name: string;
  readonly size: number;
  /** Seconds since the epoch. */
  readonly modified: number;
  /** Grows with each change of this object. */
  readonly version: number;
}

/** A namespace of both pools, looked into by Ceph's own client and not by this project's. */
export class Namespace {
  constructor(
    readonly conf: string,
    readonly namespace: string,
  ) {}

  readonly user = USER;

  /** Runs `ceph` as administrator; it must succeed. Resolves to what it printed. */
  async ceph(...args: string[]): Promise<string> {
    return (await run('ceph', ['-c', this.conf, ...args])).stdout;
  }

  /** Runs `rados` in a pool's namespace as administrator; it must succeed. Resolves to what it printed. */
  async rados(pool: string, ...args: string[]): Promise<string> {
    return (await this.tryRados(pool, args, true)).stdout;
  }

  /** Runs `rados`, whatever it says. */
  tryRados(pool: string, args: readonly string[], must = false): Promise<Outcome> {
    return (must ? run : attempt)('rados', ['-c', this.conf, '-p', pool, '-N', this.namespace, ...args]);
  }

  async list(pool: string): Promise<StoredObject[]> {
    return (JSON.parse((await this.#objects(['list', pool])).stdout) as Record<string, StoredObject[]>)[pool];
  }

  /** Puts every file below a directory into a pool, under its own name. */
  async load(pool: string, directory: string): Promise<void> {
    await this.#objects(['load', pool, directory]);
  }

  /** Writes a pool's objects to a directory as a file store has them. */
  async save(pool: string, directory: string): Promise<void> {
    await this.#objects(['save', pool, directory]);
  }

  /** An object's content; null: there is none. */
  async read(pool: string, name: string): Promise<Buffer | null> {
    const outcome = await this.#objects(['read', pool, name]);
    return outcome.stdout === '' ? null : Buffer.from(outcome.stdout.slice(1), 'base64');
  }

  /** Replaces an object's content, or makes it. */
  async write(pool: string, name: string, content: Uint8Array): Promise<void> {
    await this.#objects(['write', pool, name], { input: Buffer.from(content) });
  }

  /**
   * Takes a lock of an object away from its holder (`client.N`), as `rados lock break`. Resolves to when that was done at the earliest, by
   * performance.now().
   */
  async breakLock(pool: string, object: string, lock: string, holder: string, cookie: string): Promise<number> {
    const began = Number((await this.#objects(['break', pool, object, lock, holder, cookie])).stdout);
    return began - Number(process.hrtime.bigint()) / 1e6 + performance.now();
  }

  /** Makes an object look as if nobody had changed it for so many seconds. */
  async age(pool: string, name: string, seconds: number): Promise<void> {
    await this.#objects(['age', pool, name, String(seconds)]);
  }

  /** Removes objects; missing ones are fine. */
  async remove(pool: string, ...names: string[]): Promise<void> {
    await this.#objects(['remove', pool, ...names]);
  }

  /** Removes everything of this namespace, or of one pool's. */
  async empty(...pools: readonly string[]): Promise<void> {
    await this.#objects(['empty', ...(pools.length > 0 ? pools : POOLS)]);
  }

  #objects(args: readonly string[], options: RunOptions = {}): Promise<Outcome> {
    // The system's Python: it has Ceph's module.
    return run('/usr/bin/python3', [objectsScript, this.conf, this.namespace, ...args], options);
  }
}

/** A cluster that runs and a namespace of its own for the tests of the enclosing describe (or file); emptied after them. */
export function useCeph(): Namespace {
  let made: Namespace | undefined;
  beforeAll(async () => {
    made = new Namespace(await cephCluster(), makeNamespace());
  }, 120_000);
  afterAll(async () => {
    await made?.empty();
    made = undefined;
  });
  const get = (): Namespace => {
    if (!made) throw new Error('the namespace is there only while tests run');
    return made;
  };
  return new Proxy({} as Namespace, {
    get: (_, property) => {
      const value: unknown = Reflect.get(get(), property);
      return typeof value === 'function' ? value.bind(get()) : value;
    },
  });
}

/**
 * A cluster of a describe's own, to be stopped, killed and filled as it likes: on bluestore, or with other options of the script. What it says of
 * itself is shown when a test fails.
 */
export function useOwnCluster(...options: readonly string[]): { readonly conf: string; readonly directory: string } {
  let directory = '';
  beforeAll(async () => {
    directory = mkdtempSync(path.join(os.tmpdir(), 'archipelago-ceph-'));
    guard(directory);
    await clusterCommand('start', directory, ...options);
  }, 120_000);
  afterEach(async ({ task }) => {
    if (task.result?.state === 'fail') console.error(await clusterReport(path.join(directory, 'ceph.conf')));
  });
  afterAll(async () => {
    await clusterCommand('stop', directory, '--wipe');
    rmSync(directory, { recursive: true, force: true });
    unguard(directory);
  });
  return {
    get conf(): string {
      return path.join(directory, 'ceph.conf');
    },
    get directory(): string {
      return directory;
    },
  };
}
