/** Virtual machines on volumes: starts one, talks to its serial console, waits for its end. The scripts are in scripts/rigs. */
import type { ChildProcess } from 'node:child_process';
import path from 'node:path';
import { ended, killGroup, run, start } from './run.js';

const rigs = path.resolve(import.meta.dirname, '../../../scripts/rigs');

/** A kernel and an initramfs to boot it with. */
export interface Boot {
  readonly kernel: string;
  readonly initramfs: string;
}

/**
 * Builds (or finds in the cache) an initramfs around one of scripts/rigs/guest.
 * @param programs of this machine that the guest needs, with their libraries
 * @param kernelOf which script of scripts/rigs says what kernel: that of a virtual machine, or the one that is a program
 */
export async function buildBoot(
  guest: string,
  modules: readonly string[],
  programs: readonly string[] = [],
  kernelOf: 'kernel.sh' | 'uml-kernel.sh' = 'kernel.sh',
): Promise<Boot> {
  const args = [path.join(rigs, 'guest', `${guest}.sh`), modules.join(' '), ...programs];
  const env = { ...process.env, ARCHIPELAGO_TEST_KERNEL: kernelOf };
  const { stdout } = await run(path.join(rigs, 'initramfs.sh'), args, { timeout: 300_000, env });
  const [kernel, initramfs] = stdout.trim().split(' ');
  return { kernel, initramfs };
}

/** Builds (or finds in the cache) the disk image of a small Debian; resolves to its path. */
export async function buildDebianImage(): Promise<string> {
  return (await run(path.join(rigs, 'debian-image.sh'), [], { timeout: 600_000 })).stdout.trim();
}

/** Fetches (or finds in the cache) qemu's guest agent, a program for `buildBoot`; resolves to its path. */
export async function buildGuestAgent(): Promise<string> {
  return (await run(path.join(rigs, 'guest-agent.sh'), [], { timeout: 300_000 })).stdout.trim();
}

/** A running machine. */
export class Machine {
  readonly #child: ChildProcess;
  readonly #ended: Promise<{ code: number | null; signal: NodeJS.Signals | null }>;
  #over = false;
  #console = '';
  #stderr = '';
  /** Where the next expectation begins to look. */
  #seen = 0;
  readonly #watchers = new Set<() => void>();

  /**
   * @param runs which script of scripts/rigs runs it
   * @param memory file that an emulated machine of qemu.sh has its memory in, for one that moves; made when it is not there
   */
  constructor(
    boot: Boot,
    commandLine: string,
    args: readonly string[],
    runs: 'qemu.sh' | 'uml.sh' = 'qemu.sh',
    memory = '',
  ) {
    this.#child = start(path.join(rigs, runs), [boot.kernel, boot.initramfs, commandLine, ...args], {
      stdio: ['pipe', 'pipe', 'pipe'],
      env: { ARCHIPELAGO_TEST_GUEST_MEMORY: memory },
    });
    this.#child.stdin?.on('error', () => {});
    this.#child.stdout?.setEncoding('utf8').on('data', (text: string) => {
      this.#console += text.replaceAll('\r', '');
      for (const watch of this.#watchers) watch();
    });
    this.#child.stderr?.setEncoding('utf8').on('data', (text: string) => {
      this.#stderr += text;
    });
    this.#ended = ended(this.#child).finally(() => {
      this.#over = true;
      for (const watch of this.#watchers) watch();
    });
    // Whoever waits gets the error; nobody may be waiting yet.
    this.#ended.catch(() => {});
  }

  /** Process of qemu; undefined when it has ended. */
  get pid(): number | undefined {
    return this.#over ? undefined : this.#child.pid;
  }

  /** All that the console showed. */
  get console(): string {
    return this.#console;
  }

  type(line: string): void {
    this.#child.stdin?.write(`${line}\n`);
  }

  /**
   * Waits until the console shows `pattern` after what earlier calls matched; resolves to the match.
   * @throws when the machine ends first or `timeout` ms pass, with the end of the console
   */
  expect(pattern: RegExp, timeout: number): Promise<RegExpExecArray> {
    return new Promise((resolve, reject) => {
      const done = (): void => {
        clearTimeout(timer);
        this.#watchers.delete(look);
      };
      const fail = (why: string): void => {
        done();
        reject(new Error(`${why}, waiting for ${pattern}:\n${this.#console.slice(-4000)}\n${this.#stderr}`));
      };
      const look = (): void => {
        const match = pattern.exec(this.#console.slice(this.#seen));
        if (match) {
          this.#seen += match.index + match[0].length;
          done();
          resolve(match);
        } else if (this.#over) {
          fail('the machine ended');
        }
      };
      const timer = setTimeout(() => fail(`nothing for ${timeout} ms`), timeout);
      this.#watchers.add(look);
      look();
    });
  }

  /** Waits until the machine has powered off. @throws after `timeout` ms, or when qemu failed */
  async off(timeout: number): Promise<void> {
    const timer = setTimeout(() => this.kill(), timeout);
    const { code, signal } = await this.#ended;
    clearTimeout(timer);
    if (code !== 0) {
      throw new Error(`qemu: ${signal ?? `exit status ${code}`}\n${this.#console.slice(-4000)}\n${this.#stderr}`);
    }
  }

  /** Pulls the plug. */
  kill(): void {
    if (!this.#over) killGroup(this.#child);
  }
}
