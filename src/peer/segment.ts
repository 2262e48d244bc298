/** The node's segment, for the processes of the node. */
import type { Logger } from 'pino';
import type { Config } from '../config/index.js';
import { errnoOf, errnos } from '../sys/errno.js';
import { Segment } from '../xseg/index.js';

/** Joins the node's segment; creates it when there is none. @throws SystemError */
export function openSegment(config: Config): Segment {
  for (let attempt = 1; ; attempt++) {
    try {
      return Segment.exists(config.xseg.spec) ? Segment.join(config.xseg.spec) : Segment.create(config.xseg.spec);
    } catch (error) {
      // Another process was faster to create or to destroy it: look again.
      const raced = errnoOf(error) === errnos.EEXIST || errnoOf(error) === errnos.ENOENT;
      if (!raced || attempt === 3) throw error;
    }
  }
}

/** Does any living process own a port? */
export function isInUse(segment: Segment): boolean {
  for (let port = 0; port < segment.geometry.ports; port++) if (segment.portOwner(port)?.alive) return true;
  return false;
}

/** Cleans up after dead processes: their ports, then their locks. Returns the ports recovered. */
export function recoverDead(segment: Segment): number[] {
  const ports: number[] = [];
  for (let port = 0; port < segment.geometry.ports; port++) {
    const owner = segment.portOwner(port);
    if (!owner || owner.alive) continue;
    segment.recoverPort(port);
    ports.push(port);
  }
  segment.recoverLocks();
  return ports;
}

/** Joins the segment of living roles, else makes a new one: nobody needs what a crashed node left in the old. */
export function freshSegment(config: Config, log: Logger, rolesLive: boolean): Segment {
  const { spec } = config.xseg;
  if (rolesLive || !Segment.exists(spec)) return openSegment(config);
  const old = Segment.join(spec);
  const used = isInUse(old);
  if (used) return old;
  old.close();
  log.warn(`segment ${config.xseg.name} was left by a node that did not stop; making a new one`);
  Segment.destroy(spec);
  return openSegment(config);
}
