/**
 * What clients that are gone have left behind: changes that run still. Nobody waits for their answers, but they will land, and who connects
 * next must not see the volume change under its feet, nor have a newer write undone by an older one (a client that reconnects sends again
 * what was not answered, and then goes on). So whatever touches the same bytes waits until they are over; of those who said goodbye, each waits for
 * those before it alone.
 */
import type { Io } from '../nbd/index.js';
import type { Parker } from './parking.js';

/** Bytes of a volume that something changes still. Known by its identity. */
type Change = Pick<Io, 'offset' | 'length'>;

interface Held {
  readonly by: Parker;
  readonly io: Io;
}

interface Left {
  /** Of whom; neither it nor who left before it waits for them. null: everybody does. */
  readonly changes: Map<Change, Parker | null>;
  held: Held[];
}

export class Leftovers {
  readonly #volumes = new Map<string, Left>();
  /** In which order those left that do not hold themselves up: who left later waits for who left before, and never both for each other. */
  readonly #order = new WeakMap<Parker, number>();
  #leavers = 0;

  /** Something is left. */
  get isUsed(): boolean {
    return this.#volumes.size > 0;
  }

  /** The client of a change that runs, or is to, is gone. @param by what is asked for by this one, and by who left before it, does not wait for it */
  leave(volume: string, io: Change, by: Parker | null = null): void {
    if (by !== null && !this.#order.has(by)) this.#order.set(by, ++this.#leavers);
    const left = this.#volumes.get(volume);
    if (left) left.changes.set(io, by);
    else this.#volumes.set(volume, { changes: new Map([[io, by]]), held: [] });
  }

  /** Keeps an Io that touches what is left, until that is over: then it is given back to unpark. False: it may go on now. */
  holds(volume: string, by: Parker, io: Io): boolean {
    const left = this.#volumes.get(volume);
    if (!left || !this.#touches(left, by, io)) return false;
    left.held.push({ by, io });
    return true;
  }

  /** What is kept for one device. */
  heldBy(volume: string, by: Parker): Io[] {
    const held = this.#volumes.get(volume)?.held ?? [];
    return held.flatMap((each) => (each.by === by ? each.io : []));
  }

  /** Takes what is kept for one device. */
  take(volume: string, by: Parker): Io[] {
    const left = this.#volumes.get(volume);
    if (!left) return [];
    const taken = left.held.filter((held) => held.by === by);
    left.held = left.held.filter((held) => held.by !== by);
    return taken.map(({ io }) => io);
  }

  /** To be called before an Io is completed: it may be one that was left. */
  done(volume: string, io: Change): void {
    const left = this.#volumes.get(volume);
    if (!left?.changes.delete(io)) return;
    const free: Held[] = [];
    const held: Held[] = [];
    for (const entry of left.held) (this.#touches(left, entry.by, entry.io) ? held : free).push(entry);
    left.held = held;
    if (left.changes.size === 0) this.#volumes.delete(volume);
    for (const entry of free) entry.by.unpark(entry.io);
  }

  #touches({ changes }: Left, by: Parker, { offset, length }: Io): boolean {
    for (const [change, of] of changes) {
      if (offset >= change.offset + change.length || change.offset >= offset + length) continue;
      if (this.#isBefore(of, by)) return true;
    }
    return false;
  }

  /** Does who asks wait for the changes of who left? */
  #isBefore(left: Parker | null, asks: Parker): boolean {
    if (left === null || left === asks) return left === null;
    const asked = this.#order.get(asks);
    return asked === undefined || (this.#order.get(left) ?? 0) < asked;
  }
}
