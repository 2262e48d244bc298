/**
 * The actions that bring a disk to a node and take it away: attach, detach, open, close. In the order in which Ganeti calls them, a node
 * attaches what another one holds, and closes what it does not hold: neither may fail, and neither may take anything from the holder.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { Flag, Op } from '../../requests/ops.js';
import { errnoOf, errnos, SystemError } from '../../sys/errno.js';
import { print } from '../common/io.js';
import { type Context, missing, volumeOf } from './call.js';

/** A guest that has just ended is seen a moment longer. */
const GOODBYE_MS = 5000;
const LOOK_MS = 50;

/**
 * Offers the volume on this node. Prints the block device, or an empty line where Ganeti asked for access from userspace; then how qemu reaches
 * the volume. Twice is once.
 */
export async function attach(context: Context): Promise<void> {
  const { call, node, kernel, io } = context;
  const volume = await volumeOf(context);
  // What is mapped may be gone: removed by another node, it is not attached.
  if ((await node.info(volume)) === null) throw missing(volume);
  const device = call.access === 'kernelspace' ? await (await kernel()).attach(volume) : '';
  const { uris } = await node.json<{ uris: string[] }>('endpoint', Op.MAP, volume, { name: volume });
  const uri = qemuUri(volume, uris);
  const spoken = uri?.includes(',') ? null : uri;
  if (spoken === null && device === '') throw uri === null ? unreachable(uris) : unspeakable(uri);
  await print(io, `${device}\n${spoken === null ? '' : `kvm:${spoken}\n`}`);
}

/** Ends what attach and open began. A volume that is not attached, or is not there, is fine. */
export async function detach(context: Context): Promise<void> {
  const { node, kernel } = context;
  const volume = await volumeOf(context);
  await (await kernel()).detach(volume);
  await unmap(context, volume);
  // Ganeti closes disks only when it moves them: the next node that opens this one must not find a lock.
  await closeVolume(node, volume);
}

/** Takes the volume for this node alone, or to be shared with the node that the guest moves to or comes from. */
export async function open(context: Context): Promise<void> {
  const { call, node } = context;
  const flags = call.exclusive ? 0 : Flag.SHARED;
  await node.call('composer', { op: Op.OPEN, target: await volumeOf(context), flags }, { repeatable: true });
}

/** Gives up what open took; nothing where this node holds nothing. */
export async function close(context: Context): Promise<void> {
  await closeVolume(context.node, await volumeOf(context));
}

async function closeVolume(node: Context['node'], volume: string): Promise<void> {
  try {
    await node.call('composer', { op: Op.CLOSE, target: volume }, { repeatable: true });
  } catch (error) {
    if (errnoOf(error) !== errnos.ENOENT) throw error;
  }
}

async function unmap({ node }: Context, volume: string): Promise<void> {
  const end = performance.now() + GOODBYE_MS;
  for (;;) {
    try {
      await node.json('endpoint', Op.UNMAP, volume, { name: volume });
      return;
    } catch (error) {
      const errno = errnoOf(error);
      if (errno === errnos.ENOENT) return;
      if (errno !== errnos.EBUSY || performance.now() >= end) throw error;
    }
    await sleep(LOOK_MS);
  }
}

/** How qemu is told of an export without TLS, in the words that every version of it knows; null when there is none. */
export function qemuUri(volume: string, uris: readonly string[]): string | null {
  // Not of a socket that a volume has for itself, which has no names.
  const named = uris.filter((uri) => new URL(uri).pathname === `/${encodeURIComponent(volume)}`);
  const unix = named.find((uri) => uri.startsWith('nbd+unix:'));
  // As the endpoint writes it: the path is all of the rest, whatever is in it.
  if (unix) return `nbd:unix:${decodeURI(unix.slice(unix.indexOf(SOCKET) + SOCKET.length))}:exportname=${volume}`;
  const tcp = named.find((uri) => uri.startsWith('nbd:'));
  return tcp ? `nbd:${new URL(tcp).host}:exportname=${volume}` : null;
}

const SOCKET = '?socket=';

/** Ganeti writes it into the middle of a list that qemu parts at commas. */
const unspeakable = (uri: string): SystemError =>
  new SystemError(
    errnos.EINVAL,
    `Ganeti cannot tell qemu of ${uri}, which has a comma: rename the volume, or the socket`,
  );

function unreachable(uris: readonly string[]): SystemError {
  const why =
    uris.length === 0
      ? 'the endpoint listens nowhere: set socket in [nbd]'
      : `qemu cannot be told of TLS here, which ${uris[0]} needs: set socket_tls = off`;
  return new SystemError(errnos.EOPNOTSUPP, why);
}
