/**
 * Two live volumes with one lineage id are one volume whose renaming was cut in the middle (or whose map somebody copied by hand). Both work,
 * as clones of each other; the administrator must say which name stays.
 */
import type { VolumeListEntry } from '../../../requests/json.js';
import type { Session } from '../../common/session.js';
import type { MapEntry } from '../entries.js';
import type { Findings } from './findings.js';
import { scanMap } from './scan.js';
import { readHeader } from './stored.js';

/** Headers read at the same time. */
const PARALLEL = 32;

/** Tells of twins. @param only just those that this volume is one of */
export async function tellTwins(
  session: Session,
  findings: Findings,
  volumes: readonly VolumeListEntry[],
  only: string | null,
): Promise<void> {
  const live = volumes.filter((volume) => !volume.deleted && volume.error === undefined && volume.version === 2);
  const ids = new Map<string, VolumeListEntry[]>();
  let next = 0;
  const worker = async (): Promise<void> => {
    while (next < live.length) {
      const volume = live[next++];
      session.progress.update('reading headers', next, live.length);
      const id = await lineageOf(session, volume.name);
      if (id === null) continue;
      const list = ids.get(id) ?? [];
      ids.set(id, list);
      list.push(volume);
    }
  };
  await Promise.all(Array.from({ length: Math.min(PARALLEL, live.length) }, worker));
  for (const [id, list] of ids) {
    if (list.length < 2 || (only !== null && !list.some(({ name }) => name === only))) continue;
    await tell(session, findings, id, list);
  }
}

async function lineageOf(session: Session, name: string): Promise<string | null> {
  return (await readHeader(session, name))?.header.lineage?.id ?? null;
}

async function tell(session: Session, findings: Findings, id: string, list: VolumeListEntry[]): Promise<void> {
  const names = list.map(({ name }) => name).sort();
  const maps = session.client.objects('maps');
  for (const name of names) {
    // A renaming that runs holds the locks of both names.
    if (await maps.lockHolder(name)) {
      const message = `${names.join(' and ')} are one volume: it is being renamed just now, or its renaming was cut short and ${name} is open`;
      return findings.note('renaming', message, name);
    }
  }
  // Looked at again: it may just have been finished.
  for (const name of names) if ((await lineageOf(session, name)) !== id) return;
  const same = list.length === 2 && (await equal(session, list[0], list[1]));
  const state = same
    ? 'nothing was written to either since: they have the same content'
    : 'one of them was written to since: look at both';
  await findings.add({
    severity: 'note',
    kind: 'interrupted-rename',
    volume: names[0],
    message:
      `${names.join(' and ')} are one volume whose renaming was cut short; both work and share what they have in common. ${state}. ` +
      `To finish it remove the name that should go: ${names.map((name) => `vlmc remove ${name}`).join(', or ')}`,
  });
}

/** Do both maps name the same objects, none of which is written in place? */
async function equal(session: Session, a: VolumeListEntry, b: VolumeListEntry): Promise<boolean> {
  if (a.size !== b.size || a.blockSize !== b.blockSize) return false;
  let damaged = false;
  const entries = (volume: VolumeListEntry): AsyncGenerator<MapEntry[]> =>
    scanMap(session, volume, () => {
      damaged = true;
    });
  const others = entries(b);
  for await (const piece of entries(a)) {
    const other = (await others.next()).value as MapEntry[] | undefined;
    const same = other?.length === piece.length && piece.every((entry, i) => entry.object === other[i].object);
    if (!same || damaged) return false;
  }
  return !damaged;
}
