/**
 * The snapshots of a volume: read-only maps whose lineage names it. Where software that keeps no lineage wrote the snapshot's map or
 * the volume's, names have to do, and the list says that it guesses. A volume that has had its id from the start has no such snapshots:
 * then nothing is guessed.
 */
import type { ListRequest, VolumeListEntry, VolumeListReply } from '../../requests/json.js';
import { CHUNK_ENTRIES } from '../../requests/resolved-map.js';
import { errnoOf, errnos, messageOf } from '../../sys/errno.js';
import { type MapperContext, PARALLEL } from '../context.js';
import type { MapHeader } from '../formats/header.js';
import type { Lineage } from '../formats/lineage.js';
import { forEachLimited } from '../gate.js';
import { noV0 } from '../map-store.js';
import { checkTarget } from '../names.js';
import type { StoredMap } from '../stored-map.js';

type Kinship = 'certain' | 'guessed' | null;

/** A page of the volume's snapshots, in the order of names. @param header as it was when they were asked for */
export async function listSnapshots(
  context: MapperContext,
  volume: string,
  header: MapHeader,
  request: ListRequest,
): Promise<VolumeListReply> {
  const wanted = (lineage: Lineage | null, prefix: string | null): boolean =>
    kinship(volume, header, lineage, prefix) !== null;
  if (request.name !== undefined) checkTarget(request.name);
  const names =
    request.name === undefined
      ? await context.snapshots.candidates((descent) => wanted(descent.lineage, descent.prefix))
      : [request.name];
  const after = names.filter((name) => request.cursor === null || name > request.cursor);
  const page = after.slice(0, request.limit);
  const found = new Map<string, VolumeListEntry>();
  await forEachLimited(page, PARALLEL, async (name) => {
    const entry = await verified(context, volume, header, name);
    if (entry) found.set(name, entry);
  });
  return {
    volumes: page.flatMap((name) => found.get(name) ?? []),
    cursor: page.length < after.length ? page[page.length - 1] : null,
  };
}

/**
 * Whether a read-only map is a snapshot of the volume.
 * @param prefix without lineage: the volume that its objects are of
 */
function kinship(name: string, volume: MapHeader, lineage: Lineage | null, prefix: string | null): Kinship {
  const own = volume.lineage;
  if (lineage && own && lineage.parentId === own.id) return 'certain';
  if (hadIdFromTheStart(volume)) return null;
  return (lineage ? lineage.parentName : prefix) === name ? 'guessed' : null;
}

const hadIdFromTheStart = ({ lineage }: MapHeader): boolean => lineage !== null && lineage.created !== null;

/** What is stored under the name now, if that is a snapshot of the volume. */
async function verified(
  context: MapperContext,
  volumeName: string,
  volume: MapHeader,
  name: string,
): Promise<VolumeListEntry | null> {
  if (name === volumeName) return null;
  try {
    const map = await context.maps.open(name, noV0);
    if (!map || map.header.deleted || !map.header.readOnly || map.header.version !== 2) return null;
    const { lineage, size, blockSize, epoch } = map.header;
    const prefix = lineage || hadIdFromTheStart(volume) ? null : await onlyPrefix(map, volume);
    const kin = kinship(volumeName, volume, lineage, prefix);
    if (kin === null) return null;
    const { created } = map;
    return {
      name,
      size,
      blockSize,
      readOnly: true,
      version: 2,
      epoch,
      ...(created === null ? {} : { created }),
      parent: lineage?.parentName ?? volumeName,
      ...(kin === 'guessed' ? { guessed: true } : {}),
    };
  } catch (error) {
    if (errnoOf(error) === errnos.ENOENT || errnoOf(error) === errnos.EINVAL) return null;
    return { name, size: 0, blockSize: 0, readOnly: true, version: 2, error: messageOf(error) };
  }
}

/**
 * The volume that all named objects of the map's first entries are of, made in generations before the volume's present one; null
 * when there is no such. A snapshot of a clone names objects of two volumes: it is neither's, by its names.
 */
async function onlyPrefix(map: StoredMap, volume: MapHeader): Promise<string | null> {
  const count = Math.min(CHUNK_ENTRIES, map.blocks);
  await map.loadOnly(0, count);
  let only: string | null = null;
  for (let i = 0; i < count; i++) {
    const prefix = map.usable(i) ? map.entries.namePrefix(i) : null;
    if (prefix === null) continue;
    if (only !== null && prefix !== only) return null;
    if (generation(map.entries.objectName(i)) >= volume.epoch) return null;
    only = prefix;
  }
  return only;
}

/** The epoch in `<volume>_<epoch %016x>_<block %016x>`. */
const generation = (object: string): number => Number.parseInt(object.slice(-33, -17), 16);
