/**
 * A role process: node main.js [-c CONF] --roles a+b [--supervised]. Joins the segment (creates it when there is none), starts
 * the roles in start order, or, supervised, waits to be told over its control socket. TERM, INT and QUIT stop the roles in
 * reverse order and end it with 0.
 */
import { parseArgs } from 'node:util';
import { loadConfig } from '../config/index.js';
import { errnos, messageOf, SystemError } from '../sys/errno.js';
import { takeOver } from './handover.js';
import { ProcessLog } from './log.js';
import { dropPrivileges, makeDirectories, requireAccount } from './privileges.js';
import { RoleProcess } from './process.js';
import { loadStarter } from './roles.js';
import { openSegment } from './segment.js';

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      config: { type: 'string', short: 'c' },
      roles: { type: 'string' },
      supervised: { type: 'boolean', default: false },
    },
  });
  const sockets = takeOver();
  const config = loadConfig(values.config ?? null);
  const wanted = values.roles?.split('+') ?? [];
  const order = config.roles.map((role) => role.name);
  const unknown = wanted.filter((name) => !order.includes(name));
  if (wanted.length === 0 || unknown.length > 0) {
    throw new SystemError(errnos.EINVAL, `--roles takes roles of ROLES (${order.join(' ')}) joined by +`);
  }
  const group = wanted.toSorted((a, b) => order.indexOf(a) - order.indexOf(b));

  requireAccount(config);
  makeDirectories(config);
  dropPrivileges(config);
  process.umask(config.roles.find((role) => role.name === group[0])?.umask ?? config.umask);
  const log = new ProcessLog(config);
  const host = new RoleProcess({ config, group, segment: openSegment(config), log, loadStarter, sockets });
  log.handleSignals(host.log);

  const end = (): void => {
    void host.close().then((clean) => process.exit(clean ? 0 : 1));
  };
  for (const signal of ['SIGTERM', 'SIGINT', 'SIGQUIT'] as const) process.on(signal, end);
  const fail = (err: unknown): void => {
    // The state of the roles is unknown now: end at once, the supervisor starts a new process and recovers the ports.
    host.log.error({ err }, 'unexpected error, the process ends');
    process.stderr.write(`${err instanceof Error ? err.stack : String(err)}\n`);
    host.abandon();
    process.exit(1);
  };
  process.on('uncaughtException', fail);
  process.on('unhandledRejection', fail);
  if (values.supervised) void host.closed.then(() => process.exit(0));

  if (values.supervised) {
    // A supervisor that died before it started a role: no other knows of this process. Its socket may be a successor's already.
    const useless = (): never => process.exit(0);
    await host.listen(useless);
    if (!process.connected) useless();
    process.send?.('listening', (error: Error | null) => error && useless());
    // The roles are asked for in a moment: have their parts loaded by then. What fails is told when they are.
    const types = config.roles.filter(({ name }) => group.includes(name)).map(({ type }) => type);
    for (const type of new Set(types)) loadStarter(type).catch(() => undefined);
    return;
  }
  await host.listen();
  try {
    for (const role of group) await host.start(role);
  } catch (error) {
    await host.close();
    throw error;
  }
}

main().catch((error: unknown) => {
  process.stderr.write(`${messageOf(error)}\n`);
  process.exit(1);
});
