/** How the process of a group of roles is made, outside of tests. */
import path from 'node:path';
import type { Config } from '../config/index.js';
import type { GroupPlan } from './group.js';
import { controlSocketOf, roleArguments } from './paths.js';

/** libuv's own limit. */
const MAX_THREADS = 1024;
/** For what needs a thread besides the blockers: name look-ups, reading files. */
const OTHER_THREADS = 4;

export function defaultPlan(config: Config, group: readonly string[], shareOutput: boolean): GroupPlan {
  const threads = group.reduce((sum, name) => {
    const settings = config.roles.find((role) => role.name === name);
    return sum + (settings && 'nrThreads' in settings ? settings.nrThreads : 0);
  }, OTHER_THREADS);
  return {
    roles: group,
    command: process.execPath,
    args: roleArguments(config, group),
    // Blocking work runs on libuv's pool, whose size is read once, when a process begins.
    env: { ...process.env, UV_THREADPOOL_SIZE: String(Math.min(threads, MAX_THREADS)) },
    controlSocket: controlSocketOf(config, group),
    output: shareOutput ? null : path.join(config.logDir, `${group[0]}.out`),
  };
}
