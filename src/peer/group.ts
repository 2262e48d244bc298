/**
 * One role process as its supervisor sees it: spawned or adopted, told which roles to run, watched, restarted with back-off when
 * it dies while roles of it are wanted.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import fs from 'node:fs';
import type { Logger } from 'pino';
import { errnoOf, errnos, messageOf, SystemError } from '../sys/errno.js';
import { ControlClient } from './control.js';
import { HangWatch } from './hang-watch.js';
import { isRunning, killHard, waitGone } from './proc.js';
import { STOP_LIMIT_MS } from './process.js';

/** How a process of a group is made and found. */
export interface GroupPlan {
  /** Roles of the process in start order. */
  readonly roles: readonly string[];
  readonly command: string;
  readonly args: readonly string[];
  readonly env: NodeJS.ProcessEnv;
  /** Descriptors of this process that it gets as 3 and on. */
  readonly descriptors?: readonly number[];
  readonly controlSocket: string;
  /** Where standard output and error of the process go: a file, or null: this process's own. */
  readonly output: string | null;
  /** How long a role may take to stop before its process is killed, in ms. Default: what the process allows itself, and some more. */
  readonly stopLimitMs?: number;
  /** How long the process may not answer before it is killed, in ms; 0: as long as it likes. */
  readonly hangTimeoutMs: number;
  /** For tests: how often it is asked, and how soon its silence is told, in ms. */
  readonly hangTickMs?: number;
  readonly hangNoticeMs?: number;
}

export interface BackOff {
  /** First delay, and longest, in ms; it doubles while the process keeps dying. */
  readonly firstMs: number;
  readonly maxMs: number;
  /** A process that has served for so long, in ms, is started at once when it dies, and the delay begins anew: that is no crash loop. */
  readonly resetMs: number;
}

export const BACK_OFF: BackOff = { firstMs: 100, maxMs: 10_000, resetMs: 10_000 };

/** How often a process is asked whether it hangs, and after what time without an answer that is told, in ms. */
const HANG_TICK_MS = 1_000;
const HANG_NOTICE_MS = 5_000;

/**
 * How long a process may take from spawn to its control socket, a role to start, a process to be gone, and one that an earlier
 * supervisor left to say what it runs, in ms.
 */
const SPAWN_LIMIT_MS = 30_000;
const START_LIMIT_MS = 60_000;
const EXIT_LIMIT_MS = 5_000;
const ADOPT_LIMIT_MS = 15_000;

export type GroupState = 'stopped' | 'running' | 'waiting';

interface Live {
  readonly pid: number;
  readonly client: ControlClient;
  readonly watch: HangWatch;
  /** When all that was wanted of it ran for the first time, ms since the epoch; null before. */
  servesSince: number | null;
  /** Why it was killed, if it was for hanging. */
  hung: string | null;
  /** Resolves once it is gone, to how it ended and what it said last. */
  readonly gone: Promise<string>;
}

export class RoleGroup {
  readonly plan: GroupPlan;
  readonly #log: Logger;
  readonly #backOff: BackOff;
  /** Called after a process died or was killed, before the next one is spawned. */
  readonly #recover: (pid: number) => void;
  readonly #wanted = new Set<string>();
  #live: Live | null = null;
  #spawning: Promise<Live> | null = null;
  #timer: NodeJS.Timeout | null = null;
  #delay: number;
  #restarts = 0;
  #lastFailure: string | null = null;

  constructor(plan: GroupPlan, log: Logger, recover: (pid: number) => void, backOff: BackOff = BACK_OFF) {
    this.plan = plan;
    this.#log = log;
    this.#recover = recover;
    this.#backOff = backOff;
    this.#delay = backOff.firstMs;
  }

  get state(): GroupState {
    return this.#live ? 'running' : this.#timer ? 'waiting' : 'stopped';
  }
  get pid(): number | null {
    return this.#live?.pid ?? null;
  }
  /** Times the process was started again after it died. */
  get restarts(): number {
    return this.#restarts;
  }
  /** Why it died or could not start the last time. */
  get lastFailure(): string | null {
    return this.#lastFailure;
  }
  wants(role: string): boolean {
    return this.#wanted.has(role);
  }

  /** Takes over a process that an earlier supervisor left. @throws SystemError when it does not answer */
  async adopt(pid: number): Promise<void> {
    const client = await ControlClient.connect(this.plan.controlSocket);
    const status = (await client.call('status', {}, ADOPT_LIMIT_MS)) as { roles: { name: string }[] };
    for (const { name } of status.roles) this.#wanted.add(name);
    this.#watch(pid, client, null).servesSince = Date.now();
    this.#log.info(`adopted process ${pid} (${status.roles.map(({ name }) => name).join(' ')})`);
  }

  /** Makes sure that there is a process, without roles yet. @throws SystemError with what it said before it died */
  async spawn(): Promise<void> {
    await this.#process();
  }

