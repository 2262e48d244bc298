/** The machine: what it is, and what else it did while something was measured. */
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import os from 'node:os';
import { hasProgram } from './contender.js';

/** What the report says about the machine whose directory `dir` has the disks. */
export function machine(dir: string): Readonly<Record<string, string | number>> {
  const fileSystem = execFileSync('stat', ['-f', '-c', '%T', dir], { encoding: 'utf8' }).trim();
  return {
    cpu: os.cpus()[0]?.model.trim() ?? 'unknown',
    cores: os.cpus().length,
    memoryGiB: Math.round(os.totalmem() / 2 ** 30),
    kernel: os.release(),
    os: /^PRETTY_NAME="(.*)"$/m.exec(readFileSync('/etc/os-release', 'utf8'))?.[1] ?? os.type(),
    fileSystem,
    client: hasProgram('fio') ? execFileSync('fio', ['--version'], { encoding: 'utf8' }).trim() : 'no fio',
  };
}

/** More user time of others than this share of all processors, and a measurement is not to be trusted. */
const OTHERS_LIMIT = 0.06;
/** More time than this share that the hypervisor gave to other machines, likewise. */
const STEAL_LIMIT = 0.03;

/** What the machine did besides while something was measured: shares of the time of all processors. */
export interface Conditions {
  /** User time of processes that have no part in it. */
  readonly others: number;
  /** Time the hypervisor gave to other machines. */
  readonly steal: number;
}

export const disturbed = ({ others, steal }: Conditions): boolean => others > OTHERS_LIMIT || steal > STEAL_LIMIT;

/** utime and cutime, in ticks, of a process; 0 when it is gone. */
function userTicks(pid: number | 'self', withChildren: boolean): number {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    return Number(fields[11]) + (withChildren ? Number(fields[13]) : 0);
  } catch {
    return 0;
  }
}

interface Ticks {
  readonly user: number;
  readonly steal: number;
  readonly total: number;
  readonly ours: number;
}

function ticks(servers: readonly number[]): Ticks {
  const [user, nice, system, idle, iowait, irq, softirq, steal] = readFileSync('/proc/stat', 'utf8')
    .split('\n', 1)[0]
    .split(/\s+/)
    .slice(1)
    .map(Number);
  const total = user + nice + system + idle + iowait + irq + softirq + steal;
  // Clients are children of this process and are counted once they ended.
  const ours = servers.reduce((sum, pid) => sum + userTicks(pid, false), userTicks('self', true));
  return { user: user + nice, steal, total, ours };
}

/**
 * Begins to watch. What it returns ends that: kernel threads, which write back what was measured, have no user time, so others' user time is
 * what tells that somebody else was at work.
 * @param servers process ids of those that are measured
 */
export function watch(servers: readonly number[]): () => Conditions {
  const before = ticks(servers);
  return () => {
    const after = ticks(servers);
    const total = Math.max(1, after.total - before.total);
    return {
      others: Math.max(0, after.user - before.user - (after.ours - before.ours)) / total,
      steal: (after.steal - before.steal) / total,
    };
  };
}
