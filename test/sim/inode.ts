/**
 * One file of the modelled disk: what a process reads of it now, and what the disk holds for sure. What lies between is kept as a
 * history: every version of each 4 KiB page and every size since the last sync. A power cut leaves any of these versions, page by page,
 * or, on disks with small sectors, sector by sector.
 */
import type { Random } from './random.js';

export const PAGE = 4096;
const SECTOR = 512;

/** Content of a page; never changed once it is here. null: zeros. */
type Page = Buffer | null;

interface PageVersion {
  readonly seq: number;
  readonly page: Page;
  /** Made by a change of size: when that size is on the disk, so is this. */
  readonly bySize: boolean;
}

interface SizeVersion {
  readonly seq: number;
  readonly size: number;
}

interface MarkVersion {
  readonly seq: number;
  readonly mark: Buffer | null;
}

/** How much a cut takes: everything that was not synced, nothing, or each thing by chance. */
export type Loss = 'all' | 'none' | 'some';

export class FileInode {
  readonly id: number;
  readonly directory = false as const;
  nlink = 0;
  modified = 0;
  size = 0;
  readonly #pages = new Map<number, Buffer>();
  readonly #basePages = new Map<number, Buffer>();
  #baseSize = 0;
  readonly #versions = new Map<number, PageVersion[]>();
  #sizes: SizeVersion[] = [];
  /** The mark of its attributes. */
  mark: Buffer | null = null;
  #baseMark: Buffer | null = null;
  #marks: MarkVersion[] = [];

  constructor(id: number) {
    this.id = id;
  }

  /** A file that is on the disk as it is. */
  static stored(id: number, pages: Iterable<[number, Buffer]>, size: number, mark: Buffer | null): FileInode {
    const file = new FileInode(id);
    file.mark = mark;
    file.#baseMark = mark;
    for (const [index, page] of pages) {
      file.#pages.set(index, page);
      file.#basePages.set(index, page);
    }
    file.size = size;
    file.#baseSize = size;
    return file;
  }

  /** The same again, with all that is not on the disk yet. */
  clone(): FileInode {
    const copy = new FileInode(this.id);
    copy.modified = this.modified;
    copy.size = this.size;
    copy.#baseSize = this.#baseSize;
    for (const [index, page] of this.#pages) copy.#pages.set(index, page);
    for (const [index, page] of this.#basePages) copy.#basePages.set(index, page);
    for (const [index, versions] of this.#versions) copy.#versions.set(index, [...versions]);
    copy.#sizes = [...this.#sizes];
    copy.mark = this.mark;
    copy.#baseMark = this.#baseMark;
    copy.#marks = [...this.#marks];
    return copy;
  }

  get allocated(): number {
    return this.#pages.size * PAGE;
  }

  /** Bytes read into `out` from `at` on: fewer at the end of the file. */
  read(out: Uint8Array, at: number): number {
    const length = Math.max(0, Math.min(out.length, this.size - at));
    for (let done = 0; done < length; ) {
      const index = Math.floor((at + done) / PAGE);
      const within = at + done - index * PAGE;
      const n = Math.min(PAGE - within, length - done);
      const page = this.#pages.get(index);
      if (page) out.set(page.subarray(within, within + n), done);
      else out.fill(0, done, done + n);
      done += n;
    }
    return length;
  }

  write(seq: number, bytes: Uint8Array, at: number): void {
    for (let done = 0; done < bytes.length; ) {
      const index = Math.floor((at + done) / PAGE);
      const within = at + done - index * PAGE;
      const n = Math.min(PAGE - within, bytes.length - done);
      const old = this.#pages.get(index);
      const page = old ? Buffer.from(old) : Buffer.alloc(PAGE);
      page.set(bytes.subarray(done, done + n), within);
      this.#put(seq, index, page, false);
      done += n;
    }
    if (at + bytes.length > this.size) this.#setSize(seq, at + bytes.length);
  }

  /** The range reads as zeros; the size stays. */
  zero(seq: number, at: number, length: number): void {
    this.#zero(seq, at, Math.min(at + length, this.size), false);
  }

  truncate(seq: number, size: number): void {
    if (size < this.size) this.#zero(seq, size, this.size, true);
    if (size !== this.size) this.#setSize(seq, size);
  }

  #zero(seq: number, from: number, end: number, bySize: boolean): void {
    for (let at = from; at < end; ) {
      const index = Math.floor(at / PAGE);
      const within = at - index * PAGE;
      const n = Math.min(PAGE - within, end - at);
      const old = this.#pages.get(index);
      if (old) {
        // What is past the end of the file is not there.
        if (n === PAGE || (within === 0 && at + n >= this.size)) this.#put(seq, index, null, bySize);
        else this.#put(seq, index, Buffer.from(old).fill(0, within, within + n), bySize);
      }
      at += n;
    }
  }

  #put(seq: number, index: number, page: Page, bySize: boolean): void {
    if (page) this.#pages.set(index, page);
    else this.#pages.delete(index);
    const versions = this.#versions.get(index);
    if (versions) versions.push({ seq, page, bySize });
    else this.#versions.set(index, [{ seq, page, bySize }]);
  }

  #setSize(seq: number, size: number): void {
    this.size = size;
    this.#sizes.push({ seq, size });
  }

