/** What a mapping is asked to be, by the command line or by a line of the table. */
import { InvalidArgumentError } from 'commander';
import { findRole } from '../../config/index.js';
import type { MapEndpoint } from '../../config/types.js';
import { MAX_CONNECTIONS } from '../../devices/types.js';
import { CliError } from '../common/exit.js';
import type { Session } from '../common/session.js';
import type { V0Options } from './v0.js';

export interface MapRequest {
  readonly name: string;
  readonly endpoint: MapEndpoint;
  readonly readOnly: boolean;
  readonly writeThrough: boolean;
  readonly assumeV0: boolean;
  /** Bytes, -1 = not given. */
  readonly v0Size: number;
  /** A unix socket of its own. */
  readonly ownSocket: boolean;
  /** Of a device. */
  readonly connections: number;
}

/** As the command line gives them. */
export interface MapOptions extends V0Options {
  readonly readonly?: boolean;
  readonly endpoint?: MapEndpoint;
  readonly connections?: number;
  readonly writethrough?: boolean;
  readonly socket?: boolean;
  /** true: the default one. */
  readonly table?: string | true;
  /** ms */
  readonly wait?: number;
}

/** What is asked for, with the configuration's answers where nothing was said. */
export function requestOf(session: Session, name: string, options: MapOptions): MapRequest {
  const settings = findRole(session.config, 'nbd');
  if (!settings) throw new CliError('the configuration has no role of type nbd: add one to ROLES in [PEERS]');
  const usual = settings.mapEndpoint;
  // Who says how many connections speaks of a device.
  const endpoint = options.endpoint ?? (usual === 'nbd' && options.connections !== undefined ? 'kernel' : usual);
  return {
    name,
    endpoint,
    readOnly: options.readonly === true,
    writeThrough: options.writethrough === true,
    assumeV0: options.assume_v0 === true,
    v0Size: options.v0_size ?? -1,
    ownSocket: options.socket === true,
    connections: options.connections ?? settings.deviceConnections,
  };
}

/** @throws InvalidArgumentError which makes it a wrong command line */
export function parseConnections(text: string): number {
  const number = /^\d{1,3}$/.test(text) ? Number(text) : 0;
  if (number >= 1 && number <= MAX_CONNECTIONS) return number;
  throw new InvalidArgumentError(`It is a number from 1 to ${MAX_CONNECTIONS}.`);
}

/** @returns ms @throws InvalidArgumentError */
export function parseSeconds(text: string): number {
  if (!/^\d{1,9}(\.\d{1,3})?$/.test(text)) throw new InvalidArgumentError('It is a number of seconds.');
  return Number(text) * 1000;
}
