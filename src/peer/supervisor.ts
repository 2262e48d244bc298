/**
 * The supervisor of a node: owns the segment, the role processes and the order in which roles start and stop; does what
 * `archipelago` asks over its control socket, one thing after another.
 */
import type { Logger } from 'pino';
import type { Config } from '../config/index.js';
import type { PassedSocket } from '../nbd/activation.js';
import { Op } from '../requests/ops.js';
import { errnoOf, errnos, messageOf, SystemError } from '../sys/errno.js';
import { type Port, Segment } from '../xseg/index.js';
import { ControlServer, type Message } from './control.js';
import { BACK_OFF, type BackOff, type GroupPlan, RoleGroup } from './group.js';
import { defaultPlan } from './group-plan.js';
import { livingRoles, sweepRoles } from './leftovers.js';
import { requireNoneMapped, within } from './mapped.js';
import type { NodeStatus, Progress, RoleStatus } from './node-status.js';
import { isSupervisor, supervisorPidfile, supervisorSocket } from './paths.js';
import { Pidfile } from './pidfile.js';
import { killHard, waitGone } from './proc.js';
import { freshSegment, recoverDead } from './segment.js';

/** How long a role that just started, and one that status asks, may take to answer PING, in ms: a busy machine is no failure. */
const START_PING_LIMIT_MS = 15_000;
const PING_LIMIT_MS = 5_000;
const KILL_LIMIT_MS = 5_000;

export interface SupervisorOptions {
  readonly config: Config;
  readonly log: Logger;
  /** For tests: how processes are made, and how patiently restarted. */
  readonly plan?: (group: readonly string[]) => GroupPlan;
  readonly backOff?: BackOff;
  /** Role processes write to this process's standard error instead of LOG_DIR. */
  readonly shareOutput?: boolean;
  /** Listening sockets that the node was given; they are kept, for each process of the endpoint anew. */
  readonly sockets?: readonly PassedSocket[];
}

export class Supervisor {
  readonly #config: Config;
  readonly #log: Logger;
  readonly #groups: readonly RoleGroup[];
  readonly #pidfile: Pidfile;
  readonly #segment: Segment;
  readonly #port: Port;
  #control: ControlServer | null = null;
  #turn: Promise<unknown> = Promise.resolve();
  readonly closed: Promise<void>;
  #resolveClosed!: () => void;

  private constructor(options: SupervisorOptions, pidfile: Pidfile) {
    const { config, log } = options;
    this.#config = config;
    this.#log = log;
    this.#pidfile = pidfile;
    const { shareOutput = false, sockets = [] } = options;
    const plan = options.plan ?? ((group) => defaultPlan(config, group, { shareOutput, sockets }));
    this.#groups = config.placement.map(
      (group) => new RoleGroup(plan(group), log, (pid) => this.#recover(pid), options.backOff ?? BACK_OFF),
    );
    this.#segment = freshSegment(config, log, livingRoles(config).size > 0);
    this.#port = this.#segment.bind('dynamic', { name: 'supervisor' });
    this.closed = new Promise((resolve) => {
      this.#resolveClosed = resolve;
    });
  }

  /**
   * Takes charge of the node: what an earlier supervisor left running is adopted.
   * @throws SystemError EEXIST when another supervisor lives; what the segment says
   */
  static async open(options: SupervisorOptions): Promise<Supervisor> {
    const { config, log } = options;
    const isOurs = (pid: number): boolean => pid !== process.pid && isSupervisor(pid, config);
    const pidfile = Pidfile.take(supervisorPidfile(config), 'the supervisor', isOurs);
    let supervisor: Supervisor | null = null;
    try {
      supervisor = new Supervisor(options, pidfile);
      await supervisor.#adopt();
      supervisor.#control = await ControlServer.listen(supervisorSocket(config), (op, params, emit) =>
        (supervisor as Supervisor).#answer(op, params, emit),
      );
      recoverDead(supervisor.#segment);
      return supervisor;
    } catch (error) {
      if (supervisor) supervisor.release();
      else pidfile.remove();
      log.error({ err: error }, 'cannot supervise');
      throw error;
    }
  }

