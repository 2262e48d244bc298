/**
 * Which mount a directory's file system is of: what was written and never synced lives as long as that, not as long as the machine runs. Nothing
 * of the file system itself tells (its device and its id stay the same), and mount ids are new in each mount namespace, as a service may get one at
 * each start. But ext4, XFS and F2FS have a directory in sysfs for as long as they are mounted anywhere, named by their device
 * (Documentation/ABI/testing/sysfs-fs-ext4), and the inode numbers of sysfs are not used again.
 */
import fs from 'node:fs';
import path from 'node:path';

const TYPES = ['ext4', 'xfs', 'f2fs'];

/** What tells of the mount, called again and again. */
export class Mounted {
  readonly #directory: string;
  #known: { readonly dev: bigint; readonly file: string } | null = null;
  /** Its file system was never one that can be asked: it is not touched unless it must be, for it may be a server's, which may be silent. */
  #isUnknown = false;

  constructor(directory: string) {
    this.#directory = directory;
  }

  /**
   * The same text as long as the file system is mounted; null when that cannot be told now.
   * @param wasKnown somebody could tell before, so there is something to look at, now or again later
   */
  id(wasKnown = false): string | null {
    if (this.#isUnknown && !wasKnown) return null;
    try {
      const { dev } = fs.statSync(this.#directory, { bigint: true });
      if (this.#known?.dev !== dev) {
        const found = find(dev);
        // Where it is unmounted, the directory is of whatever is below: that is no word of what is mounted there again.
        if (found === null) this.#isUnknown = this.#known === null;
        if (found === null) return null;
        this.#known = found;
        this.#isUnknown = false;
      }
      return fs.statSync(this.#known.file, { bigint: true }).ino.toString(16);
    } catch {
      return null;
    }
  }
}

/** null: not of a block device, or of a file system without such a directory. Device numbers are as the kernel's new_encode_dev and glibc's makedev have them. */
function find(dev: bigint): { dev: bigint; file: string } | null {
  const major = ((dev >> 8n) & 0xfffn) | ((dev >> 32n) & 0xfffff000n);
  const minor = (dev & 0xffn) | ((dev >> 12n) & 0xffffff00n);
  const link = `/sys/dev/block/${major}:${minor}`;
  if (!fs.existsSync(link)) return null;
  const device = path.basename(fs.realpathSync(link));
  const file = TYPES.map((type) => `/sys/fs/${type}/${device}`).find((each) => fs.existsSync(each));
  return file === undefined ? null : { dev, file };
}
