/** How `archipelago` reaches the node's supervisor, makes one, and finds out how things are without one. */
import { spawn } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Config } from '../../config/index.js';
import type { PassedSocket } from '../../nbd/activation.js';
import { ControlClient } from '../../peer/control.js';
import { tail } from '../../peer/group.js';
import { handOver } from '../../peer/handover.js';
import { livingRoles, supervisorPid } from '../../peer/leftovers.js';
import { within } from '../../peer/mapped.js';
import type { NodeStatus, RoleStatus } from '../../peer/node-status.js';
import { supervisorArguments, supervisorSocket } from '../../peer/paths.js';
import { Op } from '../../requests/ops.js';
import { monotonicMs } from '../../sys/clock.js';
import { errnoOf, errnos, messageOf, SystemError } from '../../sys/errno.js';
import { Segment } from '../../xseg/index.js';

const READY_LIMIT_MS = 45_000;
const PING_LIMIT_MS = 5_000;
const LOOK_MS = 50;

/** The living supervisor, or null. @throws SystemError EACCES and the like */
export async function findSupervisor(config: Config): Promise<ControlClient | null> {
  try {
    return await ControlClient.connect(supervisorSocket(config));
  } catch (error) {
    if (errnoOf(error) === errnos.ENOENT || errnoOf(error) === errnos.ECONNREFUSED) return null;
    throw error;
  }
}

/**
 * The living supervisor, or null. One that is just coming up, because somebody else starts the node, is waited for.
 * @throws SystemError ETIMEDOUT naming the process that does not get on
 */
export async function reachSupervisor(config: Config, limitMs = READY_LIMIT_MS): Promise<ControlClient | null> {
  for (const end = monotonicMs() + limitMs; ; await sleep(LOOK_MS)) {
    const client = await findSupervisor(config);
    if (client) return client;
    const pid = supervisorPid(config);
    if (pid === null) return null;
    if (monotonicMs() >= end) throw late(pid, limitMs);
  }
}

const late = (pid: number | undefined, limitMs: number): SystemError =>
  new SystemError(
    errnos.ETIMEDOUT,
    `the supervisor, process ${pid}, has not come up within ${limitMs / 1000} s: archipelago start waits for it once more; kill it if it hangs`,
  );

/**
 * Starts a supervisor in the background, gives it the sockets, and connects to it. Where somebody else starts one at the same time, that is it.
 * @throws SystemError with what it said
 */
export async function spawnSupervisor(
  config: Config,
  sockets: readonly PassedSocket[] = [],
  limitMs = READY_LIMIT_MS,
): Promise<ControlClient> {
  const output = path.join(config.logDir, 'archipelago.out');
  const offset = fs.statSync(output, { throwIfNoEntry: false })?.size ?? 0;
  const out = fs.openSync(output, 'a', 0o660);
  if (process.geteuid?.() === 0 && config.user)
    fs.fchownSync(out, config.user.uid, config.group?.gid ?? config.user.uid);
  const { env, descriptors } = handOver(sockets);
  const child = spawn(process.execPath, supervisorArguments(config), {
    cwd: '/',
    detached: true,
    env: { ...process.env, ...env },
    stdio: ['ignore', out, out, ...descriptors, 'ipc'],
  });
  fs.closeSync(out);
  const ready = new Promise<void>((resolve, reject) => {
    child.once('message', (message: { ready: boolean; errno?: number; message?: string }) => {
      if (message.ready) resolve();
      else reject(new SystemError(message.errno ?? errnos.EIO, message.message ?? 'the supervisor failed'));
    });
    child.once('error', reject);
    child.once('exit', (code, signal) => {
      const said = tail(output, offset);
      reject(
        new SystemError(errnos.ECHILD, `the supervisor ended (${signal ?? code})${said && `: ${said}`}; see ${output}`),
      );
    });
  });
  try {
    await within(limitMs, 'the supervisor', ready);
  } catch (error) {
    if (errnoOf(error) === errnos.ETIMEDOUT) throw late(child.pid, limitMs);
    const other = errnoOf(error) === errnos.EEXIST ? await reachSupervisor(config, limitMs) : null;
    if (other) return other;
    throw error;
  } finally {
    if (child.connected) child.disconnect();
    child.unref();
  }
  return ControlClient.connect(supervisorSocket(config));
}

/** How the node is, from pidfiles and PING alone. */
export async function statusWithoutSupervisor(config: Config): Promise<NodeStatus> {
  const living = livingRoles(config);
  const segment = living.size > 0 && Segment.exists(config.xseg.spec) ? Segment.join(config.xseg.spec) : null;
  const port = segment?.bind('dynamic', { name: 'status' });
  try {
    const roles = config.roles.map(async ({ name, type, portnoStart, portnoEnd }): Promise<RoleStatus> => {
      const pid = living.get(name) ?? null;
      const answered = port
        ? await within(PING_LIMIT_MS, name, port.call(portnoStart, { op: Op.PING })).then(
            () => true,
            () => false,
          )
        : false;
      return {
        name,
        type,
        state: pid === null ? 'not running' : answered ? 'running' : 'silent',
        pid,
        ports: [portnoStart, portnoEnd],
        since: null,
        restarts: 0,
        lastFailure: null,
        status: null,
      };
    });
    return { supervisor: null, segment: segment ? config.xseg.spec : null, roles: await Promise.all(roles) };
  } finally {
    segment?.close();
  }
}

/**
 * Removes the segment that a node left which is gone, supervisor and all.
 * @returns a sentence when it has to stay, else null
 */
export function removeLeftSegment(config: Config): string | null {
  const { spec, name } = config.xseg;
  try {
    if (!Segment.exists(spec)) return null;
    const segment = Segment.join(spec);
    const owners: string[] = [];
    for (let port = 0; port < segment.geometry.ports; port++) {
      const owner = segment.portOwner(port);
      if (owner?.alive) owners.push(`${owner.name || 'a peer'} (process ${owner.pid})`);
    }
    segment.close();
    if (owners.length > 0) return `segment ${name} stays: it is used by ${[...new Set(owners)].join(', ')}`;
    Segment.destroy(spec);
    return null;
  } catch (error) {
    return `segment ${name} stays: ${messageOf(error)}`;
  }
}
