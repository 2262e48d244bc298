/** Runs programs: real clients, the project's own tools. Every one has a limit, and a failure shows all it said. */
import { type ChildProcess, type SpawnOptions, spawn } from 'node:child_process';
import { createHash } from 'node:crypto';

/** What a program did. `code` is null when a signal ended it. */
export interface Outcome {
  readonly command: string;
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stdout: string;
  readonly stderr: string;
}

export interface RunOptions {
  /** Given to standard input, which is then closed. */
  readonly input?: string | Buffer;
  readonly env?: NodeJS.ProcessEnv;
  readonly cwd?: string;
  /** Milliseconds until the program and its children are killed and the run fails. */
  readonly timeout?: number;
}

const DEFAULT_TIMEOUT = 120_000;
/** Milliseconds for a rig that fetches something and builds it: the network or the compiler may be slow, and a rig that is given up is a test that nobody runs. */
export const BUILD_TIMEOUT = 900_000;
const sbin = `${process.env.PATH}:/usr/local/sbin:/usr/sbin:/sbin`;

/** Starts a program in a process group of its own, so that `killGroup` reaches its children too. */
export function start(program: string, args: readonly string[], options: SpawnOptions = {}): ChildProcess {
  return spawn(program, args, { ...options, detached: true, env: { ...process.env, PATH: sbin, ...options.env } });
}

/** Ends a program of `start` with all its children. A program that is gone already is fine. */
export function killGroup(child: ChildProcess, signal: NodeJS.Signals = 'SIGKILL'): void {
  if (child.pid === undefined) return;
  try {
    process.kill(-child.pid, signal);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
  }
}

/** Resolves when a program has ended and its output is read. */
export function ended(child: ChildProcess): Promise<{ code: number | null; signal: NodeJS.Signals | null }> {
  return new Promise((resolve, reject) => {
    child.once('error', reject);
    child.once('close', (code, signal) => resolve({ code, signal }));
  });
}

/** Runs a program to its end, whatever that is. @throws when it cannot be started or exceeds its time */
export async function attempt(program: string, args: readonly string[], options: RunOptions = {}): Promise<Outcome> {
  const command = [program, ...args].join(' ');
  const child = start(program, args, { cwd: options.cwd, env: options.env, stdio: ['pipe', 'pipe', 'pipe'] });
  const out: Buffer[] = [];
  const err: Buffer[] = [];
  child.stdout?.on('data', (chunk: Buffer) => out.push(chunk));
  child.stderr?.on('data', (chunk: Buffer) => err.push(chunk));
  // A program may end without reading what it is given.
  child.stdin?.on('error', () => {});
  child.stdin?.end(options.input ?? '');
  const limit = options.timeout ?? DEFAULT_TIMEOUT;
  let late = false;
  const timer = setTimeout(() => {
    late = true;
    killGroup(child);
  }, limit);
  try {
    const { code, signal } = await ended(child);
    const outcome = {
      command,
      code,
      signal,
      stdout: Buffer.concat(out).toString(),
      stderr: Buffer.concat(err).toString(),
    };
    if (late) throw new Error(`${describeOutcome(outcome)}\nkilled: it ran longer than ${limit} ms`);
    return outcome;
  } finally {
    clearTimeout(timer);
  }
}

/** Runs a program that must succeed. @throws Error with the command and all it said when it does not */
export async function run(program: string, args: readonly string[], options: RunOptions = {}): Promise<Outcome> {
  const outcome = await attempt(program, args, options);
  if (outcome.code !== 0) throw new Error(describeOutcome(outcome));
  return outcome;
}

/** The outcome as text for a person. */
export function describeOutcome(outcome: Outcome): string {
  const end = outcome.signal ? `ended by ${outcome.signal}` : `exit status ${outcome.code}`;
  return [`$ ${outcome.command}`, outcome.stdout.trimEnd(), outcome.stderr.trimEnd(), end]
    .filter((line) => line !== '')
    .join('\n');
}

/** SHA-256 in hex and the length of what a program writes to its standard output. @throws when it fails */
export async function hashOutput(
  program: string,
  args: readonly string[],
  options: { timeout?: number } = {},
): Promise<{ sha256: string; length: number }> {
  const child = start(program, args, { stdio: ['ignore', 'pipe', 'pipe'] });
  const hash = createHash('sha256');
  const err: Buffer[] = [];
  let length = 0;
  child.stdout?.on('data', (chunk: Buffer) => {
    hash.update(chunk);
    length += chunk.length;
  });
  child.stderr?.on('data', (chunk: Buffer) => err.push(chunk));
  const limit = options.timeout ?? DEFAULT_TIMEOUT;
  const timer = setTimeout(() => killGroup(child), limit);
  const { code, signal } = await ended(child);
  clearTimeout(timer);
  if (code !== 0) {
    const stderr = Buffer.concat(err).toString();
    throw new Error(describeOutcome({ command: [program, ...args].join(' '), code, signal, stdout: '', stderr }));
  }
  return { sha256: hash.digest('hex'), length };
}
