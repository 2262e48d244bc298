/** What the segment's tests share: segments that go away, owners that are dead, and real other processes. */
import { type ChildProcess, fork, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import fs from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { type Port, type Request, Segment } from '../../../src/xseg/index.js';
import { P, R } from '../../../src/xseg/layout.js';
import { ownSegment } from '../../support/own.js';

const here = path.dirname(fileURLToPath(import.meta.url));
const root = path.resolve(here, '../../..');

const names: string[] = [];
const segments: Segment[] = [];
const children: ChildProcess[] = [];

/** A name that no other test has; its segment is removed by cleanUp. */
export function freshName(): string {
  const name = ownSegment('xseg');
  names.push(name);
  return name;
}

export interface Shape {
  ports?: number;
  dynamic?: number;
  mib?: number;
  name?: string;
}

export function createSegment({ ports = 16, dynamic = 8, mib = 16, name = freshName() }: Shape = {}): Segment {
  const segment = Segment.create(`posix:${name}:${ports}:${dynamic}:${mib}:12`);
  segments.push(segment);
  return segment;
}

/** The same segment, as another process would have it. */
export function joinSegment(other: Segment): Segment {
  const segment = Segment.join(`posix:${other.name}:`);
  segments.push(segment);
  return segment;
}

/** afterEach: no child, no segment, no doorbell stays. */
export async function cleanUp(): Promise<void> {
  for (const child of children.splice(0)) await kill(child);
  for (const segment of segments.splice(0)) segment.close();
  for (const name of names.splice(0)) {
    fs.rmSync(`/dev/shm/${name}`, { recursive: true, force: true });
    fs.rmSync(`/dev/shm/${name}.bells`, { recursive: true, force: true });
  }
}

/** Pid of a process that is over. */
export function deadPid(): number {
  return spawnSync(process.execPath, ['--version']).pid;
}

/** Makes a port look as if its owner had died this moment: nothing was released. That it lives to see it is nothing to tell of. */
export function die(port: Port): number {
  const pid = deadPid();
  port.segment.onError = () => {};
  port.segment.memory.u32[port.segment.tables.portWord(port.number) + P.PID] = pid;
  return pid;
}

/** Makes a port look as if it belonged to another living process. */
export function giveToParentProcess(port: Port): void {
  const word = port.segment.tables.portWord(port.number);
  port.segment.memory.u32[word + P.PID] = process.ppid;
  port.segment.memory.u32[word + P.START] = 0;
}

export function stateOf(request: Request, segment: Segment): number {
  return segment.memory.u32[segment.tables.requestWord(request.index) + R.STATE];
}

/** Submits a request and resolves with it when it is answered; the caller puts it back. */
export function ask(port: Port, dst: number, fill: (request: Request) => void = () => {}): Promise<Request> {
  const request = port.getRequest();
  if (!request) throw new Error('no request record is left');
  fill(request);
  return new Promise((resolve, reject) => {
    request.onReply = resolve;
    try {
      port.submit(request, dst);
    } catch (error) {
      reject(error);
    }
  });
}

/** Lets everything that is due in this process happen. */
export const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

/** Turns the event loop until the condition holds. @throws after `patience` milliseconds, naming what did not happen */
export async function until(condition: () => boolean, what: string, patience = 20_000): Promise<void> {
  const deadline = Date.now() + patience;
  while (!condition()) {
    if (Date.now() > deadline) throw new Error(`${what}: did not happen within ${patience} ms`);
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
}

/** Compiles src/xseg for other processes, once for each state of the sources; returns the directory of its index.js. */
export function compiledXseg(): string {
  const sources = ['src/xseg', 'src/sys'].flatMap((dir) =>
    fs.readdirSync(path.join(root, dir)).flatMap((file) => (file.endsWith('.ts') ? [path.join(root, dir, file)] : [])),
  );
  const stamp = Math.max(...sources.map((file) => fs.statSync(file).mtimeMs)).toString(36);
  const cache = path.join(root, 'node_modules/.cache/xseg-test');
  const target = path.join(cache, stamp.replace('.', '-'));
  if (!fs.existsSync(target)) {
    fs.mkdirSync(cache, { recursive: true });
    const made = fs.mkdtempSync(path.join(cache, 'new-'));
    fs.chmodSync(made, 0o755);
    const config = path.join(made, 'tsconfig.json');
    fs.writeFileSync(
      config,
      JSON.stringify({
        extends: path.join(root, 'tsconfig.json'),
        compilerOptions: {
          rootDir: path.join(root, 'src'),
          outDir: made,
          declaration: false,
          sourceMap: false,
          typeRoots: [path.join(root, 'node_modules/@types')],
        },
        include: [],
        files: sources,
      }),
    );
    const tsc = spawnSync(process.execPath, [path.join(root, 'node_modules/typescript/bin/tsc'), '-p', config], {
      encoding: 'utf8',
    });
    if (tsc.status !== 0) throw new Error(`src/xseg does not compile:\n${tsc.stdout}${tsc.stderr}`);
    fs.writeFileSync(path.join(made, 'package.json'), '{"type":"module"}');
    try {
      fs.renameSync(made, target);
    } catch {
      // Another test file was faster.
      fs.rmSync(made, { recursive: true, force: true });
    }
  }
  return path.join(target, 'xseg');
}

/** Starts children/peer.mjs in a mode; resolves when it said `ready`. */
export async function startPeer(segment: Segment, mode: string, ...args: (string | number)[]): Promise<ChildProcess> {
  const child = fork(
    path.join(here, 'children/peer.mjs'),
    [compiledXseg(), `posix:${segment.name}:`, mode, ...args.map(String)],
    { execArgv: [], stdio: ['ignore', 'inherit', 'inherit', 'ipc'] },
  );
  children.push(child);
  await told(child, 'ready');
  return child;
}

/** Waits for a message of a child. */
export async function told(child: ChildProcess, what: string): Promise<void> {
  for (;;) {
    const event = await Promise.race([
      once(child, 'message').then(([message]) => message as unknown),
      once(child, 'exit').then(([code, signal]) => `exit ${code ?? signal}`),
    ]);
    if (event === what) return;
    if (typeof event === 'string' && event.startsWith('exit'))
      throw new Error(`peer ended instead of ${what}: ${event}`);
  }
}

/** kill -9, and waits for the end. */
export async function kill(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const ended = once(child, 'exit');
  child.kill('SIGKILL');
  await ended;
}
