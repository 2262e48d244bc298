/**
 * Who is measured on files: this project's node and the peers that are installed. Each serves its disks on a unix socket, from files below
 * one directory, and gives a disk of the kind that a cell asks for.
 */
import { mkdirSync, rmSync } from 'node:fs';
import path from 'node:path';
import { Archipelago } from './archipelago.js';
import { cells, DISK_SIZE, type DiskKind } from './cells.js';
import { type Client, type Contender, type Disk, type Fill, firstLine, hasProgram, nbd } from './contender.js';
import { run, Server } from './process.js';
import type { Suite } from './suite.js';

/** A server of one file: each disk is a process of its own. */
abstract class FileServer implements Contender {
  abstract readonly id: string;
  abstract readonly title: string;
  protected readonly dir: string;
  readonly #servers = new Set<Server>();
  #count = 0;

  constructor(dir: string, id: string) {
    this.dir = path.join(dir, id);
  }

  abstract version(): Promise<string>;
  protected abstract serve(file: string, socket: string): Promise<Server>;
  /** Makes the file of a disk; false when there is nothing of that kind. */
  protected abstract make(file: string, kind: DiskKind, fill: Fill): Promise<boolean>;
  protected abstract client(socket: string): Client;

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
      client: this.client(socket),
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
class Nbdkit extends FileServer {
  readonly id = 'nbdkit';
  readonly title = 'nbdkit file';

  async version(): Promise<string> {
    return firstLine(await run('nbdkit', ['--version']));
  }

  protected serve(file: string, socket: string): Promise<Server> {
    return Server.start('nbdkit', ['-f', '-U', socket, 'file', file], socket);
  }

  protected client(socket: string): Client {
    return nbd(`nbd+unix:///?socket=${socket}`);
  }

  protected async make(file: string, kind: DiskKind): Promise<boolean> {
    if (kind === 'clone') return false;
    await run('truncate', ['-s', String(DISK_SIZE), file]);
    return true;
  }
}

abstract class QemuNbd extends FileServer {
  async version(): Promise<string> {
    return firstLine(await run('qemu-nbd', ['--version']));
  }

  protected abstract readonly format: string;

  protected serve(file: string, socket: string): Promise<Server> {
    const cache = ['--cache=writeback', '--aio=io_uring', '--discard=unmap'];
    return Server.start(
      'qemu-nbd',
      ['-t', '-e', '16', '-x', 'disk', '-f', this.format, ...cache, '-k', socket, file],
      socket,
    );
  }

  protected client(socket: string): Client {
    return nbd(`nbd+unix:///disk?socket=${socket}`);
  }
}

/** qemu-nbd on a raw file: no snapshots. */
class QemuRaw extends QemuNbd {
  readonly id = 'qemu-raw';
  readonly title = 'qemu-nbd raw';
  protected readonly format = 'raw';

  protected async make(file: string, kind: DiskKind): Promise<boolean> {
    if (kind === 'clone') return false;
    await run('truncate', ['-s', String(DISK_SIZE), file]);
    return true;
  }
}

/** qemu-nbd on qcow2 with a backing file: the peer that can do snapshots and clones. */
class QemuQcow2 extends QemuNbd {
  readonly id = 'qemu-qcow2';
  readonly title = 'qemu-nbd qcow2, backing file';
  protected readonly format = 'qcow2';
  #base: string | null = null;

  protected async make(file: string, kind: DiskKind, fill: Fill): Promise<boolean> {
    // An empty disk has nothing to be a clone of; every other one has the full base below it.
    if (kind === 'fresh') {
      await run('qemu-img', ['create', '-q', '-f', 'qcow2', file, String(DISK_SIZE)]);
    } else {
      this.#base ??= await this.#makeBase(fill);
      await run('qemu-img', ['create', '-q', '-f', 'qcow2', '-b', this.#base, '-F', 'qcow2', file]);
    }
    return true;
  }

  async #makeBase(fill: Fill): Promise<string> {
    const file = path.join(this.dir, 'base.qcow2');
    await run('qemu-img', ['create', '-q', '-f', 'qcow2', file, String(DISK_SIZE)]);
    const socket = `${file}.sock`;
    const server = await this.serve(file, socket);
    await fill(this.client(socket));
    await server.stop();
    rmSync(socket, { force: true });
    return file;
  }
}

/** The suite on files. */
export const fileSuite: Suite = {
  name: 'files',
  title: 'NBD servers side by side',
  diskSize: DISK_SIZE,
  cells,
  references: [],

  async contenders(dir) {
    const missing: string[] = [];
    const present: Contender[] = [new Archipelago(dir, { diskSize: DISK_SIZE })];
    if (hasProgram('nbdkit')) present.push(new Nbdkit(dir, 'nbdkit'));
    else missing.push('nbdkit file (nbdkit is not installed)');
    if (hasProgram('qemu-nbd') && hasProgram('qemu-img')) {
      present.push(new QemuRaw(dir, 'qemu-raw'), new QemuQcow2(dir, 'qemu-qcow2'));
    } else {
      missing.push('qemu-nbd raw, qemu-nbd qcow2 (qemu-utils is not installed)');
    }
    return { present, missing };
  },

  async store() {
    return {};
  },

  async stop() {},
};
