/** Which connections of devices are alive, asked of the kernel. */
import fs from 'node:fs';
import path from 'node:path';
import { type Context, endpointOf } from './context.js';
import { askDiag } from './netlink.js';
import type { Entry } from './table.js';
import type { EndpointAddress, SystemRoots } from './types.js';
import { decodeUnixDiag, encodeUnixDiag, NETLINK_SOCK_DIAG } from './unix-diag.js';

/** In /proc/net/tcp: both sides may send. */
const ESTABLISHED = '01';

/**
 * By inode, whether a connection can be used still. What cannot be told (there is no unix_diag module, another network namespace) is left
 * out.
 */
export async function aliveSockets(
  endpoint: EndpointAddress,
  inodes: readonly number[],
  roots: SystemRoots,
): Promise<Map<number, boolean>> {
  if (inodes.length === 0) return new Map();
  return 'path' in endpoint ? unixSockets(inodes) : tcpSockets(inodes, roots);
}

/** The same of all connections of devices. */
export async function aliveConnections(context: Context, entries: readonly Entry[]): Promise<Map<number, boolean>> {
  const alive = new Map<number, boolean>();
  for (const unix of [true, false]) {
    const some = entries.filter((entry) => 'path' in endpointOf(context, entry) === unix);
    if (some.length === 0) continue;
    const inodes = some.flatMap(({ sockets }) => sockets);
    const found = await aliveSockets(endpointOf(context, some[0]), inodes, context.roots);
    for (const [inode, is] of found) alive.set(inode, is);
  }
  return alive;
}

/** No socket has it: who knows of sockets takes the question for wrong, and a kernel without unix_diag says that there is none, as of any other. */
const NO_INODE = 0;

async function unixSockets(inodes: readonly number[]): Promise<Map<number, boolean>> {
  const questions = [NO_INODE, ...inodes].map((inode, i) => encodeUnixDiag(inode, i + 1));
  try {
    const [unknowing, ...answers] = await askDiag(NETLINK_SOCK_DIAG, questions, decodeUnixDiag);
    if (unknowing === false) return new Map();
    return new Map(inodes.flatMap((inode, i) => (answers[i] === null ? [] : [[inode, answers[i]]])));
  } catch {
    return new Map();
  }
}

/** Lines of /proc/net/tcp: `sl local remote state … inode`, the inode the tenth word. */
function tcpSockets(inodes: readonly number[], roots: SystemRoots): Map<number, boolean> {
  const states = new Map<number, string>();
  for (const file of ['tcp', 'tcp6']) {
    let content: string;
    try {
      content = fs.readFileSync(path.join(roots.proc, 'net', file), 'utf8');
    } catch {
      continue;
    }
    for (const line of content.split('\n').slice(1)) {
      const words = line.trim().split(/\s+/);
      if (words.length > 9) states.set(Number(words[9]), words[3]);
    }
  }
  return new Map(states.size === 0 ? [] : inodes.map((inode) => [inode, states.get(inode) === ESTABLISHED]));
}
