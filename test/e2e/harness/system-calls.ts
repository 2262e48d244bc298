/**
 * What processes ask of the kernel while something is done: every system call of all their threads by name, with the bytes that those which
 * move data say they moved. strace sees it from outside, so nothing in the processes counts along.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { readFileSync, rmSync } from 'node:fs';
import path from 'node:path';

/** Calls whose result is a number of bytes between the process and the kernel. */
const MOVING = new Set(
  'read readv pread64 preadv preadv2 recvfrom recvmsg write writev pwrite64 pwritev pwritev2 sendto sendmsg copy_file_range'.split(
    ' ',
  ),
);
/** What the C library and V8 do for themselves. */
const HOUSEKEEPING = new Set('futex brk mmap munmap mprotect madvise getpid sched_yield restart_syscall'.split(' '));
const WAITING = new Set(['epoll_wait', 'epoll_pwait', 'epoll_pwait2']);

/** One kind of call. */
export interface CallCount {
  calls: number;
  /** Calls that failed; they are among `calls`. */
  failed: number;
  /** What those that moved data moved. */
  bytes: number;
}

export class SystemCalls {
  readonly #counts: ReadonlyMap<string, CallCount>;
  /** Times that a process came back from epoll with something to do. */
  readonly wakeUps: number;

  constructor(counts: ReadonlyMap<string, CallCount>, wakeUps: number) {
    this.#counts = counts;
    this.wakeUps = wakeUps;
  }

  /** How often these were called; those that failed too. */
  of(...names: readonly string[]): number {
    return names.reduce((sum, name) => sum + (this.#counts.get(name)?.calls ?? 0), 0);
  }

  /** All calls but those by which threads wait for each other and memory is managed: their number is the machine's mood. */
  get total(): number {
    let sum = 0;
    for (const [name, { calls }] of this.#counts) if (!HOUSEKEEPING.has(name)) sum += calls;
    return sum;
  }

  /** Names of all calls that `total` counts. */
  get names(): string[] {
    return [...this.#counts.keys()].filter((name) => !HOUSEKEEPING.has(name));
  }

  /** Bytes that went between the processes and the kernel. */
  get bytes(): number {
    return [...this.#counts.values()].reduce((sum, { bytes }) => sum + bytes, 0);
  }

  /** Names and numbers, the most frequent first. @param per each number is divided by it */
  text(per = 1): string {
    return [...this.#counts]
      .toSorted(([, a], [, b]) => b.calls - a.calls)
      .map(
        ([name, { calls, failed }]) =>
          `${name} ${round(calls / per)}${failed > 0 ? ` (${round(failed / per)} failed)` : ''}`,
      )
      .join(', ');
  }
}

const round = (value: number): string => String(Number(value.toFixed(2)));

/** Whether strace may look at processes that are not its children; where it may not, that is a loud skip: no package changes it. */
export async function canTrace(): Promise<boolean> {
  const sleeper = spawn('sleep', ['60'], { stdio: 'ignore' });
  try {
    await following([sleeper.pid as number], '/dev/null', async () => {});
    return true;
  } catch (error) {
    console.warn(`SKIPPED: counting system calls needs strace to attach to processes: ${(error as Error).message}`);
    return false;
  } finally {
    sleeper.kill('SIGKILL');
  }
}

/** Follows processes while `work` runs; resolves when it has let go of them. @param directory for a file that is removed */
export async function follow(
  pids: readonly number[],
  directory: string,
  work: () => Promise<void>,
): Promise<SystemCalls> {
  const file = path.join(directory, `system-calls-${process.pid}`);
  await following(pids, file, work);
  const counted = parse(readFileSync(file, 'latin1'));
  rmSync(file);
  return counted;
}

async function following(pids: readonly number[], file: string, work: () => Promise<void>): Promise<void> {
  const each = pids.flatMap((pid) => ['-p', String(pid)]);
  const strace = spawn('strace', ['-f', '-s', '0', '-e', 'signal=none', '-o', file, ...each], {
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  const over = new Promise<void>((resolve) => strace.once('close', () => resolve()));
  try {
    await attached(strace, pids);
    await work();
  } finally {
    strace.kill('SIGINT');
    await over;
  }
}

/** @throws with what strace said when it ends instead */
function attached(strace: ChildProcess, pids: readonly number[]): Promise<void> {
  return new Promise((resolve, reject) => {
    let said = '';
    strace.once('error', reject);
    strace.once('close', () => reject(new Error(`strace: ${said}`)));
    strace.stderr?.setEncoding('latin1').on('data', (text: string) => {
      said += text;
      if (pids.every((pid) => new RegExp(`Process ${pid} attached`).test(said))) resolve();
    });
  });
}

/** Lines of strace -f -o: "TID call(…) = result", and calls that others interrupted in two. */
export function parse(trace: string): SystemCalls {
  const counts = new Map<string, CallCount>();
  let wakeUps = 0;
  for (const line of trace.split('\n')) {
    const match = /^\d+\s+(?:<\.\.\. )?(\w+)(?:\(| resumed>).*= (-?\d+|\?|0x[0-9a-f]+)(?: |$)/.exec(line);
    if (!match) continue;
    const [, name, text] = match;
    const result = Number(text);
    const count = counts.get(name) ?? { calls: 0, failed: 0, bytes: 0 };
    counts.set(name, count);
    count.calls++;
    if (result < 0) count.failed++;
    else if (MOVING.has(name)) count.bytes += result;
    if (WAITING.has(name) && result > 0) wakeUps++;
  }
  return new SystemCalls(counts, wakeUps);
}
