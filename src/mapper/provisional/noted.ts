/** What is noted of provisional blocks. */

/** A block of which the stored entry does not name the object yet. */
export interface NotedBlock {
  readonly block: number;
  /** In the name of its object. */
  readonly epoch: number;
}

/** Which map a note is of. */
export interface NotedMap {
  /** The volume's, empty when it has none. */
  readonly id: string;
  /** The map's present epoch, or the one that it is just about to have. */
  readonly epoch: number;
  /** Under which tenure of the volume's lock (Locks.mark): 16 characters; absent where the store cannot tell. */
  readonly lock?: string;
}

export interface NotedVolume {
  readonly map: NotedMap;
  readonly blocks: readonly NotedBlock[];
  /** Blocks that are zero and of which the stored entries say otherwise; the epoch is that in the name of the own object that goes, 0: not known. */
  readonly zeroed: readonly NotedBlock[];
  /** Blocks of which the disk did not take what was first written (spoiling.ts); the epoch is 0 where an earlier version noted it. */
  readonly spoiled: readonly NotedBlock[];
}
