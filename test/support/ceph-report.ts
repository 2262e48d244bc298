/** What a cluster of scripts/rigs/ceph.sh says of itself when a test has failed: how it is, whether its daemons live, what waits in them, what they logged last. */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { attempt } from '../e2e/harness/run.js';

/** A cluster that does not answer must not hide what the test said, ms. */
const PATIENCE = 15_000;
/** Of each log. */
const LINES = 60;
/** What daemons log all the time: transactions that took long because the OSD was stopped, the database's own news, questions of clients, each group's peering. */
const ROUTINE = /log_latency|rocksdb:|\[DBG\]|audit\)|start_peering_interval|state<Start>|mgrmap|: dispatch$/;

/** The report, for a person; never fails. @param conf path of ceph.conf in the cluster's directory @param patience for each question, ms */
export async function clusterReport(conf: string, patience = PATIENCE): Promise<string> {
  const directory = path.dirname(conf);
  if (!existsSync(conf)) return `--- no cluster at ${directory}`;
  const daemons = daemonsOf(directory);
  const questions = [['-s'], ['health', 'detail'], ['osd', 'dump']].map((words) => ['-c', conf, ...words]);
  const [answers, waiting] = await Promise.all([
    Promise.all(questions.map((words) => ask(words, patience))),
    Promise.all(daemons.filter((name) => name.startsWith('osd.')).map((name) => opsOf(directory, name, patience))),
  ]);
  return [
    ...answers,
    ...daemons.map((name) => `--- ${name}: ${lifeOf(directory, name)}`),
    ...waiting,
    ...daemons.map((name) => logOf(directory, name)),
  ].join('\n');
}

/** Names of the daemons that were started here and not stopped. */
function daemonsOf(directory: string): string[] {
  const files = attemptSync(() => readdirSync(path.join(directory, 'run')), []);
  return files.filter((file) => file.endsWith('.pid')).map((file) => path.basename(file, '.pid'));
}

async function ask(words: readonly string[], patience: number): Promise<string> {
  const asked = `--- ceph ${words.slice(2).join(' ')}`;
  try {
    const { stdout, stderr } = await attempt('ceph', words, { timeout: patience });
    return `${asked}\n${stdout.trimEnd()}\n${stderr.trimEnd()}`.trimEnd();
  } catch {
    return `${asked}\nno answer in ${patience / 1000} s`;
  }
}

/** What an OSD's process does: its state, or that it is gone. */
function lifeOf(directory: string, name: string): string {
  const pid = attemptSync(() => readFileSync(path.join(directory, 'run', `${name}.pid`), 'utf8').trim(), '');
  const status = attemptSync(() => readFileSync(`/proc/${pid}/status`, 'utf8'), '');
  return `process ${pid}, ${/^State:\t(.*)$/m.exec(status)?.[1] ?? 'gone'}`;
}

/** How many requests wait in an OSD, and for what. */
async function opsOf(directory: string, name: string, patience: number): Promise<string> {
  const socket = path.join(directory, 'run', `${name}.asok`);
  const asked = `--- requests in ${name}`;
  try {
    const { stdout } = await attempt('ceph', ['daemon', socket, 'dump_ops_in_flight'], { timeout: patience });
    const { ops } = JSON.parse(stdout) as { ops: { age: number; type_data: { flag_point: string } }[] };
    const oldest = new Map<string, { count: number; age: number }>();
    for (const { age, type_data } of ops) {
      const { count, age: longest } = oldest.get(type_data.flag_point) ?? { count: 0, age: 0 };
      oldest.set(type_data.flag_point, { count: count + 1, age: Math.max(longest, age) });
    }
    const lines = [...oldest].map(([what, { count, age }]) => `${count} ${what}, for up to ${age.toFixed(1)} s`);
    return [asked, ...(lines.length > 0 ? lines : ['none'])].join('\n');
  } catch (error) {
    return `${asked}: not told: ${(error as Error).message.split('\n', 1)[0]}`;
  }
}

function logOf(directory: string, name: string): string {
  const text = attemptSync(() => readFileSync(path.join(directory, 'log', `${name}.log`), 'utf8'), '');
  const lines = text.split('\n').filter((line) => line !== '' && !ROUTINE.test(line));
  return [`--- ${name}.log`, ...lines.slice(-LINES)].join('\n');
}

function attemptSync<T>(work: () => T, otherwise: T): T {
  try {
    return work();
  } catch {
    return otherwise; // it is gone: that is told by what is missing
  }
}
