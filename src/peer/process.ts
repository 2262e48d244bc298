/**
 * A process that hosts roles: starts and stops them, one by one when its supervisor says so, all of them otherwise; keeps their
 * pidfiles; answers on its control socket.
 */
import type { Logger } from 'pino';
import type { Config, RoleSettings } from '../config/index.js';
import type { PassedSocket } from '../nbd/activation.js';
import { errnos, SystemError } from '../sys/errno.js';
import type { Segment } from '../xseg/index.js';
import { ControlServer, type Message } from './control.js';
import { socketRole } from './handover.js';
import type { ProcessLog } from './log.js';
import { controlSocketOf, hostsRole, pidfileOf } from './paths.js';
import { Pidfile } from './pidfile.js';
import type { RoleStarter, RunningRole } from './role.js';

/** How long a role may take to finish what is in flight before it is given up, in ms: the original's 15 s. */
export const STOP_LIMIT_MS = 15_000;

interface Hosted {
  readonly settings: RoleSettings;
  readonly running: RunningRole;
  readonly pidfile: Pidfile;
  readonly since: number;
}

export interface RoleProcessOptions {
  readonly config: Config;
  /** Names of the roles that belong here, in start order. */
  readonly group: readonly string[];
  readonly segment: Segment;
  readonly log: ProcessLog;
  readonly loadStarter: (type: RoleSettings['type']) => Promise<RoleStarter>;
  /** Listening sockets that the node was given, for the role that serves such. */
  readonly sockets?: readonly PassedSocket[];
}

export class RoleProcess {
  readonly #options: RoleProcessOptions;
  readonly #log: Logger;
  readonly #loggers = new Map<string, Logger>();
  /** In the order they were started. */
  readonly #hosted = new Map<string, Hosted>();
  #control: ControlServer | null = null;
  /** Starts and stops run one after another. */
  #turn: Promise<unknown> = Promise.resolve();
  #closing = false;
  readonly #closed: Promise<void>;
  #resolveClosed!: () => void;

  constructor(options: RoleProcessOptions) {
    this.#options = options;
    this.#log = options.log.forProcess('archipelago');
    this.#closed = new Promise((resolve) => {
      this.#resolveClosed = resolve;
    });
  }

  get log(): Logger {
    return this.#log;
  }

  /** Resolves when close is done. */
  get closed(): Promise<void> {
    return this.#closed;
  }

  /**
   * Opens the control socket.
   * @param onUseless called when nobody is connected to it any more and no role runs: without a pidfile no later supervisor finds it
   * @throws SystemError
   */
  async listen(onUseless = (): void => {}): Promise<void> {
    const { config, group } = this.#options;
    const answer = (op: string, params: Message): Promise<unknown> => this.#answer(op, params);
    const alone = (): void => {
      // A start that is under way decides first.
      void this.#inTurn(async () => undefined).then(() => {
        if (this.#hosted.size === 0 && this.#control?.alone) onUseless();
      });
    };
    this.#control = await ControlServer.listen(controlSocketOf(config, group), answer, alone);
  }

  async #answer(op: string, params: Message): Promise<unknown> {
    switch (op) {
      case 'start':
        return this.start(String(params.role));
      case 'stop':
        return this.stop(String(params.role));
      case 'status':
        return this.status();
      case 'ping':
        return null;
      case 'exit':
        // Answered before it is done: the end of the connection tells when it is.
        void this.close();
        return null;
      default:
        throw new SystemError(errnos.EOPNOTSUPP, `a role process does not know "${op}"`);
    }
  }

  #inTurn<T>(work: () => Promise<T>): Promise<T> {
    const result = this.#turn.then(work);
    this.#turn = result.catch(() => undefined);
    return result;
  }

  /**
   * Starts a role of this process; does nothing when it runs.
   * @throws what the role says, with the role's name before it
   */
  start(name: string): Promise<void> {
    return this.#inTurn(() => this.#start(name));
  }

  async #start(name: string): Promise<void> {
    if (this.#hosted.has(name)) return;
    const { config, group, segment, loadStarter, log } = this.#options;
    const settings = config.roles.find((role) => role.name === name);
    if (!settings || !group.includes(name))
      throw new SystemError(errnos.EINVAL, `${name} is not a role of this process`);
    if (this.#closing) throw new SystemError(errnos.ECANCELED, `${name}: the process is about to end`);
    const isOurs = (pid: number): boolean => pid !== process.pid && hostsRole(pid, name, config);
    const pidfile = Pidfile.take(pidfileOf(config, name), name, isOurs);
    try {
      const logger = this.#loggers.get(name) ?? log.forRole(settings);
      this.#loggers.set(name, logger);
      const starter = await loadStarter(settings.type);
      const ports = { first: settings.portnoStart, last: settings.portnoEnd };
      const sockets = name === socketRole(config) ? (this.#options.sockets ?? []) : [];
      const running = await starter({ name, settings, config, segment, ports, sockets, log: logger });
      this.#hosted.set(name, { settings, running, pidfile, since: Date.now() });
      logger.info(`serves on port ${ports.first}`);
    } catch (error) {
      pidfile.remove();
      throw error;
    }
  }

  /**
   * Stops a role of this process; does nothing when it does not run.
   * @throws SystemError ETIMEDOUT when it does not finish: then only the end of the process helps
   */
  stop(name: string): Promise<void> {
    return this.#inTurn(() => this.#stop(name));
  }

  async #stop(name: string): Promise<void> {
    const role = this.#hosted.get(name);
    if (!role) return;
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<never>((_, reject) => {
      const why = `${name} did not finish what is in flight within ${STOP_LIMIT_MS / 1000} s`;
      timer = setTimeout(() => reject(new SystemError(errnos.ETIMEDOUT, why)), STOP_LIMIT_MS);
    });
    try {
      await Promise.race([role.running.stop(), late]);
    } finally {
      clearTimeout(timer);
    }
    this.#hosted.delete(name);
    role.pidfile.remove();
    this.#loggers.get(name)?.info('stopped');
  }

  /** What runs here and how it is. */
  status(): { pid: number; roles: { name: string; since: number; status: object }[] } {
    const roles = [...this.#hosted].map(([name, { since, running }]) => ({ name, since, status: running.status() }));
    return { pid: process.pid, roles };
  }

  /** Stops all roles, the last started first, then gives up everything. Never rejects; true when all went well. */
  async close(): Promise<boolean> {
    if (this.#closing) return this.#closed.then(() => true);
    this.#closing = true;
    const clean = await this.#inTurn(async () => {
      let ok = true;
      for (const name of [...this.#hosted.keys()].reverse()) {
        try {
          await this.#stop(name);
        } catch (err) {
          ok = false;
          this.#log.error({ err }, `stopping ${name}`);
        }
      }
      return ok;
    });
    this.abandon();
    this.#options.segment.close();
    this.#resolveClosed();
    return clean;
  }

  /** Removes what would be left behind, without waiting for anything: for the last moment of a process that fails. */
  abandon(): void {
    for (const { pidfile } of this.#hosted.values()) pidfile.remove();
    this.#control?.close();
  }
}
