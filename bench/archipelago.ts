/** This project's node as a contender, in its default placement. */
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import type { DiskKind, Task } from './cells.js';
import { type Client, type Contender, type Disk, type Fill, firstLine, reach } from './contender.js';
import { run } from './process.js';
import type { Build } from './suite.js';

/** Where this build's compiled command line tools are. */
const OWN_BIN = process.env.ARCHIPELAGO_TEST_BIN ?? path.resolve(import.meta.dirname, '../cli');

export interface NodeOptions {
  /** Bytes of every disk; a whole number of MiB. */
  readonly diskSize: number;
  /** The settings of the two blockers; those of files in `dir` when absent. */
  readonly blockers?: { readonly blockerb: readonly string[]; readonly blockerm: readonly string[] };
  /** Path of the Node that runs it; the one that runs this when absent. */
  readonly node?: string;
  /** Another build than this one. */
  readonly build?: Build;
  /** Lines of further sections of its configuration. */
  readonly configuration?: readonly string[];
  /** Puts a 4 KiB write into each of so many blocks of a disk: the volume that timed cells work on. */
  readonly allocate?: (client: Client, size: number) => Promise<void>;
}

/** Bytes that all blocks take: only differences say something about one disk. */
async function allocated(blocks: string): Promise<number> {
  return Number((await run('du', ['-s', '-B1', blocks])).split('\t')[0]);
}

export class Archipelago implements Contender {
  readonly id: string;
  readonly title: string;
  readonly own: boolean;
  readonly #dir: string;
  readonly #options: NodeOptions;
  #count = 0;
  #snapshot: string | null = null;
  #large: string | null = null;

  constructor(dir: string, options: NodeOptions) {
    this.id = options.build?.name ?? 'archipelago';
    this.title = options.build ? `archipelago, ${options.build.name}` : 'archipelago';
    this.own = options.build !== undefined;
    this.#dir = path.join(dir, this.id);
    this.#options = options;
  }

  async version(): Promise<string> {
    return `archipelago, node ${firstLine(await run(this.#node, ['--version']))}`;
  }

  get #node(): string {
    return this.#options.node ?? process.execPath;
  }

  #tool(tool: string, ...args: string[]): Promise<string> {
    const bin = this.#options.build?.bin ?? OWN_BIN;
    return run(this.#node, [path.join(bin, `${tool}.js`), '-c', path.join(this.#dir, 'conf'), ...args]);
  }

  async start(): Promise<void> {
    const dir = this.#dir;
    for (const name of ['maps', 'blocks', 'run', 'log']) mkdirSync(path.join(dir, name), { recursive: true });
    const group = firstLine(await run('id', ['-gn']));
    const { blockerb, blockerm } = this.#options.blockers ?? {
      blockerb: [`archip_dir = ${dir}/blocks`],
      blockerm: [`archip_dir = ${dir}/maps`],
    };
    const conf = [
      ['[ARCHIPELAGO]', `USER = ${os.userInfo().username}`, `GROUP = ${group}`],
      [`RUN_DIR = ${dir}/run`, `LOG_DIR = ${dir}/log`, 'LOG = file'],
      ['[XSEG]', `SEGMENT_NAME = bench-${process.pid}${this.own ? `-${this.id}` : ''}`],
      ['[blockerb]', ...blockerb],
      ['[blockerm]', ...blockerm],
      ['[nbd]', `socket = ${dir}/nbd.sock`, 'listen ='],
      this.#options.configuration ?? [],
    ];
    writeFileSync(path.join(dir, 'conf'), `${conf.flat().join('\n')}\n`);
    await this.#tool('archipelago', 'start');
  }

  async stop(): Promise<void> {
    await this.#tool('archipelago', 'stop', '-f');
  }

  servers(): readonly number[] {
    const run = path.join(this.#dir, 'run');
    const files = readdirSync(run).filter((name) => name.endsWith('.pid'));
    return [...new Set(files.map((name) => Number(readFileSync(path.join(run, name), 'utf8'))))];
  }

  /** How clients reach a volume. */
  reach(volume: string): Pick<Disk, 'client' | 'uri'> {
    return reach(`nbd+unix:///${volume}?socket=${this.#dir}/nbd.sock`);
  }

  #create(volume: string, size: number): Promise<string> {
    return this.#tool('vlmc', 'create', volume, '--size', String(size / 2 ** 20));
  }

  async disk(kind: DiskKind, fill: Fill): Promise<Disk | null> {
    this.#count += 1;
    const name = `bench-${kind}-${this.#count}`;
    if (kind === 'clone' || kind === 'clone-read') {
      this.#snapshot ??= await this.#makeSnapshot(fill);
      await this.#tool('vlmc', 'create', name, '--snap', this.#snapshot);
    } else {
      await this.#create(name, this.#options.diskSize);
      if (kind === 'filled') await fill(this.reach(name).client);
    }
    return {
      ...this.reach(name),
      limit: async (bytesPerSecond) => {
        await this.#tool('vlmc', 'limit', name, '--bps', String(bytesPerSecond));
      },
      ...(this.#options.blockers ? {} : { allocated: () => allocated(path.join(this.#dir, 'blocks')) }),
      dispose: async () => {
        await this.#tool('vlmc', 'remove', name);
      },
    };
  }

  async #makeSnapshot(fill: Fill): Promise<string> {
    await this.#create('bench-parent', this.#options.diskSize);
    await fill(this.reach('bench-parent').client);
    await this.#tool('vlmc', 'snapshot', 'bench-parent', 'bench-snapshot');
    return 'bench-snapshot';
  }

  async time(task: Task): Promise<number> {
    this.#large ??= await this.#makeLarge(task.size);
    this.#count += 1;
    const name = `bench-timed-${this.#count}`;
    const commands = {
      nothing: ['--version'],
      snapshot: ['snapshot', this.#large, name],
      clone: ['create', name, '--snap', `${this.#large}-snapshot`],
    };
    const began = performance.now();
    await this.#tool('vlmc', ...commands[task.what]);
    const took = performance.now() - began;
    if (task.what !== 'nothing') await this.#tool('vlmc', 'remove', name);
    return took;
  }

  /** The volume that is snapshotted, and a snapshot of it that is cloned. */
  async #makeLarge(size: number): Promise<string> {
    const name = 'bench-large';
    await this.#create(name, size);
    await this.#options.allocate?.(this.reach(name).client, size);
    await this.#tool('vlmc', 'snapshot', name, `${name}-snapshot`);
    return name;
  }
}
