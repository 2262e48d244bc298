/** Waiting for a node that is being started: at boot nobody is there to try again. */
import { Op } from '../../requests/ops.js';
import { monotonicMs } from '../../sys/clock.js';
import { errnoOf, errnos, messageOf } from '../../sys/errno.js';
import { CliError } from '../common/exit.js';
import type { Session } from '../common/session.js';

const LOOK_MS = 200;

/** Resolves when the endpoint of the node answers. @throws CliError after `limitMs`, or at once for what waiting does not change */
export async function untilThere(session: Session, limitMs: number): Promise<void> {
  const end = monotonicMs() + limitMs;
  for (;;) {
    try {
      await session.client.call('endpoint', { op: Op.PING });
      return;
    } catch (error) {
      const starting = [errnos.ENOENT, errnos.ECONNREFUSED, errnos.ECONNRESET].includes(errnoOf(error));
      if (!starting) throw error;
      if (monotonicMs() >= end)
        throw new CliError(`waited ${limitMs / 1000} s: ${messageOf(error)}`, errnoOf(error), { cause: error });
    }
    // A segment that was there may have been replaced by now.
    session.disconnect();
    await new Promise((resolve) => setTimeout(resolve, Math.max(0, Math.min(LOOK_MS, end - monotonicMs()))));
  }
}