  async #process(): Promise<Live> {
    if (this.#live) return this.#live;
    this.#spawning ??= this.#spawn().finally(() => {
      this.#spawning = null;
    });
    return this.#spawning;
  }

  async #spawn(): Promise<Live> {
    const { command, args, env, output, roles, descriptors = [] } = this.plan;
    const offset = output === null ? 0 : (fs.statSync(output, { throwIfNoEntry: false })?.size ?? 0);
    const said = (): string => (output === null ? '' : tail(output, offset));
    const out = output === null ? 2 : fs.openSync(output, 'a', 0o660);
    // Own session: a Ctrl-C on the terminal is for the supervisor, which stops the roles in order.
    const child = spawn(command, [...args, '--supervised'], {
      env,
      detached: true,
      stdio: ['ignore', out, out, ...descriptors, 'ipc'],
    });
    if (output !== null) fs.closeSync(out);
    const exited = new Promise<string>((resolve) => {
      child.once('exit', (code, signal) => resolve(signal ? `was ended by ${signal}` : `exited with ${code}`));
      child.on('error', (error) => resolve(`cannot be started: ${error.message}`));
    });
    const ended = exited.then((why) => [why, said()].filter(Boolean).join(': '));
    try {
      await listening(child, ended);
      child.disconnect();
      child.unref();
      return this.#watch(child.pid as number, await ControlClient.connect(this.plan.controlSocket), ended);
    } catch (error) {
      child.kill('SIGKILL');
      throw new SystemError(errnoOf(error), `the process of ${roles.join('+')}: ${messageOf(error)}`);
    }
  }

  /** @param ended resolves to how the process ended; null for one that is not this process's child */
  #watch(pid: number, client: ControlClient, ended: Promise<string> | null): Live {
    const gone = client.closed.then(async () => {
      // Without its control socket it cannot be told anything any more; it is about to be gone in all likelihood.
      if (!(await waitGone(pid, EXIT_LIMIT_MS)) && this.#live?.pid === pid) killHard(pid);
      return ended ?? 'is gone';
    });
    const live: Live = { pid, client, watch: this.#watchHang(pid, client), servesSince: null, hung: null, gone };
    this.#live = live;
    void gone.then((why) => {
      live.watch.stop();
      if (this.#live !== live) return;
      this.#live = null;
      this.#died(live, live.hung ?? why);
    });
    return live;
  }

  #watchHang(pid: number, client: ControlClient): HangWatch {
    const { roles, hangTimeoutMs, hangTickMs = HANG_TICK_MS, hangNoticeMs = HANG_NOTICE_MS } = this.plan;
    const who = `${roles.join('+')}: process ${pid}`;
    const seconds = (ms: number): string => `${Math.round(ms / 100) / 10} s`;
    const limits = { tickMs: hangTickMs, noticeMs: hangNoticeMs, giveUpMs: hangTimeoutMs };
    return new HangWatch(client, limits, {
      silent: (ms) => this.#log.warn(`${who} has not answered for ${seconds(ms)}: it is stopped, or does not get on`),
      answers: (ms) => this.#log.warn(`${who} answers again, after ${seconds(ms)}`),
      givenUp: (ms) => {
        const live = this.#live;
        if (live?.pid !== pid) return;
        live.hung = `did not answer for ${seconds(ms)} and was killed (HANG_TIMEOUT)`;
        this.#log.error(`${who} has not answered for ${seconds(ms)}, killing it (HANG_TIMEOUT)`);
        killHard(pid);
      },
    });
  }

  #died({ pid, servesSince }: Live, why: string): void {
    this.#lastFailure = `process ${pid} ${why}`;
    this.#log.error(`${this.plan.roles.join('+')}: ${this.#lastFailure}`);
    this.#recover(pid);
    if (servesSince === null || Date.now() - servesSince < this.#backOff.resetMs) {
      this.#restartLater();
      return;
    }
    this.#delay = this.#backOff.firstMs;
    this.#restartIn(0);
  }

  #restartLater(): void {
    if (this.#restartIn(this.#delay)) this.#delay = Math.min(this.#delay * 2, this.#backOff.maxMs);
  }

  /** False: it is to be restarted already, or not at all. */
  #restartIn(delayMs: number): boolean {
    if (this.#timer || this.#wanted.size === 0) return false;
    this.#log.info(`starting ${[...this.#wanted].join('+')} again ${delayMs === 0 ? 'now' : `in ${delayMs} ms`}`);
    this.#timer = setTimeout(() => {
      this.#timer = null;
      void this.#restart();
    }, delayMs);
    return true;
  }

  async #restart(): Promise<void> {
    this.#restarts++;
    try {
      const live = await this.#process();
      for (const role of this.plan.roles) {
        if (this.#wanted.has(role)) await live.client.call('start', { role }, START_LIMIT_MS);
      }
      live.servesSince ??= Date.now();
      this.#log.info(`${[...this.#wanted].join('+')}: runs again`);
    } catch (error) {
      this.#lastFailure = messageOf(error);
      this.#log.error(`${this.plan.roles.join('+')}: ${this.#lastFailure}`);
      // Died meanwhile: #died has seen to it. Alive without all its roles: a new process has the better chance.
      const live = this.#live;
      if (live) {
        this.#live = null;
        await this.#kill(live);
      }
      this.#restartLater();
    }
  }

  /** Starts a role and keeps it running from now on. @throws SystemError why it does not start */
  async start(role: string): Promise<void> {
    const live = await this.#process();
    const { pid, client, gone } = live;
    try {
      await client.call('start', { role }, START_LIMIT_MS);
      live.servesSince ??= Date.now();
    } catch (error) {
      if (errnoOf(error) !== errnos.ECONNRESET) throw error;
      throw new SystemError(errnos.ECONNRESET, `${role}: process ${pid} ${await gone}`);
    }
    this.#wanted.add(role);
  }

  /**
   * Stops a role for good. A process that does not let go of it is killed, and its other roles are started again.
   * @returns false when it did not run
   * @throws SystemError when it had to be killed
   */
  async stop(role: string): Promise<boolean> {
    const ran = this.#wanted.delete(role);
    if (this.#wanted.size === 0 && this.#timer) {
      clearTimeout(this.#timer);
      this.#timer = null;
    }
    const live = this.#live;
    if (!live) return false;
    try {
      await live.client.call('stop', { role }, this.plan.stopLimitMs ?? STOP_LIMIT_MS + EXIT_LIMIT_MS);
    } catch (error) {
      if (this.#live === live) {
        this.#live = null;
        await this.#kill(live);
        this.#restartLater();
      }
      throw new SystemError(errnoOf(error), `${messageOf(error)}; process ${live.pid} was killed`);
    }
    return ran;
  }

  /** Ends the process; its roles should be stopped already. */
  async exit(): Promise<void> {
    this.#wanted.clear();
    if (this.#timer) clearTimeout(this.#timer);
    this.#timer = null;
    await this.#spawning?.catch(() => undefined);
    const live = this.#live;
    this.#live = null;
    if (!live) return;
    await live.client.call('exit', {}, EXIT_LIMIT_MS).catch(() => undefined);
    if (!(await waitGone(live.pid, EXIT_LIMIT_MS))) await this.#kill(live);
    live.client.end();
  }

  async #kill({ pid, client }: Live): Promise<void> {
    client.end();
    if (isRunning(pid)) {
      this.#log.error(`killing process ${pid} (${this.plan.roles.join('+')})`);
      killHard(pid);
    }
    await waitGone(pid, EXIT_LIMIT_MS);
    this.#recover(pid);
  }

  /** What the process says of its roles, or null when there is none or it does not answer. */
  async status(timeoutMs: number): Promise<{ roles: { name: string; since: number; status: object }[] } | null> {
    try {
      return ((await this.#live?.client.call('status', {}, timeoutMs)) ?? null) as Awaited<
        ReturnType<RoleGroup['status']>
      >;
    } catch {
      return null;
    }
  }

  /** Sends a signal to the process, if there is one. */
  signal(signal: NodeJS.Signals): void {
    if (this.#live && isRunning(this.#live.pid)) process.kill(this.#live.pid, signal);
  }

  /** Leaves the process alone from now on, for a supervisor that goes without stopping anything. */
  release(): void {
    if (this.#timer) clearTimeout(this.#timer);
    const live = this.#live;
    this.#live = null;
    live?.watch.stop();
    live?.client.end();
  }
}

/** Waits for a process's word that its control socket is there. */
function listening(child: ChildProcess, ended: Promise<string>): Promise<void> {
  return new Promise((resolve, reject) => {
    const late = `did not come up within ${SPAWN_LIMIT_MS / 1000} s`;
    const timer = setTimeout(() => reject(new SystemError(errnos.ETIMEDOUT, late)), SPAWN_LIMIT_MS);
    child.once('message', () => {
      clearTimeout(timer);
      resolve();
    });
    void ended.then((why) => {
      clearTimeout(timer);
      reject(new SystemError(errnos.ECHILD, why));
    });
  });
}

/** The last lines that a file got since `offset`, on one line. */
export function tail(file: string, offset: number, lines = 5): string {
  let text: string;
  try {
    const size = fs.statSync(file).size;
    const start = Math.max(offset, size - 8192);
    const bytes = Buffer.alloc(Math.max(0, size - start));
    const fd = fs.openSync(file, 'r');
    fs.readSync(fd, bytes, 0, bytes.length, start);
    fs.closeSync(fd);
    text = bytes.toString('utf8');
  } catch {
    return '';
  }
  // Of a program that died the message counts here; where it happened is in the file.
  const told = text.split('\n').filter((line) => !/^\s*(at .*)?$|^Node\.js v/.test(line));
  return told.slice(-lines).join(' | ');
}
