/**
 * From the name that a client uses to the volume or snapshot that it gets. What is there by exactly that name wins; `vol@snap` and
 * `vol@time` (names.ts) name snapshots of a volume. What a time led to is kept for the life of the connection: INFO, GO and the meta
 * contexts between them speak of the same snapshot, whatever is made meanwhile.
 */

import type { Client } from '../nbd/index.js';
import type { VolumeListEntry } from '../requests/json.js';
import type { VolumeInfo } from '../requests/structs.js';
import { errnoOf, errnos, SystemError } from '../sys/errno.js';
import { formatTime, parseTime, splitName } from './names.js';
import type { Registry } from './registry.js';
import { plainAddress, type VolumeAddress, type VolumeLookup } from './volumes.js';

/** What a name stands for now. */
export interface Resolved {
  readonly volume: VolumeAddress;
  readonly info: VolumeInfo;
  /** The volume by which it was reached: `vol` of `vol@…`, else the volume itself. */
  readonly via: string;
  /** A name that will stand for the same for as long as it exists: a time is replaced by the snapshot's name. */
  readonly name: string;
  /** Mapped with these options, or the defaults. */
  readonly readOnly: boolean;
  readonly writeThrough: boolean;
}

export interface ResolverOptions {
  readonly volumes: VolumeLookup;
  readonly registry: Pick<Registry, 'get'>;
  /** Which volumes are exports. */
  readonly offer: 'all' | 'mapped';
}

/** How often a snapshot that was removed while it was chosen is replaced by the one before it. */
const TRIES = 8;

export class Resolver {
  readonly #volumes: VolumeLookup;
  readonly #registry: Pick<Registry, 'get'>;
  readonly #offer: 'all' | 'mapped';
  /** Of each connection: the snapshots that its names with a time led to. */
  readonly #pins = new WeakMap<Client, Map<string, string>>();
  /** Of each connection: the snapshots of volumes that it came to ask about. It makes the mapper list them once. */
  readonly #listed = new WeakMap<Client, Map<string, Promise<VolumeListEntry[]>>>();

  constructor({ volumes, registry, offer }: ResolverOptions) {
    this.#volumes = volumes;
    this.#registry = registry;
    this.#offer = offer;
  }

  /** @throws SystemError ENOENT in words for the client; the mapper's other errors */
  async resolve(name: string, client: Client): Promise<Resolved> {
    if (name === '') throw new SystemError(errnos.ENOENT, 'there is no default export; name a volume');
    const exact = await this.#exactly(name);
    if (!('errno' in exact)) return exact;
    for (const { volume, selector } of splitName(name)) {
      if (!(await this.#exists(volume))) continue;
      const snapshot = await this.#snapshot(volume, name, selector, client);
      return this.#resolved(plainAddress(snapshot), volume, snapshot === name ? name : `${volume}@${snapshot}`);
    }
    throw exact;
  }

  /** What is an export by this very name, or why there is none. */
  async #exactly(name: string): Promise<Resolved | SystemError> {
    const mapping = this.#registry.get(name);
    if (!mapping && this.#offer === 'mapped') {
      return new SystemError(errnos.ENOENT, `volume ${name} is not mapped on this node; run vlmc map ${name}`);
    }
    const { assumeV0 = false, v0Size = -1 } = mapping ?? {};
    try {
      return await this.#resolved({ name, assumeV0, v0Size }, name, name);
    } catch (error) {
      if (isNone(error)) return error as SystemError;
      throw error;
    }
  }

  async #resolved(volume: VolumeAddress, via: string, name: string): Promise<Resolved> {
    const mapping = this.#registry.get(volume.name);
    const info = await this.#volumes.info(volume);
    const { readOnly, writeThrough } = mapping ?? { readOnly: false, writeThrough: false };
    return { volume, info, via, name, readOnly, writeThrough };
  }

  /** May snapshots of this volume be reached through its name? */
  async #exists(volume: string): Promise<boolean> {
    if (this.#offer === 'mapped' && !this.#registry.get(volume)) return false;
    try {
      await this.#volumes.info(plainAddress(volume));
      return true;
    } catch (error) {
      if (isNone(error)) return false;
      throw error;
    }
  }

