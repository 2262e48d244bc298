/** Volumes as block devices of this machine's kernel (/dev/nbdN): what callers give and get. */
import type { Log } from '../nbd/log.js';

/** Where the node's NBD endpoint is: its unix socket, or a TCP address where there is none. */
export type EndpointAddress = { readonly path: string } | { readonly host: string; readonly port: number };

/** Where the kernel shows itself; other directories in tests. */
export interface SystemRoots {
  readonly sys: string;
  readonly proc: string;
  readonly dev: string;
}

export const SYSTEM_ROOTS: SystemRoots = { sys: '/sys', proc: '/proc', dev: '/dev' };

/** How the devices of a node are found and connected. */
export interface DevicesOptions {
  /** RUN_DIR: where the table of devices is. */
  readonly runDir: string;
  /** The segment's name: tells this node's devices from those of another node on the machine. */
  readonly segment: string;
  readonly endpoint: EndpointAddress;
  /** Seconds for which requests wait, instead of failing, while the endpoint is away; default a day. */
  readonly timeout?: number;
  readonly log?: Log;
  readonly roots?: SystemRoots;
}

/** A volume to attach. */
export interface AttachOptions {
  readonly volume: string;
  /** The export's name, where it is not the volume's. */
  readonly exportName?: string;
  readonly readOnly?: boolean;
  /** 1 to 16; default 1. See docs/devices.md before taking more than one: requests that last longer than 30 s are then sent twice. */
  readonly connections?: number;
}

/** A block device that is a volume. */
export interface Device {
  /** N of /dev/nbdN. */
  readonly index: number;
  readonly path: string;
  readonly volume: string;
  /** Bytes. */
  readonly size: number;
  readonly connections: number;
  readonly readOnly: boolean;
  /** When it was attached, ms since the epoch. */
  readonly since: number;
  /** Its requests are served, and will be again after the node was restarted. */
  readonly healthy: boolean;
  /** Why not, with the way out; null: nothing is the matter. */
  readonly trouble: string | null;
}

export const DEFAULT_CONNECTIONS = 1;
export const MAX_CONNECTIONS = 16;
/** Seconds. */
export const DEFAULT_TIMEOUT = 86_400;
/** What the kernel counts sizes in, and the smallest block that a device can have. */
export const SECTOR = 512;
