/** Ceph's own: RBD images through qemu-nbd and through fio, and `rados bench`, which knows objects only. */
import { mkdirSync, rmSync } from 'node:fs';
import path from 'node:path';
import { BLOCK, type Cell, type DiskKind, type Task } from './cells.js';
import { type Client, type Contender, type Disk, type Fill, firstLine, reach } from './contender.js';
import { run, Server } from './process.js';

export interface CephOptions {
  /** Path of ceph.conf. */
  readonly conf: string;
  /** Bytes of every image. */
  readonly diskSize: number;
  /** Writes into blocks of the large image that timed cells work on. */
  readonly allocate: (client: Client, size: number) => Promise<void>;
}

/** Images of one pool, made by `rbd`. */
abstract class Images implements Contender {
  abstract readonly id: string;
  abstract readonly title: string;
  protected readonly options: CephOptions;
  #count = 0;
  #snapshot: string | null = null;
  #large: string | null = null;

  constructor(options: CephOptions) {
    this.options = options;
  }

  abstract version(): Promise<string>;
  async start(): Promise<void> {}
  async stop(): Promise<void> {}

  /** Gives a client access to an image. */
  protected abstract open(image: string): Promise<Disk>;

  protected rbd(...args: string[]): Promise<string> {
    return run('rbd', ['-c', this.options.conf, '--pool', 'rbd', ...args]);
  }

  #name(what: string): string {
    this.#count += 1;
    return `${this.id}-${what}-${this.#count}`;
  }

  #create(image: string, size: number): Promise<string> {
    return this.rbd('create', image, '--size', `${size / 2 ** 20}M`, '--object-size', String(BLOCK));
  }

  async disk(kind: DiskKind, fill: Fill): Promise<Disk | null> {
    const image = this.#name(kind);
    if (kind === 'clone') {
      this.#snapshot ??= await this.#makeSnapshot(fill);
      await this.#clone(this.#snapshot, image);
    } else {
      await this.#create(image, this.options.diskSize);
    }
    const disk = await this.open(image);
    if (kind === 'filled') await fill(disk.client);
    return {
      client: disk.client,
      dispose: async () => {
        await disk.dispose();
        await this.rbd('rm', image);
      },
    };
  }

  #clone(snapshot: string, image: string): Promise<string> {
    // Format 2: the snapshot need not be protected, which is another command.
    return this.rbd('clone', '--rbd-default-clone-format', '2', snapshot, image);
  }

  async #makeSnapshot(fill: Fill): Promise<string> {
    const image = this.#name('parent');
    await this.#create(image, this.options.diskSize);
    const disk = await this.open(image);
    await fill(disk.client);
    await disk.dispose();
    await this.rbd('snap', 'create', `${image}@snapshot`);
    return `${image}@snapshot`;
  }

  protected async timed({ what, size }: Task): Promise<number> {
    this.#large ??= await this.#makeLarge(size);
    const name = this.#name('timed');
    const large = this.#large;
    const began = performance.now();
    if (what === 'nothing') await this.rbd('--version');
    else if (what === 'snapshot') await this.rbd('snap', 'create', `${large}@${name}`);
    else await this.#clone(`${large}@snapshot`, name);
    const took = performance.now() - began;
    if (what !== 'nothing')
      await (what === 'snapshot' ? this.rbd('snap', 'rm', `${large}@${name}`) : this.rbd('rm', name));
    return took;
  }

  async #makeLarge(size: number): Promise<string> {
    const image = this.#name('large');
    await this.#create(image, size);
    const disk = await this.open(image);
    await this.options.allocate(disk.client, size);
    await disk.dispose();
    await this.rbd('snap', 'create', `${image}@snapshot`);
    return image;
  }
}

/** qemu-nbd's rbd driver: librbd behind NBD, what a user of RBD has beside this project. */
export class QemuRbd extends Images {
  readonly id = 'qemu-rbd';
  readonly title = 'qemu-nbd rbd:';
  readonly #dir: string;
  readonly #servers = new Set<Server>();

  constructor(dir: string, options: CephOptions) {
    super(options);
    this.#dir = path.join(dir, this.id);
  }

