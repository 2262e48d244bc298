/** start, stop, restart, status: what each does, in terms of the supervisor. */
import fs from 'node:fs';
import type { Config } from '../../config/index.js';
import type { PassedSocket } from '../../nbd/activation.js';
import type { ControlClient, Message } from '../../peer/control.js';
import { tail } from '../../peer/group.js';
import { takeOver } from '../../peer/handover.js';
import { livingRoles, supervisorPid, sweepRoles, sweepSupervisor } from '../../peer/leftovers.js';
import { logFileOf } from '../../peer/log-sinks.js';
import type { NodeStatus, Progress } from '../../peer/node-status.js';
import { dropPrivileges, makeDirectories, requireAccount, requireDirectories } from '../../peer/privileges.js';
import { waitGone } from '../../peer/proc.js';
import { errnoOf, errnos, SystemError } from '../../sys/errno.js';
import type { DeviceAccess } from '../common/devices.js';
import { type Io, printJson, printWarning } from '../common/io.js';
import { Problems } from '../common/program.js';
import { requireNoDevices } from './attached.js';
import {
  findSupervisor,
  reachSupervisor,
  removeLeftSegment,
  spawnSupervisor,
  statusWithoutSupervisor,
} from './node.js';
import { banner, printStatus, progressPrinter } from './output.js';

/** After its answer a supervisor has only its own exit to do. */
const EXIT_LIMIT_MS = 5_000;

/** A run of the command. */
export interface CommandContext {
  readonly config: Config;
  readonly json: boolean;
  readonly io: Io;
  /** Of the kernel. */
  readonly devices: () => Promise<Pick<DeviceAccess, 'list'>>;
}

/** @throws SystemError EINVAL for a role that is not one of ROLES */
function requireRole(config: Config, role: string | null): void {
  if (role === null || config.roles.some(({ name }) => name === role)) return;
  const roles = config.roles.map(({ name }) => name).join(' ');
  throw new SystemError(errnos.EINVAL, `Invalid peer ${role}; the roles of this node are ${roles}`);
}

/** Prints progress as lines, or collects it for one JSON object at the end. */
function reporter({ json, io }: CommandContext): { show: (event: Progress) => void; end: () => Promise<void> } {
  if (!json) return { show: progressPrinter(io), end: async () => undefined };
  const roles: object[] = [];
  return {
    show: (event) => {
      if (event.state !== 'begins') roles.push(event);
    },
    end: () => printJson(io, { roles }),
  };
}

/** Asks the supervisor for something that takes a while, showing its progress. */
async function ask(context: CommandContext, client: ControlClient, op: string, params: Message): Promise<void> {
  const report = reporter(context);
  const logged = new Map(context.config.roles.map(({ name }) => [name, logSize(context, name)]));
  try {
    await client.call(op, params, 0, (event) => {
      const progress = event as unknown as Progress;
      report.show(progress);
      if (progress.action === 'start' && progress.state === 'failed')
        showLog(context, progress.role, logged.get(progress.role) ?? 0);
    });
  } finally {
    await report.end();
  }
}

/** Bytes in the file that a role logs to; 0: there is none. */
function logSize({ config }: CommandContext, role: string): number {
  const file = logFileOf(config, role);
  return file === null ? 0 : (fs.statSync(file, { throwIfNoEntry: false })?.size ?? 0);
}

/** What a role logged last: why it did not start may be there. Not what is from before: that is another start's. @param from bytes */
function showLog(context: CommandContext, role: string, from: number): void {
  const { config, io } = context;
  const file = logFileOf(config, role);
  if (file === null || logSize(context, role) <= from) return;
  io.stderr.write(`last lines of ${file}:\n`);
  for (const line of tail(file, from).split(' | ')) io.stderr.write(`  ${line}\n`);
}

export interface StartOptions {
  readonly foreground: boolean;
}

/** Starts the node or one role; resolves when what was asked for serves. */
export async function start(context: CommandContext, role: string | null, options: StartOptions): Promise<void> {
  const { config, json, io } = context;
  requireRole(config, role);
  requireAccount(config);
  const sockets = requireListening(takeOver());
  for (const warning of config.warnings) printWarning(io, `warning: ${warning}`);
  let client = await findSupervisor(config);
  if (client && (role === null || options.foreground)) await refuseWhenRunning(client);
  client ??= await reachSupervisor(config);
  if (role === null && !json) banner(io, 'start');
  makeDirectories(config);
  requireDirectories(config);
  if (options.foreground) {
    if (client) throw new SystemError(errnos.EEXIST, 'the supervisor runs already, in the background; stop it first');
    return foreground(context, role, sockets);
  }
  if (client && sockets.length > 0)
    printWarning(io, 'the supervisor runs already; the sockets handed over are not used');
  client ??= await spawnSupervisor(config, sockets);
  const supervisor = supervisorPid(config);
  try {
    await ask(context, client, 'start', { role });
  } catch (error) {
    // A node that cannot start is stopped again, supervisor and all.
    if (role === null) await untilGone(client, supervisor);
    throw error;
  }
  client.end();
}

