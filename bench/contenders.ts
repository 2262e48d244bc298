/**
 * Who is measured: this project's node and the peers that are installed. Each serves its disks on a unix socket, from files below one
 * directory, and gives a disk of the kind that a cell asks for.
 */
import { accessSync, constants, mkdirSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { DISK_SIZE, type DiskKind } from './cells.js';
import { run, Server } from './process.js';

/** A disk that a client can use, and the way to get rid of it. */
export interface Disk {
  readonly uri: string;
  dispose(): Promise<void>;
}

export interface Contender {
  readonly id: string;
  readonly title: string;
  /** What it is, for the report: program and version. */
  version(): Promise<string>;
  start(): Promise<void>;
  stop(): Promise<void>;
  /**
   * A disk of DISK_SIZE, or null when it has nothing of that kind.
   * @param fill writes every byte of the export at this URI
   */
  disk(kind: DiskKind, fill: (uri: string) => Promise<void>): Promise<Disk | null>;
}

function hasProgram(name: string): boolean {
  return (process.env.PATH ?? '').split(':').some((directory) => {
    try {
      accessSync(path.join(directory, name), constants.X_OK);
      return true;
    } catch {
      return false;
    }
  });
}

const firstLine = (text: string): string => text.trim().split('\n')[0];

/** Where the compiled command line tools are. */
const bin = process.env.ARCHIPELAGO_TEST_BIN ?? path.resolve(import.meta.dirname, '../cli');

/** This project, in its default placement, with file blockers. */
class Archipelago implements Contender {
  readonly id = 'archipelago';
  readonly title = 'archipelago';
  readonly #dir: string;
  #count = 0;
  #snapshot: string | null = null;

  constructor(dir: string) {
    this.#dir = path.join(dir, this.id);
  }

  async version(): Promise<string> {
    return `archipelago, node ${process.version}`;
  }

  #tool(tool: string, ...args: string[]): Promise<string> {
    return run(process.execPath, [path.join(bin, `${tool}.js`), '-c', path.join(this.#dir, 'conf'), ...args]);
  }

  async start(): Promise<void> {
    const dir = this.#dir;
    for (const name of ['maps', 'blocks', 'run', 'log']) mkdirSync(path.join(dir, name), { recursive: true });
    const group = firstLine(await run('id', ['-gn']));
    const conf = [
      ['[ARCHIPELAGO]', `USER = ${os.userInfo().username}`, `GROUP = ${group}`],
      [`RUN_DIR = ${dir}/run`, `LOG_DIR = ${dir}/log`, 'LOG = file'],
      ['[XSEG]', `SEGMENT_NAME = bench-${process.pid}`],
      ['[blockerb]', `archip_dir = ${dir}/blocks`],
      ['[blockerm]', `archip_dir = ${dir}/maps`],
      ['[nbd]', `socket = ${dir}/nbd.sock`, 'listen ='],
    ];
    writeFileSync(path.join(dir, 'conf'), `${conf.flat().join('\n')}\n`);
    await this.#tool('archipelago', 'start');
  }

  async stop(): Promise<void> {
    await this.#tool('archipelago', 'stop', '-f');
  }

  #uri(volume: string): string {
    return `nbd+unix:///${volume}?socket=${this.#dir}/nbd.sock`;
  }

  async disk(kind: DiskKind, fill: (uri: string) => Promise<void>): Promise<Disk> {
    this.#count += 1;
    const name = `bench-${kind}-${this.#count}`;
    const size = ['--size', String(DISK_SIZE >> 20)];
    if (kind === 'clone') {
      this.#snapshot ??= await this.#makeSnapshot(fill);
      await this.#tool('vlmc', 'create', name, '--snap', this.#snapshot);
    } else {
      await this.#tool('vlmc', 'create', name, ...size);
      if (kind === 'filled') await fill(this.#uri(name));
    }
    return {
      uri: this.#uri(name),
      dispose: async () => {
        await this.#tool('vlmc', 'remove', name);
      },
    };
  }

  async #makeSnapshot(fill: (uri: string) => Promise<void>): Promise<string> {
    await this.#tool('vlmc', 'create', 'bench-parent', '--size', String(DISK_SIZE >> 20));
    await fill(this.#uri('bench-parent'));
    await this.#tool('vlmc', 'snapshot', 'bench-parent', 'bench-snapshot');
    return 'bench-snapshot';
  }
}

/** A server of one file: each disk is a process of its own. */
abstract class FileServer implements Contender {
  abstract readonly id: string;
  abstract readonly title: string;
  protected readonly dir: string;
  #count = 0;

  constructor(dir: string, id: string) {
    this.dir = path.join(dir, id);
  }

  abstract version(): Promise<string>;
  protected abstract serve(file: string, socket: string): Promise<Server>;
  /** Makes the file of a disk; false when there is nothing of that kind. */
  protected abstract make(file: string, kind: DiskKind, fill: (uri: string) => Promise<void>): Promise<boolean>;
  protected abstract uri(socket: string): string;

  async start(): Promise<void> {
    mkdirSync(this.dir, { recursive: true });
  }

  async stop(): Promise<void> {}

  async disk(kind: DiskKind, fill: (uri: string) => Promise<void>): Promise<Disk | null> {
    this.#count += 1;
    const file = path.join(this.dir, `${kind}-${this.#count}`);
    if (!(await this.make(file, kind, fill))) return null;
    const disk = await this.open(file);
    if (kind === 'filled') await fill(disk.uri);
    return disk;
  }

  /** Serves a file until it is disposed of, file and all. */
  protected async open(file: string): Promise<Disk> {
    const socket = `${file}.sock`;
    const server = await this.serve(file, socket);
    return {
      uri: this.uri(socket),
      dispose: async () => {
        await server.stop();
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

  protected uri(socket: string): string {
    return `nbd+unix:///?socket=${socket}`;
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

  protected uri(socket: string): string {
    return `nbd+unix:///disk?socket=${socket}`;
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

  protected async make(file: string, kind: DiskKind, fill: (uri: string) => Promise<void>): Promise<boolean> {
    // An empty disk has nothing to be a clone of; every other one has the full base below it.
    if (kind === 'fresh') {
      await run('qemu-img', ['create', '-q', '-f', 'qcow2', file, String(DISK_SIZE)]);
    } else {
      this.#base ??= await this.#makeBase(fill);
      await run('qemu-img', ['create', '-q', '-f', 'qcow2', '-b', this.#base, '-F', 'qcow2', file]);
    }
    return true;
  }

  async #makeBase(fill: (uri: string) => Promise<void>): Promise<string> {
    const file = path.join(this.dir, 'base.qcow2');
    await run('qemu-img', ['create', '-q', '-f', 'qcow2', file, String(DISK_SIZE)]);
    const socket = `${file}.sock`;
    const server = await this.serve(file, socket);
    await fill(this.uri(socket));
    await server.stop();
    rmSync(socket, { force: true });
    return file;
  }
}

/** Everybody who can take part here, this project first; `missing` says who cannot and why. */
export function contenders(dir: string): { present: Contender[]; missing: string[] } {
  const missing: string[] = [];
  const present: Contender[] = [new Archipelago(dir)];
  if (hasProgram('nbdkit')) present.push(new Nbdkit(dir, 'nbdkit'));
  else missing.push('nbdkit file (nbdkit is not installed)');
  if (hasProgram('qemu-nbd') && hasProgram('qemu-img')) {
    present.push(new QemuRaw(dir, 'qemu-raw'), new QemuQcow2(dir, 'qemu-qcow2'));
  } else {
    missing.push('qemu-nbd raw, qemu-nbd qcow2 (qemu-utils is not installed)');
  }
  return { present, missing };
}
