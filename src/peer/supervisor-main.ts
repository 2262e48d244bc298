/**
 * The supervisor as a process of its own: node supervisor-main.js [-c CONF]. `archipelago start` makes it; it tells its parent
 * that it listens, or why it cannot. TERM and INT stop the node.
 */
import { parseArgs } from 'node:util';
import { loadConfig } from '../config/index.js';
import { errnoOf, messageOf } from '../sys/errno.js';
import { takeOver } from './handover.js';
import { ProcessLog } from './log.js';
import { dropPrivileges } from './privileges.js';
import { superviseUntilStopped } from './supervise.js';

async function main(): Promise<void> {
  const { values } = parseArgs({ options: { config: { type: 'string', short: 'c' } } });
  const sockets = takeOver();
  const config = loadConfig(values.config ?? null);
  dropPrivileges(config);
  process.umask(config.umask);
  const log = new ProcessLog(config);
  // Who started it may have given up waiting: the next `archipelago start` finds it.
  const ready = (): void => void process.send?.({ ready: true }, () => {});
  await superviseUntilStopped(config, log, { shareOutput: false, sockets, ready });
}

main().then(
  () => process.exit(0),
  (error: unknown) => {
    process.stderr.write(`${messageOf(error)}\n`);
    if (!process.send) process.exit(1);
    process.send({ ready: false, errno: errnoOf(error), message: messageOf(error) }, () => process.exit(1));
  },
);
