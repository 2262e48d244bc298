/** Makes a volume a device. The endpoint is asked before the lock is taken, the kernel under it. */
import { TransmissionFlag } from '../nbd/constants.js';
import { errnos, SystemError } from '../sys/errno.js';
import { type Context, entryOf, withTable } from './context.js';
import { identifierOf } from './identifier.js';
import { keeperPid } from './keeper-process.js';
import { closeLinks, type Link, openLinks } from './link.js';
import { inWords, openDriver, requireRoot } from './module.js';
import { reconnectEntry } from './reconnect.js';
import { kernelDevice, setRequestTimeout } from './sysfs.js';
import type { Entry } from './table.js';
import { describe } from './trouble.js';
import { type AttachOptions, DEFAULT_CONNECTIONS, type Device, MAX_CONNECTIONS, SECTOR } from './types.js';

/** The kernel's pages, which its blocks must fit. */
const MAX_BLOCK = 4096;
/**
 * Of a device with one connection: ms after which a request that was lost with its connection is sent again on the next. A request whose
 * connection lives is waited for, however long it takes; the kernel only notes that it does, as often.
 */
const RESEND_MS = 5000;
/**
 * Of a device with several connections: seconds after which the kernel takes a connection whose server does not answer a request for dead, and
 * sends the request on another. It knows no other way there to learn that a request was lost.
 */
const STUCK_SECONDS = 30;

type Wanted = Required<AttachOptions>;

export async function attach(context: Context, options: AttachOptions): Promise<Device> {
  const { volume, exportName = volume, readOnly = false, connections = DEFAULT_CONNECTIONS } = options;
  const wanted = { volume, exportName, readOnly, connections };
  check(wanted);
  requireRoot('attach volumes as devices');
  const driver = await openDriver(context.roots);
  const there = await withTable(context, async (entries) => existing(entries, wanted));
  if (there !== null) return described(context, await reconnectEntry(context, driver, there));
  const links = await openLinks(context.endpoint, exportName, connections);
  try {
    const entry = await withTable(context, async (entries, save) => {
      const meanwhile = existing(entries, wanted);
      if (meanwhile !== null) return meanwhile;
      const intention = entryFor(context, wanted, links);
      const request = requestFor(context, intention, links);
      save([...entries, intention]);
      const index = await driver.connect(request).catch((error: unknown) => {
        save(entries);
        throw inWords(error, `the kernel does not make a device of ${volume}`);
      });
      if (connections === 1) setRequestTimeout(index, RESEND_MS, context.roots);
      // The kernel counts threads, not processes.
      const pid = kernelDevice(index, context.roots)?.pid ?? intention.pid;
      const attached: Entry = { ...intention, index, pid, state: 'attached' };
      save([...entries, attached]);
      return attached;
    });
    return await described(context, entry);
  } finally {
    closeLinks(links);
  }
}

function check({ volume, exportName, connections }: Wanted): void {
  for (const name of [volume, exportName]) {
    // Neither the protocol nor the kernel's list of devices has room for them.
    if (name === '' || /\p{Cc}/u.test(name))
      throw new SystemError(errnos.EINVAL, `${JSON.stringify(name)} is no name of a volume`);
  }
  if (!Number.isInteger(connections) || connections < 1 || connections > MAX_CONNECTIONS) {
    throw new SystemError(errnos.EINVAL, `a device has 1 to ${MAX_CONNECTIONS} connections, not ${connections}`);
  }
}

/** The device that the volume has already. @throws SystemError EEXIST when it is another than is wanted */
function existing(entries: readonly Entry[], wanted: Wanted): Entry | null {
  const { volume } = wanted;
  const leaving = entries.find((entry) => entry.volume === volume && entry.state === 'leaving');
  if (leaving !== undefined) {
    throw new SystemError(
      errnos.EBUSY,
      `volume ${volume} is still /dev/nbd${leaving.index}, which was detached by force; it goes when those who have it open close it`,
    );
  }
  const entry = entryOf(entries, volume);
  if (entry === undefined) return null;
  const { exportName, readOnly, readOnlyAsked, connections } = entry;
  const same =
    exportName === wanted.exportName && readOnlyAsked === wanted.readOnly && connections === wanted.connections;
  if (same) return entry;
  const options = `${readOnly ? 'read-only, ' : ''}${connections} connection${connections === 1 ? '' : 's'}`;
  throw new SystemError(
    errnos.EEXIST,
    `volume ${volume} is /dev/nbd${entry.index} already, with other options (${options}); detach it first`,
  );
}

function entryFor({ segment, endpoint }: Context, wanted: Wanted, links: readonly Link[]): Entry {
  const { volume, exportName, readOnly, connections } = wanted;
  const [{ size, flags }] = links;
  if (size === 0 || size % SECTOR !== 0) {
    throw new SystemError(
      errnos.EINVAL,
      `volume ${volume} has ${size} bytes, which is no multiple of ${SECTOR}: a device would lack its end. Resize it, or use it without a device`,
    );
  }
  if (connections > 1 && (flags & TransmissionFlag.CAN_MULTI_CONN) === 0) {
    throw new SystemError(errnos.EOPNOTSUPP, `the endpoint does not offer several connections to ${volume}; take one`);
  }
  return {
    index: -1,
    volume,
    exportName,
    endpoint,
    identifier: identifierOf(segment, volume),
    size,
    readOnly: readOnly || (flags & TransmissionFlag.READ_ONLY) !== 0,
    readOnlyAsked: readOnly,
    connections,
    since: Date.now(),
    pid: process.pid,
    sockets: links.map(({ inode }) => inode),
    state: 'attaching',
  };
}

function requestFor({ timeout }: Context, entry: Entry, links: readonly Link[]) {
  const { size, readOnly, connections, identifier } = entry;
  const [{ flags, minimumBlock }] = links;
  if (minimumBlock > MAX_BLOCK) {
    throw new SystemError(
      errnos.EINVAL,
      `the export takes blocks of ${minimumBlock} bytes, a device of at most ${MAX_BLOCK}`,
    );
  }
  return {
    size,
    // Partition tables count in blocks: a disk that was made elsewhere has the usual ones.
    blockSize: Math.max(SECTOR, minimumBlock),
    flags: flags | TransmissionFlag.HAS_FLAGS | (readOnly ? TransmissionFlag.READ_ONLY : 0),
    timeout: connections === 1 ? 0 : STUCK_SECONDS,
    deadConnTimeout: timeout,
    identifier,
    sockets: links.map(({ fd }) => fd),
  };
}

async function described(context: Context, entry: Entry): Promise<Device> {
  const [device] = await describe(context, [entry], keeperPid(context.runDir));
  return device;
}
