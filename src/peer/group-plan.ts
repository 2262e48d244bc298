/** How the process of a group of roles is made, outside of tests. */
import path from 'node:path';
import type { Config } from '../config/index.js';
import type { PassedSocket } from '../nbd/activation.js';
import type { GroupPlan } from './group.js';
import { handOver, socketRole } from './handover.js';
import { controlSocketOf, roleArguments } from './paths.js';

/** libuv's own limit. */
const MAX_THREADS = 1024;
/**
 * For what needs a thread besides what a blocker's nr_threads are for: name look-ups, reading files; and so many that half of the pool, which
 * is what syncs may take, has a thread for each object of a flush that names them one by one (eight).
 */
const OTHER_THREADS = 8;

/**
 * Node's own code on large pages: what serves a request is spread over many of its pages, and where memory is virtual twice each of them costs
 * dearly when the processor has forgotten it. Where that cannot be had it says nothing and does without. It takes some 20 MiB and 40 ms.
 */
const LARGE_PAGES = '--use-largepages=silent';

/** Does every read and write of a volume pass through this role? */
function isOnDataPath({ roles }: Config, name: string): boolean {
  const role = roles.find((settings) => settings.name === name);
  if (role?.type === 'nbd' || role?.type === 'vlmcd') return true;
  return roles.some((other) => other.type === 'vlmcd' && other.blockerPort === role?.portnoStart);
}

export interface PlanOptions {
  /** The process writes to this process's standard error. */
  readonly shareOutput: boolean;
  /** Listening sockets for the role that serves such. */
  readonly sockets: readonly PassedSocket[];
}

export function defaultPlan(config: Config, group: readonly string[], options: PlanOptions): GroupPlan {
  const threads = group.reduce((sum, name) => {
    const settings = config.roles.find((role) => role.name === name);
    return sum + (settings && 'nrThreads' in settings ? settings.nrThreads : 0);
  }, OTHER_THREADS);
  const role = socketRole(config);
  const large = group.some((name) => isOnDataPath(config, name));
  const handover = handOver(role !== null && group.includes(role) ? options.sockets : []);
  return {
    roles: group,
    command: process.execPath,
    args: [...(large ? [LARGE_PAGES] : []), ...roleArguments(config, group)],
    // Blocking work runs on libuv's pool, whose size is read once, when a process begins.
    env: { ...process.env, ...handover.env, UV_THREADPOOL_SIZE: String(Math.min(threads, MAX_THREADS)) },
    descriptors: handover.descriptors,
    controlSocket: controlSocketOf(config, group),
    hangTimeoutMs: config.hangTimeout * 1000,
    output: options.shareOutput ? null : path.join(config.logDir, `${group[0]}.out`),
  };
}
