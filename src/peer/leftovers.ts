/** What processes that were killed leave in RUN_DIR: found by pidfiles, removed when nobody lives who needs it. */
import fs from 'node:fs';
import { bridgeSocketOf } from '../bridge/protocol.js';
import { type Config, findRole } from '../config/index.js';
import { controlSocketOf, hostsRole, isSupervisor, pidfileOf, supervisorPidfile, supervisorSocket } from './paths.js';
import { livingPid } from './pidfile.js';

/** Processes of roles that live, by the role's name. */
export function livingRoles(config: Config): Map<string, number> {
  const living = new Map<string, number>();
  for (const { name } of config.roles) {
    const pid = livingPid(pidfileOf(config, name), (candidate) => hostsRole(candidate, name, config));
    if (pid !== null) living.set(name, pid);
  }
  return living;
}

/** The process of the supervisor, or null. */
export function supervisorPid(config: Config): number | null {
  return livingPid(supervisorPidfile(config), (pid) => isSupervisor(pid, config));
}

/** Removes pidfiles, control sockets and listening sockets of roles that do not live. */
export function sweepRoles(config: Config): void {
  const living = livingRoles(config);
  const remove = (path: string): void => fs.rmSync(path, { force: true });
  for (const role of config.roles) {
    if (living.has(role.name)) continue;
    remove(pidfileOf(config, role.name));
    if (role.type === 'nbd' && role.socket !== null) remove(role.socket);
    if (role === findRole(config, 'nbd')) remove(bridgeSocketOf(config));
  }
  for (const group of config.placement) {
    if (!group.some((name) => living.has(name))) remove(controlSocketOf(config, group));
  }
}

/** Removes the supervisor's files when there is none. */
export function sweepSupervisor(config: Config): void {
  if (supervisorPid(config) !== null) return;
  fs.rmSync(supervisorPidfile(config), { force: true });
  fs.rmSync(supervisorSocket(config), { force: true });
}
