/** What the composer passes on to the mapper, and what becomes of it when the composer dies meanwhile. */
import { spawnSync } from 'node:child_process';
import { expect, it, onTestFinished } from 'vitest';
import { Forwarder } from '../../../src/composer/forward.js';
import { Op } from '../../../src/requests/ops.js';
import { encodeVolumeInfo, type VolumeInfo } from '../../../src/requests/structs.js';
import { errnos } from '../../../src/sys/errno.js';
import { type Port, type Request, Segment } from '../../../src/xseg/index.js';
import { P } from '../../../src/xseg/layout.js';
import { ownSegment } from '../../support/own.js';

const MAPPER = 1;
const COMPOSER = 2;

interface Rig {
  client: Port;
  /** Requests at the mapper, which a test answers. */
  asked: Request[];
  /** Binds the composer's port, as another process would. */
  compose(): Port;
  /** As kill -9 of that process. */
  kill(composer: Port): void;
}

function rig(): Rig {
  const spec = `posix:${ownSegment('forward')}:16:8:16:12`;
  const segment = Segment.create(spec);
  const opened = [segment];
  onTestFinished(() => {
    for (const each of opened) each.close();
    Segment.destroy(spec);
  });
  const asked: Request[] = [];
  segment.bind(MAPPER).serve((request) => asked.push(request));
  return {
    client: segment.bind(3),
    asked,
    compose: () => {
      const joined = Segment.join(spec);
      opened.push(joined);
      const port = joined.bind(COMPOSER);
      const forwarder = new Forwarder(port, MAPPER, () => {});
      port.serve((request) => forwarder.forward(request));
      return port;
    },
    kill: (composer) => {
      segment.memory.u32[segment.tables.portWord(COMPOSER) + P.PID] = spawnSync(process.execPath, ['--version']).pid;
      segment.reap();
      composer.segment.close();
    },
  };
}

const arrived = (r: Rig, count: number): Promise<void> => expect.poll(() => r.asked.length).toBe(count);

it('a snapshot that is passed on a second time has the same note', async () => {
  const r = rig();
  const first = r.compose();
  const done = r.client.call(COMPOSER, { op: Op.SNAPSHOT, target: 'volume' }, { wait: true });
  await arrived(r, 1);
  const { note } = r.asked[0];
  expect(note).toMatch(/^[0-9a-f]{32}$/);
  r.kill(first);
  r.compose();
  r.asked[0].succeed(0);
  await arrived(r, 2);
  expect(r.asked[1].note).toBe(note);
  r.asked[1].succeed(0);
  await done;
});

it('another snapshot has another note', async () => {
  const r = rig();
  r.compose();
  const done = [0, 1].map(() => r.client.call(COMPOSER, { op: Op.SNAPSHOT, target: 'volume' }));
  await arrived(r, 2);
  expect(r.asked[0].note).not.toBe(r.asked[1].note);
  for (const request of r.asked) request.succeed(0);
  await Promise.all(done);
});

const remove = { op: Op.DELETE, target: 'volume' };
const id = '0123456789abcdef'.repeat(2);
const info: VolumeInfo = {
  size: 1,
  blockSize: 1,
  readOnly: false,
  version: 2,
  epoch: 7,
  created: 1,
  parent: null,
  id,
};

/** Answers the question of the composer which volume is to go. */
function tell(request: Request, told: VolumeInfo): void {
  expect([request.op, request.target]).toEqual([Op.INFO, 'volume']);
  const reply = encodeVolumeInfo(told);
  request.data.set(reply);
  request.succeed(reply.length);
}

it('a removal names the volume by its id, also when it is passed on a second time', async () => {
  const r = rig();
  const first = r.compose();
  const done = r.client.call(COMPOSER, remove, { wait: true });
  await arrived(r, 1);
  tell(r.asked[0], info);
  await arrived(r, 2);
  expect([r.asked[1].op, r.asked[1].note]).toEqual([Op.DELETE, `${id} 7`]);
  r.kill(first);
  r.compose();
  r.asked[1].succeed(0);
  await arrived(r, 3);
  // Not asked again: by now the name may stand for another one.
  expect([r.asked[2].op, r.asked[2].note]).toEqual([Op.DELETE, `${id} 7`]);
  r.asked[2].succeed(0);
  await done;
});

it('a removal of a volume without an id, that the first composer had done, is done, and only that', async () => {
  const r = rig();
  const first = r.compose();
  const done = r.client.call(COMPOSER, remove, { wait: true });
  await arrived(r, 1);
  tell(r.asked[0], { ...info, id: null });
  await arrived(r, 2);
  expect(r.asked[1].note).toBe('');
  r.kill(first);
  r.compose();
  r.asked[1].succeed(0);
  const missing = 'volume volume does not exist';
  await arrived(r, 3);
  r.asked[2].fail(errnos.ENOENT, missing);
  await arrived(r, 4);
  expect(r.asked[3].op).toBe(Op.DELETE);
  r.asked[3].fail(errnos.ENOENT, missing);
  await done;
  const again = r.client.call(COMPOSER, remove);
  await arrived(r, 5);
  r.asked[4].fail(errnos.ENOENT, missing);
  await arrived(r, 6);
  r.asked[5].fail(errnos.ENOENT, missing);
  await expect(again).rejects.toMatchObject({ code: 'ENOENT' });
});
