/** Which ranges of files are in the page cache, as mincore(2) tells of a mapping that is made for the question: nothing is touched by it. */
import * as libc from '../../sys/libc.js';

const PAGE = 4096;
/** The longest range that is looked at, in bytes: a byte of the answer for each page. */
const LONGEST = 1 << 20;

export class Residence {
  #pages: libc.Memory | null = null;

  /** Is all of this range of an open file in memory, valid, and before the file's end? False also when that cannot be told. */
  covers(fd: number, offset: number, length: number): boolean {
    const begin = offset - (offset % PAGE);
    const count = Math.ceil((offset + length - begin) / PAGE);
    if (length > LONGEST) return false;
    const address = libc.mmap(0, count * PAGE, libc.PROT_READ, libc.MAP_SHARED, fd, begin);
    if (address >= 2 ** 63) return false;
    this.#pages ??= libc.allocateMemory(LONGEST / PAGE + 1);
    const { address: vec, bytes } = this.#pages;
    const known = libc.mincore(address, count * PAGE, vec) === 0;
    libc.munmap(address, count * PAGE);
    if (!known) return false;
    for (let i = 0; i < count; i++) if ((bytes[i] & 1) === 0) return false;
    return true;
  }
}
