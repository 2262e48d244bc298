/** Who is killed, and how. */
import { readFileSync } from 'node:fs';
import path from 'node:path';
import type { TestNode } from '../e2e/harness/node.js';
import type { Random } from '../fuzz/random.js';
import { ACTORS } from './fleet.js';

const ROLES = ['blockerb', 'blockerm', 'mapperd', 'vlmcd', 'nbd'] as const;
const CLIENTS = Array.from({ length: ACTORS }, (_, index) => `client${index}`);

/** All that can be killed; a role is killed with its process. */
export const TARGETS: readonly string[] = [...ROLES, 'supervisor', ...CLIENTS];

/** Chooses whom to kill at once. @param allowed names of TARGETS */
export function chooseTargets(random: Random, allowed: readonly string[]): string[] {
  const dice = random.below(100);
  if (dice < 15) return [...allowed];
  if (dice < 25) {
    const clients = allowed.filter((name) => CLIENTS.includes(name));
    if (clients.length > 0) return [random.pick(clients)];
  }
  if (dice < 60) return [random.pick(allowed)];
  const some = allowed.filter(() => random.oneIn(2));
  return some.length > 0 ? some : [random.pick(allowed)];
}

/** Pid of a role or of the supervisor, or null when it does not run. */
export function pidOf(node: TestNode, name: string): number | null {
  try {
    const pid = Number(readFileSync(path.join(node.dir, 'run', `${name}.pid`), 'utf8'));
    return node.pids().includes(pid) ? pid : null;
  } catch {
    return null;
  }
}

/** kill -9 of these roles' processes and of the supervisor, all at once; resolves when they are gone. */
export async function killProcesses(node: TestNode, names: readonly string[]): Promise<void> {
  const pids = new Set(names.map((name) => pidOf(node, name)).filter((pid) => pid !== null));
  for (const pid of pids) {
    try {
      process.kill(pid, 'SIGKILL');
    } catch (error) {
      // It may have been killed by its supervisor meanwhile.
      if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
    }
  }
  while (node.pids().some((pid) => pids.has(pid))) await new Promise((resolve) => setTimeout(resolve, 2));
}
