/** `archipelago devices`: the keeper of this node's block devices, until it is told to end. */
import fs from 'node:fs';
import { findRole } from '../../config/index.js';
import type { Config } from '../../config/types.js';
import { Devices, type EndpointAddress } from '../../devices/index.js';
import { takeKeeperPidfile } from '../../devices/keeper-process.js';
import { requireRoot } from '../../devices/module.js';
import { LeveledLogger } from '../../peer/log.js';
import { StderrSink } from '../../peer/log-sinks.js';
import { errnos, SystemError } from '../../sys/errno.js';
import type { Session } from '../common/session.js';

/** The kernel takes others first when memory runs out: without a keeper devices hang after the node's next restart. */
const OOM_SCORE = '-900';
const INFORMATION = 2;

export interface KeeperCommandOptions {
  /** End when there is no device any more. */
  readonly whileAttached: boolean;
}

/** Runs until a signal, or until there is nothing to do. @throws SystemError EPERM, EEXIST, EINVAL without an endpoint */
export async function runKeeper(session: Session, { whileAttached }: KeeperCommandOptions): Promise<void> {
  const { config } = session;
  requireRoot('keep devices connected');
  const endpoint = endpointOf(config);
  fs.mkdirSync(config.runDir, { recursive: true });
  const pidfile = await takeKeeperPidfile(config.runDir, { stays: !whileAttached });
  const ended = new AbortController();
  const end = (): void => ended.abort();
  const signals = ['SIGTERM', 'SIGINT'] as const;
  for (const signal of signals) process.once(signal, end);
  try {
    spareFromOom();
    const { logger } = new LeveledLogger('devices', INFORMATION, new StderrSink());
    const log = {
      debug: (message: string) => logger.debug(message),
      info: (message: string) => logger.info(message),
      warn: (message: string) => logger.warn(message),
      error: (message: string) => logger.error(message),
    };
    const devices = new Devices({ runDir: config.runDir, segment: config.xseg.name, endpoint, log });
    logger.info(`keeps the devices of ${config.runDir}`);
    await devices.keep(ended.signal, whileAttached ? { idle: () => pidfile.remove() } : {});
    logger.info(ended.signal.aborted ? 'ends on a signal' : 'ends: there is no device any more');
  } finally {
    for (const signal of signals) process.off(signal, end);
    pidfile.remove();
  }
}

/** Where this machine reaches the node's endpoint: its unix socket, else the first of its addresses. @throws SystemError EINVAL */
export function endpointOf(config: Config): EndpointAddress {
  const settings = findRole(config, 'nbd');
  if (settings?.socket) return { path: settings.socket };
  const [address] = settings?.listen ?? [];
  if (address === undefined) throw new SystemError(errnos.EINVAL, 'devices need an endpoint: set socket in [nbd]');
  const anywhere = address.host === '0.0.0.0' ? '127.0.0.1' : address.host === '::' ? '::1' : address.host;
  return { host: anywhere, port: address.port };
}

function spareFromOom(): void {
  try {
    fs.writeFileSync('/proc/self/oom_score_adj', OOM_SCORE);
  } catch {
    // Not everywhere may root do that, and it is no more than a wish.
  }
}