  async #adopt(): Promise<void> {
    const living = [...livingRoles(this.#config)].map(([role, pid]) => ({ role, pid }));
    for (const group of this.#groups) {
      const pids = new Set(living.filter(({ role }) => group.plan.roles.includes(role)).map(({ pid }) => pid));
      const [pid] = pids;
      if (pid === undefined) continue;
      const strangers = living.filter((other) => other.pid === pid && !group.plan.roles.includes(other.role));
      if (pids.size > 1 || strangers.length > 0) {
        throw new SystemError(
          errnos.EBUSY,
          `processes ${[...pids].join(', ')} run with another PLACEMENT; stop them first: kill ${[...pids].join(' ')}`,
        );
      }
      await this.#adoptGroup(group, pid);
    }
  }

  /** A process that cannot be told anything is of no use: its roles are started anew when they are wanted. */
  async #adoptGroup(group: RoleGroup, pid: number): Promise<void> {
    try {
      await group.adopt(pid);
    } catch (error) {
      this.#log.error(
        `process ${pid} (${group.plan.roles.join('+')}) does not answer, killing it: ${messageOf(error)}`,
      );
      killHard(pid);
      await waitGone(pid, KILL_LIMIT_MS);
      this.#recover(pid);
    }
  }

  #recover(pid: number): void {
    try {
      const ports = recoverDead(this.#segment);
      this.#log.info(`recovered after process ${pid}: ports ${ports.join(' ') || 'none'}`);
    } catch (err) {
      this.#log.error({ err }, `recovering after process ${pid}`);
    }
  }

  async #answer(op: string, params: Message, emit: (event: Message) => void): Promise<unknown> {
    const progress = (event: Progress): void => emit({ ...event });
    const role = params.role === undefined || params.role === null ? null : String(params.role);
    const force = params.force === true;
    switch (op) {
      case 'status':
        return this.status();
      case 'start':
        return this.start(role, progress);
      case 'stop':
        return this.stop(role, force, progress);
      case 'restart':
        return this.restart(String(role), force, progress);
      default:
        throw new SystemError(errnos.EOPNOTSUPP, `the supervisor does not know "${op}"`);
    }
  }

  #inTurn<T>(work: () => Promise<T>): Promise<T> {
    const result = this.#turn.then(work);
    this.#turn = result.catch(() => undefined);
    return result;
  }

  #groupOf(role: string): RoleGroup {
    const group = this.#groups.find(({ plan }) => plan.roles.includes(role));
    if (!group) {
      const roles = this.#config.roles.map(({ name }) => name).join(' ');
      throw new SystemError(errnos.EINVAL, `Invalid peer ${role}; the roles of this node are ${roles}`);
    }
    return group;
  }

  /**
   * Starts a role, or all that do not run, in start order; each answers PING when this resolves.
   * @throws SystemError why a role does not start; when all were to start, everything is stopped again
   */
  start(role: string | null, progress: (event: Progress) => void): Promise<void> {
    return this.#inTurn(async () => {
      if (role !== null) return this.#startOne(role, progress);
      // Processes take the longest to come up, and do not depend on each other.
      await Promise.allSettled(this.#groups.map((group) => group.spawn()));
      try {
        for (const { name } of this.#config.roles) {
          if (!this.#groupOf(name).wants(name)) await this.#startRole(name, progress);
          else sayRuns(name, progress);
        }
      } catch (error) {
        await this.#stopAll(progress);
        throw error;
      }
    });
  }

  async #startOne(name: string, progress: (event: Progress) => void): Promise<void> {
    const group = this.#groupOf(name);
    if (group.wants(name)) {
      sayRuns(name, progress);
      return;
    }
    try {
      await this.#startRole(name, progress);
    } catch (error) {
      await this.#exitIfIdle(group);
      throw error;
    }
  }

  /** A process without roles is not kept. */
  async #exitIfIdle(group: RoleGroup): Promise<void> {
    if (!group.plan.roles.some((name) => group.wants(name))) await group.exit();
  }

  async #startRole(name: string, progress: (event: Progress) => void): Promise<void> {
    const group = this.#groupOf(name);
    const settings = this.#config.roles.find((role) => role.name === name);
    progress({ action: 'start', role: name, state: 'begins' });
    try {
      await group.start(name);
      await this.#ping(settings?.portnoStart ?? -1, START_PING_LIMIT_MS);
      progress({ action: 'start', role: name, state: 'done' });
    } catch (error) {
      const message = messageOf(error).startsWith(`${name}:`) ? messageOf(error) : `${name}: ${messageOf(error)}`;
      this.#log.error(`cannot start ${message}`);
      progress({ action: 'start', role: name, state: 'failed', message });
      throw new SystemError(errnos.ECHILD, message, { cause: error });
    }
  }

  #ping(port: number, limitMs: number): Promise<unknown> {
    return within(limitMs, `PING of port ${port}`, this.#port.call(port, { op: Op.PING }));
  }

  /**
   * Stops a role, or everything: then the segment is destroyed and the supervisor ends.
   * @throws SystemError EBUSY while volumes are mapped, unless forced; what had to be killed
   */
  stop(role: string | null, force: boolean, progress: (event: Progress) => void): Promise<void> {
    return this.#inTurn(async () => {
      const group = role === null ? null : this.#groupOf(role);
      if (!force) await requireNoneMapped(this.#config, this.#port);
      if (role === null || !group) return this.#stopAll(progress);
      await this.#stopRole(role, progress);
      await this.#exitIfIdle(group);
    });
  }

  /** Stops a role and starts it again; the others of its process go on. @throws SystemError */
  restart(role: string, force: boolean, progress: (event: Progress) => void): Promise<void> {
    return this.#inTurn(async () => {
      this.#groupOf(role);
      const endsConnections = this.#config.roles.find(({ name }) => name === role)?.type === 'nbd';
      if (!force && endsConnections) await requireNoneMapped(this.#config, this.#port);
      await this.#stopRole(role, progress);
      await this.#startOne(role, progress);
    });
  }

  async #stopRole(name: string, progress: (event: Progress) => void): Promise<void> {
    progress({ action: 'stop', role: name, state: 'begins' });
    try {
      const ran = await this.#groupOf(name).stop(name);
      progress({ action: 'stop', role: name, state: ran ? 'done' : 'not running' });
    } catch (error) {
      progress({ action: 'stop', role: name, state: 'failed', message: messageOf(error) });
      throw error;
    }
  }

  async #stopAll(progress: (event: Progress) => void): Promise<void> {
    const failures: string[] = [];
    for (const { name } of this.#config.roles.toReversed()) {
      await this.#stopRole(name, progress).catch((error: unknown) => failures.push(messageOf(error)));
    }
    await Promise.all(this.#groups.map((group) => group.exit()));
    sweepRoles(this.#config);
    try {
      this.#port.close();
      this.#segment.close();
      Segment.destroy(this.#config.xseg.spec);
    } catch (error) {
      // Whatever cleans /dev/shm may have taken it; the node ends all the same.
      if (errnoOf(error) === errnos.ENOENT)
        this.#log.warn(`the segment was removed by somebody else: ${messageOf(error)}`);
      else failures.push(messageOf(error));
    }
    this.#log.info('stopped');
    this.#pidfile.remove();
    // After the answer: its connection's end tells the asker that nothing is left.
    setImmediate(() => {
      this.#control?.close();
      this.#resolveClosed();
    });
    if (failures.length > 0) throw new SystemError(errnos.ETIMEDOUT, failures.join('; '));
  }

  /** How everything is; asks every role. */
  async status(): Promise<NodeStatus> {
    const answers = new Map(
      await Promise.all(this.#groups.map(async (g) => [g, await g.status(PING_LIMIT_MS)] as const)),
    );
    const roles = await Promise.all(
      this.#config.roles.map(async (settings): Promise<RoleStatus> => {
        const { name, type, portnoStart, portnoEnd } = settings;
        const group = this.#groupOf(name);
        const hosted = answers.get(group)?.roles.find((role) => role.name === name);
        const answered = await this.#ping(portnoStart, PING_LIMIT_MS).then(
          () => true,
          () => false,
        );
        const wanted = group.wants(name);
        return {
          name,
          type,
          state: roleState(group, wanted, answers.get(group) !== null, hosted !== undefined, answered),
          pid: wanted ? group.pid : null,
          ports: [portnoStart, portnoEnd],
          since: hosted?.since ?? null,
          restarts: group.restarts,
          lastFailure: group.lastFailure,
          status: hosted?.status ?? null,
        };
      }),
    );
    return { supervisor: process.pid, segment: this.#config.xseg.spec, roles };
  }

  /** Passes a signal on to every role process. */
  signal(signal: NodeJS.Signals): void {
    for (const group of this.#groups) group.signal(signal);
  }

  /** Lets go of the node without stopping anything. */
  release(): void {
    for (const group of this.#groups) group.release();
    this.#control?.close();
    this.#segment.close();
    this.#pidfile.remove();
    this.#resolveClosed();
  }
}

function sayRuns(role: string, progress: (event: Progress) => void): void {
  progress({ action: 'start', role, state: 'begins' });
  progress({ action: 'start', role, state: 'runs already' });
}

/**
 * @param spoke its process said how it is
 * @param hosted it said that the role runs in it
 * @param answered the role answered PING
 */
function roleState(
  group: RoleGroup,
  wanted: boolean,
  spoke: boolean,
  hosted: boolean,
  answered: boolean,
): RoleStatus['state'] {
  if (!wanted) return 'not running';
  if (group.state !== 'running' || (spoke && !hosted)) return 'restarting';
  return hosted && answered ? 'running' : 'silent';
}
