/** Does every object that a map names exist, and fit a block? */

import type { VolumeListEntry } from '../../../requests/json.js';
import { errnoOf, errnos, messageOf } from '../../../sys/errno.js';
import { isOutage } from '../../common/patience.js';
import type { Session } from '../../common/session.js';
import { EntryFlag, type MapEntry, mapOf } from '../entries.js';
import type { Finding, Findings } from './findings.js';
import { parseObjectName } from './name-set.js';
import { versionOf } from './scan.js';

/** Requests to the blocker at the same time. */
const PARALLEL = 32;

/** How often a block with a problem is looked at again. */
const LOOKS = 3;

type Judgement = Omit<Finding, 'volume' | 'block' | 'object'> | null;

/** Looks at the objects of some entries. */
export async function checkObjects(
  session: Session,
  findings: Findings,
  volume: VolumeListEntry,
  entries: readonly MapEntry[],
): Promise<void> {
  const blocks = session.client.objects('blocks');
  const look = async (entry: MapEntry): Promise<Judgement> => {
    const misplaced = judgePlace(entry);
    if (misplaced) return misplaced;
    try {
      return judgeLength((await blocks.info(entry.object)).size, volume.blockSize);
    } catch (error) {
      if (isOutage(error)) throw error;
      return judgeError(error, entry.flags);
    }
  };
  let next = 0;
  const worker = async (): Promise<void> => {
    while (next < entries.length) {
      let entry: MapEntry | null = entries[next++];
      // What a deletion has marked need not exist.
      if (entry.flags & EntryFlag.DELETED) continue;
      let problem = await look(entry);
      // The volume may be in use: what counts is the entry as it is now, and its object, which may have gone in between once more.
      for (let again = 0; entry && problem && again < LOOKS; again++) {
        entry = await entryNow(session, volume, entry);
        problem = entry && (await look(entry));
      }
      if (!entry || !problem) continue;
      const { index: block, object } = entry;
      const message = `block ${block}: object ${object} ${problem.message}`;
      await findings.add({ ...problem, message, volume: volume.name, block, object });
    }
  };
  await Promise.all(Array.from({ length: Math.min(PARALLEL, entries.length) }, worker));
}

/** The entry as it is now; null when the block has no object any more, or the volume has gone. */
async function entryNow(session: Session, volume: VolumeListEntry, seen: MapEntry): Promise<MapEntry | null> {
  try {
    for await (const [entry] of mapOf(session.client, volume.name, volume, versionOf(volume)).pieces(seen.index, 1)) {
      return entry.object === '' || entry.flags & EntryFlag.DELETED ? null : entry;
    }
  } catch (error) {
    const gone = errnoOf(error) === errnos.ENOENT || errnoOf(error) === errnos.EINVAL;
    if (!gone) throw error;
  }
  return null;
}

/** Objects that volumes make are called after their block, and stay with that block in every map. */
function judgePlace({ index, flags, object }: MapEntry): Judgement {
  const parsed = flags & EntryFlag.ARCHIP ? parseObjectName(object) : null;
  if (!parsed || parsed.index === index) return null;
  const message = `was made for block ${parsed.index}: entries of the map were mixed up`;
  return { severity: 'error', kind: 'misplaced-object', message };
}

function judgeLength(length: number, blockSize: number): Judgement {
  if (length <= blockSize) return null;
  const message = `is longer than a block: ${length} of ${blockSize} bytes; what lies beyond is not the volume's`;
  return { severity: 'error', kind: 'object-too-long', message };
}

function judgeError(error: unknown, flags: number): Judgement {
  if (errnoOf(error) !== errnos.ENOENT) {
    return { severity: 'error', kind: 'object-unreadable', message: `cannot be looked at: ${messageOf(error)}` };
  }
  const own = EntryFlag.WRITABLE | EntryFlag.ARCHIP;
  if ((flags & own) === own) {
    // No crash leaves that: an own object is durable before the entry that names it, and its entry is gone before it is.
    const message = 'does not exist: its data is lost, the block reads as zeros';
    return { severity: 'error', kind: 'missing-own-object', message };
  }
  return { severity: 'error', kind: 'missing-object', message: 'does not exist: its data is lost, reads fail' };
}