  /** The disk did not take what was written until `seq`: who reads sees it still, no later sync writes it. */
  lose(seq: number): void {
    for (const [index, versions] of this.#versions) {
      const kept = versions.filter((version) => version.page === null || version.seq > seq);
      if (kept.length > 0) this.#versions.set(index, kept);
      else this.#versions.delete(index);
    }
  }

  setMark(seq: number, mark: Buffer | null): void {
    this.mark = mark;
    this.#marks.push({ seq, mark });
  }

  /** Everything up to `seq` is on the disk. @param attributes the mark, too */
  sync(seq: number, attributes = false): void {
    while (attributes && this.#marks.length > 0 && this.#marks[0].seq <= seq)
      this.#baseMark = this.#marks.shift()!.mark;
    for (const [index, versions] of this.#versions) {
      let last = -1;
      while (last + 1 < versions.length && versions[last + 1].seq <= seq) last++;
      if (last < 0) continue;
      const { page } = versions[last];
      if (page) this.#basePages.set(index, page);
      else this.#basePages.delete(index);
      if (last + 1 === versions.length) this.#versions.delete(index);
      else versions.splice(0, last + 1);
    }
    while (this.#sizes.length > 0 && this.#sizes[0].seq <= seq) this.#baseSize = this.#sizes.shift()!.size;
  }

  /**
   * The file as a cut leaves it.
   * @param tear sectors of one page may be of different versions
   */
  survivor(random: Random, loss: Loss, tear: boolean): FileInode {
    const choose = (count: number): number => (loss === 'all' ? 0 : loss === 'none' ? count : random.below(count + 1));
    const kept = choose(this.#sizes.length);
    const size = kept === 0 ? this.#baseSize : this.#sizes[kept - 1].size;
    const sizeSeq = kept === 0 ? -1 : this.#sizes[kept - 1].seq;
    const pages = new Map(this.#basePages);
    for (const [index, versions] of this.#versions) {
      const candidates: Page[] = [this.#basePages.get(index) ?? null];
      for (const { page, bySize, seq } of versions) {
        // A size that is on the disk took the pages past it with it.
        if (bySize && seq <= sizeSeq) candidates.length = 0;
        candidates.push(page);
      }
      let page = candidates[choose(candidates.length - 1)];
      if (tear && loss === 'some' && candidates.length > 1 && random.chance(0.25)) page = torn(candidates, random);
      if (page) pages.set(index, page);
      else pages.delete(index);
    }
    for (const [index, page] of pages) {
      const length = size - index * PAGE;
      if (length <= 0) pages.delete(index);
      else if (length < PAGE) pages.set(index, Buffer.from(page).fill(0, length));
    }
    const marks = choose(this.#marks.length);
    return FileInode.stored(this.id, pages, size, marks === 0 ? this.#baseMark : this.#marks[marks - 1].mark);
  }
}

function torn(candidates: readonly Page[], random: Random): Page {
  const page = Buffer.alloc(PAGE);
  for (let at = 0; at < PAGE; at += SECTOR) random.pick(candidates)?.copy(page, at, at, at + SECTOR);
  return page;
}
