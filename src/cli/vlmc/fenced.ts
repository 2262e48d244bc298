/** What a broken lock means now, in words: what keeps the old holder from writing, and for how certain that is. */
import type { LockInfo } from '../../requests/json.js';
import type { StoreFenced } from '../../requests/locks.js';
import { type Io, printWarning } from '../common/io.js';
import { hostOf } from './lock-state.js';

/** What is said of a release. */
export interface Released {
  /** The other node's owner string, when its lock was broken. */
  readonly holder: string | null;
  /** It said that it writes no more; null: no other node's lock was broken. */
  readonly confirmed: boolean | null;
  /**
   * What keeps it from writing. answer: it said so itself; stores: every store refuses its clients; time: what it was allowed has run out, by
   * its own clock (the stores that refuse it beside that are in `fenced`).
   */
  readonly fencedBy: 'answer' | 'stores' | 'time' | null;
  /** What became of making each store refuse it; null where that was not tried. */
  readonly fenced: readonly StoreFenced[] | null;
  readonly waitedMs: number;
}

/** The mapper's answer to a forced release; none to others. */
export function readReleased(answer: Record<string, unknown> | null): Omit<Released, 'waitedMs'> {
  const holder = answer?.holder as string | LockInfo | null | undefined;
  const owner = typeof holder === 'string' ? holder : (holder?.owner ?? null);
  if (owner === null) return { holder: null, confirmed: null, fencedBy: null, fenced: null };
  const confirmed = answer?.confirmed === true;
  const fenced = (answer?.fenced ?? null) as readonly StoreFenced[] | null;
  // The original's clients have no owner string, and not all of them can be found.
  const known = /_\d+$/.test(owner);
  const refused = known && fenced !== null && fenced.length > 0 && fenced.every(({ failed }) => failed === null);
  return { holder: owner, confirmed, fencedBy: confirmed ? 'answer' : refused ? 'stores' : 'time', fenced };
}

/** Says what a broken lock means now. @param holder who had it */
export function tellFenced(io: Io, name: string, holder: string, { fencedBy, fenced, waitedMs }: Released): void {
  if (fencedBy === 'answer') {
    io.stderr.write(`${holder} has answered: it writes no more to ${name}\n`);
    for (const { store, failed } of fenced ?? []) {
      if (failed === null) continue;
      const why = `it had taken the lock from another node, which the ${store} store does not refuse (${failed}): its time was waited out`;
      printWarning(
        io,
        `${holder} answers for itself alone; ${why}. Make sure that nothing on that node still writes to ${name}.`,
      );
    }
    return;
  }
  const seconds = (waitedMs / 1000).toFixed(1);
  const stores = fenced ?? [];
  if (fencedBy === 'stores') {
    const clients = [...new Set(stores.flatMap((store) => store.clients))].join(', ');
    io.stderr.write(
      `${holder} did not answer (${seconds} s); the store refuses whatever it still sends, to any volume, until its processes connect ` +
        `anew: ${clients}\n`,
    );
    return;
  }
  const host = hostOf(holder);
  printWarning(
    io,
    `${holder} did not answer; its time was waited out (${seconds} s). If it is only cut off, or hangs, it can no longer begin a write to ` +
      `${name}. If it runs the original Archipelago, or a version of this program that knows no fencing, it can: make sure that ${host} is down before anybody writes.`,
  );
  for (const { store, failed, able } of stores) {
    if (failed !== null && able)
      printWarning(io, `The ${store} store was asked to refuse ${host}, and does not: ${failed}`);
    else if (failed !== null && stores.some((other) => other.able))
      printWarning(io, `The ${store} store cannot refuse a node.`);
    else if (failed === null) io.stderr.write(`The ${store} store refuses whatever ${host} still sends.\n`);
  }
}
