/** The limits of an endpoint, from its settings. */
import fs from 'node:fs';
import type { NbdSettings } from '../../config/types.js';
import { messageOf } from '../../sys/errno.js';
import { LimitsStore } from './store.js';
import { VolumeLimits } from './volume-limits.js';

/** How often an endpoint that is not the one which is told of changes looks for them, in ms. */
const LOOK_MS = 1000;

type Settings = Pick<NbdSettings, 'limits' | 'limitsFile'>;
interface Log {
  error(message: string): void;
}

/**
 * For the endpoint that changes the file. Disks come before their limits: a damaged file is put aside for whoever wants to look at it, and
 * volumes are served as the configuration says.
 * @throws Error of the file system: the file cannot be read
 */
export function openLimits({ limits, limitsFile }: Settings, log: Log): VolumeLimits {
  const putAside = ({ message }: Error): void => {
    const aside = `${limitsFile}.damaged`;
    let where = `it is ${aside} now`;
    try {
      fs.renameSync(limitsFile, aside);
    } catch (error) {
      where = `it cannot be put aside as ${aside}: ${messageOf(error)}`;
    }
    log.error(`volumes have the limits of the configuration alone: ${message}; ${where}`);
  };
  return new VolumeLimits(new LimitsStore(limitsFile, putAside), limits);
}

/** For an endpoint beside that one: a damaged file stays where it is. @throws Error of the file system: the file cannot be read */
export function openLimitsBeside({ limits, limitsFile }: Settings, log: Log): VolumeLimits {
  const tell = ({ message }: Error): void =>
    log.error(`volumes have the limits of the configuration alone: ${message}`);
  return new VolumeLimits(new LimitsStore(limitsFile, tell), limits);
}

/** Has them follow the file, which another process changes. What cannot be read leaves them as they are, and is told once. */
export function followLimits(limits: VolumeLimits, log: Log): () => void {
  let told = '';
  const timer = setInterval(() => {
    try {
      limits.reload();
      told = '';
    } catch (error) {
      if (told !== messageOf(error)) log.error(`the limits of volumes stay as they were: ${messageOf(error)}`);
      told = messageOf(error);
    }
  }, LOOK_MS).unref();
  return () => clearInterval(timer);
}
