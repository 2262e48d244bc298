/**
 * Ends a device. While it is looked whether anybody uses it, and until the kernel has let go, it is held exclusively, so that nothing can be
 * mounted or made of it in between.
 */
import fs from 'node:fs';
import { errnoOf, errnos, messageOf, SystemError } from '../sys/errno.js';
import { type Context, isNamed, withTable } from './context.js';
import { inWords, openDriver, requireRoot } from './module.js';
import type { NbdDriver } from './netlink.js';
import { lostConnections, reconnectEntry } from './reconnect.js';
import { devicePath, inFlight, kernelDevice } from './sysfs.js';
import { type Entry, isSame } from './table.js';
import { deviceOf } from './trouble.js';
import type { Device } from './types.js';
import { type Use, usesOf } from './usage.js';

/** How long a device that somebody has open only for a moment (udev looks at what is new) is waited for, and how often it is looked. */
const MOMENT_MS = 3000;
const LOOK_MS = 50;
/** How long opening a device may take whose node is away: the kernel may look for partitions, which waits for it. */
const OPEN_MS = 2000;
/** How long a node may take for what is to be flushed where it is given up by force. */
const FLUSH_MS = 30_000;
/** How long the kernel may take to let go. */
const GOING_MS = 10_000;
const GOING_LOOK_MS = 5;

export async function detach(context: Context, volumeOrPath: string, force: boolean): Promise<Device> {
  requireRoot('detach devices');
  const driver = await openDriver(context.roots);
  const entry = await withTable(context, async (entries) => find(context, entries, volumeOrPath));
  await refuseWhenUsed(context, entry, force);
  const away = await isAway(context, driver, entry);
  if (away && !force) refuseWhenWaiting(context, entry);
  const hold = await (away ? claimInAMoment(context, entry) : claim(context, entry));
  let trouble = away ? 'the node does not answer, so that it was told neither to flush nor of the end' : null;
  let held = hold;
  const letGo = async (): Promise<void> => {
    if (held !== null) await held.close().catch(() => {});
    held = null;
  };
  try {
    if (held !== null && !away)
      await flush(held, entry, force).catch((error: unknown) => {
        if (!force) throw error;
        trouble = messageOf(error);
      });
    // Who came since then came without holding it.
    await refuseWhenUsed(context, entry, force);
    await withTable(context, async (entries, save) => {
      const now = entries.find((other) => isOf(other, entry));
      if (now === undefined) return;
      // From here on nobody connects it again, whatever becomes of this process.
      const others = entries.filter((other) => other !== now);
      save([...others, { ...now, state: 'leaving' }]);
      try {
        await driver.disconnect(entry.index);
      } catch (error) {
        save(entries);
        throw inWords(error, `the kernel does not end ${devicePath(entry.index, context.roots)}`);
      }
      await letGo();
      const why = await goneOrWhy(context, entry);
      if (why === null) save(others);
      trouble = why ?? trouble;
    });
  } finally {
    await letGo();
  }
  return deviceOf(context, entry, trouble);
}

function find(context: Context, entries: readonly Entry[], volumeOrPath: string): Entry {
  const entry = entries.find(({ index, volume }) =>
    isNamed({ volume, path: devicePath(index, context.roots) }, volumeOrPath),
  );
  if (entry !== undefined) return entry;
  throw new SystemError(errnos.ENOENT, `${volumeOrPath} is no device of this node, and no volume that has one`);
}

/** @throws SystemError EBUSY naming who */
async function refuseWhenUsed(context: Context, entry: Entry, force: boolean): Promise<void> {
  const deadline = performance.now() + MOMENT_MS;
  for (;;) {
    const all = usesOf(entry.index, [process.pid], context.roots);
    const uses = force ? all.filter(({ kind }) => kind !== 'open') : all;
    if (uses.length === 0) return;
    const momentary = uses.every(({ kind }) => kind === 'open');
    if (!momentary || performance.now() > deadline) throw inUse(context, entry, uses);
    await new Promise((resolve) => setTimeout(resolve, LOOK_MS));
  }
}

const SHOWN = 5;

function inUse({ roots }: Context, { index, volume }: Entry, uses: readonly Use[]): SystemError {
  const shown = uses.slice(0, SHOWN).map(({ what }) => what);
  if (uses.length > SHOWN) shown.push(`and ${uses.length - SHOWN} more`);
  return new SystemError(errnos.EBUSY, `${devicePath(index, roots)} (${volume}) is in use: it is ${shown.join(', ')}`);
}

/**
 * Whether nobody serves its requests. What lost its connections, or may have, is connected again where that is possible: a node that was
 * restarted while no keeper ran takes what waits for it.
 */
