/** What every action has at hand. */
import { Flag, NO_V0_SIZE } from '../../requests/ops.js';
import { errnos, SystemError } from '../../sys/errno.js';
import type { Io } from '../common/io.js';
import type { GanetiCall } from './environment.js';
import type { Kernel } from './kernel.js';
import type { Node } from './node.js';

export interface Context {
  readonly call: GanetiCall;
  readonly node: Node;
  /** Devices of the kernel on this machine; loaded for calls that are about them. */
  readonly kernel: () => Promise<Kernel>;
  readonly io: Io;
}

/** A remark for Ganeti's log of the call; what a call means to say on standard output is its result. */
export function remark({ io }: Pick<Context, 'io'>, text: string): void {
  io.stderr.write(`${text}\n`);
}

/**
 * The volume that the disk is: the one of its name, or with reuse_data the one that create found by the disk's given name. That is looked up in the
 * record first: people may give the disk another name later, and not every call tells it.
 */
export async function volumeOf({ call, node }: Pick<Context, 'call' | 'node'>): Promise<string> {
  if (!call.reuseData) return call.name;
  const reused = await reusedVolume({ call, node });
  if (reused !== null) return reused;
  // A snapshot has its disk's parameters, and is a volume of its own.
  if (call.givenName === null || (await node.info(call.name)) !== null) return call.name;
  return call.givenName;
}

/** The volume that create noted for a disk with reuse_data; null when it noted none. */
export async function reusedVolume({ call, node }: Pick<Context, 'call' | 'node'>): Promise<string | null> {
  if (!call.reuseData) return null;
  const { readRecord } = await import('./records.js');
  return (await readRecord(node.maps(), call.name))?.volume ?? null;
}

/** Maps of Pithos have the hash of a file for a name. */
const PITHOS_NAME = /^[0-9a-f]{64}$/;

/** How the origin's map is read: one of Pithos has no header that says what it is. */
export function originVersion({ origin, originSize }: Pick<GanetiCall, 'origin' | 'originSize'>): {
  flags: number;
  v0Size: number;
} {
  const v0 = originSize !== null || (origin !== null && PITHOS_NAME.test(origin));
  return { flags: v0 ? Flag.ASSUMEV0 : 0, v0Size: originSize ?? NO_V0_SIZE };
}

/** The volume of a disk is not there. */
export const missing = (volume: string): SystemError =>
  new SystemError(errnos.ENOENT, `there is no volume ${volume}; archipelago-ganeti list tells which there are`);
