/** Accounts and groups of the system by name, local or of a directory service. */
import fs from 'node:fs';

/** A line of passwd or group, split at the colons; null when there is no such name (or number). */
function lookUp(database: 'passwd' | 'group', key: string): string[] | null {
  const column = /^\d+$/.test(key) ? 2 : 0;
  try {
    for (const line of fs.readFileSync(`/etc/${database}`, 'utf8').split('\n')) {
      const fields = line.split(':');
      if (fields.length > 3 && fields[column] === key) return fields;
    }
  } catch {
    // Without the local file getent still knows what the system's name service knows.
  }
  // Loaded only here: nearly every account is a local one, and short commands come by this too.
  const { spawnSync } = process.getBuiltinModule('node:child_process');
  const result = spawnSync('getent', [database, key], { encoding: 'utf8', timeout: 10_000 });
  return result.status === 0 ? result.stdout.trim().split(':') : null;
}

/** An account by name or number. */
export function findUser(name: string): { name: string; uid: number; gid: number } | null {
  const fields = lookUp('passwd', name);
  return fields && { name: fields[0], uid: Number(fields[2]), gid: Number(fields[3]) };
}

/** A group by name or number. */
export function findGroup(name: string): { name: string; gid: number } | null {
  const fields = lookUp('group', name);
  return fields && { name: fields[0], gid: Number(fields[2]) };
}