  /** The name of the snapshot of `volume` that is meant: of the whole name, of the selector, or by a time. */
  async #snapshot(volume: string, name: string, selector: string, client: Client): Promise<string> {
    // With all volumes offered the whole name was looked for already.
    for (const candidate of this.#offer === 'all' ? [selector] : [name, selector]) {
      if (await this.#isSnapshotOf(volume, candidate)) return candidate;
    }
    const pinned = this.#pins.get(client)?.get(name);
    if (pinned !== undefined) return pinned;
    const time = parseTime(selector, Date.now());
    if (time === null) throw new SystemError(errnos.ENOENT, `volume ${volume} has no snapshot ${selector}`);
    const found = await this.newestAt(volume, time, client);
    this.#pin(client, name, found);
    return found;
  }

  /**
   * Of the volumes that a name begins with, before an `@`, those that what it stands for is a snapshot of.
   * @throws SystemError ENOENT when it stands for nothing
   */
  async volumesOf(name: string, client: Client): Promise<readonly string[]> {
    const { via } = await this.resolve(name, client);
    const volumes = via === name ? [] : [via];
    // The volume may be a snapshot itself: `vol@snap` can be the very name of one.
    for (const { volume } of splitName(via)) if (await this.#isSnapshotOf(volume, via)) volumes.push(volume);
    return volumes;
  }

  async #isSnapshotOf(volume: string, name: string): Promise<boolean> {
    try {
      return (await this.#volumes.snapshotOf(volume, name)) !== null;
    } catch (error) {
      if (isNone(error)) return false;
      throw error;
    }
  }

  #pin(client: Client, name: string, snapshot: string): void {
    const pins = this.#pins.get(client) ?? new Map<string, string>();
    this.#pins.set(client, pins.set(name, snapshot));
  }

  /**
   * The newest snapshot of a volume that is not later than a time. Only those count whose map says what they were taken of and when.
   * @param time ms since the epoch
   * @throws SystemError ENOENT naming the oldest there is
   */
  async newestAt(volume: string, time: number, client: Client): Promise<string> {
    const dated = (await this.#list(volume, client)).flatMap(({ name, created, guessed }) =>
      created === undefined || guessed ? [] : { name, created },
    );
    const old = dated.filter(({ created }) => created <= time);
    for (const { name, created } of old.slice(0, TRIES)) {
      // The list may be some seconds old.
      const now = await this.#volumes.snapshotOf(volume, name);
      if (now?.created === created) return name;
    }
    const oldest = dated.at(-1);
    if (!oldest) throw new SystemError(errnos.ENOENT, `volume ${volume} has no snapshot with a time`);
    throw new SystemError(
      errnos.ENOENT,
      `volume ${volume} has no snapshot from ${formatTime(time)} or before; the oldest is ${oldest.name} of ${formatTime(oldest.created)}`,
    );
  }

  /** Names of the snapshots of a volume, the newest first. @throws SystemError ENOENT: no such volume */
  async snapshots(volume: string, client: Client): Promise<string[]> {
    return (await this.#list(volume, client)).map(({ name }) => name);
  }

  /** The snapshots of a volume that can be read, the newest first, those without a time last. */
  #list(volume: string, client: Client): Promise<VolumeListEntry[]> {
    const lists = this.#listed.get(client) ?? new Map<string, Promise<VolumeListEntry[]>>();
    this.#listed.set(client, lists);
    const known = lists.get(volume);
    if (known) return known;
    const list = this.#snapshotsOf(volume);
    lists.set(volume, list);
    // What fails may succeed at the next try.
    list.catch(() => lists.delete(volume));
    return list;
  }

  async #snapshotsOf(volume: string): Promise<VolumeListEntry[]> {
    const all: VolumeListEntry[] = [];
    for await (const entry of this.#volumes.snapshotsOf(volume)) if (entry.error === undefined) all.push(entry);
    return all.sort((a, b) => (b.created ?? 0) - (a.created ?? 0) || (a.name < b.name ? 1 : -1));
  }
}

/** No volume can have, or has, that name. */
export function isNone(error: unknown): boolean {
  return [errnos.ENOENT, errnos.ENAMETOOLONG].includes(errnoOf(error));
}
