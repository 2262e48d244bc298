/** What the mapper's operations work with. */
import type { ObjectClient } from '../requests/object-client.js';
import { errnos, SystemError } from '../sys/errno.js';
import type { Leases } from './leases.js';
import { dropLegacyMap } from './leftover.js';
import type { Locks } from './locks.js';
import type { MapStore, OpenOptions } from './map-store.js';
import type { SnapshotIndex } from './snapshot-index.js';
import type { MapReader, StoredMap } from './stored-map.js';
import type { Volume, Volumes } from './volume.js';

/** Where messages go that are no request's answer. */
export interface MapperLog {
  warn(message: string): void;
  info(message: string): void;
}

export interface MapperContext {
  /** The maps store; a change by an operation that works on volumes is refused when the lock of one is lost. */
  readonly maps: MapStore;
  /** The blocks store, likewise. */
  readonly blocks: ObjectClient;
  readonly locks: Locks;
  readonly leases: Leases;
  readonly volumes: Volumes;
  readonly snapshots: SnapshotIndex;
  readonly log: MapperLog;
  /**
   * Whether the locks of the volumes are good now, as is seen to before each request that changes a store: for changes of which no store
   * is told at once. When not, Locks.verify says whether they are this node's.
   * @throws LostLock
   */
  holds(): boolean;
  /** What the volume's map is read by: past every cache while nothing keeps other nodes from changing it. */
  reader(volume: Volume): MapReader;
}

/** Requests to a store that one operation has in flight at the same time. */
export const PARALLEL = 8;

export function noSuchVolume(name: string): SystemError {
  return new SystemError(errnos.ENOENT, `volume ${name} does not exist`);
}

/** The volume's map: the cached one, or as it is stored now. @throws SystemError ENOENT, EINVAL, EIO */
export async function mapOf(context: MapperContext, volume: Volume, options: OpenOptions): Promise<StoredMap> {
  const cached = volume.cached(options);
  if (cached) return cached;
  const { map } = await context.maps.lookup(volume.name, options, context.reader(volume));
  if (!map) throw noSuchVolume(volume.name);
  return map;
}

/**
 * The map of a volume whose lock is held, cached from now on, for an operation that changes it.
 * @throws SystemError ENOENT; EROFS when it must be upgraded first
 */
export async function ownMap(context: MapperContext, volume: Volume, options: OpenOptions): Promise<StoredMap> {
  const map = await mapOf(context, volume, options);
  const reason = map.frozenReason;
  if (reason !== null) throw new SystemError(errnos.EROFS, frozenMessage(volume.name, reason));
  if (volume.map !== map) await dropLegacyMap(context.maps, volume.name, map);
  volume.map = map;
  return map;
}

export const frozenMessage = (name: string, reason: string): string =>
  `volume ${name} is read-only: ${reason}; run vlmc upgrade ${name}`;
