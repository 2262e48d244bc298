/** How much of what lies in the socket is taken by one receive, and that nothing of it is lost or moved. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { MemoryDisk } from '../../../src/nbd/memory-device.js';
import { RECEIVE_SIZE, STAGE_SIZE, STAGE_START } from '../../../src/nbd/wire-memory.js';
import { CMD, type Style } from './proto.js';
import { SteeredDevice, until } from './support.js';
import { type Asked, parseReplies, requestBytes, Talk } from './talk.js';

const KiB = 1024;
const SIZE = 4096 * KiB;

/** Writes one behind the other, each of bytes of its own. */
function writes(...lengths: readonly number[]): Asked[] {
  let offset = 0;
  return lengths.map((length, i) => {
    const payload = Buffer.alloc(length, `${i} of `);
    const asked = { type: CMD.WRITE, offset: BigInt(offset), length, payload };
    offset = (offset + length) % (SIZE / 2);
    return asked;
  });
}

const many = (count: number, length: number): number[] => new Array<number>(count).fill(length);

/** A connection whose socket holds what has arrived of some requests. */
class Socket {
  readonly talk: Talk;
  readonly disk = new MemoryDisk({ size: SIZE });
  /** Bytes of each receive into the stage: what was asked for. */
  readonly limits: number[] = [];
  sends = 0;
  isOver = false;
  readonly #bytes: Buffer;
  #at = 0;
  #there = 0;

  constructor(style: Style, asked: readonly Asked[]) {
    this.#bytes = requestBytes(style, asked);
    this.talk = new Talk({ style, device: new SteeredDevice(this.disk) });
    void this.talk.finished.then(() => {
      this.isOver = true;
    });
    const { transport } = this.talk;
    Object.defineProperty(transport, 'pollable', { value: true });
    transport.receiveStage = (limit, behind = 0) => {
      this.limits.push(limit);
      return this.#take(transport.stage, STAGE_START + behind, limit);
    };
    transport.receiveInto = (buffer, at, limit) => this.#take(buffer.bytes, at, limit);
    const send = transport.send.bind(transport);
    transport.send = () => {
      this.sends++;
      return send();
    };
  }

  get left(): number {
    return this.#bytes.length - this.#at;
  }

  #take(target: Buffer, start: number, limit: number): number {
    if (start + limit > target.length) throw new Error('a receive beyond the end of its memory');
    const taken = this.#bytes.copy(target, start, this.#at, Math.min(this.#at + limit, this.#there));
    this.#at += taken;
    return taken;
  }

  /** `count` bytes more arrive. */
  arrive(count = this.left): void {
    this.#there = Math.min(this.#there + count, this.#bytes.length);
  }

  /** It is read at all: nobody waits for anything. */
  get isRead(): boolean {
    return this.talk.transmission.pollable;
  }

  /** As libuv does: receives, then tells. */
  readable(): void {
    const { transport, transmission } = this.talk;
    const taken = this.#take(transport.stage, STAGE_START, RECEIVE_SIZE);
    if (taken > 0) transmission.readable(taken);
  }

  poll(): boolean {
    return this.talk.transmission.poll();
  }
}

describe('what lies in the socket', () => {
  test('is taken eight short writes at a time, then 32, each answered by one send', () => {
    const socket = new Socket('extended', writes(...many(8 + 32 + 32, 4 * KiB)));
    socket.arrive();
    socket.poll();
    expect([socket.left, socket.sends]).toEqual([64 * 4128, 1]);
    socket.poll();
    expect([socket.left, socket.sends]).toEqual([32 * 4128, 2]);
    socket.readable();
    expect([socket.left, socket.sends]).toEqual([0, 3]);
    expect(socket.limits).toEqual([RECEIVE_SIZE, STAGE_SIZE, STAGE_SIZE - RECEIVE_SIZE]);
  });

  test('is taken in short receives again from a long write on, whose data would be copied twice', () => {
    const socket = new Socket('simple', writes(...many(8, 4 * KiB), 512 * KiB, ...many(2, 4 * KiB)));
    socket.arrive(8 * 4124);
    socket.poll();
    // The long one comes unexpected once; behind it only headers are asked for, and then no more than in the beginning.
    socket.arrive();
    while (socket.left > 0) socket.poll();
    expect(socket.limits).toEqual([RECEIVE_SIZE, STAGE_SIZE, 28, RECEIVE_SIZE]);
  });

  test('reads do not make receives longer: what follows them may be a long write', () => {
    const asked: Asked[] = Array.from({ length: 64 }, () => ({ type: CMD.READ, offset: 0n, length: 4 * KiB }));
    const socket = new Socket('simple', [...asked, ...writes(512 * KiB)]);
    socket.arrive(64 * 28);
    socket.poll();
    socket.arrive();
    socket.poll();
    expect(socket.limits.slice(0, 2)).toEqual([RECEIVE_SIZE, RECEIVE_SIZE]);
  });

  test('reaches the disk as it was sent, however it arrives and is asked for', async () => {
    const length = fc.oneof(
      { weight: 8, arbitrary: fc.constant(4 * KiB) },
      { weight: 4, arbitrary: fc.integer({ min: 1, max: 20 * KiB }) },
      { weight: 1, arbitrary: fc.integer({ min: 1, max: 1200 * KiB }) },
    );
    const step = fc.record({ bytes: fc.integer({ min: 1, max: 300 * KiB }), told: fc.boolean() });
    await fc.assert(
      fc.asyncProperty(
        fc.constantFrom<Style>('simple', 'extended'),
        fc.array(length, { minLength: 1, maxLength: 120, size: 'max' }),
        fc.array(step, { minLength: 1, maxLength: 40, size: 'max' }),
        async (style, lengths, steps) => {
          const asked = writes(...lengths);
          const socket = new Socket(style, asked);
          for (let i = 0; socket.left > 0 && !socket.isOver; i++) {
            const { bytes, told } = steps[i % steps.length];
            socket.arrive(bytes);
            if (!socket.isRead) await until(() => socket.isRead || socket.isOver);
            if (told) socket.readable();
            else socket.poll();
          }
          await until(() => socket.talk.transmission.inFlight === 0);
          const written = Buffer.alloc(SIZE);
          socket.disk.read(written, 0, SIZE);
          const expected = Buffer.alloc(SIZE);
          for (const { offset, payload } of asked) expected.set(payload as Uint8Array, Number(offset));
          expect(written.equals(expected)).toBe(true);
          const told = parseReplies(style, socket.talk.transport.sent, asked);
          expect([...told.values()].filter(({ done, error }) => done && error === 0)).toHaveLength(asked.length);
        },
      ),
      { numRuns: 60 },
    );
  });
});
