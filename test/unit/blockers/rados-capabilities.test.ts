/** What a rados blocker asks of its pool and its user before it serves, and what it says when it cannot have it. */
import { describe, expect, it } from 'vitest';
import { neededCapabilities, requirePool } from '../../../src/blockers/rados/capabilities.js';
import { connect, type Pool, type WriteStep } from '../../../src/rados/index.js';
import { errnos, SystemError } from '../../../src/sys/errno.js';
import { hasCeph, useCeph } from '../../support/ceph.js';

/** A pool whose OSDs answer so, to what is a step of these. */
function answering(errno: number, ...steps: WriteStep['do'][]): Pool {
  return {
    name: 'cheap',
    operate: async (_: string, asked: readonly WriteStep[]) => {
      if (asked.some((step) => steps.includes(step.do))) throw new SystemError(errno, 'refused');
    },
  } as unknown as Pool;
}

it('an erasure coded pool is refused with the way out, for maps always, for blocks unless it can be overwritten', async () => {
  const noOverwrites = answering(errnos.EOPNOTSUPP, 'write', 'setOmap');
  await expect(requirePool(noOverwrites, false)).rejects.toThrow(/ceph osd pool set cheap allow_ec_overwrites true/);
  const overwrites = answering(errnos.EOPNOTSUPP, 'setOmap');
  await requirePool(overwrites, false);
  await expect(requirePool(overwrites, true)).rejects.toThrow(/replicated pool/);
});

it('a missing right is an error, for locks only where there are locks; a full pool is not', async () => {
  await requirePool(answering(errnos.EPERM, 'exec'), false);
  await expect(requirePool(answering(errnos.EPERM, 'exec'), true)).rejects.toMatchObject({ errno: errnos.EPERM });
  await expect(requirePool(answering(errnos.EPERM, 'write'), false)).rejects.toMatchObject({ errno: errnos.EPERM });
  for (const full of [errnos.ENOSPC, errnos.EDQUOT]) await requirePool(answering(full, 'write', 'exec'), true);
});

it('the capabilities it names are those of the pool, and of the namespace if there is one', () => {
  expect(neededCapabilities({ pool: 'maps', namespace: '', locks: true })).toBe(
    "mon 'profile rbd' osd 'allow rwx pool=maps'",
  );
  expect(neededCapabilities({ pool: 'blocks', namespace: 'one', locks: false })).toBe(
    "mon 'profile rbd' osd 'allow rw pool=blocks namespace=one'",
  );
});

describe.runIf(hasCeph())('a pool that is as it should be', () => {
  const ceph = useCeph();
  it('is found so, and nothing is left of the question', async () => {
    const cluster = await connect({ conf: ceph.conf, id: ceph.user });
    try {
      for (const [name, locks] of [
        ['maps', true],
        ['blocks', false],
      ] as const) {
        await requirePool(await cluster.pool(name, ceph.namespace), locks);
        expect(await ceph.list(name)).toEqual([]);
      }
    } finally {
      await cluster.close();
    }
  });
});
