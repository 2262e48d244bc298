/** The errors of configuration. */
import { errnos, SystemError } from '../sys/errno.js';

/** Where in a configuration something stands; parts that are not known are left out of messages. */
export interface Place {
  readonly file: string;
  readonly line?: number;
  readonly section?: string;
  readonly key?: string;
}

/** `/etc/archipelago/archipelago.conf:12: [XSEG] SEGMENT_SIZE`. */
export function formatPlace(place: Place): string {
  const where = place.line === undefined ? place.file : `${place.file}:${place.line}`;
  const what = [place.section === undefined ? '' : `[${place.section}]`, place.key ?? ''].filter(Boolean).join(' ');
  return what === '' ? where : `${where}: ${what}`;
}

/** The configuration cannot be used. The message names file, line, section, key and what is allowed there. */
export class ConfigError extends SystemError {
  readonly place: Place;
  constructor(place: Place, problem: string, options?: ErrorOptions) {
    super(errnos.EINVAL, `${formatPlace(place)}: ${problem}`, options);
    this.name = 'ConfigError';
    this.place = place;
  }
}
