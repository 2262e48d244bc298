/** A rados driver in a process of its own, to be stopped and killed. */
import { type ChildProcess, fork, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import fs from 'node:fs';
import path from 'node:path';
import { onTestFinished } from 'vitest';
import type { Namespace } from '../../support/ceph.js';

const root = path.resolve(import.meta.dirname, '../../..');
const entry = path.join(root, 'src/blockers/rados/index.ts');

/** Compiles the driver and all it imports for other processes, once for each state of the sources; returns its directory. */
function compiled(): string {
  const sources = fs.readdirSync(path.join(root, 'src'), { recursive: true, encoding: 'utf8' });
  const changed = sources.map((file) => fs.statSync(path.join(root, 'src', file)).mtimeMs);
  const cache = path.join(root, 'node_modules/.cache/rados-test');
  const target = path.join(
    cache,
    Math.max(...changed)
      .toString(36)
      .replace('.', '-'),
  );
  if (fs.existsSync(target)) return target;
  fs.mkdirSync(cache, { recursive: true });
  const made = fs.mkdtempSync(path.join(cache, 'new-'));
  const config = path.join(made, 'tsconfig.json');
  const compilerOptions = {
    rootDir: path.join(root, 'src'),
    outDir: made,
    declaration: false,
    sourceMap: false,
    typeRoots: [path.join(root, 'node_modules/@types')],
  };
  const files = [entry, path.join(root, 'src/blockers/object-io.ts')];
  fs.writeFileSync(
    config,
    JSON.stringify({ extends: path.join(root, 'tsconfig.json'), compilerOptions, include: [], files }),
  );
  const tsc = spawnSync(process.execPath, [path.join(root, 'node_modules/typescript/bin/tsc'), '-p', config], {
    encoding: 'utf8',
  });
  if (tsc.status !== 0) throw new Error(`the rados driver does not compile:\n${tsc.stdout}${tsc.stderr}`);
  fs.writeFileSync(path.join(made, 'package.json'), '{"type":"module"}');
  try {
    fs.renameSync(made, target);
  } catch {
    // Another test file was faster.
    fs.rmSync(made, { recursive: true, force: true });
  }
  return target;
}

interface Answer {
  readonly id: number;
  readonly result?: unknown;
  readonly error?: { readonly code: string; readonly message: string };
}

export class DriverProcess {
  readonly #child: ChildProcess;
  #calls = 0;

  constructor(child: ChildProcess) {
    this.#child = child;
  }

  /** Calls a method of the driver, or one of children/rados-driver.mjs. Rejects with what it rejected with. */
  async call(method: string, ...args: unknown[]): Promise<unknown> {
    const id = ++this.#calls;
    const answer = new Promise<Answer>((resolve, reject) => {
      const hear = (message: Answer): void => {
        if (message.id !== id) return;
        this.#child.off('message', hear).off('exit', end);
        resolve(message);
      };
      const end = (code: number | null, signal: string | null): void => {
        reject(new Error(`the driver's process ended: ${code ?? signal}`));
      };
      this.#child.on('message', hear).on('exit', end);
    });
    this.#child.send({ id, method, args });
    const { result, error } = await answer;
    if (error) throw Object.assign(new Error(error.message), { code: error.code });
    return result;
  }

  stop(): void {
    this.#child.kill('SIGSTOP');
  }

  goOn(): void {
    this.#child.kill('SIGCONT');
  }

  async kill(): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    const ended = once(this.#child, 'exit');
    this.#child.kill('SIGKILL');
    await ended;
  }
}

/** An opened driver in the pool of the maps. It is killed when the test ends. */
export async function driverProcess(ceph: Namespace, owner: string): Promise<DriverProcess> {
  const { conf, user, namespace } = ceph;
  const settings = { pool: 'maps', conf, cephxId: user, namespace, uniqueStr: owner };
  const child = fork(
    path.join(import.meta.dirname, 'children/rados-driver.mjs'),
    [compiled(), JSON.stringify(settings)],
    { execArgv: [], stdio: ['ignore', 'inherit', 'inherit', 'ipc'] },
  );
  const started = new DriverProcess(child);
  onTestFinished(() => started.kill());
  await started.call('open');
  return started;
}
