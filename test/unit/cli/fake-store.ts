/** Volumes and objects behind the mapper and the blockers of a fake node: enough of them for mapinfo and check. */

import type { Lineage } from '../../../src/mapper/formats/lineage.js';
import * as v2 from '../../../src/mapper/formats/v2.js';
import { Flag, Op } from '../../../src/requests/ops.js';
import { EntryFlag, ResolvedMap } from '../../../src/requests/resolved-map.js';
import { encodeInfo, encodeVolumeInfo, VOLUME_INFO_SIZE } from '../../../src/requests/structs.js';
import { monotonicMs } from '../../../src/sys/clock.js';
import { errnos, SystemError } from '../../../src/sys/errno.js';
import type { FakeNode, Seen } from './fake-node.js';

export const OWN = EntryFlag.WRITABLE | EntryFlag.ARCHIP;
export const SHARED = EntryFlag.ARCHIP;

const hex = (n: number): string => n.toString(16).padStart(16, '0');
/** `<volume>_<epoch>_<block>`. */
export const objectName = (volume: string, epoch: number, block: number): string =>
  `${volume}_${hex(epoch)}_${hex(block)}`;

export interface FakeVolume {
  blocks: number;
  epoch: number;
  version: number;
  readOnly: boolean;
  deleted: boolean;
  error?: string;
  /** Blocks that are not here are zero. */
  entries: Map<number, { flags: number; object: string }>;
  /** Blocks whose entries cannot be read. */
  damaged: Set<number>;
  /** Blocks whose entries are read and make no sense. */
  undecoded: Set<number>;
  lineage: Lineage | null;
}

export const BLOCK = 4 << 20;

export class FakeStore {
  readonly volumes = new Map<string, FakeVolume>();
  /** Length in bytes of each object. */
  readonly objects = new Map<string, number>();
  /** When each object was changed, ms since the epoch; long ago where nothing is said. */
  readonly modified = new Map<string, number>();
  /** More objects of the maps store, and what is to be read instead of what volumes have there (null: nothing). */
  readonly raw = new Map<string, Buffer | null>();
  /** Flushes of the maps store. */
  flushes = 0;
  readonly locks = new Map<string, string>();
  /** How volumes are open on this node, and which locks it lost. */
  readonly open = new Map<string, 'shared' | 'exclusive'>();
  readonly lost = new Map<string, { holder: string | null; at: number }>();
  /** Called before a LIST of volumes is answered. */
  onList: () => void = () => {};
  /** Targets of locks of this node that the listing of the maps store does not show. */
  readonly ownLocks = new Set<string>();
  /** Port that holds the lease of a volume. */
  readonly leases = new Map<string, number>();

