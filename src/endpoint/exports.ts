/**
 * Volumes as NBD exports: which names exist, opening one for a connection, and letting a volume go after its last client. What is open is
 * known by the volume that it is, whatever name its client used.
 */
import type { Logger } from 'pino';
import type { BlockDevice, Client, ClientTls, DeviceInfo, ExportProvider } from '../nbd/index.js';
import { errnoName, errnoOf, errnos, messageOf, SystemError } from '../sys/errno.js';
import type { Port } from '../xseg/index.js';
import { Abandonment } from './abandonment.js';
import { SegmentBuffers } from './buffers.js';
import { Contexts } from './contexts.js';
import { describeVolume, kindOf } from './describe.js';
import { deviceInfo, ExportDevice } from './export-device.js';
import { Hearing } from './hearing.js';
import { Leftovers } from './leftovers.js';
import { Parking } from './parking.js';
import type { Registry } from './registry.js';
import { type Resolved, Resolver } from './resolve.js';
import type { VolumeLimits } from './throttle/volume-limits.js';
import { plainAddress, type VolumeAddress, type Volumes } from './volumes.js';

/** How often it is looked whether what dead endpoints left is over, in ms. */
const ORPHANS_POLL_MS = 10;

export interface ExportsOptions {
  readonly port: Port;
  readonly composerPort: number;
  readonly mapperPort: number;
  readonly volumes: Volumes;
  readonly registry: Registry;
  readonly limits: VolumeLimits;
  /** Which volumes are exports. */
  readonly offer: 'all' | 'mapped';
  /** Clients may make volumes larger (RESIZE). */
  readonly allowResize: boolean;
  readonly log: Logger;
}

/** How an export is opened besides what its mapping says. */
export interface OpenOptions {
  /** Every write is durable before its answer. */
  readonly writeThrough?: boolean;
  /** By a mapping, which must be there still: its options are in force, not those of volumes without one. */
  readonly mapped?: boolean;
}

/** A connection that has an export open. */
export interface OpenExport {
  /** The volume or snapshot it is. */
  readonly name: string;
  /** The name that the client used. */
  readonly exportName: string;
  readonly peer: string;
  /** What TLS told of the client; null: it is in plaintext. */
  readonly tls: ClientTls | null;
  /** When it was opened, ms since the epoch. */
  readonly since: number;
}

interface Opened extends OpenExport {
  readonly device: ExportDevice;
  /** The volume through whose name it was reached. */
  readonly via: string;
}

export class Exports implements ExportProvider {
  readonly #options: ExportsOptions;
  readonly #resolver: Resolver;
  readonly #contexts: Contexts;
  readonly #buffers: SegmentBuffers;
  readonly #abandonment: Abandonment;
  readonly #parking = new Parking();
  readonly #leftovers = new Leftovers();
  readonly #open = new Map<ExportDevice, Opened>();
  /** Of volumes that are open, by name. */
  readonly #hearings = new Map<string, Hearing>();
  #changes = 0;

  constructor(options: ExportsOptions) {
    const { volumes, log } = options;
    this.#options = options;
    this.#resolver = new Resolver(options);
    this.#contexts = new Contexts({ volumes, resolver: this.#resolver, log });
    this.#buffers = new SegmentBuffers(options.port);
    this.#abandonment = new Abandonment(options.port, options.composerPort);
  }

