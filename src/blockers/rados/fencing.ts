/**
 * Fencing: Ceph is told to refuse the clients of a node (its blocklist). From the moment at which this client has the map of the cluster
 * that says so, nothing that it asks for is done before what a refused client still has under way was refused or done.
 */
import type { Cluster, Pool } from '../../rados/types.js';
import type { Fenced } from '../../requests/locks.js';
import { errnoName, errnoOf, errnos, messageOf, SystemError } from '../../sys/errno.js';
import { type Client, changeClients, clientsOf, isFull, nodeOf } from './registry.js';

/**
 * How long Ceph refuses a client that may only be stopped, in seconds: a machine that is paused for longer than Ceph's own hour is
 * nothing unusual, and what it had under way would be done when it goes on.
 */
export const WEEK = 7 * 24 * 3600;
/** The same for one whose process has ended: what an OSD still has of it. Crashes can be many, and the list is in every map of the cluster. */
export const HOUR = 3600;
/** Until a client that Ceph was told to refuse no longer counts as refused, in ms: the clocks of nodes differ. */
const REFUSED_MS = (WEEK * 1000) / 2;

/** Whether Ceph was told to refuse this client, and has not forgotten. */
export const isRefused = ({ fenced }: Client): boolean => fenced !== undefined && Date.now() - fenced < REFUSED_MS;

async function refuse(cluster: Cluster, addr: string, seconds: number): Promise<void> {
  // The monitors take a number with a fraction only: one without is an integer to them, which is EINVAL.
  const expire = Math.floor(seconds) + 0.5;
  try {
    await cluster.monitorCommand({ prefix: 'osd blocklist', blocklistop: 'add', addr, expire });
  } catch (error) {
    if (errnoOf(error) !== errnos.EINVAL) throw error;
    // Before Ceph 16 the monitors knew it by another name.
    await cluster.monitorCommand({ prefix: 'osd blacklist', blacklistop: 'add', addr, expire });
  }
}

/** Makes Ceph refuse these clients, for so many seconds. @throws SystemError EACCES with the way out */
export async function blocklist(cluster: Cluster, addresses: readonly string[], seconds: number): Promise<void> {
  if (addresses.length === 0) return;
  try {
    await Promise.all([...new Set(addresses)].map((address) => refuse(cluster, address, seconds)));
  } catch (error) {
    const errno = errnoOf(error);
    if (errno !== errnos.EACCES && errno !== errnos.EPERM) throw error;
    throw new SystemError(
      errnos.EACCES,
      "this node's Ceph user may not have another client refused: its key needs the capability mon 'profile rbd', or " +
        `mon 'allow r, allow command "osd blocklist"' (ceph auth caps): ${errnoName(errno)}: ${messageOf(error)}`,
      { cause: error },
    );
  }
  await cluster.waitForLatestMap();
}

/**
 * Makes Ceph refuse all clients of the node whose owner string this is; again, if that was done before: Ceph forgets by and by.
 * @param own this node's owner string
 * @throws SystemError EINVAL for this node itself, ENOENT when the store does not know its clients, EACCES
 */
export async function fenceNode(cluster: Cluster, pool: Pool, owner: string, own: string): Promise<Fenced> {
  const node = nodeOf(owner);
  if (node === nodeOf(own)) {
    throw new SystemError(errnos.EINVAL, `${owner} is of this node, ${node}: a node does not fence itself`);
  }
  const ours = new Set(cluster.addresses);
  const began = Date.now();
  // A process of the node that starts just now either is on the list already, or finds that its predecessor is being fenced.
  const found = await mark(pool, node, (client) => (ours.has(client.address) ? client : { ...client, fencing: began }));
  const clients = found.filter(({ address }) => !ours.has(address));
  if (clients.length === 0) {
    throw new SystemError(errnos.ENOENT, `pool ${pool.name} knows of no client of ${owner}'s node: nobody to refuse`);
  }
  const addresses = new Set(clients.map(({ address }) => address));
  await blocklist(cluster, [...addresses], WEEK);
  const fenced = Date.now();
  // They stay on the list: who fences this node again must find them.
  await mark(pool, node, (client) => (addresses.has(client.address) ? { ...client, fenced } : client));
  return { clients: clients.map(({ instance, address }) => `${instance || 'client'} ${address}`) };
}

/** Changes the clients of a node on its list as far as the store has space. Resolves to what they were. */
async function mark(pool: Pool, node: string, change: (client: Client) => Client): Promise<readonly Client[]> {
  try {
    return await changeClients(pool, node, (all) => all.map(change));
  } catch (error) {
    if (!isFull(error)) throw error;
    return await clientsOf(pool, node);
  }
}
