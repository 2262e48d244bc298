/**
 * The mapper is killed in the middle of operations on volumes again and again, and who waits for them sees a pause: each is done once,
 * answered as done, and none is lost.
 */
import { describe, expect, it } from 'vitest';
import { Op } from '../../src/requests/ops.js';
import { encodeClone, encodeName } from '../../src/requests/structs.js';
import { type CallInit, type Port, report, Segment } from '../../src/xseg/index.js';
import { randomNumbers } from './harness/load.js';
import { useNode } from './harness/node.js';
import { describeOutcome } from './harness/run.js';
import { repeated } from './harness/stores.js';

const MAPPER = 1001;
const MiB = 1 << 20;
/** Each death makes the supervisor wait longer before the next start. */
const DEATHS = repeated ? 3 : 5;
const ROUNDS = repeated ? 8 : 16;
/** The mapper is killed when one of the first requests to the maps that an operation makes has been seen: one of so many. */
const REQUESTS = 4;
const SEED = Number(process.env.ARCHIPELAGO_TEST_SEED ?? Date.now() % 1_000_000);

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
    console.log(`seed ${SEED} (ARCHIPELAGO_TEST_SEED)`);
    const random = randomNumbers(SEED);
    const { node } = rig;
    const segment = Segment.join(`posix:${node.segment}:`);
    const port: Port = segment.bind('dynamic', { name: 'test' });
    /** Requests that the maps' blocker has accepted. */
    const asked = (): number => report(segment).bound.find(({ name }) => name === 'blockerm')?.accepted ?? 0;
    let deaths = 0;
    let inTheMiddle = 0;
    let missed = false;
    try {
      for (let i = 0; i < ROUNDS; i++) {
        const operations = life(i);
        const due = (i % 3 === 0 || missed) && inTheMiddle < DEATHS;
        const fatal = due ? deaths++ % operations.length : -1;
        for (const [k, operation] of operations.entries()) {
          const pid = node.rolePid('mapperd');
          const before = asked();
          let answered = false;
          const done = port.call(MAPPER, operation, { wait: true }).finally(() => {
            answered = true;
          });
          done.catch(() => {});
          if (k === fatal) {
            const last = before + 1 + Math.floor(random() * REQUESTS);
            while (!answered && asked() < last) await new Promise((resolve) => setImmediate(resolve));
            missed = answered;
            if (!answered) inTheMiddle++;
            process.kill(pid, 'SIGKILL');
          }
          await done;
        }
      }
    } finally {
      port.close();
      segment.close();
    }
    console.log(`${inTheMiddle} of ${deaths} deaths in the middle of an operation`);
    expect(inTheMiddle).toBeGreaterThan(0);
    const { volumes } = JSON.parse(await node.vlmc('list', '--json')) as { volumes: { name: string }[] };
    const expected = Array.from({ length: ROUNDS }, (_, i) => [`clone-${i}`, `renamed-${i}`]).flat();
    expect(volumes.map(({ name }) => name).sort()).toEqual(expected.sort());
    for (let i = 0; i < ROUNDS; i++) {
      expect(await node.vlmcJson('info', `renamed-${i}`)).toMatchObject({ size: 80 * MiB });
    }
    const check = await node.tryVlmc(['check', '--all']);
    expect(check.code, describeOutcome(check)).toBe(0);
  });
});
