/** Where the processes of a node keep what they need to find each other, and how they are started. */
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Config } from '../config/index.js';
import { commandLine, resolveIn } from './proc.js';

export const pidfileOf = (config: Config, name: string): string => path.join(config.runDir, `${name}.pid`);

/** The control socket of a role process: named for its first role, which no other process has. */
export const controlSocketOf = (config: Config, group: readonly string[]): string =>
  path.join(config.runDir, `${group[0]}.ctl`);

export const supervisorSocket = (config: Config): string => path.join(config.runDir, 'supervisor.sock');
export const supervisorPidfile = (config: Config): string => pidfileOf(config, 'supervisor');

const ROLE_MAIN = fileURLToPath(new URL('./main.js', import.meta.url));
const SUPERVISOR_MAIN = fileURLToPath(new URL('./supervisor-main.js', import.meta.url));

const configArguments = (config: Config): string[] => (config.path === null ? [] : ['-c', path.resolve(config.path)]);

/** Arguments for node of the process that hosts `group`. */
export const roleArguments = (config: Config, group: readonly string[]): string[] => [
  ROLE_MAIN,
  ...configArguments(config),
  '--roles',
  group.join('+'),
];

/** Arguments for node of the supervisor. */
export const supervisorArguments = (config: Config): string[] => [SUPERVISOR_MAIN, ...configArguments(config)];

/** The arguments of process `pid` if it runs a program of one of these names with this configuration, else null. */
function runs(pid: number, names: readonly string[], config: Config): string[] | null {
  const words = commandLine(pid);
  if (!words) return null;
  const at = words.findIndex((word) => names.includes(path.basename(word)));
  if (at < 0) return null;
  const args = words.slice(at + 1);
  const option = args.findIndex((word) => word === '-c' || word === '--config');
  const used = option < 0 ? null : resolveIn(pid, args[option + 1] ?? '');
  return used === (config.path === null ? null : path.resolve(config.path)) ? args : null;
}

/** Does process `pid` host `role` of this node? */
export function hostsRole(pid: number, role: string, config: Config): boolean {
  const args = runs(pid, [path.basename(ROLE_MAIN)], config);
  return args?.[args.indexOf('--roles') + 1]?.split('+').includes(role) ?? false;
}

/** Is process `pid` this node's supervisor? The command line is one too with --foreground. */
export function isSupervisor(pid: number, config: Config): boolean {
  return runs(pid, [path.basename(SUPERVISOR_MAIN), 'archipelago', 'archipelago.js'], config) !== null;
}
