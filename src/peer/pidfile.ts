/**
 * Pidfiles, as the original's: the process number in ASCII without a newline, mode 0660, removed at a clean exit. Unlike the
 * original's, a stale one (its process is gone, or the number now belongs to something else) is replaced.
 */
import fs from 'node:fs';
import path from 'node:path';
import { errnoOf, errnos, SystemError } from '../sys/errno.js';
import { isRunning } from './proc.js';

/** Tells whether a living process is the one that the pidfile is for: process numbers are used again. */
export type IsOurs = (pid: number) => boolean;

/** The living process of a pidfile, or null: no file, or a stale one. */
export function livingPid(file: string, isOurs: IsOurs): number | null {
  let text: string;
  try {
    text = fs.readFileSync(file, 'latin1').trim();
  } catch {
    return null;
  }
  if (!/^\d{1,10}$/.test(text)) return null;
  const pid = Number(text);
  return isRunning(pid) && isOurs(pid) ? pid : null;
}

/** A pidfile of this process. */
export class Pidfile {
  readonly path: string;

  private constructor(file: string) {
    this.path = file;
  }

  /**
   * Makes the pidfile for this process.
   * @param what the role, for the message
   * @throws SystemError EEXIST naming the living process that has it
   */
  static take(file: string, what: string, isOurs: IsOurs): Pidfile {
    const mine = path.join(path.dirname(file), `.${path.basename(file)}.${process.pid}`);
    fs.rmSync(mine, { force: true });
    fs.writeFileSync(mine, String(process.pid), { flag: 'wx', mode: 0o660 });
    try {
      for (;;) {
        try {
          // A link is there whole or not at all: nobody reads a pidfile without a number.
          fs.linkSync(mine, file);
          return new Pidfile(file);
        } catch (error) {
          if (errnoOf(error) !== errnos.EEXIST) throw error;
        }
        const pid = livingPid(file, isOurs);
        if (pid !== null) {
          throw new SystemError(errnos.EEXIST, `${what} runs already: process ${pid}, pidfile ${file}`);
        }
        removeStale(file, isOurs);
      }
    } finally {
      fs.rmSync(mine, { force: true });
    }
  }

  /** Removes the file if it is still this process's. */
  remove(): void {
    try {
      if (fs.readFileSync(this.path, 'latin1') === String(process.pid)) fs.unlinkSync(this.path);
    } catch {
      // Gone already, with its directory perhaps.
    }
  }
}

/** Removes a stale pidfile, but never one that another starter just put in its place. */
function removeStale(file: string, isOurs: IsOurs): void {
  const aside = path.join(path.dirname(file), `.${path.basename(file)}.stale.${process.pid}`);
  try {
    fs.renameSync(file, aside);
  } catch (error) {
    if (errnoOf(error) === errnos.ENOENT) return;
    throw error;
  }
  try {
    if (livingPid(aside, isOurs) !== null) fs.linkSync(aside, file);
  } finally {
    fs.rmSync(aside, { force: true });
  }
}
