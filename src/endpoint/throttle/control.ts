/** LIMIT: what the endpoint tells of the limits of volumes, and how they are changed. */
import { errnos, SystemError } from '../../sys/errno.js';
import type { Registry } from '../registry.js';
import { isNone } from '../resolve.js';
import type { Volumes } from '../volumes.js';
import type { VolumeKey } from './store.js';
import type { LimitsOf, VolumeLimits } from './volume-limits.js';

export interface LimitsControl {
  readonly limits: VolumeLimits;
  readonly registry: Pick<Registry, 'get'>;
  readonly volumes: Pick<Volumes, 'info'>;
}

/**
 * @param body `{}`: all that are set. `name`: of this volume; with `set` (a number for each limit, null: as the configuration says) or
 *   `clear` changed first. `id` with `clear`, and the name it had: of a volume that is gone
 * @throws SystemError EINVAL, ENOENT, the mapper's other errors
 */
export async function changeLimits(
  { limits, registry, volumes }: LimitsControl,
  body: Record<string, unknown>,
): Promise<LimitsOf | { volumes: LimitsOf[] }> {
  const { name, id, set, clear } = body;
  if (name === undefined && set === undefined && clear === undefined) return { volumes: limits.all() };
  if (typeof name !== 'string' || name === '') throw new SystemError(errnos.EINVAL, 'LIMIT: a volume name is needed');
  if (clear !== undefined && (clear !== true || set !== undefined)) {
    throw new SystemError(errnos.EINVAL, 'LIMIT: clear is true, and goes with no set');
  }
  let volume: VolumeKey;
  if (id === undefined) {
    const { assumeV0 = false, v0Size = -1 } = registry.get(name) ?? {};
    try {
      volume = { id: (await volumes.info({ name, assumeV0, v0Size })).id, name };
    } catch (error) {
      // Removed by somebody who does not tell: on another node, say. It is in the list of all, and can be taken out of it.
      const gone = clear && isNone(error) ? limits.named(name) : null;
      if (gone === null) throw error;
      volume = gone;
    }
  } else {
    if (clear !== true || !(id === null || typeof id === 'string')) {
      throw new SystemError(errnos.EINVAL, 'LIMIT: an id is for what is cleared, a string or null');
    }
    volume = { id, name };
  }
  if (clear) limits.clear(volume);
  else if (set !== undefined) limits.change(volume, set);
  return limits.of(volume);
}
