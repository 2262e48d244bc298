/**
 * Two nodes with one name would take each other's locks for their own. So a blocker that finds an earlier client of its owner string on
 * the list, which was not closed, makes sure that it has ended: by the process, if it was one of this machine, else by asking: the
 * earlier client, if it lives, hears the question where its mail comes. One that was replaced while it stood still asks likewise when it
 * goes on and finds itself refused.
 */
import fs from 'node:fs';
import { errnos, SystemError } from '../../sys/errno.js';
import { isAlive, self } from '../../xseg/owner.js';
import type { Client, ClientProcess } from './registry.js';

/** How long an answer is waited for, in ms. One who hangs for longer is refused by Ceph from then on, as is one who has died. */
const PATIENCE_MS = 1000;

function bootId(): string {
  try {
    return fs.readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim();
  } catch {
    return '';
  }
}

/** In a container the numbers of processes are others than outside. */
function numbering(): string {
  try {
    return fs.readlinkSync('/proc/self/ns/pid');
  } catch {
    return '';
  }
}

/** This process, for the list. */
export const thisProcess: ClientProcess = {
  boot: bootId() && `${bootId()} ${numbering()}`,
  pid: self.pid,
  start: self.start,
};

/** Whether the client is certain to have ended: its process was one of this machine, or container, since that was started. */
export function hasEnded({ process }: Client): boolean {
  if (!process || process.boot === '' || process.boot !== thisProcess.boot) return false;
  return !isAlive(process.pid, process.start);
}

/**
 * Resolves when nobody answered. @param ask sends the question @param answer resolves to who answers
 * @throws SystemError EBUSY naming it
 */
export async function requireNone(owner: string, ask: () => Promise<void>, answer: Promise<string>): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<null>((resolve) => {
    timer = setTimeout(() => resolve(null), PATIENCE_MS);
  });
  try {
    const asked = ask().then(
      () => answer,
      () => null,
    );
    const by = await Promise.race([asked, answer, late]);
    if (by === null) return;
    throw new SystemError(
      errnos.EBUSY,
      `the owner string ${owner} is in use by ${by}, which answers: two nodes with one name would take each other's locks for their ` +
        'own. Give each node a name of its own (host name, HOSTNAME or unique_str)',
    );
  } finally {
    clearTimeout(timer);
  }
}
