/**
 * Objects of provisional blocks that the disk did not take. What the kernel could not write it has dropped, and reports once: later syncs, and
 * those of another process, say that all is well. So a block of which a sync failed is never committed: its entry would name a copy with
 * holes in it, in place of what was durable before. Each flush fails, until the block is made zero; a mapper that starts anew goes by the
 * stored map, which has what was durable.
 */
import type { ObjectClient } from '../../requests/object-client.js';
import { errnoOf, errnos, messageOf, SystemError } from '../../sys/errno.js';
import type { ProvisionalBlock, Volume } from '../volume.js';
import type { Notes } from './notes.js';

export class Spoiling {
  readonly #notes: Notes | null;

  constructor(notes: Notes | null) {
    this.#notes = notes;
  }

  /**
   * Makes the objects of these blocks durable.
   * @returns those that are
   * @throws SystemError of the store that is no word of the disk
   */
  async flush(
    blocks: ObjectClient,
    volume: Volume,
    batch: readonly ProvisionalBlock[],
    nameOf: (block: ProvisionalBlock) => string,
  ): Promise<ProvisionalBlock[]> {
    if (batch.length === 0) return [];
    try {
      await blocks.flush(batch.map(nameOf));
      return [...batch];
    } catch (error) {
      if (errnoOf(error) !== errnos.EIO) throw error;
      return this.#separate(blocks, volume, batch, nameOf, error);
    }
  }

  /** Which of them failed? When none does alone, the one who knew it may have been replaced: then it may have been any. */
  async #separate(
    blocks: ObjectClient,
    volume: Volume,
    batch: readonly ProvisionalBlock[],
    nameOf: (block: ProvisionalBlock) => string,
    cause: unknown,
  ): Promise<ProvisionalBlock[]> {
    const durable: ProvisionalBlock[] = [];
    const failed: ProvisionalBlock[] = [];
    for (const each of batch) {
      await blocks.flush([nameOf(each)]).then(
        () => durable.push(each),
        () => failed.push(each),
      );
    }
    this.spoil(volume, failed.length > 0 ? failed : batch, cause);
    return failed.length > 0 ? durable : [];
  }

  /** These are never committed, and no later mapper takes them over. */
  spoil(volume: Volume, blocks: readonly ProvisionalBlock[], cause: unknown): void {
    for (const each of blocks) each.spoiled = cause;
    const still = blocks.filter((each) => volume.provisional.get(each.block) === each);
    this.#notes?.drop(
      volume.name,
      still.map(({ block }) => block),
    );
  }
}

export const spoiledError = (volume: Volume, { block, spoiled }: ProvisionalBlock): SystemError =>
  new SystemError(
    errnos.EIO,
    `volume ${volume.name}: what was first written to block ${block} may be lost: ${messageOf(spoiled)}; ` +
      'once the disk is well, restart the blocker and the mapper: the block then has what it had before',
    { cause: spoiled },
  );
