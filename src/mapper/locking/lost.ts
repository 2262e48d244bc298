/** The error of everything that is asked of a volume whose lock was lost. */
import { errnos, SystemError } from '../../sys/errno.js';
import type { LostMark, Volume } from '../volume.js';
import { clockTime } from './times.js';

export class LostLock extends SystemError {
  /** Which loss; null when it is over by now. */
  readonly mark: LostMark | null;

  constructor({ name, lost }: Volume) {
    const who = lost?.holder ? `by ${lost.holder} ` : 'away ';
    const when = lost ? `at ${clockTime(lost.at, true)}` : 'meanwhile';
    super(
      errnos.EIO,
      `the lock of volume ${name} was taken ${who}${when}: what was written here since the last flush may be lost; ` +
        `close it (all clients disconnect, or vlmc close ${name}) and open it again`,
    );
    this.name = 'LostLock';
    this.mark = lost;
  }
}

/** @throws LostLock */
export function refuseLost(volume: Volume): void {
  if (volume.lost) throw new LostLock(volume);
}
