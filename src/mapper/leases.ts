/**
 * Leases: which ports may use a volume's map without asking. One port may hold the exclusive lease, any number the shared ones
 * of a map that never changes. A lease whose port has no living owner is void.
 */
import { Flag } from '../requests/ops.js';
import { errnoOf, errnos, messageOf, SystemError } from '../sys/errno.js';
import type { Volume } from './volume.js';

/** How the mapper reaches those who lease from it. */
export interface LeaseHolders {
  /**
   * Asks the holder to drain the volume and drop its map; resolves when that is done. Without a name: all volumes.
   * @param flags LOST: what it has not sent yet it must not send; FLUSH: what it wrote is durable then
   * @throws SystemError ECONNREFUSED, ECONNRESET or ENXIO when nobody living owns the port
   */
  revoke(port: number, volume: string, flags: number): Promise<void>;
  /** Tells the holder until when its exclusive leases are good, ms of the monotonic clock. Nothing is answered. */
  renew(port: number, until: number): void;
  /** Whether somebody living owns the port. */
  alive(port: number): boolean;
  /** Whether a client of any endpoint has the volume open. @throws SystemError when one that lives does not tell */
  isUsed(volume: string): Promise<boolean>;
  /** What has become of the node's endpoints since the last call. */
  lookAtEndpoints(): EndpointsSeen;
  /**
   * Ports that may hold leases of a mapper that was here before and died: their owners lived when this one started. They are asked
   * like holders of every volume, since nobody else knows.
   */
  readonly inherited: readonly number[];
}

export interface EndpointsSeen {
  /** One of the configuration is another process than before. */
  readonly replaced: boolean;
  /** One beside them (`archipelago nbd`) is gone, in order or not. */
  readonly gone: boolean;
}

export interface RevokeOptions {
  /** A port that keeps its lease. */
  readonly except?: number;
  /** Of REVOKE. */
  readonly flags?: number;
}

const gone: ReadonlySet<number> = new Set([errnos.ECONNREFUSED, errnos.ECONNRESET, errnos.ENXIO]);

export class Leases {
  readonly #holders: LeaseHolders;
  readonly #inherited: Set<number>;
  /** Ports that are just told of lost locks, and of how many: whatever is sent meanwhile must not let them go on longer. */
  readonly #losing = new Map<number, number>();

  constructor(holders: LeaseHolders) {
    this.#holders = holders;
    this.#inherited = new Set(holders.inherited);
  }

  /** Whether the port may have had leases of an earlier mapper. */
  hadBefore(port: number): boolean {
    return this.#holders.inherited.includes(port);
  }

  /** Whether a port may still have a lease of the volume by an earlier mapper. */
  isUnanswered(volume: Volume): boolean {
    return this.#unasked(volume).length > 0;
  }

  /** Ports that may hold leases of an earlier mapper. */
  get inherited(): readonly number[] {
    return [...this.#inherited];
  }

  /**
   * Takes all leases of the volume back; with FLUSH also asks who had one and may not have flushed since.
   * @returns whether all who were asked live and answered
   * @throws SystemError EIO when a living holder refuses: then the map must not change
   */
  async revoke(volume: Volume, { except, flags = 0 }: RevokeOptions = {}): Promise<boolean> {
    const known = new Set([...volume.leases.keys(), ...this.#unasked(volume)]);
    if (flags & Flag.FLUSH) for (const port of volume.writers) known.add(port);
    const ports = [...known].filter((port) => port !== except);
    const results = await Promise.allSettled(ports.map((port) => this.#revokeOne(volume, port, flags)));
    for (const result of results) if (result.status === 'rejected') throw result.reason;
    return results.every((result) => result.status === 'fulfilled' && result.value);
  }

  async #revokeOne(volume: Volume, port: number, flags: number): Promise<boolean> {
    const { revoking } = volume;
    const losing = (flags & Flag.LOST) !== 0;
    add(revoking, port, 1);
    if (losing) add(this.#losing, port, 1);
    let answered = true;
    try {
      await this.#holders.revoke(port, volume.name, flags);
    } catch (error) {
      if (!gone.has(errnoOf(error))) {
        throw new SystemError(
          errnos.EIO,
          `volume ${volume.name}: port ${port} did not give its map back: ${messageOf(error)}`,
          { cause: error },
        );
      }
      answered = false;
    } finally {
      add(revoking, port, -1);
      if (losing) add(this.#losing, port, -1);
    }
    volume.leases.delete(port);
    volume.asked.add(port);
    return answered;
  }

  /** Takes all leases back that an earlier mapper granted. A port that refuses is asked again for each volume. */
  async revokeInherited(): Promise<void> {
    const asked = this.inherited.map(async (port) => {
      await this.#holders.revoke(port, '', 0).catch((error) => {
        if (!gone.has(errnoOf(error))) throw error;
      });
      this.#inherited.delete(port);
    });
    await Promise.allSettled(asked);
  }

  /** Tells who has exclusive leases on these volumes until when they are good. */
  renew(volumes: readonly Volume[], until: number): void {
    const ports = new Set<number>();
    for (const volume of volumes) {
      for (const [port, kind] of volume.leases) if (kind === 'exclusive' && !this.#losing.has(port)) ports.add(port);
    }
    for (const port of ports) this.#holders.renew(port, until);
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

  /** Whether a client of the node has the volume open, with a lease or without. @throws SystemError when that cannot be told */
  isOpen(volume: Volume): Promise<boolean> {
    return this.#holders.isUsed(volume.name);
  }

  lookAtEndpoints(): EndpointsSeen {
    return this.#holders.lookAtEndpoints();
  }

  #unasked(volume: Volume): number[] {
    return [...this.#inherited].filter((port) => !volume.asked.has(port));
  }
}

function add(counts: Map<number, number>, port: number, change: number): void {
  const count = (counts.get(port) ?? 0) + change;
  if (count === 0) counts.delete(port);
  else counts.set(port, count);
}
