/**
 * Volumes as NBD exports: which names exist, opening one for a connection, and letting a volume go after its last client.
 */
import type { Logger } from 'pino';
import type { BlockDevice, DeviceInfo, ExportProvider } from '../nbd/index.js';
import type { VolumeInfo } from '../requests/structs.js';
import { errnoName, errnoOf, errnos, messageOf, SystemError } from '../sys/errno.js';
import type { Port } from '../xseg/index.js';
import { SegmentBuffers } from './buffers.js';
import { deviceInfo, ExportDevice } from './export-device.js';
import type { Registry } from './registry.js';
import type { VolumeAddress, Volumes } from './volumes.js';

export interface ExportsOptions {
  readonly port: Port;
  readonly composerPort: number;
  readonly volumes: Volumes;
  readonly registry: Registry;
  /** Which volumes are exports. */
  readonly offer: 'all' | 'mapped';
  readonly log: Logger;
}

export class Exports implements ExportProvider {
  readonly #options: ExportsOptions;
  readonly #buffers: SegmentBuffers;
  readonly #open = new Map<string, Set<ExportDevice>>();
  #changes = 0;

  constructor(options: ExportsOptions) {
    this.#options = options;
    this.#buffers = new SegmentBuffers(options.port);
  }

  async list(): Promise<{ name: string; description?: string }[]> {
    const { offer, registry, volumes } = this.#options;
    if (offer === 'mapped') return registry.all().map(({ name }) => ({ name }));
    const found = new Map<string, { name: string; description?: string }>();
    for await (const { name, readOnly, version, error } of volumes.list()) {
      // A version 0 map opens only as one: `vlmc map --assume_v0` makes it an export. A client that asks about each name of the list
      // gives up at the first that is refused.
      if (error === undefined && version > 0)
        found.set(name, { name, description: readOnly ? 'snapshot or image' : 'volume' });
    }
    for (const { name } of registry.all()) if (!found.has(name)) found.set(name, { name });
    return [...found.values()];
  }

  async describe(name: string): Promise<{ info: DeviceInfo; size: number }> {
    const { volume, readOnly } = this.#address(name);
    const info = await this.#options.volumes.info(volume);
    return { info: deviceInfo(info, readOnly, describeVolume(info)), size: info.size };
  }

  async open(name: string): Promise<BlockDevice> {
    let asked: number;
    let description: { info: DeviceInfo; size: number };
    // What was unmapped, mapped anew or resized while the mapper was asked is looked at again: the device would not hear of it.
    do {
      asked = this.#changes;
      description = await this.describe(name);
    } while (asked !== this.#changes);
    const { volume } = this.#address(name);
    const { port, composerPort } = this.#options;
    const device = new ExportDevice(port, composerPort, volume, description, this.#buffers, (closed) =>
      this.#closed(name, volume, closed),
    );
    const devices = this.#open.get(name);
    if (devices) devices.add(device);
    else this.#open.set(name, new Set([device]));
    return device;
  }

  /** A mapping or a size changed: who is just opening an export looks again. */
  changed(): void {
    this.#changes++;
  }

  /** Number of connections that have the export open. */
  clients(name: string): number {
    return this.#open.get(name)?.size ?? 0;
  }

  /** Looks at a volume's size again, for clients that stay connected over a resize. Resolves to the size. */
  async refresh(name: string): Promise<number> {
    const { volume } = this.#address(name);
    const { size } = await this.#options.volumes.info(volume);
    this.changed();
    for (const device of this.#open.get(name) ?? []) device.size = size;
    return size;
  }

  #address(name: string): { volume: VolumeAddress; readOnly: boolean } {
    if (name === '') throw new SystemError(errnos.ENOENT, 'there is no default export; name a volume');
    const mapping = this.#options.registry.get(name);
    if (!mapping && this.#options.offer === 'mapped') {
      throw new SystemError(errnos.ENOENT, `volume ${name} is not mapped on this node; run vlmc map ${name}`);
    }
    return {
      volume: { name, assumeV0: mapping?.assumeV0 ?? false, v0Size: mapping?.v0Size ?? -1 },
      readOnly: mapping?.readOnly ?? false,
    };
  }

  async #closed(name: string, volume: VolumeAddress, device: ExportDevice): Promise<void> {
    const devices = this.#open.get(name);
    devices?.delete(device);
    if (!devices || devices.size > 0) return;
    this.#open.delete(name);
    try {
      await this.#options.volumes.close(volume);
    } catch (error) {
      // Nothing was promised to the client; the next opener will meet what is wrong, if anything still is.
      this.#options.log.warn(
        `closing ${name} after its last client: ${messageOf(error)} (${errnoName(errnoOf(error))})`,
      );
    }
  }
}

function describeVolume(info: VolumeInfo): string {
  const kind = info.readOnly ? 'snapshot or image' : 'volume';
  return `${kind}, ${info.size} bytes in blocks of ${info.blockSize}, map version ${info.version}`;
}