async function isAway(context: Context, driver: NbdDriver, entry: Entry): Promise<boolean> {
  const [lost] = await lostConnections(context, [entry]);
  if (lost === 0) return false;
  const connected = await reconnectEntry(context, driver, entry).then(
    () => true,
    () => false,
  );
  if (lost === null) return !connected;
  const [left] = await lostConnections(context, [await currentEntry(context, entry)]);
  return left === entry.connections;
}

/** As the table has it now. */
function currentEntry(context: Context, entry: Entry): Promise<Entry> {
  return withTable(context, async (entries) => entries.find((other) => isOf(other, entry)) ?? entry);
}

const isOf = (other: Entry, { index, identifier }: Entry): boolean =>
  other.index === index && other.identifier === identifier;

/**
 * Nothing can be flushed without the node. A device that nobody has open has nothing in the cache, as closing it waits for that; what the
 * kernel has begun to write is another thing.
 */
function refuseWhenWaiting({ roots }: Context, { index, volume }: Entry): void {
  const { writes } = inFlight(index, roots);
  if (writes === 0) return;
  throw new SystemError(
    errnos.EBUSY,
    `the node does not answer, and ${writes} write${writes === 1 ? '' : 's'} to ${devicePath(index, roots)} (${volume}) wait${writes === 1 ? 's' : ''} for it; ` +
      'start it, or lose them by force',
  );
}

/** Holds the device as file systems do: then nobody else can. @throws SystemError EBUSY */
async function claim(context: Context, entry: Entry): Promise<fs.promises.FileHandle> {
  const file = devicePath(entry.index, context.roots);
  try {
    return await fs.promises.open(file, fs.constants.O_RDONLY | fs.constants.O_EXCL);
  } catch (error) {
    if (errnoOf(error) !== errnos.EBUSY)
      throw new SystemError(errnoOf(error), `cannot open ${file}: ${messageOf(error)}`);
    await refuseWhenUsed(context, entry, true);
    const holder =
      'something that holds it alone and that neither /proc nor /sys tells of (a target of LIO, ZFS, DRBD?)';
    throw inUse(context, entry, [{ kind: 'holder', what: `used by ${holder}` }]);
  }
}

/** The same without a node: null where the kernel waits for it. @throws SystemError EBUSY */
async function claimInAMoment(context: Context, entry: Entry): Promise<fs.promises.FileHandle | null> {
  const claiming = claim(context, entry).catch((error: unknown) => {
    if (errnoOf(error) === errnos.EBUSY) throw error;
    return null;
  });
  const hold = await within(OPEN_MS, claiming);
  if (hold !== 'late') return hold;
  // The kernel lets it through when the device has ended.
  claiming.then((handle) => handle?.close()).catch(() => {});
  return null;
}

async function within<T>(ms: number, work: Promise<T>): Promise<T | 'late'> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<'late'>((resolve) => {
    timer = setTimeout(() => resolve('late'), ms);
  });
  try {
    return await Promise.race([work, late]);
  } finally {
    clearTimeout(timer);
  }
}

async function flush(handle: fs.promises.FileHandle, { index, volume }: Entry, force: boolean): Promise<void> {
  try {
    const flushing = handle.sync();
    const outcome = await (force ? within(FLUSH_MS, flushing) : flushing);
    if (outcome !== 'late') return;
    // It fails when the device ends.
    flushing.catch(() => {});
    throw new SystemError(errnos.ETIMEDOUT, `the node took longer than ${FLUSH_MS / 1000} s`);
  } catch (error) {
    const why = `what was written to /dev/nbd${index} (${volume}) could not be flushed: ${messageOf(error)}`;
    throw new SystemError(errnoOf(error), force ? why : `${why}; detach it by force to give that up`);
  }
}

/** Waits until the kernel has let go. Null: it has; else why not. */
async function goneOrWhy(context: Context, entry: Entry): Promise<string | null> {
  const { roots } = context;
  const begin = performance.now();
  for (;;) {
    const device = kernelDevice(entry.index, roots);
    if (device === null || !isSame(entry, device)) return null;
    const uses = usesOf(entry.index, [process.pid], roots);
    if (performance.now() - begin > (uses.length > 0 ? MOMENT_MS : GOING_MS)) {
      const who = uses.map(({ what }) => what).join(', ') || 'something that neither /proc nor /sys tells of';
      return `it was detached and goes when nobody uses it any more; it is ${who}`;
    }
    await new Promise((resolve) => setTimeout(resolve, GOING_LOOK_MS));
  }
}
