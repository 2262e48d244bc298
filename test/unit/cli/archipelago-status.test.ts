/** What `archipelago status` prints of roles whose store has troubles. */
import { expect, it } from 'vitest';
import { printStatus } from '../../../src/cli/archipelago/output.js';
import type { RoleStatus } from '../../../src/peer/node-status.js';
import { capture } from './capture.js';

const role = (name: string, status: object | null, state: RoleStatus['state'] = 'running'): RoleStatus => ({
  name,
  type: 'rados_blocker',
  state,
  pid: 1,
  ports: [1000, 1000],
  since: 0,
  restarts: 0,
  lastFailure: null,
  status,
});

it('the trouble of a store is in the line of its role, and nothing else of what the role says', async () => {
  const roles = [
    role('blockerb', { store: { trouble: 'pool blocks: Ceph has not answered for 12 s' } }),
    role('blockerm', { store: { trouble: null, pool: 'maps' } }),
    role('mapperd', { trouble: 'not of a store' }),
    role('vlmcd', null),
    // What it said before it went silent is not what is the matter now.
    role('nbd', { store: { trouble: 'old' } }, 'silent'),
  ];
  const { out } = await capture({}, async (io) => {
    printStatus(io, { supervisor: 1, segment: 'archipelago', roles }, null);
    return 0;
  });
  expect(out.split('\n').map((line) => line.replace(/ +/, ' '))).toEqual([
    'nbd Has valid pidfile but does not seem to be active',
    'vlmcd running',
    'mapperd running',
    'blockerm running',
    'blockerb running; pool blocks: Ceph has not answered for 12 s',
    '',
  ]);
});
