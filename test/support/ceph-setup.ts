/**
 * vitest's globalSetup: one Ceph cluster for a whole run of the tests, started by the first test that asks for it (ceph.ts), ended here. A shell
 * ends it when this process does not come to do it.
 */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { guard, unguard } from '../e2e/harness/guard.js';
import { CLUSTER_DIRECTORY, clusterScript } from './ceph-cluster.js';

export default function setup(): () => void {
  const directory = mkdtempSync(path.join(os.tmpdir(), 'archipelago-ceph-'));
  guard(directory);
  // Processes that run tests inherit it.
  process.env[CLUSTER_DIRECTORY] = directory;
  return () => {
    spawnSync('bash', [clusterScript, 'stop', directory, '--wipe'], { stdio: ['ignore', 'ignore', 'inherit'] });
    rmSync(directory, { recursive: true, force: true });
    unguard(directory);
    delete process.env[CLUSTER_DIRECTORY];
  };
}
