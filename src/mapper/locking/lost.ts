/** The error of everything that is asked of a volume whose lock was lost. */
import { errnos, SystemError } from '../../sys/errno.js';
import type { Volume } from '../volume.js';
import { clockTime } from './times.js';

export class LostLock extends SystemError {
  constructor({ name, lost }: Volume) {
    const who = lost?.holder ? `by ${lost.holder} ` : 'away ';
    const when = lost ? `at ${clockTime(lost.at, true)}` : 'meanwhile';
    super(
      errnos.EIO,
      `the lock of volume ${name} was taken ${who}${when}: what was written here since the last flush may be lost; ` +
        `close it (all clients disconnect, or vlmc close ${name}) and open it again`,
    );
    this.name = 'LostLock';
  }
}

/** @throws LostLock */
export function refuseLost(volume: Volume): void {
  if (volume.lost) throw new LostLock(volume);
}
