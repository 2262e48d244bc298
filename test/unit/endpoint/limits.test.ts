import { expect, test } from 'vitest';
import { findRole } from '../../../src/config/index.js';
import { parseConfig } from '../../../src/config/load.js';
import type { NbdSettings } from '../../../src/config/types.js';
import { serverLimits } from '../../../src/endpoint/limits.js';

const MiB = 1 << 20;

const settings = (text: string): NbdSettings =>
  findRole(parseConfig(`[nbd]\n${text}\n`, 'a.conf'), 'nbd') as NbdSettings;

test("clients' data may fill most of what the segment gives, or what the configuration says", () => {
  expect(serverLimits(settings(''), 400 * MiB)).toMatchObject({
    limits: { totalInFlightBytes: 360 * MiB, connections: 256, handshakeMs: 10_000, idleMs: 0 },
    warnings: [],
  });
  const chosen = settings('total_in_flight_mib = 300\nidle_timeout = 1.5\nin_flight_mib = 8\nkeepalive_time = 0');
  expect(serverLimits(chosen, 400 * MiB)).toMatchObject({
    limits: { totalInFlightBytes: 300 * MiB, inFlightBytes: 8 * MiB, idleMs: 1500 },
    keepalive: { time: 0, interval: 10, probes: 6 },
    warnings: [],
  });
});

test('limits that the segment cannot keep are told of', () => {
  const much = serverLimits(settings('total_in_flight_mib = 4000'), 400 * MiB);
  expect(much.limits.totalInFlightBytes).toBe(360 * MiB);
  expect(much.warnings).toEqual([expect.stringContaining('total_in_flight_mib = 4000 is more than the segment gives')]);
  const many = serverLimits(settings('max_connections = 500'), 400 * MiB);
  expect(many.warnings).toEqual([expect.stringContaining('500 connections')]);
});
