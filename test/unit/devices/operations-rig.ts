/** A node's endpoint and a kernel, neither of them real, and the devices between them. The test file puts `kernelOf` in the place of the driver. */
import fs from 'node:fs';
import path from 'node:path';
import { onTestFinished, vi } from 'vitest';
import { Devices } from '../../../src/devices/index.js';
import { readTable } from '../../../src/devices/table.js';
import type { EndpointAddress } from '../../../src/devices/types.js';
import { MemoryDisk, MemoryProvider } from '../../../src/nbd/memory-device.js';
import { NbdServer } from '../../../src/nbd/server.js';
import { temporaryDirectory } from '../nbd/support.js';
import { FakeKernel } from './fake-kernel.js';
import { FakeSystem } from './fake-system.js';

export const MiB = 1 << 20;
/** The kernel that the driver's place is taken by. */
export const current: { kernel: FakeKernel | null } = { kernel: null };

export class Rig {
  readonly system: FakeSystem;
  readonly kernel: FakeKernel;
  readonly devices: Devices;
  readonly #provider: MemoryProvider;
  server: NbdServer | null = null;
  endpoint: EndpointAddress;
  /** What became of each device file that was opened: its flags, then what was done. */
  readonly opened: string[] = [];
  /** What opening a device, or flushing it, does in the place of the kernel. */
  onOpen: () => Promise<void> | void = () => {};
  onSync: () => Promise<void> | void = () => {};

  private constructor(directory: string, volumes: readonly string[]) {
    this.system = FakeSystem.in(directory);
    this.kernel = new FakeKernel(this.system);
    current.kernel = this.kernel;
    this.#provider = new MemoryProvider(volumes.map((volume) => [volume, new MemoryDisk({ size: MiB })]));
    this.endpoint = { path: path.join(directory, 's') };
    const { runDir, segment, log, roots } = this.system.context;
    this.devices = new Devices({ runDir, segment, endpoint: this.endpoint, timeout: 100, log, roots });
    this.#openFiles(path.join(directory, 'file'));
  }

  /** A node that serves these volumes. Not as root, unless a test says so, is nothing done. */
  static async start(...volumes: string[]): Promise<Rig> {
    vi.spyOn(process, 'geteuid').mockReturnValue(0);
    const rig = new Rig(temporaryDirectory(), volumes);
    onTestFinished(async () => {
      vi.restoreAllMocks();
      rig.kernel.close();
      await rig.stop();
    });
    await rig.serve();
    return rig;
  }

  async serve(): Promise<void> {
    this.server = new NbdServer(this.#provider);
    if ('path' in this.endpoint) await this.server.listen({ path: this.endpoint.path });
  }

  async stop(): Promise<void> {
    await this.server?.close();
    this.server = null;
  }

  /** What the node serves, by name; what is put in here it serves at once. */
  get disks(): Map<string, MemoryDisk> {
    return this.#provider.disks;
  }

  /** Volume and state of what the table has, by index. */
  get table(): [index: number, volume: string, state: string][] {
    return readTable(this.system.context.runDir).map(({ index, volume, state }) => [index, volume, state]);
  }

  clients(): number {
    return this.server?.connections().length ?? 0;
  }

  #openFiles(file: string): void {
    fs.writeFileSync(file, '');
    const open = fs.promises.open.bind(fs.promises);
    vi.spyOn(fs.promises, 'open').mockImplementation(async (name, flags) => {
      this.opened.push(
        `open ${String(name)} ${flags === (fs.constants.O_RDONLY | fs.constants.O_EXCL) ? 'alone' : flags}`,
      );
      await this.onOpen();
      const handle = await open(file, 'r');
      const close = handle.close.bind(handle);
      handle.sync = async () => {
        this.opened.push('flush');
        await this.onSync();
      };
      handle.close = async () => {
        this.opened.push('close');
        await close();
      };
      return handle;
    });
  }
}
