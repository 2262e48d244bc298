/** The size of a device follows that of its volume. */
import { type Context, entryOf, withTable } from './context.js';
import { keeperPid } from './keeper-process.js';
import { inWords, openDriver, requireRoot } from './module.js';
import type { NbdDriver } from './netlink.js';
import type { Entry } from './table.js';
import { describe } from './trouble.js';
import { type Device, SECTOR } from './types.js';

export async function resize(context: Context, volume: string, size: number): Promise<Device | null> {
  if (entryOf(await withTable(context, async (entries) => entries), volume) === undefined) return null;
  requireRoot('change the size of a device');
  const driver = await openDriver(context.roots);
  const entry = await setSize(context, driver, volume, size);
  if (entry === null) return null;
  const [device] = await describe(context, [entry], keeperPid(context.runDir));
  return device;
}

/**
 * The same with a driver that is open.
 * @param from what the device had when the volume's size was asked for: another has changed it since where it has not any more, and knows better
 * @returns null: the volume has no device any more
 */
export function setSize(
  context: Context,
  driver: NbdDriver,
  volume: string,
  size: number,
  from: number | null = null,
): Promise<Entry | null> {
  return withTable(context, async (entries, save) => {
    const entry = entryOf(entries, volume);
    if (entry === undefined) return null;
    if (from !== null && from !== entry.size) return entry;
    const sized = await resizeEntry(context, driver, entry, size);
    if (sized !== entry) save(entries.map((other) => (other === entry ? sized : other)));
    return sized;
  });
}

/** The lock is held. @returns the entry as it is then; the same when nothing changed */
export async function resizeEntry(context: Context, driver: NbdDriver, entry: Entry, bytes: number): Promise<Entry> {
  // A rest that is no sector is nothing that a device can have.
  const size = bytes - (bytes % SECTOR);
  if (size === entry.size) return entry;
  const { index, identifier, volume } = entry;
  try {
    await driver.resize(index, identifier, size);
  } catch (error) {
    throw inWords(error, `the kernel does not change the size of /dev/nbd${index} (${volume})`);
  }
  context.log.info(`/dev/nbd${index} (${volume}) has ${size} bytes now, not ${entry.size}`);
  return { ...entry, size };
}
