/**
 * Fencing: Ceph is told to refuse the clients of a node (its blocklist). From the moment at which this client has the map of the cluster
 * that says so, nothing that it asks for is done before what a refused client still has under way was refused or done.
 */
import type { Cluster, Pool } from '../../rados/types.js';
import type { Fenced } from '../../requests/locks.js';
import { errnoName, errnoOf, errnos, messageOf, SystemError } from '../../sys/errno.js';
import { type Client, changeClients, clientsOf, nodeOf } from './registry.js';

async function refuse(cluster: Cluster, addr: string): Promise<void> {
  try {
    await cluster.monitorCommand({ prefix: 'osd blocklist', blocklistop: 'add', addr });
  } catch (error) {
    if (errnoOf(error) !== errnos.EINVAL) throw error;
    // Before Ceph 16 the monitors knew it by another name.
    await cluster.monitorCommand({ prefix: 'osd blacklist', blacklistop: 'add', addr });
  }
}

/** Makes Ceph refuse these clients, for an hour (Ceph's default). @throws SystemError EACCES with the way out */
export async function blocklist(cluster: Cluster, addresses: readonly string[]): Promise<void> {
  if (addresses.length === 0) return;
  try {
    await Promise.all([...new Set(addresses)].map((address) => refuse(cluster, address)));
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
 * Makes Ceph refuse all clients of the node whose owner string this is; again, if that was done before: Ceph forgets after an hour.
 * @param own this node's owner string
 * @throws SystemError EINVAL for this node itself, ENOENT when the store does not know its clients, EACCES
 */
export async function fenceNode(cluster: Cluster, pool: Pool, owner: string, own: string): Promise<Fenced> {
  const node = nodeOf(owner);
  if (node === nodeOf(own)) {
    throw new SystemError(errnos.EINVAL, `${owner} is of this node, ${node}: a node does not fence itself`);
  }
  const ours = new Set(cluster.addresses);
  const clients = (await clientsOf(pool, node)).filter(({ address }) => !ours.has(address));
  if (clients.length === 0) {
    throw new SystemError(errnos.ENOENT, `pool ${pool.name} knows of no client of ${owner}'s node: nobody to refuse`);
  }
  const addresses = new Set(clients.map(({ address }) => address));
  await blocklist(cluster, [...addresses]);
  const fenced = Date.now();
  // They stay on the list: who fences this node again must find them.
  await changeClients(pool, node, (all) =>
    all.map((client): Client => (addresses.has(client.address) ? { ...client, fenced } : client)),
  );
  return { clients: clients.map(({ instance, address }) => `${instance || 'client'} ${address}`) };
}
