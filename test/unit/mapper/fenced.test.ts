/** What an operation on a locked volume asks of a store: as long as the lock is good, and again when it was refused and the lock still is. */
import { expect, it } from 'vitest';
import type { LockChecks } from '../../../src/mapper/locking/checks.js';
import { FencedObjects } from '../../../src/mapper/locking/fenced.js';
import { LostLock } from '../../../src/mapper/locking/lost.js';
import type { Volume } from '../../../src/mapper/volume.js';
import type { ObjectClient } from '../../../src/requests/object-client.js';
import { errnos, SystemError } from '../../../src/sys/errno.js';

/** A store that has copies to complete at every flush, and a lock that was looked at long ago. */
function fenced({ isOurs = true, locked = true } = {}) {
  const deadlines: number[] = [];
  const volume = { name: 'volume', locked, lost: null as unknown, losses: 0, validUntil: 1000 };
  const clock = { now: () => 1500 };
  const withDeadline = (deadline: () => number) => ({
    flush: (): Promise<void> => {
      deadlines.push(deadline());
      const late = deadlines[deadlines.length - 1] !== 0 && clock.now() >= deadline();
      return late ? Promise.reject(new SystemError(errnos.ETIME, 'too late')) : Promise.resolve();
    },
  });
  const checks = {
    verify: (): Promise<void> => {
      if (!isOurs) return Promise.reject(new LostLock(volume as unknown as Volume));
      volume.validUntil = clock.now() + 3000;
      return Promise.resolve();
    },
  };
  const objects = new FencedObjects(
    { withDeadline } as unknown as ObjectClient,
    [volume as unknown as Volume],
    checks as unknown as LockChecks,
    clock as never,
  );
  return { objects, deadlines };
}

it('a flush that came too late to complete a copy is asked for again under the lock as it is now', async () => {
  const { objects, deadlines } = fenced();
  await objects.flush(['some-object']);
  expect(deadlines).toEqual([1000, 4500]);
});

it('a flush that came too late to complete a copy fails when the lock is lost', async () => {
  const { objects, deadlines } = fenced({ isOurs: false });
  await expect(objects.flush(['some-object'])).rejects.toBeInstanceOf(LostLock);
  expect(deadlines).toEqual([1000]);
});

it('a flush under no lock has no deadline', async () => {
  const { objects, deadlines } = fenced({ locked: false });
  await objects.flush(['some-object']);
  expect(deadlines).toEqual([0]);
});