  async list(): Promise<{ name: string; description?: string }[]> {
    const { offer, registry, volumes } = this.#options;
    const found = new Map<string, { name: string; description?: string }>();
    if (offer === 'all') {
      for await (const entry of volumes.list()) {
        const { name, version, error } = entry;
        // A version 0 map opens only as one: `vlmc map --assume_v0` makes it an export. A client that asks about each name of the list
        // gives up at the first that is refused.
        if (error === undefined && version > 0) found.set(name, { name, description: kindOf(entry) });
      }
    }
    for (const mapping of registry.all()) {
      const { name } = mapping;
      if (!found.has(name)) found.set(name, { name, ...(await this.#kind(mapping)) });
    }
    return [...found.values()];
  }

  /** A mapped volume stays in the list when nothing can be told of it: opening it tells why. */
  async #kind(volume: VolumeAddress): Promise<{ description?: string }> {
    try {
      return { description: kindOf(await this.#options.volumes.info(volume)) };
    } catch {
      return {};
    }
  }

  async describe(name: string, client: Client): Promise<{ info: DeviceInfo; size: number }> {
    return this.#describe(await this.#resolver.resolve(name, client));
  }

  async metaContexts(name: string, query: string | null, set: boolean, client: Client): Promise<readonly string[]> {
    return this.#contexts.find(name, await this.#resolver.resolve(name, client), query, set, client);
  }

  async open(name: string, client: Client, options: OpenOptions = {}): Promise<BlockDevice> {
    let asked: number;
    let what: Resolved;
    // What was unmapped, mapped anew or resized while the mapper was asked is looked at again: the device would not hear of it.
    do {
      asked = this.#changes;
      if (options.mapped && !this.#options.registry.get(name)) {
        throw new SystemError(errnos.ENOENT, `volume ${name} is not mapped on this node any more`);
      }
      what = await this.#resolver.resolve(name, client);
    } while (asked !== this.#changes);
    const { volume } = what;
    const { limits } = this.#options;
    const key = { id: what.info.id, name: volume.name };
    const device = new ExportDevice(
      {
        ...this.#options,
        buffers: this.#buffers,
        abandonment: this.#abandonment,
        parking: this.#parking,
        leftovers: this.#leftovers,
      },
      {
        volume,
        ...this.#describe(what),
        contexts: this.#contexts.requests(name, client),
        writeThrough: what.writeThrough || options.writeThrough === true,
        throttle: limits.join(key),
        hearing: this.#hearingOf(volume.name),
        resize: (size) => this.#resize(volume.name, size),
        closed: (closed) => {
          limits.leave(key);
          return this.#closed(closed);
        },
      },
    );
    this.#holdForOrphans(volume.name);
    const { peer, tls } = client;
    const { via } = what;
    this.#open.set(device, { device, name: volume.name, via, exportName: name, peer, tls, since: Date.now() });
    return device;
  }

  #hearingOf(name: string): Hearing {
    let hearing = this.#hearings.get(name);
    if (!hearing) {
      hearing = new Hearing();
      this.#hearings.set(name, hearing);
    }
    return hearing;
  }

  /**
   * Another endpoint of the node (`archipelago nbd`) may have been killed with the volume open, and its client may come here now: what that
   * process had asked of the composer is waited for like what clients of this one have left.
   */
  #holdForOrphans(name: string): void {
    const { port, composerPort } = this.#options;
    const left = (): number => (port.closed ? 0 : port.segment.orphansAt(composerPort, name));
    if (left() === 0) return;
    const whole = { offset: 0, length: Number.MAX_SAFE_INTEGER };
    this.#leftovers.leave(name, whole);
    const timer = setInterval(() => {
      if (left() > 0) return;
      clearInterval(timer);
      this.#leftovers.done(name, whole);
    }, ORPHANS_POLL_MS).unref();
  }

  /** The snapshot that a context, which metaContexts told of, tells differences from; null: it tells none. */
  comparedWith(name: string, context: string, client: Client): string | null {
    return this.#contexts.comparedWith(name, context, client);
  }

  /** Names of the snapshots of the volume that an export is of. @throws SystemError ENOENT */
  async siblings(name: string, client: Client): Promise<ReadonlySet<string>> {
    return new Set(await this.#contexts.siblings(await this.#resolver.resolve(name, client), client));
  }

  /** Of the volumes that the name of an export begins with, before an `@`, those that it is a snapshot of. @throws SystemError ENOENT */
  volumesOf(name: string, client: Client): Promise<readonly string[]> {
    return this.#resolver.volumesOf(name, client);
  }

  /** A mapping or a size changed: who is just opening an export looks again. */
  changed(): void {
    this.#changes++;
  }

  /** What is open now. */
  connections(): OpenExport[] {
    return [...this.#open.values()].map(({ device: _, via: __, ...open }) => open);
  }

  /** Number of connections that have the volume open, or one of its snapshots by its name. */
  clients(name: string): number {
    return this.#of(name).length;
  }

  /** Number of connections that have the volume itself open, whose lock they go by. */
  users(volume: string): number {
    let count = 0;
    for (const { name } of this.#open.values()) if (name === volume) count++;
    return count;
  }

  /** The canonical names of what clients() counts. */
  names(name: string): ReadonlySet<string> {
    return new Set(this.#of(name).map(({ device }) => device.info.name ?? name));
  }

  /** Looks at a volume's size again, for clients that stay connected over a resize. Resolves to the size. */
  async refresh(name: string): Promise<number> {
    const { registry, offer, volumes } = this.#options;
    const mapping = registry.get(name);
    const devices = [...this.#open.values()].filter((opened) => opened.name === name).map(({ device }) => device);
    if (offer === 'mapped' && !mapping && devices.length === 0) {
      throw new SystemError(errnos.ENOENT, `volume ${name} is not mapped on this node`);
    }
    const { assumeV0 = false, v0Size = -1 } = mapping ?? {};
    const { size } = await volumes.info({ name, assumeV0, v0Size });
    this.changed();
    for (const { device } of this.#open.values()) if (device.volumeName === name) device.size = size;
    return size;
  }

  #of(name: string): Opened[] {
    return [...this.#open.values()].filter((opened) => opened.name === name || opened.via === name);
  }

  #describe({ info, readOnly, name }: Resolved): { info: DeviceInfo; size: number } {
    const { allowResize } = this.#options;
    return {
      info: deviceInfo(info, { name, readOnly, allowResize, description: describeVolume(info) }),
      size: info.size,
    };
  }

  /** RESIZE of a client. */
  async #resize(name: string, size: number): Promise<void> {
    const { size: now } = await this.#options.volumes.info(plainAddress(name));
    if (size < now) {
      throw new SystemError(
        errnos.EINVAL,
        `clients cannot shrink volumes: ${name} has ${now} bytes; see vlmc resize -f`,
      );
    }
    await this.#options.volumes.grow(plainAddress(name), size);
    await this.refresh(name);
  }

  async #closed(device: ExportDevice): Promise<void> {
    const { volume } = device;
    this.#open.delete(device);
    if (this.users(volume.name) > 0) return;
    const isHeard = this.#hearings.get(volume.name)?.isComplete ?? false;
    this.#hearings.delete(volume.name);
    try {
      await this.#options.volumes.close(volume, isHeard);
    } catch (error) {
      // Another endpoint has clients of it, or this one has again: the last of them closes it.
      if (errnoOf(error) === errnos.EBUSY) return;
      // Nothing was promised to the client; the next opener will meet what is wrong, if anything still is.
      const why = `${messageOf(error)} (${errnoName(errnoOf(error))})`;
      this.#options.log.warn(`closing ${volume.name} after its last client: ${why}`);
    }
  }
}
