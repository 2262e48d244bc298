/** What the log and the status tell of a Ceph that does not answer, or is full. */
import pino from 'pino';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { type Backlog, Health } from '../../../src/blockers/rados/health.js';
import { monotonicMs } from '../../../src/sys/clock.js';
import { errnos } from '../../../src/sys/errno.js';

let lines: string[];
let backlog: Backlog;
let health: Health;

beforeEach(() => {
  vi.useFakeTimers({ toFake: ['setInterval', 'clearInterval', 'Date', 'performance'] });
  lines = [];
  backlog = { count: 0, oldestSince: 0 };
  const log = pino({}, { write: (line: string) => void lines.push(JSON.parse(line).msg) });
  health = new Health('pool blocks', log, () => backlog);
  health.start();
});

afterEach(() => {
  health.stop();
  vi.useRealTimers();
});

it('tells once that Ceph does not answer, and once that it does again', () => {
  backlog = { count: 3, oldestSince: monotonicMs() };
  vi.advanceTimersByTime(4900);
  expect([lines, health.slowSince, health.trouble(false)]).toEqual([[], null, null]);
  vi.advanceTimersByTime(25_100);
  expect(lines).toEqual([expect.stringMatching(/^pool blocks: Ceph has not answered for 5 s: 3 operations wait/)]);
  expect(health.trouble(false)).toBe('pool blocks: Ceph has not answered for 30 s: 3 operations wait');
  expect(health.slowSince).toBe(Date.now() - 30_000);
  // Answered, and other operations are on their way.
  backlog = { count: 1, oldestSince: monotonicMs() };
  vi.advanceTimersByTime(1000);
  expect(lines.slice(1)).toEqual(['pool blocks: Ceph answers again, after 31 s']);
  expect([health.slowSince, health.trouble(false)]).toEqual([null, null]);
  vi.advanceTimersByTime(6000);
  expect(lines).toHaveLength(3);
  expect(health.trouble(false)).toBe('pool blocks: Ceph has not answered for 7 s: 1 operation waits');
});

it('tells at most once a minute that there is no space, and the status for a minute after the last refusal', () => {
  for (let i = 0; i < 100; i++) {
    health.failed(errnos.ENOSPC);
    vi.advanceTimersByTime(500);
  }
  health.failed(errnos.ENOENT);
  expect(lines).toEqual([expect.stringContaining('pool blocks is full')]);
  expect(health.trouble(false)).toMatch(/^pool blocks is full/);
  vi.advanceTimersByTime(11_000);
  health.failed(errnos.EDQUOT);
  expect(lines.slice(1)).toEqual([expect.stringContaining('quota')]);
  vi.advanceTimersByTime(60_000);
  expect(health.trouble(false)).toBe(null);
});

it('a client that is being replaced is the trouble that counts', () => {
  backlog = { count: 2, oldestSince: monotonicMs() - 60_000 };
  expect(health.trouble(true)).toBe(
    "pool blocks: Ceph blocklisted this node's client: connecting anew, 2 operations wait",
  );
});
