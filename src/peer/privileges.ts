/** Who a node runs as: directories made for USER and GROUP, and the step from root to them. */
import fs from 'node:fs';
import type { Config } from '../config/index.js';
import { errnoOf, errnos, messageOf, SystemError } from '../sys/errno.js';

/** @throws SystemError EPERM when the caller can be neither what USER and GROUP say nor become it */
export function requireAccount(config: Config): void {
  const uid = process.geteuid?.() ?? 0;
  if (uid === 0 || !config.user || config.user.uid === uid) return;
  throw new SystemError(
    errnos.EPERM,
    `the node runs as ${config.user.name} (USER); start it as that account or as root`,
  );
}

/** Makes RUN_DIR and LOG_DIR and gives them to USER and GROUP when root does it. @throws SystemError naming directory and key */
export function makeDirectories(config: Config): void {
  const before = process.umask(config.umask);
  try {
    for (const [key, dir] of [
      ['RUN_DIR', config.runDir],
      ['LOG_DIR', config.logDir],
    ] as const) {
      try {
        fs.mkdirSync(dir, { recursive: true });
        const { uid, gid } = fs.statSync(dir);
        const want = { uid: config.user?.uid ?? uid, gid: config.group?.gid ?? gid };
        if (process.geteuid?.() === 0 && (want.uid !== uid || want.gid !== gid)) fs.chownSync(dir, want.uid, want.gid);
        if (config.user === null || process.geteuid?.() === config.user.uid) fs.accessSync(dir, fs.constants.W_OK);
      } catch (error) {
        throw new SystemError(errnoOf(error), `${key} ${dir}: ${messageOf(error)}`, { cause: error });
      }
    }
  } finally {
    process.umask(before);
  }
}

/** Directories of objects must be there before anything starts: an unmounted file system must not be written under. */
export function requireDirectories(config: Config): void {
  for (const role of config.roles) {
    if (role.type !== 'file_blocker') continue;
    for (const [key, dir] of [
      ['archip_dir', role.archipDir],
      ['lock_dir', role.lockDir],
    ] as const) {
      if (dir === null || fs.statSync(dir, { throwIfNoEntry: false })?.isDirectory()) continue;
      const why = `[${role.name}] ${key}: ${dir} is not a directory; make it (or mount what belongs there), owned by USER`;
      throw new SystemError(errnos.ENOENT, config.path === null ? why : `${config.path}: ${why}`);
    }
  }
}

/** Becomes USER and GROUP, with USER's supplementary groups; nothing when not root or none are set. @throws SystemError */
export function dropPrivileges(config: Config): void {
  if (process.geteuid?.() !== 0) return;
  const { user, group } = config;
  if (!user && !group) return;
  try {
    const gid = group?.gid ?? process.getegid?.() ?? 0;
    // Node has it, its types do not.
    const { initgroups } = process as { initgroups?: (user: string, gid: number) => void };
    if (user) initgroups?.(user.name, gid);
    process.setgid?.(gid);
    if (user) process.setuid?.(user.uid);
  } catch (error) {
    throw new SystemError(errnoOf(error), `cannot become USER and GROUP: ${messageOf(error)}`, { cause: error });
  }
}
