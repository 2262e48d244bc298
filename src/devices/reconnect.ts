/** New connections in the place of lost ones. */
import { type Context, endpointOf, withTable } from './context.js';
import { closeLinks, type Link, openLinks } from './link.js';
import { aliveConnections, aliveSockets } from './liveness.js';
import { inWords, openDriver, requireRoot } from './module.js';
import type { NbdDriver } from './netlink.js';
import { resizeEntry } from './resize.js';
import type { Entry } from './table.js';
import { lostOf } from './trouble.js';

/** Connects all devices of the node again that have lost connections. @throws SystemError of the first that cannot be */
export async function reconnectAll(context: Context): Promise<void> {
  requireRoot('connect devices again');
  const driver = await openDriver(context.roots);
  const entries = await withTable(context, async (all) => all.filter(({ state }) => state === 'attached'));
  const outcomes = await Promise.allSettled(entries.map((entry) => reconnectEntry(context, driver, entry)));
  const failed = outcomes.find((outcome) => outcome.status === 'rejected');
  if (failed !== undefined) throw failed.reason;
}

/** How many connections of each are lost; null: that cannot be told. */
export async function lostConnections(context: Context, entries: readonly Entry[]): Promise<(number | null)[]> {
  const alive = await aliveConnections(context, entries);
  return entries.map((entry) => lostOf(entry, alive));
}

/**
 * Gives a device as many connections as it lost; as many as it has where that is not known, since the kernel lets go of those too many.
 * @returns the entry as it is then
 * @throws SystemError the endpoint does not answer, or the kernel refuses
 */
export async function reconnectEntry(context: Context, driver: NbdDriver, entry: Entry): Promise<Entry> {
  const [lost] = await lostConnections(context, [entry]);
  if (lost === 0) return entry;
  const links = await openLinks(endpointOf(context, entry), entry.exportName, lost ?? entry.connections);
  let open = true;
  const close = (): void => {
    if (open) closeLinks(links);
    open = false;
  };
  try {
    return await withTable(context, async (entries, save) => {
      const now = entries.find(
        ({ index, identifier, state }) =>
          index === entry.index && identifier === entry.identifier && state === 'attached',
      );
      // Detached meanwhile.
      if (now === undefined) return entry;
      await give(driver, now, links);
      // What the kernel did not take is gone with this process's descriptors.
      close();
      const sockets = await stillAlive(context, entry, [...now.sockets, ...links.map(({ inode }) => inode)]);
      const connected = { ...now, sockets };
      // A size that was changed since the links were made is newer than what they tell.
      const stale = now.size !== entry.size;
      const sized = stale ? connected : await resizeEntry(context, driver, connected, links[0].size);
      save(entries.map((other) => (other === now ? sized : other)));
      return sized;
    });
  } finally {
    close();
  }
}

async function give(driver: NbdDriver, { index, identifier, volume }: Entry, links: readonly Link[]): Promise<void> {
  try {
    await driver.reconnect(
      index,
      identifier,
      links.map(({ fd }) => fd),
    );
  } catch (error) {
    throw inWords(error, `the kernel does not take a connection for /dev/nbd${index} (${volume})`);
  }
}

/** Those inodes that are connections still; none where that cannot be told of all. */
async function stillAlive(context: Context, entry: Entry, inodes: readonly number[]): Promise<number[]> {
  const alive = await aliveSockets(endpointOf(context, entry), inodes, context.roots);
  return inodes.every((inode) => alive.has(inode)) ? inodes.filter((inode) => alive.get(inode)) : [];
}
