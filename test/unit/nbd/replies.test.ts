/** The queue of answers by itself. */
import v8 from 'node:v8';
import vm from 'node:vm';
import { expect, test } from 'vitest';
import { Replies } from '../../../src/nbd/replies.js';
import { Answer, Piece, Request } from '../../../src/nbd/requests.js';
import { FakeTransport } from './support.js';

/** A transport that takes one message at a time and is never done at once. */
class Narrow extends FakeTransport {
  #room = 1;
  override reserve(length: number): number {
    return this.#room-- > 0 ? super.reserve(length) : -1;
  }
  override send(): boolean {
    super.send();
    this.sent = Buffer.alloc(0);
    this.#room = 1;
    return false;
  }
}

test('what was sent is not kept while the client is never quite caught up with', async () => {
  const transport = new Narrow();
  let retired = 0;
  const pushed: WeakRef<Piece>[] = [];
  const replies = new Replies(transport, { structured: false, extended: false }, () => {
    retired++;
  });
  const owner = { completed() {}, misused() {} };
  const push = (): void => {
    const piece = new Piece(owner);
    piece.request = new Request();
    piece.answer = Answer.STATUS;
    piece.done = true;
    pushed.push(new WeakRef(piece));
    replies.push(piece);
  };
  for (let i = 0; i < 10; i++) push();
  replies.flush();
  for (let i = 0; i < 20_000; i++) {
    push();
    replies.drained();
    replies.flush();
  }
  expect(retired).toBe(20_000);
  v8.setFlagsFromString('--expose-gc');
  await new Promise((resolve) => setImmediate(resolve));
  (vm.runInNewContext('gc') as () => void)();
  expect(pushed.filter((piece) => piece.deref() !== undefined).length).toBeLessThan(2000);
  while (!replies.idle) {
    replies.drained();
    replies.flush();
  }
  expect(retired).toBe(20_010);
});
