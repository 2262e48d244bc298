/**
 * The kernel's nbd driver for tests: what it is asked for shows in the files of a FakeSystem, and the connections that it takes are held as the
 * real one holds them, by descriptors of their own. What goes over them nobody looks at.
 */
import fs from 'node:fs';
import path from 'node:path';
import type { ConnectRequest } from '../../../src/devices/nbd-messages.js';
import type { NbdDriver } from '../../../src/devices/netlink.js';
import { duplicate } from '../../../src/nbd/sockets.js';
import { errnos, SystemError } from '../../../src/sys/errno.js';
import type { FakeSystem } from './fake-system.js';

type Operation = 'connect' | 'disconnect' | 'reconnect' | 'resize';
type Asked = Pick<NbdDriver, Operation | 'hearLost'>;

interface Made {
  readonly identifier: string;
  fds: number[];
}

export class FakeKernel implements Asked {
  readonly #system: FakeSystem;
  readonly #made = new Map<number, Made>();
  readonly #refusals = new Map<Operation, SystemError>();
  /** What was asked, in order: the operation, the device, and its size where there is one. */
  readonly asked: [Operation, index: number, size?: number][] = [];
  /** The last request for a device. */
  request: ConnectRequest | null = null;
  /** Called before an operation is done: the place for what happens meanwhile. */
  before: (operation: Operation) => Promise<void> | void = () => {};
  /** Devices that somebody has open: they stay, without a connection, until they are closed. */
  readonly open = new Set<number>();
  #lost: (index: number) => void = () => {};

  constructor(system: FakeSystem) {
    this.#system = system;
  }

  /** As what the module gives. */
  get driver(): NbdDriver {
    return this as Asked as NbdDriver;
  }

  refuse(operation: Operation, errno: number): void {
    this.#refusals.set(operation, new SystemError(errno, 'the kernel refused'));
  }

  async connect(request: ConnectRequest): Promise<number> {
    let index = 0;
    while (fs.existsSync(this.#pidFile(index))) index++;
    await this.#ask('connect', index, request.size);
    this.request = request;
    const { identifier, size, sockets } = request;
    this.#made.set(index, { identifier, fds: sockets.map(duplicate) });
    this.#system.connect(index, { backend: identifier, size, connections: sockets.length });
    return index;
  }

  async disconnect(index: number): Promise<void> {
    await this.#ask('disconnect', index);
    this.hangUp(index);
    if (!this.open.has(index)) this.gone(index);
  }

  async reconnect(index: number, identifier: string, fds: readonly number[]): Promise<void> {
    await this.#ask('reconnect', index);
    const made = this.#need(index, identifier);
    made.fds.push(...fds.map(duplicate));
  }

  async resize(index: number, identifier: string, size: number): Promise<void> {
    await this.#ask('resize', index, size);
    this.#need(index, identifier);
    this.#system.write('sys', `block/nbd${index}/size`, `${size / 512}\n`);
  }

  async hearLost(signal: AbortSignal, lost: (index: number) => void): Promise<void> {
    this.#lost = lost;
    await new Promise<void>((resolve) => {
      if (signal.aborted) resolve();
      signal.addEventListener('abort', () => resolve(), { once: true });
    });
  }

  /** The device's connections are lost, as the kernel sees it. */
  hangUp(index: number): void {
    const made = this.#made.get(index);
    for (const fd of made?.fds ?? []) fs.closeSync(fd);
    if (made) made.fds = [];
    this.#lost(index);
  }

  /** Nobody has it open any more, or another ended it. */
  gone(index: number): void {
    this.hangUp(index);
    this.#made.delete(index);
    this.open.delete(index);
    fs.rmSync(path.dirname(this.#pidFile(index)), { recursive: true, force: true });
  }

  connections(index: number): number {
    return this.#made.get(index)?.fds.length ?? 0;
  }

  close(): void {
    for (const index of [...this.#made.keys()]) this.hangUp(index);
  }

  #pidFile(index: number): string {
    return path.join(this.#system.roots.sys, 'block', `nbd${index}`, 'pid');
  }

  /** The real one refuses a device that was given another name. */
  #need(index: number, identifier: string): Made {
    const made = this.#made.get(index);
    if (made === undefined || made.identifier !== identifier)
      throw new SystemError(errnos.EINVAL, 'the kernel refused');
    return made;
  }

  async #ask(operation: Operation, index: number, size?: number): Promise<void> {
    this.asked.push(size === undefined ? [operation, index] : [operation, index, size]);
    await this.before(operation);
    const refusal = this.#refusals.get(operation);
    if (refusal) throw refusal;
  }
}
