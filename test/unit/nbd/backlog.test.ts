/** What a connection learns of its client from what lies in the socket. */
import { describe, expect, test } from 'vitest';
import { MemoryDisk } from '../../../src/nbd/memory-device.js';
import type { Transmission } from '../../../src/nbd/transmission.js';
import { STAGE_SIZE, STAGE_START } from '../../../src/nbd/wire-memory.js';
import { CMD } from './proto.js';
import { SteeredDevice } from './support.js';
import { type Asked, requestBytes, Talk } from './talk.js';

const KiB = 1024;

/** `count` writes of `length` bytes that lie in the socket when the server hears of them; it is told once. */
function waiting(count: number, length: number): Transmission {
  const device = new SteeredDevice(new MemoryDisk({ size: 4096 * KiB }));
  const conversation = new Talk({ style: 'simple', device });
  const { transport, transmission } = conversation;
  const asked: Asked[] = Array.from({ length: count }, (_, i) => ({
    type: CMD.WRITE,
    offset: BigInt(i * length),
    length,
    payload: Buffer.alloc(length, i + 1),
  }));
  const bytes = requestBytes('simple', asked);
  let at = 0;
  const take = (target: Buffer, start: number, limit: number): number => {
    const end = Math.min(at + limit, bytes.length);
    const taken = bytes.copy(target, start, at, end);
    at = end;
    return taken;
  };
  transport.receiveStage = (limit) => take(transport.stage, STAGE_START, limit);
  transport.receiveInto = (buffer, start, limit) => take(buffer.bytes, start, limit);
  transmission.readable(take(transport.stage, STAGE_START, STAGE_SIZE));
  return transmission;
}

describe('requests that lie in the socket', () => {
  test('show that their client sends several at a time, be they short or long', () => {
    expect(waiting(1, 4 * KiB).single).toBe(true);
    expect(waiting(4, 4 * KiB).single).toBe(false);
    expect(waiting(1, 128 * KiB).single).toBe(true);
    expect(waiting(4, 128 * KiB).single).toBe(false);
  });
});
