/** /sys, /proc and /dev of a machine with nbd devices, in a directory. */
import fs from 'node:fs';
import path from 'node:path';
import type { Context } from '../../../src/devices/context.js';
import { SECTOR, type SystemRoots } from '../../../src/devices/types.js';

export class FakeSystem {
  readonly roots: SystemRoots;
  readonly context: Context;
  /** What was logged. */
  readonly said: string[] = [];

  private constructor(dir: string) {
    this.roots = { sys: path.join(dir, 'sys'), proc: path.join(dir, 'proc'), dev: '/dev' };
    const runDir = path.join(dir, 'run');
    for (const made of [runDir, path.join(this.roots.sys, 'block'), this.roots.proc])
      fs.mkdirSync(made, { recursive: true });
    const say = (message: string): void => void this.said.push(message);
    const log = { debug: () => {}, info: say, warn: say, error: say };
    this.context = {
      runDir,
      segment: 'seg',
      endpoint: { path: path.join(dir, 'none') },
      timeout: 1,
      log,
      roots: this.roots,
    };
  }

  static in(dir: string): FakeSystem {
    return new FakeSystem(dir);
  }

  /** Writes a file below one of the roots. */
  write(root: 'sys' | 'proc', file: string, content: string): void {
    const target = path.join(this.roots[root], file);
    fs.mkdirSync(path.dirname(target), { recursive: true });
    fs.writeFileSync(target, content);
  }

  /** A device that is connected, with partitions. */
  connect(
    index: number,
    { backend = null as string | null, partitions = 0, size = 1 << 20, connections = 1 } = {},
  ): void {
    const whole = `block/nbd${index}`;
    this.write('sys', `${whole}/pid`, `${4000 + index}\n`);
    if (backend !== null) this.write('sys', `${whole}/backend`, `${backend}\n`);
    this.write('sys', `${whole}/size`, `${size / SECTOR}\n`);
    this.write('sys', `${whole}/ro`, '0\n');
    this.write('sys', `${whole}/dev`, `43:${index * 32}\n`);
    for (let queue = 0; queue < connections; queue++) this.write('sys', `${whole}/mq/${queue}/nr_tags`, '128\n');
    for (let part = 1; part <= partitions; part++) {
      this.write('sys', `${whole}/nbd${index}p${part}/dev`, `43:${index * 32 + part}\n`);
    }
  }

  /** A process with descriptors (fd → what it leads to) and lines of mountinfo. */
  process(
    pid: number | 'self',
    name: string,
    fds: Record<number, string> = {},
    mounts: readonly string[] = [],
    namespace = 'mnt:[1]',
  ): void {
    this.write('proc', `${pid}/comm`, `${name}\n`);
    this.write('proc', `${pid}/mountinfo`, mounts.map((line) => `${line}\n`).join(''));
    const at = path.join(this.roots.proc, String(pid));
    for (const directory of ['fd', 'ns']) fs.mkdirSync(path.join(at, directory), { recursive: true });
    fs.symlinkSync(namespace, path.join(at, 'ns', 'mnt'));
    for (const [fd, target] of Object.entries(fds)) fs.symlinkSync(target, path.join(at, 'fd', fd));
  }
}
