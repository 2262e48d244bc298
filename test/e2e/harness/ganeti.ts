/** Ganeti's own node code with this project's provider, one process for each node: steps as its node daemon takes them. */
import { type ChildProcessWithoutNullStreams, spawn } from 'node:child_process';
import { existsSync, mkdirSync } from 'node:fs';
import path from 'node:path';
import { createInterface, type Interface } from 'node:readline';
import type { TestNode } from './node.js';
import { attempt, type Outcome, run } from './run.js';

const project = path.resolve(import.meta.dirname, '../../..');
const rigs = path.join(project, 'scripts/rigs');
/** What Ganeti is shown as the provider. */
export const PROVIDER = path.join(project, 'scripts/ganeti-ext/archipelago');
/** The system's Python has the modules that setup.sh installs. */
const PYTHON = '/usr/bin/python3';

/** A disk as a cluster's configuration has it. */
export interface Disk {
  /** Ganeti's name of it. */
  readonly id: string;
  /** MiB. */
  readonly size: number;
  readonly params?: Readonly<Record<string, string | null>>;
  /** The name that people gave it. */
  readonly name?: string;
  readonly uuid?: string;
}

/** What create and find say of a device. */
export interface Attached {
  readonly attached: boolean;
  readonly path: string | null;
  readonly uris: readonly string[];
}

/** The step failed: the message is Ganeti's, with what the script said. */
export class StepFailed extends Error {
  constructor(message: string) {
    super(message);
    this.name = 'StepFailed';
  }
}

/** Directory of Ganeti's Python code, fetched at the first call. */
export async function ganetiTree(): Promise<string> {
  return (await run('bash', [path.join(rigs, 'ganeti.sh')], { timeout: 300_000 })).stdout.trim();
}

export class GanetiNode {
  readonly #node: TestNode;
  readonly #process: ChildProcessWithoutNullStreams;
  readonly #answers: AsyncIterator<string>;
  readonly #lines: Interface;
  #stderr = '';

  /** @param tree as ganetiTree resolves to. @param provider another directory than the project's own */
  constructor(node: TestNode, tree: string, provider = PROVIDER, env: NodeJS.ProcessEnv = {}) {
    this.#node = node;
    const logs = path.join(node.dir, 'ganeti-logs');
    if (!existsSync(logs)) mkdirSync(logs);
    const args = [path.join(rigs, 'ganeti-node.py'), tree, provider, logs];
    this.#process = spawn(PYTHON, args, { env: { ...process.env, ARCHIPELAGO_CONF: node.conf, ...env } });
    this.#process.stderr.on('data', (chunk: Buffer) => {
      this.#stderr += chunk.toString();
    });
    // It may have ended: then the answer is missing, which tells more.
    this.#process.stdin.on('error', () => {});
    this.#lines = createInterface(this.#process.stdout);
    this.#answers = this.#lines[Symbol.asyncIterator]();
  }

  diagnose(): Promise<{ parameters: string[]; snapshot: boolean; open: boolean; close: boolean }> {
    return this.#ask({ do: 'diagnose' });
  }

  create(disk: Disk): Promise<Attached> {
    return this.#ask({ do: 'create', disk });
  }

  /** What Ganeti does before nearly everything: attaches. */
  find(disk: Disk): Promise<Attached> {
    return this.#ask({ do: 'find', disk });
  }

  async open(disk: Disk, exclusive = true): Promise<void> {
    await this.#ask({ do: 'open', disk, exclusive });
  }

  async close(disk: Disk): Promise<void> {
    await this.#ask({ do: 'close', disk });
  }

  /** @param amount MiB */
  async grow(disk: Disk, amount: number, dryrun = false): Promise<void> {
    await this.#ask({ do: 'grow', disk, amount, dryrun });
  }

  async setinfo(disk: Disk, text: string): Promise<void> {
    await this.#ask({ do: 'setinfo', disk, text });
  }

  /** Resolves to the snapshot as a disk. */
  async snapshot(disk: Disk): Promise<Disk> {
    const { id } = await this.#ask<{ id: string }>({ do: 'snapshot', disk });
    // Ganeti gives it the disk's parameters, and no name.
    return { id, size: disk.size, params: disk.params };
  }

  /** Detaches. */
  async shutdown(disk: Disk): Promise<void> {
    await this.#ask({ do: 'shutdown', disk });
  }

  /** Attaches, detaches and removes. */
  async remove(disk: Disk): Promise<void> {
    await this.#ask({ do: 'remove', disk });
  }

  /** What qemu is given for the disk. */
  async uri(disk: Disk): Promise<string> {
    return (await this.#ask<{ uri: string }>({ do: 'uri', disk, hypervisor: 'kvm' })).uri;
  }

  async end(): Promise<void> {
    const ended = new Promise((resolve) => this.#process.once('close', resolve));
    this.#process.stdin.end();
    if (this.#process.exitCode === null && this.#process.signalCode === null) await ended;
    this.#lines.close();
  }

  async #ask<T>(request: object): Promise<T> {
    this.#process.stdin.write(`${JSON.stringify(request)}\n`);
    const { value, done } = await this.#answers.next();
    if (done) throw new Error(`Ganeti's node code ended: ${this.#stderr}\n${this.#node.logs()}`);
    const answer = JSON.parse(value) as T & { error?: string };
    if (answer.error !== undefined) throw new StepFailed(answer.error);
    return answer;
  }
}

/** Runs a script of the provider as Ganeti does. */
export function script(
  node: TestNode,
  action: string,
  env: Readonly<Record<string, string>>,
  provider = PROVIDER,
): Promise<Outcome> {
  const usual = { ARCHIPELAGO_CONF: node.conf, EXTP_PROVIDER: 'archipelago', EXTP_ACCESS: 'userspace' };
  return attempt(path.join(provider, action), [], { cwd: provider, env: { ...usual, ...env } });
}
