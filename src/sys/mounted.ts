/**
 * Which mount a directory's file system is of: what was written and never synced lives as long as that, not as long as the machine runs. Nothing
 * of the file system itself tells (its device and its id stay the same), and mount ids are new in each mount namespace, as a service may get one at
 * each start. But ext4, XFS and F2FS have a directory in sysfs for as long as they are mounted anywhere, named by their device
 * (Documentation/ABI/testing/sysfs-fs-ext4), and the inode numbers of sysfs are not used again.
 *
 * While a file system is not mounted, the directory may be there all the same, on the one below, which may well be of such a type, too. So it is told,
 * besides, how many file systems lie one over the other on the way to the directory: when they are fewer than before, one of them is missing, and that
 * says nothing of what becomes of it. Nor is anything lost while the mount of before is there, and just not what the directory leads to.
 */
import fs from 'node:fs';
import path from 'node:path';
import { Status, StatusWord } from './status.js';

const TYPES = ['ext4', 'xfs', 'f2fs'];

/** What tells of the mount, called again and again. */
export class Mounted {
  readonly #directory: string;
  /** Two looks before and two after each first write: not by Node's, which take several times as long. */
  readonly #status = new Status();
  #known: { readonly device: string; readonly file: string; readonly depth: number } | null = null;
  /** Its file system was never one that can be asked: it is not touched unless it must be, for it may be a server's, which may be silent. */
  #isUnknown = false;

  constructor(directory: string) {
    this.#directory = directory;
  }

  /**
   * The mount as it is now, as a short text; null when that cannot be told, or when it is not mounted.
   * @param before what this said before, here or in an earlier process: said again as long as the file system is mounted. null: nothing
   */
  id(before: string | null = null): string | null {
    if (this.#isUnknown && before === null) return null;
    try {
      const status = this.#status;
      if (!status.look(this.#directory)) return null;
      const device = `${status.words[StatusWord.DEVICE_MAJOR]}:${status.words[StatusWord.DEVICE_MINOR]}`;
      if (this.#known?.device !== device) {
        const file = find(device);
        // Where it is unmounted, the directory is of whatever is below: that is no word of what is mounted there again.
        if (file === null) this.#isUnknown = this.#known === null;
        if (file === null) return null;
        this.#known = { device, file, depth: depthOf(this.#directory) };
        this.#isUnknown = false;
      }
      const { file, depth } = this.#known;
      if (!status.look(file)) return null;
      const number = status.inode.toString(16);
      if (before === null) return `${number}@${depth}`;
      // Without the depth in what earlier versions said.
      const [numberBefore, depthBefore = '0'] = before.split('@');
      if (number === numberBefore) return before;
      return depth < Number(depthBefore) || isThere(numberBefore) ? null : `${number}@${depth}`;
    } catch {
      return null;
    }
  }
}

/** @param device `major:minor` @returns null: it is no block device, or of a file system without such a directory */
function find(device: string): string | null {
  const link = `/sys/dev/block/${device}`;
  if (!fs.existsSync(link)) return null;
  const name = path.basename(fs.realpathSync(link));
  return TYPES.map((type) => `/sys/fs/${type}/${name}`).find((each) => fs.existsSync(each)) ?? null;
}

/** Whether a file system with that number is mounted anywhere. */
function isThere(number: string): boolean {
  return TYPES.some((type) => {
    const directory = `/sys/fs/${type}`;
    return (
      fs.existsSync(directory) &&
      fs
        .readdirSync(directory)
        .some((name) => fs.statSync(path.join(directory, name), { bigint: true }).ino.toString(16) === number)
    );
  });
}

/** How often the file system changes on the way from the root to the directory. What is mounted over a part of itself, as services may have it, is no change. */
function depthOf(directory: string): number {
  let depth = 0;
  for (let at = fs.realpathSync(directory); at !== path.dirname(at); at = path.dirname(at)) {
    if (fs.statSync(at, { bigint: true }).dev !== fs.statSync(path.dirname(at), { bigint: true }).dev) depth++;
  }
  return depth;
}
