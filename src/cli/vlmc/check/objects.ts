/** Does every object that a map names exist, and fit a block? */

import type { VolumeListEntry } from '../../../requests/json.js';
import { errnoOf, errnos, messageOf } from '../../../sys/errno.js';
import type { Session } from '../../common/session.js';
import { EntryFlag, type MapEntry } from '../entries.js';
import type { Finding, Findings } from './findings.js';

/** Requests to the blocker at the same time. */
const PARALLEL = 32;

/** Looks at the objects of some entries. */
export async function checkObjects(
  session: Session,
  findings: Findings,
  volume: VolumeListEntry,
  entries: readonly MapEntry[],
): Promise<void> {
  const blocks = session.client.objects('blocks');
  let next = 0;
  const worker = async (): Promise<void> => {
    while (next < entries.length) {
      const entry = entries[next++];
      let problem: Omit<Finding, 'volume' | 'block' | 'object'> | null;
      try {
        problem = judgeLength((await blocks.info(entry.object)).size, volume.blockSize);
      } catch (error) {
        if (errnoOf(error) === errnos.ECONNREFUSED || errnoOf(error) === errnos.ECONNRESET) throw error;
        problem = judgeError(error, entry.flags);
      }
      if (!problem) continue;
      const { index: block, object } = entry;
      const message = `block ${block}: object ${object} ${problem.message}`;
      await findings.add({ ...problem, message, volume: volume.name, block, object });
    }
  };
  await Promise.all(Array.from({ length: Math.min(PARALLEL, entries.length) }, worker));
}

type Judgement = Omit<Finding, 'volume' | 'block' | 'object'> | null;

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
    return { severity: 'note', kind: 'missing-own-object', message: 'does not exist: the block reads as zeros' };
  }
  return { severity: 'error', kind: 'missing-object', message: 'does not exist: its data is lost, reads fail' };
}