  constructor(node: FakeNode) {
    node.on('mapper', Op.STATUS, () => ({ role: 'mapperd', lost: 0 }));
    node.on('mapper', Op.LIST, (seen) => this.#list(seen));
    node.on('mapper', Op.INFO, ({ target }) => encodeVolumeInfo(this.#info(target)).subarray(0, VOLUME_INFO_SIZE));
    node.on('mapper', Op.MAPFETCH, (seen) => this.#fetch(seen));
    node.on('mapper', Op.LOCKINFO, ({ target }) => {
      const owner = this.locks.get(target);
      const lock = owner === undefined ? null : { owner, since: null };
      return { lock, open: this.open.get(target) ?? null, byHand: false, lost: this.lost.get(target) ?? null };
    });
    node.on('mapper', Op.LEASE, ({ target, src }) => this.#lease(target, src));
    node.on('mapper', Op.CLOSE, ({ target }) => {
      this.leases.delete(target);
      this.locks.delete(target);
      return undefined;
    });
    node.on('maps', Op.LOCKINFO, ({ target }) => {
      const owner = this.locks.get(target);
      return owner === undefined ? null : { owner, since: null };
    });
    node.on('maps', Op.FLUSH, () => {
      this.flushes++;
      return undefined;
    });
    node.on('maps', Op.LIST, () => ({ names: [...this.raw.keys()], cursor: null }));
    node.on('maps', Op.LOCKS, () => ({
      locks: [...this.ownLocks].map((name) => ({ name, owner: 'here', since: null })),
      cursor: null,
    }));
    node.on('maps', Op.INFO, ({ target }) => {
      const size = this.#stored(target).length;
      return encodeInfo({ size, allocated: size });
    });
    node.on('maps', Op.READ, ({ target, offset, size }) => {
      const reply = Buffer.alloc(size);
      this.#stored(target).copy(reply, 0, offset, offset + size);
      return reply;
    });
    node.on('blocks', Op.LIST, () => ({ names: [...this.objects.keys()], cursor: null }));
    node.on('blocks', Op.INFO, ({ target }) => {
      const size = this.objects.get(target);
      if (size === undefined) throw new SystemError(errnos.ENOENT, `object ${target} does not exist`);
      return encodeInfo({ size, allocated: size, modified: this.modified.get(target) ?? 1 });
    });
    node.on('blocks', Op.DELETE, ({ target }) => {
      if (!this.objects.delete(target)) throw new SystemError(errnos.ENOENT, `object ${target} does not exist`);
      return undefined;
    });
  }

  /** Makes a volume; its objects exist unless told otherwise. */
  add(name: string, more: Partial<FakeVolume> = {}): FakeVolume {
    const volume: FakeVolume = {
      blocks: 10,
      epoch: 1,
      version: 2,
      readOnly: false,
      deleted: false,
      entries: new Map(),
      damaged: new Set(),
      undecoded: new Set(),
      lineage: null,
      ...more,
    };
    this.volumes.set(name, volume);
    return volume;
  }

  /** Gives a block an object. */
  put(name: string, block: number, flags: number, object: string, length = 100): void {
    this.volumes.get(name)?.entries.set(block, { flags, object });
    this.objects.set(object, length);
  }

  /** The bytes of an object of the maps store as it is now. */
  bytesOf(name: string): Buffer {
    return this.#stored(name);
  }

  /** An object of the maps store. */
  #stored(name: string): Buffer {
    const bytes = this.raw.get(name) ?? (this.raw.has(name) ? null : this.#ofVolume(name));
    if (!bytes) throw new SystemError(errnos.ENOENT, `object ${name} does not exist`);
    return bytes;
  }

  #ofVolume(name: string): Buffer | null {
    const volume = this.volumes.get(name);
    if (volume?.version === 2) {
      const { epoch, readOnly, deleted, lineage } = volume;
      const size = volume.blocks * BLOCK;
      return v2.encodeHeader({ version: 2, size, blockSize: BLOCK, readOnly, deleted, epoch, lineage });
    }
    const data = this.volumes.get(name.slice(0, -17));
    if (data?.version !== 2 || !name.endsWith(`_${'0'.repeat(16)}`)) return null;
    const map = this.#map(data);
    const out = Buffer.alloc(data.blocks * v2.ENTRY_SIZE);
    for (let i = 0; i < data.blocks; i++) {
      if (!data.damaged.has(i) && !data.undecoded.has(i)) v2.encodeEntry(map, i, out, i * v2.ENTRY_SIZE);
    }
    return out;
  }

  #map(volume: FakeVolume): ResolvedMap {
    const map = new ResolvedMap(volume.blocks);
    for (let i = 0; i < volume.blocks; i++) {
      const entry = volume.entries.get(i);
      if (volume.undecoded.has(i)) map.set(i, EntryFlag.DELETED, '(damaged map entry)');
      else if (entry) map.set(i, entry.flags, entry.object);
      else map.setZero(i);
    }
    return map;
  }

  #get(name: string): FakeVolume {
    const volume = this.volumes.get(name);
    if (!volume || volume.deleted) throw new SystemError(errnos.ENOENT, `volume ${name} does not exist`);
    return volume;
  }

  #info(name: string) {
    const { blocks, version, epoch, readOnly } = this.#get(name);
    return { size: blocks * BLOCK, blockSize: BLOCK, version, epoch, readOnly, created: null, parent: null, id: null };
  }

  #list({ data, size }: Seen) {
    this.onList();
    const { deleted } = JSON.parse(data.toString('utf8', 0, size));
    const volumes = [...this.volumes].flatMap(([name, v]) => {
      if (v.deleted && !deleted) return [];
      const { readOnly, version, epoch, error } = v;
      return { name, size: v.blocks * BLOCK, blockSize: BLOCK, readOnly, version, epoch, deleted: v.deleted, error };
    });
    return { volumes, cursor: null };
  }

  #fetch({ target, offset, size, data, flags }: Seen): Buffer {
    const volume = this.#get(target);
    if (volume.version === 0 && (flags & Flag.ASSUMEV0) === 0) throw new SystemError(errnos.EINVAL, 'no map');
    let count = 0;
    while (count < size && !volume.damaged.has(offset + count)) count++;
    if (volume.damaged.has(offset)) throw new SystemError(errnos.EIO, `map object ${target} is damaged`);
    return this.#map(volume).serialiseChunk(offset, count, data.length);
  }

  #lease(name: string, port: number) {
    const info = this.#info(name);
    this.locks.set(name, 'here');
    this.leases.set(name, port);
    return { granted: 'exclusive', ...info, generation: 1, until: monotonicMs() + 3000 };
  }
}
