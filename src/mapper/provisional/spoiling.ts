/**
 * Objects of provisional blocks that the disk did not take. What the kernel could not write it has dropped, and reports once: later syncs, and
 * those of another process, say that all is well. So a block of which a sync failed is never committed: its entry would name a copy with
 * holes in it, in place of what was durable before. A mapper that starts anew goes by the stored map, which has that. Under either, each
 * flush fails, since what was written is gone and was acknowledged, until the block is made zero, or the volume is closed after somebody was
 * told, by the error of a flush (the endpoints say whether a client was there to hear it, Flag.HEARD) or of an earlier close. What nobody was
 * told of is never given up, as the kernel's errseq_t keeps an error that nobody has seen for whoever syncs next: clients may come back.
 */

import type { ObjectClient } from '../../requests/object-client.js';
import { errnoOf, errnos, messageOf, SystemError } from '../../sys/errno.js';
import { type MapperContext, type MapperLog, mapOf } from '../context.js';
import { leftObjects } from '../copy-up.js';
import { LookFailed } from '../locking/fenced.js';
import { LostLock } from '../locking/lost.js';
import { noV0, removeObject } from '../map-store.js';
import type { OwedBlock, ProvisionalBlock, Volume } from '../volume.js';
import type { Notes } from './notes.js';

export class Spoiling {
  readonly #notes: Notes | null;
  readonly #log: MapperLog;

  constructor(notes: Notes | null, log: MapperLog) {
    this.#notes = notes;
    this.#log = log;
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
    const suspect = batch.find(({ suspicion }) => suspicion !== undefined);
    if (suspect) return this.#separate(blocks, volume, batch, nameOf, suspect.suspicion);
    try {
      await blocks.flush(batch.map(nameOf));
      return [...batch];
    } catch (error) {
      if (!isOfDisk(error)) throw error;
      return this.#separate(blocks, volume, batch, nameOf, error);
    }
  }

  /**
   * Which of them failed? When none does alone, the one who knew it may have been replaced: then it may have been any. Where some fail for another
   * reason, they are asked again by the next commit.
   */
  async #separate(
    blocks: ObjectClient,
    volume: Volume,
    batch: readonly ProvisionalBlock[],
    nameOf: (block: ProvisionalBlock) => string,
    cause: unknown,
  ): Promise<ProvisionalBlock[]> {
    const durable: ProvisionalBlock[] = [];
    const failed: ProvisionalBlock[] = [];
    const others: unknown[] = [];
    for (const each of batch) {
      await blocks.flush([nameOf(each)]).then(
        () => durable.push(each),
        (error) => (isOfDisk(error) ? failed.push(each) : others.push(error)),
      );
    }
    const suspects = batch.filter(({ suspicion }) => suspicion !== undefined);
    if (failed.length === 0 && others.length > 0) {
      if (suspects.length === 0) for (const each of batch) each.suspicion = cause;
      throw others[0];
    }
    for (const each of batch) each.suspicion = undefined;
    const meant = suspects.length > 0 ? suspects : batch;
    this.spoil(volume, failed.length > 0 ? failed : meant, cause);
    return durable.filter(({ spoiled }) => spoiled === null);
  }

  /** These are never committed, and to a later mapper they are owed. */
  spoil(volume: Volume, blocks: readonly ProvisionalBlock[], cause: unknown): void {
    for (const each of blocks) each.spoiled = cause;
    const still = blocks.filter((each) => volume.provisional.get(each.block) === each);
    this.#notes?.spoil(volume.name, still);
  }

  /** What was written to blocks [first, end) does not matter any more. @throws Error: then it still does */
  absolve(volume: Volume, first: number, end: number): void {
    const owed = [...volume.owed.keys()].filter((block) => block >= first && block < end);
    if (owed.length === 0) return;
    this.#notes?.absolve(volume.name, owed);
    for (const block of owed) volume.owed.delete(block);
  }

  /**
   * Somebody was told: the spoiled blocks of the volume are what the stored map says from now on. The caller is alone on it.
   * @throws SystemError when their objects cannot be deleted, or that cannot be noted: then they are owed
   */
  async giveUp(context: MapperContext, volume: Volume): Promise<void> {
    const spoiled = [...volume.provisional.values()].filter((each) => each.spoiled !== null);
    for (const { block, epoch, told } of spoiled) {
      volume.provisional.delete(block);
      volume.owed.set(block, { epoch, told });
    }
    const blocks = [...volume.owed.keys()].sort((a, b) => a - b);
    if (blocks.length === 0) return;
    this.#log.warn(
      `volume ${volume.name}: the disk did not take what was first written to ${blocks.length} blocks, of which the first is ` +
        `block ${blocks[0]}, an error has said so, and the volume is closed: they have what they had before`,
    );
    // No map that has the objects in it may be gone by any more.
    volume.map = null;
    volume.generation = context.volumes.newGeneration();
    const map = await mapOf(context, volume, noV0);
    for (const block of blocks) await map.load(block, 1);
    // Nothing of the store can be flushed whole while these are in it: as long as they may be, the note tells their names.
    for (const name of leftObjects(volume, map, 0, Number.POSITIVE_INFINITY)) await removeObject(context.blocks, name);
    this.absolve(volume, 0, Number.POSITIVE_INFINITY);
  }
}

/** It says that the disk did not take something: not that the mapper could not look at the lock, or has lost it. */
const isOfDisk = (error: unknown): boolean =>
  errnoOf(error) === errnos.EIO && !(error instanceof LostLock) && !(error instanceof LookFailed);

/** All that somebody is to be told of. */
export const owedOf = ({ provisional, owed }: Volume): (ProvisionalBlock | OwedBlock)[] => [
  ...[...provisional.values()].filter(({ spoiled }) => spoiled !== null),
  ...owed.values(),
];

/** EIO: what was written to a block, and acknowledged, is gone. */
export class SpoiledError extends SystemError {
  constructor(volume: Volume, block: number, cause: unknown) {
    const why = cause === null ? 'the disk had not taken it, said an earlier mapper' : messageOf(cause);
    super(
      errnos.EIO,
      `volume ${volume.name}: what was first written to block ${block} may be lost: ${why}; ` +
        `disconnect all clients of the volume, and close it if it stays locked (vlmc close ${volume.name}): the block then has what it had before`,
      { cause },
    );
    this.name = 'SpoiledError';
  }
}
