/** What of this node is in use: exports of the endpoint, its clients, devices of the kernel. Asked before anything that an open disk would not survive. */
import type { Device } from '../../devices/types.js';
import { Op } from '../../requests/ops.js';
import { errnoOf, errnos, messageOf } from '../../sys/errno.js';
import { CliError } from '../common/exit.js';
import type { Session } from '../common/session.js';

export interface Mapping {
  readonly id: number;
  readonly name: string;
  readonly readOnly: boolean;
  readonly uris: readonly string[];
  readonly clients: number;
  /** ms since the epoch. */
  readonly since: number;
}

export interface Connection {
  readonly name: string;
  readonly peer: string;
  readonly since: number;
}

export interface ShowMapped {
  readonly mapped: readonly Mapping[];
  readonly connections: readonly Connection[];
}

/** Asks the endpoint. A node without one maps nothing. */
export async function showMapped(session: Session): Promise<ShowMapped> {
  if (!session.client.find('endpoint')) return { mapped: [], connections: [] };
  const reply = await session.client.json<Partial<ShowMapped>>('endpoint', Op.SHOWMAPPED, '', {});
  return { mapped: reply.mapped ?? [], connections: reply.connections ?? [] };
}

/** What the endpoint says; the reason where there is none to ask: devices outlive their node. @throws what is not about its absence */
export async function showMappedOrWhy(session: Session): Promise<ShowMapped | string> {
  try {
    return await showMapped(session);
  } catch (error) {
    const away = [errnos.ENOENT, errnos.ECONNREFUSED, errnos.ECONNRESET].includes(errnoOf(error));
    if (!away) throw error;
    return messageOf(error);
  }
}

/** The device of a volume, or null. */
export async function deviceOf(session: Session, name: string): Promise<Device | null> {
  return (await (await session.devices()).list()).find(({ volume }) => volume === name) ?? null;
}

/** A client that has just ended is seen a moment longer; that must not fail `nbdcopy … && vlmc remove …`. */
const GOODBYE_MS = 500;
const GOODBYE_LOOKS = 5;

/** Where a volume is in use: its device, its mapping's URI, or a client's address; null when it is not. */
export async function usedBy(session: Session, name: string): Promise<string | null> {
  const device = await deviceOf(session, name);
  if (device) return `mapped on device ${device.path}`;
  for (let look = 1; ; look++) {
    const { mapped, connections } = await showMapped(session);
    const mapping = mapped.find((m) => m.name === name);
    if (mapping) return `mapped on device ${reachedBy(mapping)}`;
    const clients = connections.filter((c) => c.name === name).map((c) => c.peer);
    if (clients.length === 0) return null;
    if (look === GOODBYE_LOOKS) return `in use by ${clients.join(', ')}`;
    await new Promise((resolve) => setTimeout(resolve, GOODBYE_MS / GOODBYE_LOOKS));
  }
}

/** @throws CliError in the original's words when the volume is mapped or a client is connected to it */
export async function refuseIfUsed(session: Session, name: string): Promise<void> {
  const use = await usedBy(session, name);
  if (use) throw new CliError(`Volume ${name} ${use}`);
}

/** What an export is reached by: the first of its URIs, which is the unix socket's where there is one. */
export function reachedBy(mapping: Pick<Mapping, 'uris'>): string {
  return mapping.uris.find((uri) => uri.startsWith('nbd+unix:')) ?? mapping.uris[0] ?? '-';
}
