/** A Ganeti cluster of two nodes in namespaces (scripts/rigs/ganeti-cluster.sh), each with a node of this project on one shared directory. */
import { mkdtempSync, readdirSync, readFileSync, readlinkSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { guard, unguard } from '../e2e/harness/guard.js';
import { attempt, type Outcome, run } from '../e2e/harness/run.js';
import { buildBoot } from '../e2e/harness/vm.js';

const rigs = path.resolve(import.meta.dirname, '../../scripts/rigs');
const rig = path.join(rigs, 'ganeti-cluster.sh');
/** Milliseconds that one command of Ganeti may take on a loaded machine, guests under emulation included. */
const LIMIT = 300_000;
/** MiB of memory of an instance. */
const MEMORY = 256;

/** Number of a node; 1 is the master. */
export type Node = 1 | 2;
export const nodes = [1, 2] as const;

export class Cluster {
  /** Everything of the cluster is below it. */
  readonly dir: string;
  #memories = 0;

  private constructor(dir: string) {
    this.dir = dir;
  }

  /**
   * Starts a cluster whose instances boot a guest of scripts/rigs/guest with these kernel modules; builds what is not in the cache.
   * @throws when it does not start, with all that was said
   */
  static async start(guest: string, modules: readonly string[]): Promise<Cluster> {
    const boot = await buildBoot(guest, modules);
    await run(path.join(rigs, 'ganeti-tree.sh'), [], { timeout: 1_200_000 });
    const dir = mkdtempSync(path.join(os.tmpdir(), 'archipelago-ganeti-'));
    guard(dir);
    const cluster = new Cluster(dir);
    try {
      const env = { ARCHIPELAGO_GANETI_BOOT: `${boot.kernel} ${boot.initramfs}` };
      await run(rig, ['start', dir], { env, timeout: LIMIT });
    } catch (error) {
      await cluster.stop();
      throw error;
    }
    return cluster;
  }

  /** Runs a program on a node; it must succeed. Resolves to what it printed. */
  async on(node: Node, ...command: string[]): Promise<string> {
    return (await run(rig, ['run', this.dir, `${node}`, ...command], { timeout: LIMIT })).stdout;
  }

  /** Runs a program on a node, whatever it says. */
  tryOn(node: Node, ...command: string[]): Promise<Outcome> {
    return attempt(rig, ['run', this.dir, `${node}`, ...command], { timeout: LIMIT });
  }

  /** Runs a command of Ganeti on the master; it must succeed. */
  gnt(...command: string[]): Promise<string> {
    return this.on(1, ...command);
  }

  /**
   * Options of a new instance: its memory is a file that both nodes see, so that it runs until the other node's qemu has it when it moves, and none of it is
   * sent, which emulators do not survive (docs/testing.md).
   */
  memory(): string[] {
    const file = `/srv/shared/memory/${this.#memories++}`;
    const backend = `memory-backend-file,id=memory,size=${MEMORY}M,mem-path=${file},share=on`;
    const extra = `-object ${backend} -machine memory-backend=memory`;
    // Ganeti takes a comma for the end of a parameter.
    return ['-B', `memory=${MEMORY}`, '-H', `kvm:kvm_extra=${extra.replaceAll(',', '\\,')}`];
  }

  /** Fields of an instance, e.g. `pnode`, `status`. */
  async instance(name: string, field: string): Promise<string> {
    return (await this.gnt('gnt-instance', 'list', '--no-headers', '-o', field, name)).trim();
  }

  /** The node that an instance runs on, or would. */
  async primary(instance: string): Promise<Node> {
    return (await this.instance(instance, 'pnode')) === 'node1.gnt.test' ? 1 : 2;
  }

  /** All volumes and snapshots. */
  async volumes(): Promise<{ name: string; size: number }[]> {
    return (await this.vlmc<{ volumes: { name: string; size: number }[] }>(1, 'list')).volumes;
  }

  /** Whose lock a volume has; null when nobody's. */
  async holder(volume: string): Promise<string | null> {
    const { lock } = await this.vlmc<{ lock: { owner: string } | null }>(1, 'lock', volume, '--show');
    return lock?.owner ?? null;
  }

  /** What `vlmc … --json` prints on a node. */
  async vlmc<T>(node: Node, ...args: string[]): Promise<T> {
    return JSON.parse(await this.on(node, 'vlmc', '--json', ...args)) as T;
  }

  /** The host's path of a file on a node. */
  path(node: Node, file: string): string {
    return path.join(`/proc/${this.#pid(node)}/root`, file);
  }

  /** URI of a volume's export on a node, for clients on the host. */
  uri(node: Node, volume: string): string {
    return `nbd+unix:///${volume}?socket=${this.path(node, '/run/archipelago/nbd.sock')}`;
  }

  /** The host's number of the qemu that a guest is in on a node. */
  guestPid(node: Node, instance: string): number | undefined {
    const space = readlinkSync(`/proc/${this.#pid(node)}/ns/pid`);
    return readdirSync('/proc')
      .filter((name) => /^\d+$/.test(name))
      .map(Number)
      .find((pid) => {
        try {
          const words = readFileSync(`/proc/${pid}/cmdline`, 'latin1').split('\0');
          return words[words.indexOf('-name') + 1] === instance && readlinkSync(`/proc/${pid}/ns/pid`) === space;
        } catch {
          // It has ended meanwhile.
          return false;
        }
      });
  }

  /** Ends all processes of a node at once, as a power cut of it does. */
  cut(node: Node): void {
    process.kill(this.#pid(node), 'SIGKILL');
  }

  #pid(node: Node): number {
    return Number(readFileSync(path.join(this.dir, `node${node}.pid`), 'utf8'));
  }

  /** The ends of the logs of what runs on the nodes, for a person. */
  async logs(): Promise<string> {
    const script =
      'tail -n 40 /var/log/archipelago/*.log; tail -n 25 /var/log/ganeti/node-daemon.log /var/log/ganeti/jobs.log /var/log/ganeti/kvm/*; ls -l /core*';
    const texts = await Promise.all(
      nodes.map(async (node) => `=== node ${node}\n${(await this.tryOn(node, 'sh', '-c', script)).stdout}`),
    );
    return texts.join('\n');
  }

  /** Ends everything of the cluster and removes it. */
  async stop(): Promise<void> {
    await run(rig, ['stop', this.dir]);
    rmSync(this.dir, { recursive: true, force: true });
    unguard(this.dir);
  }
}
