/**
 * What happens when a lock turns out to be lost: from that moment nothing of the volume is begun; the composers send nothing more of it;
 * what is cached is dropped, not flushed. When all that was under way has ended, whoever broke the lock is told so.
 */
import { Flag } from '../../requests/ops.js';
import { messageOf } from '../../sys/errno.js';
import type { Clock } from '../clock.js';
import type { MapperLog } from '../context.js';
import type { Leases } from '../leases.js';
import type { LostMark, Volume, Volumes } from '../volume.js';
import { clockTime } from './times.js';

/** How often a composer that refuses to end is asked again, in ms. */
const AGAIN_MS = 300;

export interface LossesOptions {
  readonly volumes: Volumes;
  readonly leases: Leases;
  readonly clock: Clock;
  readonly log: MapperLog;
  readonly note: (volume: Volume) => Promise<void>;
}

export class Losses {
  readonly #options: LossesOptions;

  constructor(options: LossesOptions) {
    this.#options = options;
  }

  /** The volume's lock is another's: marks it as lost, at once, and lets all that goes on end. */
  lose(volume: Volume, holder: string | null): void {
    if (!volume.locked) return;
    volume.locked = false;
    volume.tenure++;
    volume.losses++;
    this.mark(volume, { holder, at: Date.now() });
    const { log } = this.#options;
    const who = holder === null ? 'nobody holds it now' : `${holder} holds it now`;
    log.warn(`the lock of volume ${volume.name} was taken away (${who}): everything of it fails until it is closed`);
  }

  /** Marks a volume as lost that is not locked, and lets all that goes on end. */
  mark(volume: Volume, lost: LostMark): void {
    volume.lost = lost;
    volume.map = null;
    volume.touched.clear();
    try {
      this.#options.volumes.committer.forget(volume);
    } catch (error) {
      // It is tried again before the lock is taken, which fails with it.
      this.#options.log.warn(`volume ${volume.name}: the note of its first writes stays: ${messageOf(error)}`);
    }
    volume.written = false;
    volume.writers.clear();
    volume.strangers = false;
    if (volume.open === 'exclusive') volume.open = null;
    volume.byHand = false;
    const drained = this.#options.volumes.use(volume.name, (same) => this.#drain(same));
    volume.drained = drained;
    void this.#options.note(volume);
  }

  async #drain(volume: Volume): Promise<void> {
    const { leases, clock, log } = this.#options;
    const { losses } = volume;
    for (let told = false; volume.losses === losses; told = true) {
      try {
        await leases.revoke(volume, { flags: Flag.LOST });
        break;
      } catch (error) {
        if (!told) log.warn(messageOf(error));
        await new Promise<void>((resolve) => clock.after(AGAIN_MS, resolve));
      }
    }
    // Operations of the mapper fail at their next step; so does a lease that is just being granted.
    await volume.gate.exclusive(async () => {});
    await volume.leasing.exclusive(async () => {});
    await this.#options.volumes.committer.ended(volume);
  }

  /** The mark is no longer wanted: who uses the volume now begins anew. What ends is waited for. @returns the mark that there was */
  async forgive(volume: Volume): Promise<LostMark | null> {
    let forgiven: LostMark | null = null;
    while (volume.lost) {
      const { lost } = volume;
      await volume.drained;
      if (volume.lost !== lost) continue;
      volume.lost = null;
      forgiven = lost;
    }
    return forgiven;
  }

  /** Logs that a volume of which the mark was taken away is in use again. */
  tellForgiven(volume: Volume, forgiven: LostMark | null): void {
    if (forgiven === null || volume.lost) return;
    const when = clockTime(forgiven.at, true);
    this.#options.log.info(`volume ${volume.name} can be used again; its lock was lost at ${when}`);
  }
}
