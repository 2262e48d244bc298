/**
 * Was an operation, whose request is delivered again, done by the mapper that died? Decided by ids and epochs that were noted before
 * (requests/once.ts), never by likeness: a volume of the same name and size may be somebody else's.
 */
import { begun, decodeNote, encodeNote, newNote, type Once } from '../../requests/once.js';
import { errnos, SystemError } from '../../sys/errno.js';
import type { MapperContext } from '../context.js';
import { noV0 } from '../map-store.js';

/** The id of the map that the request makes: always the same for one request. */
export function idFor(once: Once): string {
  if (once.note === '') once.note = newNote();
  return decodeNote(once.note)!.id;
}

/** Notes the epoch of the map that will be there in a moment. */
export function noteEpoch(once: Once, epoch: number): void {
  once.note = encodeNote({ id: idFor(once), epoch });
}

/** Whether the request made the map of this name already, also when it was deleted since. Durable, if so. */
export async function wasMade(context: MapperContext, name: string, once: Once): Promise<boolean> {
  const noted = begun(once.note);
  if (noted === null) return false;
  const { map, tombstone } = await context.maps.lookup(name, noV0);
  if (map) {
    if (map.header.lineage?.id !== noted.id) return false;
    // Its maker may have died between the header's write and the flush.
    await context.maps.objects.flush([map.stored]);
    return true;
  }
  return tombstone !== null && tombstone.epoch >= noted.epoch;
}

/**
 * Whether the map that is in the way is the one that this request makes. Who passed the request on may have died, and with it what was noted of
 * the first try; the successor passes it on by the same id. Durable, if so.
 */
export async function isOwn(context: MapperContext, name: string, once: Once): Promise<boolean> {
  const { map } = await context.maps.lookup(name, noV0);
  if (!map || map.header.lineage?.id !== idFor(once)) return false;
  await context.maps.objects.flush([map.stored]);
  return true;
}

/** What stands under a name that the request was about to take a volume from. */
export type Remains = 'the volume' | 'another' | 'nothing';

/**
 * What has become of the volume that the request was removing or renaming when it was interrupted.
 * @throws SystemError ESTALE when that cannot be told
 */
export async function remainsOf(context: MapperContext, name: string, id: string): Promise<Remains> {
  const { map } = await context.maps.lookup(name, noV0);
  if (!map) return 'nothing';
  const found = map.header.lineage?.id;
  if (found === id) return 'the volume';
  if (found !== undefined) return 'another';
  throw new SystemError(
    errnos.ESTALE,
    `volume ${name}: its removal or renaming was interrupted, and another program has changed it since; look at it, then try again`,
  );
}
