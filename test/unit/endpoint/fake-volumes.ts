/** Volumes and snapshots with the times and lineages that a test wants, as the mapper would tell of them. */
import type { VolumeAddress, VolumeLookup } from '../../../src/endpoint/volumes.js';
import type { VolumeListEntry } from '../../../src/requests/json.js';
import type { VolumeInfo } from '../../../src/requests/structs.js';
import { errnos, SystemError } from '../../../src/sys/errno.js';

export interface FakeVolume {
  readonly readOnly?: boolean;
  readonly blockSize?: number;
  readonly created?: number;
  readonly parent?: string;
  readonly guessed?: true;
  /** Its map cannot be read. */
  readonly damaged?: true;
}

export class FakeVolumes implements VolumeLookup {
  readonly volumes = new Map<string, FakeVolume>();
  /** Names that were asked for. */
  readonly asked: string[] = [];

  set(name: string, volume: FakeVolume = {}): this {
    this.volumes.set(name, volume);
    return this;
  }

  snapshot(name: string, parent: string, created?: number, more: FakeVolume = {}): this {
    return this.set(name, { readOnly: true, parent, created, ...more });
  }

  async info({ name }: VolumeAddress): Promise<VolumeInfo> {
    this.asked.push(name);
    const volume = this.#find(name);
    const { readOnly = false, blockSize = 4096, created = null, parent = null } = volume;
    return { size: 1 << 20, blockSize, readOnly, version: 2, epoch: 1, created, parent, id: null };
  }

  async *snapshotsOf(volume: string): AsyncGenerator<VolumeListEntry> {
    this.#find(volume);
    for (const name of [...this.volumes.keys()].sort()) {
      const entry = this.#entry(name, volume);
      if (entry) yield entry;
    }
  }

  async snapshotOf(volume: string, name: string): Promise<VolumeListEntry | null> {
    this.#find(volume);
    return this.volumes.has(name) ? this.#entry(name, volume) : null;
  }

  #find(name: string): FakeVolume {
    const volume = this.volumes.get(name);
    if (volume?.damaged) throw new SystemError(errnos.EIO, `map object ${name} is damaged`);
    if (volume) return volume;
    if (name.includes('/')) throw new SystemError(errnos.EINVAL, `name ${name} has a slash`);
    throw new SystemError(errnos.ENOENT, `there is no volume ${name}`);
  }

  #entry(name: string, of: string): VolumeListEntry | null {
    const { readOnly = false, blockSize = 4096, created, parent, guessed } = this.volumes.get(name) ?? {};
    if (!readOnly || parent !== of) return null;
    return { name, size: 1 << 20, blockSize, readOnly, version: 2, created, parent, ...(guessed ? { guessed } : {}) };
  }
}
