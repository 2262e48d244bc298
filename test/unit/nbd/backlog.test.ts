/** What a connection learns of its client from what lies in the socket. */
import { describe, expect, test, vi } from 'vitest';
import { MemoryDisk } from '../../../src/nbd/memory-device.js';
import { Poller } from '../../../src/nbd/poller.js';
import type { Transmission } from '../../../src/nbd/transmission.js';
import { RECEIVE_SIZE, STAGE_START } from '../../../src/nbd/wire-memory.js';
import { CMD } from './proto.js';
import { SteeredDevice } from './support.js';
import { type Asked, requestBytes, Talk } from './talk.js';

const KiB = 1024;

/** `count` writes of `length` bytes that lie in the socket when the server hears of them; it is told once. */
function waiting(count: number, length: number): Transmission {
  const device = new SteeredDevice(new MemoryDisk({ size: 4096 * KiB }));
  const conversation = new Talk({ style: 'simple', device });
  const { transport, transmission } = conversation;
  Object.defineProperty(transport, 'pollable', { value: true });
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
  transmission.readable(take(transport.stage, STAGE_START, RECEIVE_SIZE));
  return transmission;
}

describe('requests that lie in the socket', () => {
  test('show that their client sends several at a time, be they short or long', () => {
    expect(waiting(1, 4 * KiB).single).toBe(true);
    expect(waiting(4, 4 * KiB).single).toBe(false);
    expect(waiting(1, 128 * KiB).single).toBe(true);
    expect(waiting(4, 128 * KiB).single).toBe(false);
  });

  test('are polled for while the device is at work, but not while it writes much', () => {
    const pollable = (count: number, length: number): boolean => {
      const submit = vi.spyOn(SteeredDevice.prototype, 'submit').mockImplementation(() => {});
      const transmission = waiting(count, length);
      submit.mockRestore();
      expect(transmission.waiting).toBe(true);
      return transmission.pollable;
    };
    expect(pollable(4, 4 * KiB)).toBe(true);
    expect(pollable(1, 128 * KiB)).toBe(true);
    expect(pollable(2, 128 * KiB)).toBe(false);
  });

  test('are told to the device: whether there is something else to do while a long write is done', () => {
    const meanwhile = (count: number, isAlone: boolean, length = 128 * KiB): (boolean | undefined)[] => {
      const seen: (boolean | undefined)[] = [];
      const submit = vi
        .spyOn(SteeredDevice.prototype, 'submit')
        .mockImplementation((io) => void seen.push(io.meanwhile));
      const others = vi.spyOn(Poller.prototype, 'isAlone').mockReturnValue(isAlone);
      waiting(count, length);
      submit.mockRestore();
      others.mockRestore();
      return seen;
    };
    expect(meanwhile(1, true)).toEqual([false]);
    expect(meanwhile(2, true)).toEqual([false, true]);
    expect(meanwhile(2, false)).toEqual([false, false]);
    expect(meanwhile(2, true, 64 * KiB)).toEqual([false, false]);
  });
});
