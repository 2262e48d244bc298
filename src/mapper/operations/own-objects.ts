/**
 * Before own blocks become shared ones: a missing object reads as zeros under an own entry, and is an error under a shared one. The order
 * of this mapper's writes has every own entry's object exist; a crash of the original can leave entries whose object was never made (D18).
 */
import { EntryFlag } from '../../requests/resolved-map.js';
import { errnoOf, errnos } from '../../sys/errno.js';
import type { MapperContext } from '../context.js';
import { forEachLimited } from '../gate.js';
import type { StoredMap } from '../stored-map.js';

const OWN = EntryFlag.WRITABLE | EntryFlag.ARCHIP;
/** Looked at at the same time: each is a stat. */
const LOOKS = 32;
/** Blocks whose names are held at the same time. */
const STEP = 4096;

/**
 * Makes every missing own object of a map that others wrote, empty and durable, so that it goes on reading as zeros when it is shared. Maps
 * with a lineage were made here, or shared by this once before: they are not looked at. All entries were checked, and nobody uses the volume.
 */
export async function makeMissingObjects(context: MapperContext, map: StoredMap): Promise<void> {
  if (map.header.lineage !== null) return;
  for (let first = 0; first < map.blocks; first += STEP) {
    const names: string[] = [];
    for (let i = first; i < Math.min(first + STEP, map.blocks); i++) {
      if ((map.entries.flags(i) & (OWN | EntryFlag.ZERO)) === OWN) names.push(map.entries.objectName(i));
    }
    await forEachLimited(names, LOOKS, (name) => makeIfMissing(context, name));
  }
}

async function makeIfMissing(context: MapperContext, name: string): Promise<void> {
  try {
    await context.blocks.info(name);
  } catch (error) {
    if (errnoOf(error) !== errnos.ENOENT) throw error;
    await context.blocks.reset([name], true);
  }
}
