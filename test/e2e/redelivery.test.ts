/**
 * The mapper is killed in the middle of operations on volumes again and again, and who waits for them sees a pause: each is done once,
 * answered as done, and none is lost.
 */
import { describe, expect, it } from 'vitest';
import { Op } from '../../src/requests/ops.js';
import { encodeClone, encodeName } from '../../src/requests/structs.js';
import { type CallInit, type Port, Segment } from '../../src/xseg/index.js';
import { useNode } from './harness/node.js';
import { describeOutcome } from './harness/run.js';
import { repeated } from './harness/stores.js';

const MAPPER = 1001;
const MiB = 1 << 20;
/** Each death makes the supervisor wait longer before the next start. */
const DEATHS = repeated ? 3 : 5;
const ROUNDS = repeated ? 8 : 16;

describe('a mapper that is killed in the middle of operations', () => {
  const rig = useNode({ placement: 'one process per role' });

  /** One volume's life: made, snapshotted, renamed, grown; the snapshot is cloned and goes. */
  const life = (i: number): CallInit[] => [
    { op: Op.CLONE, target: `volume-${i}`, data: encodeClone({ parent: '', size: 64 * MiB }) },
    { op: Op.SNAPSHOT, target: `volume-${i}`, data: encodeName(`snapshot-${i}`) },
    { op: Op.CLONE, target: `clone-${i}`, data: encodeClone({ parent: `snapshot-${i}`, size: 0 }) },
    { op: Op.RENAME, target: `volume-${i}`, data: encodeName(`renamed-${i}`) },
    { op: Op.DELETE, target: `snapshot-${i}` },
    { op: Op.TRUNCATE, target: `renamed-${i}`, offset: 80 * MiB },
  ];

  it('makes clients wait, and does each of them once', async () => {
    const { node } = rig;
    const segment = Segment.join(`posix:${node.segment}:`);
    const port: Port = segment.bind('dynamic', { name: 'test' });
    let deaths = 0;
    try {
      for (let i = 0; i < ROUNDS; i++) {
        const operations = life(i);
        const fatal = i % 3 === 0 && deaths < DEATHS ? deaths++ % operations.length : -1;
        for (const [k, operation] of operations.entries()) {
          const pid = node.rolePid('mapperd');
          const done = port.call(MAPPER, operation, { wait: true });
          if (k === fatal) {
            await new Promise((resolve) => setTimeout(resolve, Math.random() * 12));
            process.kill(pid, 'SIGKILL');
          }
          await done;
        }
      }
    } finally {
      port.close();
      segment.close();
    }
    const { volumes } = JSON.parse(await node.vlmc('list', '--json')) as { volumes: { name: string }[] };
    const expected = Array.from({ length: ROUNDS }, (_, i) => [`clone-${i}`, `renamed-${i}`]).flat();
    expect(volumes.map(({ name }) => name).sort()).toEqual(expected.sort());
    for (let i = 0; i < ROUNDS; i++) {
      expect(await node.vlmcJson('info', `renamed-${i}`)).toMatchObject({ size: 80 * MiB });
    }
    const check = await node.tryVlmc(['check', '--all']);
    expect(check.code, describeOutcome(check)).toBe(0);
  }, 120_000);
});
