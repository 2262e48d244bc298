/**
 * The peers on files. Each serves its disks on a unix socket, from files below one directory, and gives a disk of the kind that a cell asks
 * for; all of them write back (a write is acknowledged before it is durable, FLUSH and FUA wait until it is) and all of them punch holes for trims.
 */
import { mkdirSync, rmSync, statSync } from 'node:fs';
import path from 'node:path';
import type { DiskKind } from './cells.js';
import { type Contender, type Disk, type Fill, firstLine, reach } from './contender.js';
import { run, Server } from './process.js';

const isClone = (kind: DiskKind): boolean => kind === 'clone' || kind === 'clone-read';

/** A server of one file: each disk is a process of its own. */
abstract class FileServer implements Contender {
  abstract readonly id: string;
  abstract readonly title: string;
  protected readonly diskSize: number;
  readonly #parent: string;
  readonly #servers = new Set<Server>();
  #count = 0;

  /** @param diskSize bytes of every disk */
  constructor(dir: string, diskSize: number) {
    this.#parent = dir;
    this.diskSize = diskSize;
  }

  /** Where its files are: a directory of its own below that of the run. */
  protected get dir(): string {
    return path.join(this.#parent, this.id);
  }

  abstract version(): Promise<string>;
  protected abstract serve(file: string, socket: string): Promise<Server>;
  /** Makes the file of a disk; false when there is nothing of that kind. */
  protected abstract make(file: string, kind: DiskKind, fill: Fill): Promise<boolean>;
  /** The URI of what is served on a socket. */
  protected abstract uri(socket: string): string;

  async start(): Promise<void> {
    mkdirSync(this.dir, { recursive: true });
  }

  async stop(): Promise<void> {}

  servers(): readonly number[] {
    return [...this.#servers].map((server) => server.pid);
  }

  async disk(kind: DiskKind, fill: Fill): Promise<Disk | null> {
    this.#count += 1;
    const file = path.join(this.dir, `${kind}-${this.#count}`);
    if (!(await this.make(file, kind, fill))) return null;
    const disk = await this.open(file);
    if (kind === 'filled') await fill(disk.client);
    return disk;
  }

  /** Serves a file until it is disposed of, file and all. */
  protected async open(file: string): Promise<Disk> {
    const socket = `${file}.sock`;
    const server = await this.serve(file, socket);
    this.#servers.add(server);
    return {
      ...reach(this.uri(socket)),
      allocated: async () => statSync(file).blocks * 512,
      dispose: async () => {
        await server.stop();
        this.#servers.delete(server);
        rmSync(socket, { force: true });
        rmSync(file);
      },
    };
  }
}

/** nbdkit's file plugin on a raw file: no snapshots. */
export class Nbdkit extends FileServer {
  readonly id = 'nbdkit';
  readonly title = 'nbdkit file';

  async version(): Promise<string> {
    return firstLine(await run('nbdkit', ['--version']));
  }

  protected serve(file: string, socket: string): Promise<Server> {
    return Server.start('nbdkit', ['-f', '-U', socket, 'file', file], socket);
  }

  protected uri(socket: string): string {
    return `nbd+unix:///?socket=${socket}`;
  }

  protected async make(file: string, kind: DiskKind): Promise<boolean> {
    if (isClone(kind)) return false;
    await run('truncate', ['-s', String(this.diskSize), file]);
    return true;
  }
}

abstract class QemuNbd extends FileServer {
  async version(): Promise<string> {
    return firstLine(await run('qemu-nbd', ['--version']));
  }

  protected abstract readonly format: string;
  protected readonly aio: 'io_uring' | 'threads' = 'io_uring';

  protected serve(file: string, socket: string): Promise<Server> {
    // Said although it is the default: writes of zeros stay writes, as they do with the others.
    const cache = ['--cache=writeback', `--aio=${this.aio}`, '--discard=unmap', '--detect-zeroes=off'];
    return Server.start(
      'qemu-nbd',
      ['-t', '-e', '16', '-x', 'disk', '-f', this.format, ...cache, '-k', socket, file],
      socket,
    );
  }

  protected uri(socket: string): string {
    return `nbd+unix:///disk?socket=${socket}`;
  }
}

/** qemu-nbd on a raw file: no snapshots. */
export class QemuRaw extends QemuNbd {
  readonly id: string = 'qemu-raw';
  readonly title: string = 'qemu-nbd raw';
  protected readonly format = 'raw';

  protected async make(file: string, kind: DiskKind): Promise<boolean> {
    if (isClone(kind)) return false;
    await run('truncate', ['-s', String(this.diskSize), file]);
    return true;
  }
}

/** The same with a pool of threads instead of io_uring. */
export class QemuThreads extends QemuRaw {
  override readonly id = 'qemu-threads';
  override readonly title = 'qemu-nbd raw, threads';
  protected override readonly aio = 'threads';
}

/** qemu-nbd on qcow2 with a backing file: the peer that can do snapshots and clones. */
export class QemuQcow2 extends QemuNbd {
  readonly id = 'qemu-qcow2';
  readonly title = 'qemu-nbd qcow2, backing file';
  protected readonly format = 'qcow2';
  #base: string | null = null;

  protected async make(file: string, kind: DiskKind, fill: Fill): Promise<boolean> {
    // An empty disk has nothing to be a clone of; the filled one has the full base below it, though nothing is read from there any more.
    if (!isClone(kind) && kind !== 'filled') {
      await run('qemu-img', ['create', '-q', '-f', 'qcow2', file, String(this.diskSize)]);
    } else {
      this.#base ??= await this.#makeBase(fill);
      await run('qemu-img', ['create', '-q', '-f', 'qcow2', '-b', this.#base, '-F', 'qcow2', file]);
    }
    return true;
  }

  async #makeBase(fill: Fill): Promise<string> {
    const file = path.join(this.dir, 'base.qcow2');
    await run('qemu-img', ['create', '-q', '-f', 'qcow2', file, String(this.diskSize)]);
    const socket = `${file}.sock`;
    const server = await this.serve(file, socket);
    await fill(reach(this.uri(socket)).client);
    await server.stop();
    rmSync(socket, { force: true });
    return file;
  }
}
