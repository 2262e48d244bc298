/** What the log says of failed requests, and how often. */
import { pino } from 'pino';
import { expect, it } from 'vitest';
import { FailureLog } from '../../../src/blockers/failure-log.js';
import { Op } from '../../../src/requests/ops.js';
import { errnos, SystemError } from '../../../src/sys/errno.js';

function failureLog() {
  const lines: Record<string, unknown>[] = [];
  const clock = { now: 5_000_000 };
  const log = pino({ level: 'error', base: null }, { write: (line: string) => void lines.push(JSON.parse(line)) });
  return { lines, clock, failures: new FailureLog(log, () => clock.now) };
}

it('a full store refuses a hundred thousand writes in two lines, which say how many there were', () => {
  const { lines, clock, failures } = failureLog();
  const full = new SystemError(errnos.ENOSPC, 'the pool is full');
  for (let i = 0; i < 100_000; i++) failures.tell(Op.RESET, errnos.ENOSPC, `object-${i}`, full);
  expect(lines).toHaveLength(1);
  expect(lines[0]).toMatchObject({
    op: 'RESET',
    target: 'object-0',
    errno: 'ENOSPC',
    reason: expect.stringContaining('the pool is full'),
  });
  // No stack: the sentence says all.
  expect(lines[0]).not.toHaveProperty('err');
  clock.now += 10_000;
  failures.tell(Op.RESET, errnos.ENOSPC, 'object-again', full);
  failures.tell(Op.RESET, errnos.ENOSPC, 'object-again', full);
  expect(lines).toHaveLength(2);
  expect(lines[1]).toMatchObject({ target: 'object-again', more: 99_999 });
});

it('other operations and other errors are told at once, with where they were met', () => {
  const { lines, failures } = failureLog();
  failures.tell(Op.WRITE, errnos.ENOSPC);
  failures.tell(Op.RESET, errnos.ENOSPC);
  failures.tell(Op.WRITE, errnos.EIO, 'object', new SystemError(errnos.EIO, 'a bad disk'));
  expect(lines.map(({ op }) => op)).toEqual(['WRITE', 'RESET', 'WRITE']);
  expect(lines[2]).toMatchObject({ err: { stack: expect.stringContaining('failure-log.test') } });
});

it('answers that are no trouble are not told', () => {
  const { lines, failures } = failureLog();
  for (const errno of [errnos.ENOENT, errnos.EEXIST, errnos.EBUSY, errnos.ETIME])
    failures.tell(Op.READ, errno, 'object');
  expect(lines).toEqual([]);
});
