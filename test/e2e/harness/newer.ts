/**
 * The NBD clients of a later Debian, run by chroot in a tree of their own (scripts/rigs/newer-clients.sh). They reach a node by TCP;
 * files they share with a test are in `directory`, which has another path inside of the tree.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import path from 'node:path';
import { root } from './requirements.js';
import { attempt, BUILD_TIMEOUT, describeOutcome, type Outcome, run } from './run.js';

const rig = path.resolve(import.meta.dirname, '../../../scripts/rigs/newer-clients.sh');

export class NewerClients {
  readonly #tree: string;
  /** A directory for files of one test file, as the test sees it. */
  readonly directory: string;

  private constructor(tree: string) {
    this.#tree = tree;
    this.directory = mkdtempSync(path.join(tree, 'tmp', 'test-'));
  }

  /**
   * The tree, built when it is not there; null with a loud line where it cannot be had: without root, without network.
   * @throws when it cannot be built and CI=true
   */
  static async find(): Promise<NewerClients | null> {
    if (!root('running the clients of a newer Debian')) return null;
    const outcome = await attempt(rig, [], { timeout: BUILD_TIMEOUT });
    if (outcome.code === 0) return new NewerClients(outcome.stdout.trim());
    const message = `the newer clients could not be built: ${describeOutcome(outcome)}`;
    if (process.env.CI === 'true') throw new Error(message);
    console.warn(`SKIPPED: ${message}`);
    return null;
  }

  /** The path that a program in the tree has for a file of `directory`. */
  inside(file: string): string {
    return path.join('/', path.relative(this.#tree, this.directory), file);
  }

  /** Runs a program of the tree; it must succeed. */
  run(program: string, ...args: string[]): Promise<Outcome> {
    return run('chroot', [this.#tree, program, ...args]);
  }

  /** As run, whatever comes out. */
  attempt(program: string, ...args: string[]): Promise<Outcome> {
    return attempt('chroot', [this.#tree, program, ...args]);
  }

  /** Runs a Python script that may `import nbd`; it must succeed. Resolves to what it printed, parsed as JSON. */
  async python<T>(script: string, ...args: string[]): Promise<T> {
    const { stdout } = await run('chroot', [this.#tree, 'python3', '-', ...args], { input: script });
    return JSON.parse(stdout) as T;
  }

  dispose(): void {
    rmSync(this.directory, { recursive: true, force: true });
  }
}
