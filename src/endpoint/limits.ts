/** What clients may take, from the configuration and from what the segment gives. */
import type { NbdSettings } from '../config/types.js';
import type { Keepalive, Limits } from '../nbd/index.js';

const MiB = 1 << 20;
/** Of the role's share of the heap clients' data may fill so much; the rest is for block status, names and the control requests. */
const DATA_SHARE = 0.9;

export interface ServerLimits {
  readonly limits: Partial<Limits>;
  readonly keepalive: Keepalive;
  /** Sentences about limits that do not go together. */
  readonly warnings: readonly string[];
}

/** @param heapBytes what the role may have of the segment's data heap */
export function serverLimits(settings: NbdSettings, heapBytes: number): ServerLimits {
  const { maxConnections, totalInFlightMiB } = settings;
  const available = Math.floor(heapBytes * DATA_SHARE);
  const wanted = totalInFlightMiB === null ? available : totalInFlightMiB * MiB;
  const totalInFlightBytes = Math.max(MiB, Math.min(wanted, available));
  const warnings: string[] = [];
  const inMiB = Math.floor(totalInFlightBytes / MiB);
  if (wanted > available) {
    warnings.push(
      `total_in_flight_mib = ${totalInFlightMiB} is more than the segment gives; ${inMiB} are used. A larger SEGMENT_SIZE gives more`,
    );
  }
  if (maxConnections > inMiB) {
    warnings.push(
      `${maxConnections} connections (max_connections) that all stop in the middle of a write would hold all of the ${inMiB} MiB ` +
        'there are for data, and others wait for them; set a larger SEGMENT_SIZE, or fewer connections',
    );
  }
  return {
    limits: {
      connections: maxConnections,
      handshakeMs: Math.round(settings.handshakeTimeout * 1000),
      idleMs: Math.round(settings.idleTimeout * 1000),
      options: settings.handshakeOptions,
      optionLength: settings.optionLength,
      inFlight: settings.inFlight,
      inFlightBytes: settings.inFlightMiB * MiB,
      totalInFlight: settings.totalInFlight,
      totalInFlightBytes,
    },
    keepalive: {
      time: settings.keepaliveTime,
      interval: settings.keepaliveInterval,
      probes: settings.keepaliveProbes,
    },
    warnings,
  };
}
