/**
 * Closing volumes: because somebody asks for it, or since the last client is gone. What kept a volume from being closed then is nobody's
 * answer, so it is tried again for as long as nobody uses the volume.
 */
import { errnos, messageOf, SystemError } from '../sys/errno.js';
import { withAlone } from './alone.js';
import type { Clock } from './clock.js';
import type { MapperContext } from './context.js';
import { LostLock } from './locking/lost.js';
import type { Locking } from './locking/service.js';
import { SpoiledError } from './provisional/spoiling.js';
import type { Volume } from './volume.js';

/** After how long it is tried again, in ms: for the first time, and at most, as each pause is twice the last. */
const AGAIN_MS = 1000;
const MOST_AGAIN_MS = 60_000;

/** EBUSY: somebody uses the volume, who is not disturbed. */
class StillUsed extends SystemError {
  constructor(volume: string) {
    super(errnos.EBUSY, `volume ${volume} has other clients`);
    this.name = 'StillUsed';
  }
}

export interface ClosingOptions {
  readonly context: Pick<MapperContext, 'volumes' | 'leases' | 'log'>;
  readonly locking: Locking;
  readonly clock: Clock;
}

/** What is planned for a volume that could not be closed. */
interface Plan {
  pauseMs: number;
  cancel: () => void;
}

export class Closing {
  readonly #options: ClosingOptions;
  readonly #plans = new Map<Volume, Plan>();
  #stopped = false;

  constructor(options: ClosingOptions) {
    this.#options = options;
  }

  /**
   * Flushes, gives the lock back if this mapper has it, and forgets the volume. Never touches another node's lock.
   * @param implicit the last client of an endpoint is gone: what open asked for stays
   * @param isHeard who was told by a flush, or by an earlier close that was refused, has heard of it (Flag.HEARD)
   * @throws StillUsed when it is implicit and others have the volume open: nothing was done; SystemError what kept it from being closed. What the
   * disk did not take of first writes does so once, until somebody is told
   */
  async close(name: string, implicit: boolean, isHeard: boolean): Promise<void> {
    const { volumes } = this.#options.context;
    await volumes.use(name, (volume) => {
      if (implicit && !isHeard) volumes.committer.untell(volume);
      return this.#close(volume, implicit, isHeard);
    });
  }

  /** A lock that is held for nobody: gives it back unless it is used by now, at once or later. */
  giveUp(volume: Volume): void {
    const { context } = this.#options;
    context.volumes
      .use(volume.name, (same) => this.#close(same, true))
      .catch((error) => {
        if (!(error instanceof StillUsed)) {
          context.log.warn(`volume ${volume.name} stays locked until that can be given back: ${messageOf(error)}`);
        }
      });
  }

  /** Nobody has the volume open any more, and nobody said so: as the end of its last client. */
  async abandon(volume: Volume): Promise<void> {
    const { volumes, log } = this.#options.context;
    const { name } = volume;
    try {
      await volumes.use(name, (same) => {
        // Nor does anybody say what its clients have heard.
        volumes.committer.untell(same);
        return this.#close(same, true);
      });
      log.info(`volume ${name}: its lock was given back, as no endpoint has had a client of it for a minute`);
    } catch (error) {
      if (!(error instanceof StillUsed))
        log.warn(`volume ${name} stays locked until that can be given back: ${messageOf(error)}`);
    }
  }

  /** Something that may have kept the volume from being closed is over. */
  again(volume: Volume): void {
    const { unclosed } = volume;
    if (unclosed === null || this.#stopped) return;
    this.#plans.get(volume)?.cancel();
    const { context } = this.#options;
    const { log } = context;
    // Whoever comes first, a client or this: a lease that was granted since is not taken back.
    const entered = (): void => {
      if (volume.unclosed === null || volume.kept) throw new StillUsed(volume.name);
    };
    context.volumes
      .use(volume.name, (same) => this.#close(same, true, true, entered))
      .then(
        () =>
          log.info(`volume ${volume.name}: its lock was given back, which could not be done when its last client left`),
        (error) => {
          if (error instanceof StillUsed || volume.unclosed?.why === unclosed.why) return;
          log.warn(`volume ${volume.name} stays locked until that can be given back: ${messageOf(error)}`);
        },
      );
  }

  /** Somebody uses the volume, or it was closed. */
  forget(volume: Volume): void {
    volume.unclosed = null;
    this.#plans.get(volume)?.cancel();
    this.#plans.delete(volume);
  }

  /** What could not be closed is left to the next mapper. */
  stop(): void {
    this.#stopped = true;
    for (const { cancel } of this.#plans.values()) cancel();
    this.#plans.clear();
  }

  /** @param isHeard see Committer.conclude @param entered see AloneOptions */
  async #close(volume: Volume, implicit: boolean, isHeard = implicit, entered = (): void => {}): Promise<void> {
    const { context, locking } = this.#options;
    const { locks, losses } = locking;
    const { name } = volume;
    const { committer } = context.volumes;
    let lost: Volume['lost'] = null;
    // Before anything is disturbed; and again when no lease is left, since whoever read by one has the volume open.
    const refuseUsed = async (): Promise<void> => {
      if (implicit && (await context.leases.isOpen(volume))) throw new StillUsed(name);
    };
    const before = async (): Promise<void> => {
      await refuseUsed();
      await committer.conclude(volume, !implicit, implicit || isHeard);
    };
    const letGo = async (): Promise<void> => {
      if (implicit && volume.kept) await locking.maps.flush(volume.touched);
      else await locking.letGo(volume);
      if (!implicit) await locks.end(volume);
    };
    let failure: unknown = null;
    try {
      await refuseUsed();
      lost = await losses.forgive(volume);
      await withAlone(context, [name], [], letGo, { before, entered });
    } catch (error) {
      if (!(error instanceof LostLock)) failure = error;
      else if (!implicit && !volume.locked) await locks.end(volume);
    }
    if (failure === null) {
      this.forget(volume);
      // Closing is what ends that state, whoever was the first to notice it.
      lost = (await losses.forgive(volume)) ?? lost;
    } else if (implicit) this.#failed(volume, failure);
    if (failure === null || lost !== null) {
      losses.tellForgiven(volume, lost);
      await locks.note(volume);
    }
    if (failure !== null) throw failure;
  }

  #failed(volume: Volume, error: unknown): void {
    if (error instanceof StillUsed || volume.kept || !volume.locked) {
      this.forget(volume);
      return;
    }
    volume.unclosed = { since: volume.unclosed?.since ?? Date.now(), why: messageOf(error) };
    // Of what the disk did not take somebody is to be told first.
    if (!(error instanceof SpoiledError)) this.#plan(volume);
  }

  #plan(volume: Volume): void {
    if (this.#stopped) return;
    const before = this.#plans.get(volume);
    before?.cancel();
    const pauseMs = before ? Math.min(2 * before.pauseMs, MOST_AGAIN_MS) : AGAIN_MS;
    this.#plans.set(volume, { pauseMs, cancel: this.#options.clock.after(pauseMs, () => this.again(volume)) });
  }
}
