/**
 * What the nodes keep about themselves beside the objects, so that others, and they themselves after a crash, find it:
 *
 *     .archipelago-clients-NODE   which client instances of Ceph belong to NODE: whom to refuse when it is fenced. An attribute with JSON
 *     .archipelago-locks-OWNER    what OWNER has locked, or was about to: keys of the omap. That it holds them the locks themselves say
 *     .archipelago-mail-OWNER     watched by OWNER: letters are notifications of it
 *
 * None of this needs to be there for a store to be used: without it less is known. Pools of blocks may be erasure coded, which have
 * attributes but no omap; locks are in the pool of the maps.
 */
import type { Pool } from '../../rados/types.js';
import { errnos, SystemError } from '../../sys/errno.js';
import { isErrno } from '../errors.js';

const CLIENTS = '.archipelago-clients-';
const LOCKS = '.archipelago-locks-';
const MAIL = '.archipelago-mail-';

const ATTRIBUTE = 'clients';
const NOTHING = Buffer.alloc(0);

/** There is no space, in the cluster or in the pool's quota. */
export const isFull = (error: unknown): boolean => isErrno(error, errnos.ENOSPC, errnos.EDQUOT);

/** How often another client may change the list of a node between reading and writing it. */
const RACES = 64;
/** Most clients of one node that are kept: the attribute stays short. Those that were refused longest ago are dropped. */
const MOST_CLIENTS = 128;

/** Objects of the blockers themselves, which are no objects of the store. */
export const isServiceObject = (name: string): boolean =>
  name.startsWith(CLIENTS) || name.startsWith(LOCKS) || name.startsWith(MAIL);

export const mailObject = (owner: string): string => MAIL + owner;

/** The node that an owner string is of: what comes before the blocker's port. */
export function nodeOf(owner: string): string {
  const at = owner.lastIndexOf('_');
  return at > 0 ? owner.slice(0, at) : owner;
}

/** A process, told from all others of its machine and from those before the machine was started last. */
export interface ClientProcess {
  readonly boot: string;
  readonly pid: number;
  /** When it began, in ticks since the machine was started; 0: not known. */
  readonly start: number;
}

/** A client instance that can write to this store, or could. */
export interface Client {
  readonly owner: string;
  /** As `osd blocklist add` takes it. */
  readonly address: string;
  /** `client.4123` */
  readonly instance: string;
  /** ms since the epoch. */
  readonly since: number;
  /** When somebody was about to have Ceph refuse it, ms since the epoch; absent: never. */
  readonly fencing?: number;
  /** When Ceph was told last to refuse it, ms since the epoch; absent: never. */
  readonly fenced?: number;
  /** Absent where another client noted it. */
  readonly process?: ClientProcess;
}

function toClient(value: unknown): Client[] {
  if (typeof value !== 'object' || value === null) return [];
  const { owner, address, instance, since, fencing, fenced, process } = value as Record<string, unknown>;
  if (typeof owner !== 'string' || typeof address !== 'string' || address === '') return [];
  const { boot, pid, start } = (process ?? {}) as Record<string, unknown>;
  const hasProcess = typeof boot === 'string' && typeof pid === 'number' && typeof start === 'number';
  return [
    {
      owner,
      address,
      instance: typeof instance === 'string' ? instance : '',
      since: typeof since === 'number' ? since : 0,
      ...(typeof fencing === 'number' && { fencing }),
      ...(typeof fenced === 'number' && { fenced }),
      ...(hasProcess && { process: { boot, pid, start } }),
    },
  ];
}

/** What cannot be understood is nothing: the next change writes it anew. */
function parse(bytes: Buffer): Client[] {
  try {
    const value: unknown = JSON.parse(bytes.toString('utf8'));
    return Array.isArray(value) ? value.flatMap(toClient) : [];
  } catch {
    return [];
  }
}

/** The stored list; empty where the object has none, null where there is no object. */
async function readClients(pool: Pool, node: string): Promise<Buffer | null> {
  try {
    return await pool.getXattr(CLIENTS + node, ATTRIBUTE);
  } catch (error) {
    if (isErrno(error, errnos.ENODATA)) return NOTHING;
    if (isErrno(error, errnos.ENOENT)) return null;
    throw error;
  }
}

/** The clients of a node. */
export async function clientsOf(pool: Pool, node: string): Promise<Client[]> {
  return parse((await readClients(pool, node)) ?? NOTHING);
}

/** Changes the list of a node's clients, whoever else changes it at the same time. Resolves to what it was. */
export async function changeClients(
  pool: Pool,
  node: string,
  change: (clients: readonly Client[]) => readonly Client[],
): Promise<readonly Client[]> {
  for (let race = 0; race < RACES; race++) {
    const before = await readClients(pool, node);
    const clients = parse(before ?? NOTHING);
    const after = [...change(clients)].sort((a, b) => (b.fenced ?? Infinity) - (a.fenced ?? Infinity));
    const value = Buffer.from(JSON.stringify(after.slice(0, MOST_CLIENTS)), 'utf8');
    if (before ? value.equals(before) : after.length === 0) return clients;
    try {
      await pool.operate(CLIENTS + node, [
        before ? { do: 'compareXattr', name: ATTRIBUTE, value: before } : { do: 'create', exclusive: true },
        { do: 'setXattr', name: ATTRIBUTE, value },
      ]);
      return clients;
    } catch (error) {
      if (!isErrno(error, errnos.ECANCELED, errnos.EEXIST, errnos.ENOENT)) throw error;
    }
  }
  throw new SystemError(
    errnos.EBUSY,
    `pool ${pool.name}: the list of clients of ${node} is being changed all the time`,
  );
}

/** The list with this client, once. */
export function withClient(clients: readonly Client[], client: Client): readonly Client[] {
  const others = clients.filter(({ owner, address }) => owner !== client.owner || address !== client.address);
  return [...others, client];
}

/** @throws SystemError EOPNOTSUPP, with the way out, for a pool that is erasure coded */
export async function addLock(pool: Pool, owner: string, target: string): Promise<void> {
  try {
    await pool.operate(LOCKS + owner, [
      { do: 'create', exclusive: false },
      { do: 'setOmap', entries: new Map([[target, NOTHING]]) },
    ]);
  } catch (error) {
    if (!isErrno(error, errnos.EOPNOTSUPP)) throw error;
    const reason = 'it is erasure coded, which blocks can be, but maps and locks need a replicated pool';
    throw new SystemError(errnos.EOPNOTSUPP, `pool ${pool.name} cannot keep locks: ${reason}`, { cause: error });
  }
}

export async function removeLock(pool: Pool, owner: string, target: string): Promise<void> {
  try {
    await pool.operate(LOCKS + owner, [{ do: 'assertExists' }, { do: 'removeOmap', keys: [target] }]);
  } catch (error) {
    if (!isErrno(error, errnos.ENOENT)) throw error;
  }
}

/** A page of the targets that the owner has locked, or was about to, in their order. */
export async function listTargets(
  pool: Pool,
  owner: string,
  after: string,
  most: number,
): Promise<{ targets: string[]; more: boolean }> {
  try {
    const { entries, more } = await pool.omap(LOCKS + owner, after, most);
    return { targets: [...entries.keys()], more };
  } catch (error) {
    if (isErrno(error, errnos.ENOENT, errnos.EOPNOTSUPP)) return { targets: [], more: false };
    throw error;
  }
}
