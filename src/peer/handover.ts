/**
 * Listening sockets that systemd (or whoever else speaks its protocol) gave the node: they go from `archipelago start` to the supervisor
 * and on to the process of the endpoint, to each one anew after the one before has died. Between these the descriptors follow the
 * standard streams too, but LISTEN_PID cannot be known before a process is there; a variable of our own tells their names.
 */
import type { Config } from '../config/types.js';
import { describeSocket, FIRST_PASSED, type PassedSocket, passedSockets } from '../nbd/activation.js';

const VARIABLE = 'ARCHIPELAGO_SOCKETS';

/** What a child process needs to take sockets over. */
export interface Handover {
  /** More environment. */
  readonly env: Readonly<Record<string, string>>;
  /** Its descriptors from 3 on. */
  readonly descriptors: readonly number[];
}

export function handOver(sockets: readonly PassedSocket[]): Handover {
  if (sockets.length === 0) return { env: {}, descriptors: [] };
  return {
    env: { [VARIABLE]: sockets.map(({ name }) => name).join(':') },
    descriptors: sockets.map(({ fd }) => fd),
  };
}

/**
 * The sockets this process was given, by a parent of this program or from outside; the variables are taken out of `env`.
 * @throws SystemError for descriptors that cannot be used
 */
export function takeOver(env: NodeJS.ProcessEnv = process.env): PassedSocket[] {
  const names = env[VARIABLE];
  delete env[VARIABLE];
  const outside = passedSockets(env);
  if (names === undefined) return outside;
  return names.split(':').map((name, i) => describeSocket(FIRST_PASSED + i, name));
}

/** The role that serves such sockets: the first endpoint; null when there is none. */
export function socketRole(config: Config): string | null {
  return config.roles.find(({ type }) => type === 'nbd')?.name ?? null;
}
