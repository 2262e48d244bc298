/** What the tests of the binding share. */
import { spawn, spawnSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterAll, afterEach } from 'vitest';
import { type Cluster, type ClusterOptions, connect } from '../../../src/rados/index.js';
import { allocateMemory, freeMemory, type Memory } from '../../../src/sys/libc.js';

const root = path.resolve(import.meta.dirname, '../../..');
const open: Cluster[] = [];
const memories: Memory[] = [];
let compiled: string | null = null;

/** Connections that are closed after the test. */
export async function connected(options: ClusterOptions): Promise<Cluster> {
  const cluster = await connect(options);
  open.push(cluster);
  return cluster;
}

/** Memory that is freed after the test, when its connections are closed. */
export function memory(length: number): Memory {
  const made = allocateMemory(length);
  memories.push(made);
  return made;
}

export function cleanUpAfterEach(): void {
  afterEach(async () => {
    await Promise.all(open.splice(0).map((cluster) => cluster.close()));
    for (const made of memories.splice(0)) freeMemory(made);
  });
}

/** The outcome of a hot operation: what `done` was called with. */
export const ended = (begin: (done: (result: number) => void) => void): Promise<number> => new Promise(begin);

/** Lets everything that is due in this process happen. */
export const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

/** src/rados and what it needs as JavaScript, for other processes; removed after the file's tests. */
function compiledRados(): string {
  if (compiled) return compiled;
  // Within the project, so that koffi is found.
  const cache = path.join(root, 'node_modules/.cache');
  fs.mkdirSync(cache, { recursive: true });
  compiled = fs.mkdtempSync(path.join(cache, 'rados-test-'));
  const config = path.join(compiled, 'tsconfig.json');
  const compilerOptions = {
    rootDir: path.join(root, 'src'),
    outDir: compiled,
    declaration: false,
    sourceMap: false,
    typeRoots: [path.join(root, 'node_modules/@types')],
  };
  const files = [path.join(root, 'src/rados/index.ts')];
  fs.writeFileSync(
    config,
    JSON.stringify({ extends: path.join(root, 'tsconfig.json'), compilerOptions, include: [], files }),
  );
  const tsc = spawnSync(process.execPath, [path.join(root, 'node_modules/typescript/bin/tsc'), '-p', config], {
    encoding: 'utf8',
  });
  if (tsc.status !== 0) throw new Error(`src/rados does not compile:\n${tsc.stdout}${tsc.stderr}`);
  fs.writeFileSync(path.join(compiled, 'package.json'), '{"type":"module"}');
  return compiled;
}

afterAll(() => {
  if (compiled) fs.rmSync(compiled, { recursive: true, force: true });
  compiled = null;
});

export interface Ended {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly output: string;
}

/** Runs a module of this code in another process, with `connect` and `libc` in scope. */
export function runModule(code: string, limitMs = 30_000): Promise<Ended> {
  const directory = compiledRados();
  const text = `
    import { connect, live, loadLibrary } from '${directory}/rados/index.js';
    import * as libc from '${directory}/sys/libc.js';
    ${code}`;
  const child = spawn(process.execPath, ['--input-type=module', '-e', text], {
    stdio: ['ignore', 'pipe', 'pipe'],
    cwd: os.tmpdir(),
  });
  let output = '';
  const hear = (data: Buffer): void => {
    output += data.toString();
  };
  for (const stream of [child.stdout, child.stderr]) stream.on('data', hear);
  const timer = setTimeout(() => child.kill('SIGKILL'), limitMs);
  return new Promise((resolve) => {
    child.on('close', (code, signal) => {
      clearTimeout(timer);
      resolve({ code, signal, output });
    });
  });
}
