/** Runs a supervisor in this process, with its signals, until the node is stopped. */
import type { Config } from '../config/index.js';
import type { PassedSocket } from '../nbd/activation.js';
import type { ProcessLog } from './log.js';
import type { Progress } from './node-status.js';
import { Supervisor } from './supervisor.js';

export interface SuperviseOptions {
  readonly shareOutput: boolean;
  /** Listening sockets that the node was given. */
  readonly sockets: readonly PassedSocket[];
  /** Told about the stop that a signal causes. */
  readonly progress?: (event: Progress) => void;
  /** Called once it listens; what it returns is waited for. */
  readonly ready: (supervisor: Supervisor) => unknown;
}

/** @throws SystemError when the supervisor cannot take charge */
export async function superviseUntilStopped(config: Config, log: ProcessLog, options: SuperviseOptions): Promise<void> {
  const logger = log.forProcess('archipelago');
  if (log.notice) logger.warn(log.notice);
  for (const warning of config.warnings) logger.warn(warning);
  const { shareOutput, sockets } = options;
  for (const { name, address } of sockets) logger.info(`was given the socket ${name}: ${JSON.stringify(address)}`);
  const supervisor = await Supervisor.open({ config, log: logger, shareOutput, sockets });

  const removeHandlers = log.handleSignals(logger);
  const forward = (): void => supervisor.signal('SIGHUP');
  let stopping = false;
  const stop = (signal: NodeJS.Signals): void => {
    if (stopping) return;
    stopping = true;
    logger.info(`stopping the node on ${signal}`);
    // Nobody is there to ask for force: who sends a signal wants it to end.
    supervisor
      .stop(null, true, options.progress ?? (() => undefined))
      .catch((err: unknown) => logger.error({ err }, 'stopping'));
  };
  const signals = ['SIGTERM', 'SIGINT', 'SIGQUIT'] as const;
  process.on('SIGHUP', forward);
  for (const signal of signals) process.on(signal, stop);
  // The roles outlive a supervisor that fails; the next `archipelago start` adopts them.
  const fail = (err: unknown): void => {
    logger.error({ err }, 'unexpected error in the supervisor');
    process.exit(1);
  };
  process.on('uncaughtException', fail);
  process.on('unhandledRejection', fail);
  try {
    await options.ready(supervisor);
    await supervisor.closed;
  } finally {
    removeHandlers();
    process.off('SIGHUP', forward);
    for (const signal of signals) process.off(signal, stop);
    process.off('uncaughtException', fail);
    process.off('unhandledRejection', fail);
  }
}
