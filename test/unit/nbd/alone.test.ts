/** Which flushes a device is told to be alone: those of a client that sends one request at a time, beside whom nobody is served. */
import { describe, expect, test } from 'vitest';
import type { Io } from '../../../src/nbd/device.js';
import { MemoryDisk } from '../../../src/nbd/memory-device.js';
import { Poller } from '../../../src/nbd/poller.js';
import { CMD } from './proto.js';
import { SteeredDevice, until } from './support.js';
import { type Asked, requestBytes, Talk } from './talk.js';

const FLUSH: Asked = { type: CMD.FLUSH };
const READ: Asked = { type: CMD.READ, length: 512 };

/** A connection; what the device was told of each flush. */
function connect(poller = new Poller(200)) {
  const device = new SteeredDevice(new MemoryDisk({ size: 2 ** 20 }));
  const told: boolean[] = [];
  let seen = 0;
  device.hook = (io: Io) => {
    seen++;
    if (io.command === CMD.FLUSH) told.push(io.alone === true);
    return false;
  };
  const conversation = new Talk({ style: 'simple', device, poller });
  /** Requests that arrive at the same time. */
  const send = async (...asked: Asked[]): Promise<void> => {
    const before = seen;
    conversation.feed(requestBytes('simple', asked));
    poller.touched(conversation.transmission);
    await until(() => seen === before + asked.length && conversation.transmission.inFlight === 0);
  };
  return { conversation, send, told, poller };
}

describe('a flush', () => {
  test('of a client that waits for each answer is alone', async () => {
    const { send, told } = connect();
    await send(READ);
    for (let i = 0; i < 3; i++) {
      await send(READ);
      await send(FLUSH);
    }
    expect(told).toEqual([true, true, true]);
  });

  test('with a request behind it is not, and none is until the client has sent one at a time for a while', async () => {
    const { send, told } = connect();
    await send(READ);
    await send(FLUSH, READ);
    for (let i = 0; i < 31; i++) await send(FLUSH);
    expect(told).toEqual(new Array(32).fill(false));
    await send(FLUSH);
    expect(told.at(-1)).toBe(true);
  });

  test('beside another client is not', async () => {
    const poller = new Poller(200);
    const one = connect(poller);
    const other = connect(poller);
    await one.send(READ);
    await other.send(READ);
    await one.send(FLUSH);
    await other.send(FLUSH);
    expect([...one.told, ...other.told]).toEqual([false, false]);
  });
});
