/** Two nodes on one store: two configurations with host names, segments, ports and run directories of their own, one set of stores. */
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterAll, afterEach, beforeAll } from 'vitest';
import { makeNamespace, POOLS } from '../../support/ceph.js';
import { guard, unguard } from './guard.js';
import { type NodeOptions, TestNode } from './node.js';
import { describeOutcome } from './run.js';
import { makeStores, RadosStore, type StoreKind, type Stores, usualStore } from './stores.js';

export interface NodesOptions extends Omit<NodeOptions, 'maps' | 'blocks' | 'lockDir' | 'hostname'> {
  /** Locks have a directory of their own, instead of lying beside the maps. */
  readonly lockDir?: boolean;
  /** ceph.conf of a cluster that runs when the tests begin: both stores are there, whatever other tests use. */
  readonly cluster?: () => string;
}

/** What both nodes use. */
export interface SharedStore extends Stores {
  readonly dir: string;
  /** undefined: locks are beside the maps. */
  readonly lockDir: string | undefined;
}

export interface Nodes {
  readonly a: TestNode;
  readonly b: TestNode;
  readonly store: SharedStore;
}

/** Host names of the nodes, and what they call themselves in locks: the name and the port of blockerm. */
export const hosts = { a: 'alpha', b: 'beta' } as const;
export const owners = { a: `${hosts.a}_1002`, b: `${hosts.b}_1002` } as const;

async function makeStore(kind: StoreKind, withLockDir: boolean, conf?: string): Promise<SharedStore> {
  const dir = mkdtempSync(path.join(os.tmpdir(), 'archipelago-store-'));
  guard(dir);
  const lockDir = withLockDir ? path.join(dir, 'locks') : undefined;
  if (lockDir) mkdirSync(lockDir);
  if (conf === undefined) return { dir, lockDir, ...(await makeStores(kind, dir, lockDir)) };
  const namespace = makeNamespace();
  const [maps, blocks] = POOLS.map((pool) => new RadosStore(pool, conf, namespace));
  return { dir, lockDir, maps, blocks };
}

/** Whatever was done to them: maps and objects agree. */
async function requireSound(node: TestNode): Promise<void> {
  const outcome = await node.tryVlmc(['--json', 'check', '--all']);
  const { errors } = JSON.parse(outcome.stdout) as { errors: number };
  if (errors > 0) throw new Error(describeOutcome(outcome));
}

/**
 * Two nodes for the tests of the enclosing describe, as useNode. Processes that a test froze are thawed before they are stopped, and what all
 * tests left is checked.
 */
export function useNodes({ lockDir = false, cluster, ...options }: NodesOptions = {}): Nodes {
  let store: SharedStore | undefined;
  const running: TestNode[] = [];
  beforeAll(async () => {
    store = await makeStore(options.store ?? usualStore(), lockDir, cluster?.());
    const { maps, blocks } = store;
    for (const hostname of [hosts.a, hosts.b])
      running.push(await TestNode.start({ ...options, maps, blocks, hostname }));
  });
  afterEach(({ task }) => {
    if (task.result?.state !== 'fail') return;
    running.forEach((node, i) => {
      console.error(`=== node ${i === 0 ? hosts.a : hosts.b}\n${node.logs()}`);
    });
  });
  afterAll(async () => {
    try {
      for (const node of running) node.signal('SIGCONT');
      if (running.length > 0) await requireSound(running[0]);
      for (const node of running.splice(0)) await node.dispose();
    } finally {
      for (const node of running) node.kill();
      if (store) {
        await Promise.all([store.maps.dispose(), store.blocks.dispose()]);
        rmSync(store.dir, { recursive: true, force: true });
        unguard(store.dir);
      }
    }
  });
  const get = (i: number): TestNode => {
    if (!running[i]) throw new Error('the nodes are there only while tests run');
    return running[i];
  };
  return {
    get a(): TestNode {
      return get(0);
    },
    get b(): TestNode {
      return get(1);
    },
    get store(): SharedStore {
      if (!store) throw new Error('the store is there only while tests run');
      return store;
    },
  };
}
