/** Users of Ceph with capabilities of a test's choice, each with a ceph.conf and a keyring of its own and no way to the administrator's key. */
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import type { NodeOptions } from './node.js';
import { attempt, run } from './run.js';

/** Capabilities as `ceph auth get-or-create` takes them. */
export interface Capabilities {
  readonly mon: string;
  readonly osd: string;
}

/** Those of the line in docs/rados.md that begins with `beginning`: what is tested is what an administrator copies. */
export function documentedCapabilities(beginning: string): Capabilities {
  const text = readFileSync(path.resolve(import.meta.dirname, '../../../docs/rados.md'), 'utf8');
  const line = text.split('\n').find((candidate) => candidate.startsWith(beginning));
  const found = line?.match(/ mon '([^']*)' osd '([^']*)'/);
  if (!found) throw new Error(`docs/rados.md has no line that begins with ${beginning} and has capabilities`);
  return { mon: found[1], osd: found[2] };
}

export interface CephUser {
  /** Without "client.". */
  readonly id: string;
  /** A ceph.conf that knows this user's keyring and no other. */
  readonly conf: string;
  readonly keyring: string;
  remove(): Promise<void>;
}

/** Makes a user of the cluster that `clusterConf` belongs to. */
export async function makeUser(clusterConf: string, id: string, { mon, osd }: Capabilities): Promise<CephUser> {
  const base = path.join(os.tmpdir(), `archipelago-${id}-${process.pid}`);
  const user = { id, conf: `${base}.conf`, keyring: `${base}.keyring` };
  const caps = [...(mon ? ['mon', mon] : []), ...(osd ? ['osd', osd] : [])];
  await run('ceph', ['-c', clusterConf, 'auth', 'get-or-create', `client.${id}`, ...caps, '-o', user.keyring]);
  const cluster = readFileSync(clusterConf, 'utf8').replace(/^keyring = .*$/m, `keyring = ${user.keyring}`);
  writeFileSync(user.conf, cluster);
  return {
    ...user,
    remove: async () => {
      await attempt('ceph', ['-c', clusterConf, 'auth', 'del', `client.${id}`]);
      for (const file of [user.conf, user.keyring]) rmSync(file, { force: true });
    },
  };
}

/** Settings of a node that keeps maps, blocks or both in Ceph. */
export function onCeph(
  { conf, id }: { readonly conf: string; readonly id: string },
  namespace: string,
  roles: readonly ('blockerm' | 'blockerb')[] = ['blockerm', 'blockerb'],
): NonNullable<NodeOptions['settings']> {
  return Object.fromEntries(roles.map((role) => [role, { type: 'rados_blocker', conf, cephx_id: id, namespace }]));
}
