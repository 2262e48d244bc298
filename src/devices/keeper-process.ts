/** The keeper's process: found by its pidfile, started where none runs. */
import { spawn } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { livingPid, Pidfile } from '../peer/pidfile.js';
import { commandLine, waitGone } from '../peer/proc.js';
import { errnoOf, errnos, messageOf, SystemError } from '../sys/errno.js';
import { locked } from './lock.js';

const PROGRAM = fileURLToPath(new URL('../cli/archipelago.js', import.meta.url));
const COMMAND = 'devices';
/** How long it may take to be there, and how often it is looked. */
const READY_MS = 60_000;
const LOOK_MS = 10;
const LOG_MODE = 0o640;
/** What is shown of the log of one that failed, in bytes. */
const SAID = 2000;

export interface KeeperOptions {
  readonly runDir: string;
  readonly logDir: string;
  /** The configuration file that it is to read; null: the built-in defaults. */
  readonly configPath: string | null;
}

const pidfileOf = (runDir: string): string => path.join(runDir, `${COMMAND}.pid`);

/** Of a keeper that `vlmc map` started: it ends with the last device. */
const WHILE_ATTACHED = '--while-attached';
/** How long such a one may take to end when another takes its place. */
const END_MS = 10_000;

const isKeeper = (pid: number): boolean => {
  const words = commandLine(pid) ?? [];
  return words.includes(COMMAND) && words.some((word) => /^archipelago(\.js)?$/.test(path.basename(word)));
};

/** The process of the keeper that runs; null: none does. */
export const keeperPid = (runDir: string): number | null => livingPid(pidfileOf(runDir), isKeeper);

/**
 * Makes this process the keeper. One that stays takes the place of one that `vlmc map` started: a service would otherwise fail to start for as
 * long as there are devices. @throws SystemError EEXIST naming the one that there is
 */
export async function takeKeeperPidfile(runDir: string, { stays }: { readonly stays: boolean }): Promise<Pidfile> {
  const isOther = (pid: number): boolean => pid !== process.pid && isKeeper(pid);
  const other = livingPid(pidfileOf(runDir), isOther);
  if (stays && other !== null && commandLine(other)?.includes(WHILE_ATTACHED) === true) {
    try {
      process.kill(other, 'SIGTERM');
    } catch (error) {
      if (errnoOf(error) !== errnos.ESRCH) throw error;
    }
    await waitGone(other, END_MS);
  }
  return Pidfile.take(pidfileOf(runDir), 'the keeper of devices', isOther);
}

/**
 * Sees to it that a keeper runs; one that is started so ends by itself when there is no device any more. To be called when a device was
 * attached. Resolves to its process.
 * @throws SystemError with what it said
 */
export async function ensureKeeper(options: KeeperOptions): Promise<number> {
  const { runDir } = options;
  // The keeper decides under this lock that it is not needed any more.
  return keeperPid(runDir) ?? locked(runDir, async () => keeperPid(runDir) ?? start(options));
}

async function start({ runDir, logDir, configPath }: KeeperOptions): Promise<number> {
  const file = path.join(logDir, `${COMMAND}.log`);
  const log = openLog(file);
  const said = fs.fstatSync(log).size;
  const config = configPath === null ? [] : ['-c', path.resolve(configPath)];
  const child = spawn(process.execPath, [PROGRAM, ...config, COMMAND, WHILE_ATTACHED], {
    cwd: '/',
    detached: true,
    stdio: ['ignore', log, log],
  });
  fs.closeSync(log);
  let failure: string | null = null;
  child.once('error', (error) => {
    failure = messageOf(error);
  });
  child.once('exit', (code, signal) => {
    failure ??= `it ended (${signal ?? code})`;
  });
  const deadline = performance.now() + READY_MS;
  for (;;) {
    const pid = keeperPid(runDir);
    if (pid !== null) {
      child.unref();
      return pid;
    }
    if (failure !== null || performance.now() > deadline) {
      child.unref();
      throw new SystemError(
        errnos.ECHILD,
        `the keeper of devices did not start: ${failure ?? 'nothing for a minute'}${tailOf(file, said)}; see ${file}`,
      );
    }
    await new Promise((resolve) => setTimeout(resolve, LOOK_MS));
  }
}

/** @throws SystemError naming the file */
function openLog(file: string): number {
  const { O_WRONLY, O_APPEND, O_CREAT, O_NOFOLLOW } = fs.constants;
  try {
    // The directory may belong to the node's user, while this is root.
    return fs.openSync(file, O_WRONLY | O_APPEND | O_CREAT | O_NOFOLLOW, LOG_MODE);
  } catch (error) {
    throw new SystemError(errnoOf(error), `cannot open the keeper's log: ${messageOf(error)}`);
  }
}

function tailOf(file: string, from: number): string {
  try {
    const text = fs.readFileSync(file, 'utf8').slice(from).trim().slice(-SAID);
    return text === '' ? '' : `, saying: ${text.replace(/\s*\n\s*/g, ' | ')}`;
  } catch {
    return '';
  }
}
