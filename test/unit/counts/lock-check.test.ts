/** A look at the locks, which comes before each flush, costs what its answer is long, not the room there is for the longest. */
import { afterEach, expect, it, vi } from 'vitest';
import { XsegLockClient } from '../../../src/requests/lock-client.js';
import { cleanUp, createSegment } from '../xseg/help.js';

afterEach(cleanUp);

it('copies its answer alone', async () => {
  const segment = createSegment();
  const port = segment.bind(1);
  const answer = Buffer.from(JSON.stringify({ lost: [], mail: [] }));
  port.serve((request) => {
    request.data.set(answer);
    request.succeed(answer.length);
  });
  const call = vi.spyOn(port, 'call');
  const found = await new XsegLockClient(port, 1).check(['volume']);
  expect(found).toEqual({ lost: [], mail: [] });
  const replies = await Promise.all(call.mock.results.map(({ value }) => value as ReturnType<typeof port.call>));
  expect(replies.map(({ data }) => data.length)).toEqual([answer.length]);
});
