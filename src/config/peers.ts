/** Whom a tool asks: the peers of a node by what they are for, whatever the configuration calls their roles. */
import { findRole } from './load.js';
import type { Config, RoleType } from './types.js';

/** mapper: mapperd; composer: vlmcd; endpoint: the first nbd role; blocks, maps: the blockers that the mapper uses. */
export type Peer = 'mapper' | 'composer' | 'endpoint' | 'blocks' | 'maps';

/** The role whose absence makes a peer missing. */
export const ROLE_OF: Readonly<Record<Peer, RoleType>> = {
  mapper: 'mapperd',
  composer: 'vlmcd',
  endpoint: 'nbd',
  blocks: 'mapperd',
  maps: 'mapperd',
};

export const isPeer = (value: unknown): value is Peer => typeof value === 'string' && Object.hasOwn(ROLE_OF, value);

/** The role behind a peer and the port that it is asked on, or null when the configuration has no such role. */
export function findPeer(config: Config, peer: Peer): { role: string; port: number } | null {
  const role = findRole(config, ROLE_OF[peer]);
  if (!role) return null;
  if (role.type !== 'mapperd' || peer === 'mapper') return { role: role.name, port: role.portnoStart };
  const port = peer === 'blocks' ? role.blockerbPort : role.blockermPort;
  const blocker = config.roles.find((r) => r.portnoStart <= port && port <= r.portnoEnd);
  return { role: blocker?.name ?? `the blocker of port ${port}`, port };
}

/** What this node's blocker of the maps writes into locks; null when it is not one of this configuration, or has no such name. */
export function lockOwnerOf(config: Config): string | null {
  const port = findPeer(config, 'maps')?.port;
  const role = config.roles.find((r) => r.portnoStart === port);
  return role?.type === 'file_blocker' || role?.type === 'rados_blocker' ? role.uniqueStr : null;
}
