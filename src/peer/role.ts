/**
 * What a role is to the process that hosts it. Each part exports one `start` of this type from its `peer.ts`; the process
 * (peer/process.ts) finds it in the registry (peer/roles.ts).
 */
import type { Logger } from 'pino';
import type { Config, RoleSettings } from '../config/types.js';
import type { PassedSocket } from '../nbd/activation.js';
import type { Segment } from '../xseg/index.js';

/** Everything a role gets to know about where it runs. */
export interface RoleContext<S extends RoleSettings = RoleSettings> {
  /** The role's name in the configuration, e.g. `blockerm`: one type may run under several names. */
  readonly name: string;
  /** The role's own section, complete. */
  readonly settings: S;
  /** The whole node. */
  readonly config: Config;
  /** The segment, joined. Several roles of a process share it; the process leaves it. */
  readonly segment: Segment;
  /**
   * The ports that are the role's own, inclusive. It binds `first` to serve the requests that others send it, and others of
   * the range as it likes; all are free when start is called and must be free again when stop resolves.
   */
  readonly ports: { readonly first: number; readonly last: number };
  /** Listening sockets that the node was given for this role; they stay open when the role stops, for its next start. */
  readonly sockets?: readonly PassedSocket[];
  /** Bound to the role's name; follows the level that signals set. */
  readonly log: Logger;
}

/** A role that serves. */
export interface RunningRole {
  /** Finishes what is in flight, flushes what it owes, gives up its ports. Called once. */
  stop(): Promise<void>;
  /** Counters and state for STATUS and `archipelago status --json`; plain data. */
  status(): object;
}

/**
 * Starts a role: resolves once it answers PING on its first port.
 * @throws an error whose message says what is wrong and where (directory, setting, port); nothing is left bound
 */
export type RoleStarter<S extends RoleSettings = RoleSettings> = (context: RoleContext<S>) => Promise<RunningRole>;