/** A node serves listeners; a single connection is for `archipelago nbd`. @throws SystemError */
function requireListening(sockets: readonly PassedSocket[]): readonly PassedSocket[] {
  const connected = sockets.find(({ listening }) => !listening);
  if (connected === undefined) return sockets;
  throw new SystemError(
    errnos.EINVAL,
    `the socket ${connected.name} that was handed over is a connection; a socket unit for a node needs Accept=no`,
  );
}

/** Waits for the end of a supervisor that has said its last. */
async function untilGone(client: ControlClient, pid: number | null): Promise<void> {
  await client.untilClosed();
  if (pid !== null) await waitGone(pid, EXIT_LIMIT_MS);
}

async function refuseWhenRunning(client: ControlClient): Promise<void> {
  const { roles } = (await client.call('status')) as NodeStatus;
  if (roles.some(({ state }) => state !== 'not running')) {
    throw new SystemError(errnos.EBUSY, 'Cannot start. Try stopping first');
  }
}

/** This process is the supervisor, until a signal or `archipelago stop` ends the node. */
async function foreground(
  context: CommandContext,
  role: string | null,
  sockets: readonly PassedSocket[],
): Promise<void> {
  const { config } = context;
  const [{ ProcessLog }, { superviseUntilStopped }] = await Promise.all([
    import('../../peer/log.js'),
    import('../../peer/supervise.js'),
  ]);
  dropPrivileges(config);
  process.umask(config.umask);
  const show = progressPrinter(context.io);
  await superviseUntilStopped(config, new ProcessLog(config), {
    shareOutput: config.log === 'stderr',
    sockets,
    progress: show,
    ready: (supervisor) => supervisor.start(role, show),
  });
}

/** Stops the node or one role; resolves when it is gone. */
export async function stop(context: CommandContext, role: string | null, force: boolean): Promise<void> {
  const { config, json, io } = context;
  requireRole(config, role);
  if (role === null && !json) banner(io, 'stop');
  const client = (await reachSupervisor(config)) ?? (await adopt(config));
  if (!client) {
    const report = reporter(context);
    for (const { name } of role === null ? config.roles.toReversed() : [{ name: role }]) {
      report.show({ action: 'stop', role: name, state: 'begins' });
      report.show({ action: 'stop', role: name, state: 'not running' });
    }
    await report.end();
    if (role !== null) return;
    sweepRoles(config);
    sweepSupervisor(config);
    const left = removeLeftSegment(config);
    if (left !== null) printWarning(io, left);
    return;
  }
  const supervisor = supervisorPid(config);
  try {
    if (!force) requireNoDevices(await (await context.devices()).list());
    await ask(context, client, 'stop', { role, force });
  } catch (error) {
    // After a refusal it goes on; a role that had to be killed does not keep the rest from ending.
    if (role === null && errnoOf(error) !== errnos.EBUSY) await untilGone(client, supervisor);
    throw error;
  }
  if (role === null) await untilGone(client, supervisor);
  client.end();
}

/** A supervisor for roles that have lost theirs; null when no role lives. */
async function adopt(config: Config): Promise<ControlClient | null> {
  if (livingRoles(config).size === 0) return null;
  makeDirectories(config);
  return spawnSupervisor(config);
}

/** Stops and starts the node, or one role while the others go on. */
export async function restart(context: CommandContext, role: string | null, force: boolean): Promise<void> {
  const { config } = context;
  requireRole(config, role);
  if (role === null) {
    await stop(context, null, force);
    return start(context, null, { foreground: false });
  }
  const client = (await reachSupervisor(config)) ?? (await adopt(config));
  if (!client) return start(context, role, { foreground: false });
  const endsConnections = config.roles.find(({ name }) => name === role)?.type === 'nbd';
  if (!force && endsConnections) requireNoDevices(await (await context.devices()).list());
  await ask(context, client, 'restart', { role, force });
  client.end();
}

/** Prints how the node is. @throws Problems when a role does not run: that is printed already */
export async function status({ config, json, io }: CommandContext): Promise<void> {
  const client = await findSupervisor(config);
  const node = client ? ((await client.call('status')) as NodeStatus) : await statusWithoutSupervisor(config);
  client?.end();
  if (json) await printJson(io, node);
  else printStatus(io, node, config.blktapEnabled ? fs.existsSync('/sys/module/blktap') : null);
  if (node.roles.some(({ state }) => state !== 'running')) throw new Problems();
}
