/**
 * Leases: which ports may use a volume's map without asking. One port may hold the exclusive lease, any number the shared ones
 * of a map that never changes. A lease whose port has no living owner is void.
 */
import { errnoOf, errnos, messageOf, SystemError } from '../sys/errno.js';
import type { Volume } from './volume.js';

/** How the mapper reaches those who lease from it. */
export interface LeaseHolders {
  /**
   * Asks the holder to drain the volume and drop its map; resolves when that is done.
   * @throws SystemError ECONNREFUSED, ECONNRESET or ENXIO when nobody living owns the port
   */
  revoke(port: number, volume: string): Promise<void>;
  /** Whether somebody living owns the port. */
  alive(port: number): boolean;
  /**
   * Ports that may hold leases of a mapper that was here before and died: their owners lived when this one started. They are asked
   * like holders of every volume, since nobody else knows.
   */
  readonly inherited: readonly number[];
}

const gone: ReadonlySet<number> = new Set([errnos.ECONNREFUSED, errnos.ECONNRESET, errnos.ENXIO]);

export class Leases {
  readonly #holders: LeaseHolders;
  readonly #inherited: ReadonlySet<number>;

  constructor(holders: LeaseHolders) {
    this.#holders = holders;
    this.#inherited = new Set(holders.inherited);
  }

  /**
   * Takes all leases of the volume back, except those of `except`.
   * @throws SystemError EIO when a living holder refuses: then the map must not change
   */
  async revoke(volume: Volume, except?: number): Promise<void> {
    const known = new Set([...volume.leases.keys(), ...this.#unasked(volume)]);
    const ports = [...known].filter((port) => port !== except);
    const results = await Promise.allSettled(ports.map((port) => this.#revokeOne(volume, port)));
    for (const result of results) if (result.status === 'rejected') throw result.reason;
  }

  async #revokeOne(volume: Volume, port: number): Promise<void> {
    const { revoking } = volume;
    revoking.set(port, (revoking.get(port) ?? 0) + 1);
    try {
      await this.#holders.revoke(port, volume.name);
    } catch (error) {
      if (!gone.has(errnoOf(error))) {
        throw new SystemError(
          errnos.EIO,
          `volume ${volume.name}: port ${port} did not give its map back: ${messageOf(error)}`,
          { cause: error },
        );
      }
    } finally {
      const others = revoking.get(port)! - 1;
      if (others === 0) revoking.delete(port);
      else revoking.set(port, others);
    }
    volume.leases.delete(port);
    volume.asked.add(port);
  }

  /**
   * Whether this port may change entries of the volume now: no other can have a lease on it, or this one is draining, and whoever
   * revokes its lease waits for that.
   */
  mayWrite(volume: Volume, port: number): boolean {
    if (volume.revoking.has(port)) return true;
    for (const holder of volume.leases.keys()) if (holder !== port) return false;
    return this.#unasked(volume).every((holder) => holder === port);
  }

  /** Whether a living peer uses the volume's map. */
  inUse(volume: Volume): boolean {
    return [...volume.leases.keys(), ...this.#unasked(volume)].some((port) => this.#holders.alive(port));
  }

  #unasked(volume: Volume): number[] {
    return [...this.#inherited].filter((port) => !volume.asked.has(port));
  }
}
