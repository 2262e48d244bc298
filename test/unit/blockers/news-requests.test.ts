/** Requests that wait for news end when nobody waits for their answer any more. */
import { expect, it } from 'vitest';
import { NewsRequests } from '../../../src/blockers/news-requests.js';

const never = (): Promise<never> => new Promise(() => {});
const nothing = { changed: [], mail: false };

it('a question whose asker has died is answered, so that the successor need not wait for it', async () => {
  const requests = new NewsRequests();
  let gone = false;
  const waiting = requests.wait(60_000, never, () => gone);
  const other = requests.wait(60_000, never, () => false);
  gone = true;
  expect(await waiting).toEqual(nothing);
  expect(requests.waiting).toBe(1);
  requests.stop();
  expect(await other).toEqual(nothing);
  expect(requests.waiting).toBe(0);
});
