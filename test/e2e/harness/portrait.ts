/**
 * What a virtual machine that says nothing is doing, as text for a person: whether its processor runs, waits, or is not let run, and whether its disk has
 * requests that nobody answered. Nothing here fails: what cannot be had is said.
 */
import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import type { Monitor } from './qmp.js';

/** Milliseconds that one answer of the monitor may take: a main loop that hangs gives none. */
const PATIENCE = 15_000;
/** Milliseconds over which processor time is counted. */
const WATCHED = 2_000;

/** What something gave, or why it gave nothing. */
async function given(what: string, ask: () => Promise<unknown>): Promise<string> {
  const late = new AbortController();
  const limit = delay(PATIENCE, undefined, { signal: late.signal }).then(() => `no answer in ${PATIENCE} ms`);
  limit.catch(() => {});
  try {
    const answer = await Promise.race([ask(), limit]);
    return `${what}: ${typeof answer === 'string' ? answer.replaceAll('\r', '').trimEnd() : JSON.stringify(answer)}`;
  } catch (error) {
    return `${what}: ${error instanceof Error ? error.message : error}`;
  } finally {
    late.abort();
  }
}

/** What the monitor tells: state, disks and what they did, processors (looked at three times), interrupts. */
async function told(monitor: Monitor): Promise<string[]> {
  const hmp = (line: string) => () => monitor.execute('human-monitor-command', { 'command-line': line });
  const lines = [];
  for (const command of ['query-status', 'query-migrate', 'query-cpus-fast', 'query-block', 'query-blockstats'])
    lines.push(await given(command, () => monitor.execute(command)));
  for (let look = 0; look < 3; look++) lines.push(await given('info registers', hmp('info registers -a')));
  for (const what of ['x/8i $pc', 'info lapic', 'info irq', 'info pic']) lines.push(await given(what, hmp(what)));
  return lines;
}

const read = (file: string): string => {
  try {
    return readFileSync(file, 'latin1').trim();
  } catch (error) {
    return `(${(error as NodeJS.ErrnoException).code})`;
  }
};

/** Ticks of processor time of each thread. */
function ticks(pid: number): Map<string, number> {
  const times = new Map<string, number>();
  for (const thread of readdirSync(`/proc/${pid}/task`)) {
    // The name in parentheses may hold anything; state is the first field behind it.
    const fields = read(`/proc/${pid}/task/${thread}/stat`)
      .replace(/^.*\) /, '')
      .split(' ');
    times.set(thread, Number(fields[11]) + Number(fields[12]));
  }
  return times;
}

/** What the kernel tells of a process: what its threads wait for, and the processor time they took meanwhile. */
async function seen(pid: number): Promise<string[]> {
  try {
    const before = ticks(pid);
    await delay(WATCHED);
    const after = ticks(pid);
    const lines = [`process ${pid}, load ${read('/proc/loadavg')}`];
    for (const [thread, now] of after) {
      const of = (what: string): string => read(`/proc/${pid}/task/${thread}/${what}`);
      const state = of('stat')
        .replace(/^.*\) /, '')
        .charAt(0);
      const spent = (now - (before.get(thread) ?? 0)) * 10;
      lines.push(
        `thread ${thread} ${of('comm')}: ${state}, ${spent} of ${WATCHED} ms of processor, waits in ${of('wchan')}`,
      );
      lines.push(`  call ${of('syscall')}; ${of('stack').split('\n').slice(0, 4).join(' | ')}`);
    }
    const sockets = readdirSync(`/proc/${pid}/fd`).map((fd) => {
      try {
        return readlinkSync(path.join(`/proc/${pid}/fd`, fd));
      } catch {
        return '';
      }
    });
    lines.push(`${sockets.filter((link) => link.startsWith('socket:')).length} sockets are open`);
    return lines;
  } catch (error) {
    return [`process ${pid}: ${error instanceof Error ? error.message : error}`];
  }
}

/**
 * Everything that can be told of a machine.
 * @param monitor of its qemu; undefined: nobody listens
 * @param pid of its qemu; undefined: it has ended
 */
export async function portrait(monitor: Monitor | undefined, pid: number | undefined): Promise<string> {
  const lines = pid === undefined ? ['its qemu has ended'] : await seen(pid);
  if (monitor) lines.push('events:', ...monitor.events, ...(await told(monitor)));
  else lines.push('nobody listens to its monitor');
  return lines.join('\n');
}