  async version(): Promise<string> {
    return firstLine(await run('qemu-nbd', ['--version']));
  }

  override async start(): Promise<void> {
    mkdirSync(this.#dir, { recursive: true });
  }

  servers(): readonly number[] {
    return [...this.#servers].map((server) => server.pid);
  }

  time(task: Task): Promise<number> {
    return this.timed(task);
  }

  protected async open(image: string): Promise<Disk> {
    const socket = path.join(this.#dir, `${image}.sock`);
    const file = `rbd:rbd/${image}:conf=${this.options.conf}:rbd_cache=false`;
    // The cache mode decides about rbd_cache as well; qemu-nbd takes at most 16 requests of a connection at a time.
    const args = ['-t', '-e', '16', '-x', 'disk', '-f', 'raw', '--cache=none', '--discard=unmap', '-k', socket, file];
    const server = await Server.start('qemu-nbd', args, socket);
    this.#servers.add(server);
    return {
      ...reach(`nbd+unix:///disk?socket=${socket}`),
      dispose: async () => {
        await server.stop();
        this.#servers.delete(server);
        rmSync(socket, { force: true });
      },
    };
  }
}

/** fio's own rbd engine: librbd without NBD and without another process. */
export class FioRbd extends Images {
  readonly id = 'fio-rbd';
  readonly title = 'librbd in fio, no NBD';

  async version(): Promise<string> {
    return firstLine(await run('rbd', ['--version']));
  }

  override async disk(kind: DiskKind, fill: Fill): Promise<Disk | null> {
    // What librbd does with clones, qemu-nbd shows.
    return kind === 'clone' ? null : super.disk(kind, fill);
  }

  protected async open(image: string): Promise<Disk> {
    return {
      client: ['--ioengine=rbd', '--clientname=admin', '--pool=rbd', `--rbdname=${image}`],
      dispose: async () => {},
    };
  }
}

interface BenchReport {
  readonly average_iops: string;
  readonly bandwidth: string;
}

/**
 * `rados bench` on objects of 4 MiB. Reads are at random of objects written before; its writes always make new objects, which they fill from
 * begin to end.
 */
export class RadosBench implements Contender {
  readonly id = 'rados-bench';
  readonly title = 'rados bench';
  readonly #options: CephOptions;
  readonly #written = new Set<number>();

  constructor(options: CephOptions) {
    this.#options = options;
  }

  async version(): Promise<string> {
    return firstLine(await run('rados', ['--version']));
  }

  async start(): Promise<void> {}
  async stop(): Promise<void> {}

  async disk(): Promise<null> {
    return null;
  }

  async measure({ load, unit }: Cell, seconds: number): Promise<number | null> {
    if (!load) return null;
    const { write, bytes, depth } = load;
    let report: BenchReport;
    if (write) {
      report = await this.#write('scratch', bytes, depth, seconds);
      await this.#rados('cleanup', '--run-name', 'scratch');
    } else {
      const name = `objects-${bytes}`;
      if (!this.#written.has(bytes)) {
        await this.#write(name, bytes, 16, 3);
        this.#written.add(bytes);
      }
      report = await this.#bench(seconds, 'rand', '-t', String(depth), '--run-name', name);
    }
    return Number(unit === 'IOPS' ? report.average_iops : report.bandwidth);
  }

  #rados(...args: string[]): Promise<string> {
    return run('rados', ['-c', this.#options.conf, '--pool', 'bench', ...args]);
  }

  async #bench(seconds: number, ...args: string[]): Promise<BenchReport> {
    const text = await this.#rados('bench', String(seconds), ...args, '--format', 'json');
    return JSON.parse(text.slice(text.indexOf('{'))) as BenchReport;
  }

  /** Ends early when four times as much is written as a disk has: the cluster's room is limited. */
  #write(name: string, bytes: number, depth: number, seconds: number): Promise<BenchReport> {
    const objects = ['--run-name', name, '--no-cleanup', '--max-objects', String((4 * this.#options.diskSize) / BLOCK)];
    return this.#bench(seconds, 'write', '-b', String(bytes), '-O', String(BLOCK), '-t', String(depth), ...objects);
  }
}
