/**
 * What the store's blocker has told of the objects of a volume's blocks, so that it finds their open files at once: the hint of the block that was
 * used last of those that share a slot. There are few slots at first, as most volumes of a node do little.
 */

/** Powers of two. 1024 blocks of 4 MiB are 4 GiB of hot data. */
const FEWEST = 32;
const MOST = 1024;

export class Hints {
  #blocks = new Float64Array(FEWEST).fill(-1);
  #hints = new Float64Array(FEWEST);
  /** A block's slot are these of its bits. */
  #mask = FEWEST - 1;

  /** The hint of a block's object; 0: none. */
  get(block: number): number {
    const slot = block & this.#mask;
    return this.#blocks[slot] === block ? this.#hints[slot] : 0;
  }

  set(block: number, hint: number): void {
    const other = this.#blocks[block & this.#mask];
    if (other !== block && other >= 0 && this.#blocks.length < MOST) this.#grow();
    const slot = block & this.#mask;
    this.#blocks[slot] = block;
    this.#hints[slot] = hint;
  }

  /** Blocks [first, end) have no hints any more. */
  forget(first: number, end: number): void {
    if (end - first >= this.#blocks.length) this.clear();
    else {
      for (let block = first; block < end; block++) {
        const slot = block & this.#mask;
        if (this.#blocks[slot] === block) this.#blocks[slot] = -1;
      }
    }
  }

  clear(): void {
    this.#blocks.fill(-1);
  }

  /** A block of the few slots has one of its own among the many: nothing is lost. */
  #grow(): void {
    const [blocks, hints] = [this.#blocks, this.#hints];
    this.#blocks = new Float64Array(MOST).fill(-1);
    this.#hints = new Float64Array(MOST);
    this.#mask = MOST - 1;
    for (let i = 0; i < blocks.length; i++) if (blocks[i] >= 0) this.set(blocks[i], hints[i]);
  }
}
