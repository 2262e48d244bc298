/** Devices of a kernel for tests of the tools: what was attached is there, and what a test says is refused. */
import type { DeviceAccess } from '../../../src/cli/common/devices.js';
import type { AttachOptions, Device, EndpointAddress } from '../../../src/devices/types.js';
import { errnos, SystemError } from '../../../src/sys/errno.js';

export const DEVICE_SIZE = 1 << 30;

export class FakeDevices implements DeviceAccess {
  readonly devices: Device[] = [];
  /** What was asked, in order. */
  readonly asked: unknown[] = [];
  /** Where the last command had devices connect. */
  endpoint: EndpointAddress | null = null;
  readonly #refusals = new Map<string, SystemError>();

  reset(): void {
    this.devices.length = 0;
    this.asked.length = 0;
    this.#refusals.clear();
  }

  /** Makes an operation fail, of one volume or of all. */
  refuse(operation: 'attach' | 'detach' | 'resize' | 'keep', errno: number, message: string, volume = '*'): void {
    this.#refusals.set(`${operation} ${volume}`, new SystemError(errno, message));
  }

  /** As if somebody had attached it. */
  add(volume: string, more: Partial<Device> = {}): Device {
    const index = this.devices.length;
    const device = {
      index,
      path: `/dev/nbd${index}`,
      volume,
      size: DEVICE_SIZE,
      connections: 1,
      readOnly: false,
      since: Date.UTC(2026, 10, 21, 12),
      healthy: true,
      trouble: null,
      ...more,
    };
    this.devices.push(device);
    return device;
  }

  async attach(options: AttachOptions): Promise<Device> {
    this.asked.push(['attach', options]);
    this.#check('attach', options.volume);
    const { volume, readOnly = false, connections = 1 } = options;
    return this.devices.find((device) => device.volume === volume) ?? this.add(volume, { readOnly, connections });
  }

  async detach(what: string, options: { readonly force: boolean }): Promise<Device> {
    this.asked.push(['detach', what, options]);
    const at = this.devices.findIndex(({ path, volume }) => path === what || volume === what);
    if (at < 0) throw new SystemError(errnos.ENOENT, `${what} is no device of this node`);
    this.#check('detach', this.devices[at].volume);
    return this.devices.splice(at, 1)[0];
  }

  async list(): Promise<Device[]> {
    return [...this.devices];
  }

  async resize(volume: string, size: number): Promise<Device | null> {
    this.asked.push(['resize', volume, size]);
    this.#check('resize', volume);
    const at = this.devices.findIndex((device) => device.volume === volume);
    if (at < 0) return null;
    this.devices[at] = { ...this.devices[at], size };
    return this.devices[at];
  }

  async ensureKeeper(): Promise<void> {
    this.asked.push(['keep']);
    this.#check('keep', '*');
  }

  #check(operation: string, volume: string): void {
    const refusal = this.#refusals.get(`${operation} ${volume}`) ?? this.#refusals.get(`${operation} *`);
    if (refusal) throw refusal;
  }
}
