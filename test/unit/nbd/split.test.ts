/** A whole session fed in pieces: wherever the bytes are cut, the answers are the same. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { writeRequest } from '../../../src/nbd/codec.js';
import { Connection } from '../../../src/nbd/connection.js';
import { Command, Option } from '../../../src/nbd/constants.js';
import { GatherBudget } from '../../../src/nbd/gather.js';
import {
  encodeClientFlags,
  encodeInfoRequest,
  encodeMetaRequest,
  encodeOption,
} from '../../../src/nbd/handshake-codec.js';
import { makeBudgets } from '../../../src/nbd/holdings.js';
import { resolveLimits } from '../../../src/nbd/limits.js';
import { silent } from '../../../src/nbd/log.js';
import { MemoryDisk, MemoryProvider } from '../../../src/nbd/memory-device.js';
import { Poller } from '../../../src/nbd/poller.js';
import { FakeTransport } from './support.js';

function request(command: number, cookie: number, offset: number, length: number, flags = 0): Buffer {
  const bytes = Buffer.alloc(28);
  writeRequest(new DataView(bytes.buffer, bytes.byteOffset, 28), 0, {
    flags,
    command,
    cookieHigh: cookie * 3,
    cookieLow: cookie,
    offset,
    length,
  });
  return bytes;
}

const session = Buffer.concat([
  encodeClientFlags(3),
  encodeOption(Option.STRUCTURED_REPLY),
  encodeOption(77, Buffer.from('unknown')),
  encodeOption(Option.SET_META_CONTEXT, encodeMetaRequest('disk', ['base:allocation'])),
  encodeOption(Option.GO, encodeInfoRequest('disk', [1, 2, 3])),
  request(Command.WRITE, 1, 10, 50),
  Buffer.alloc(50, 0x61),
  request(Command.WRITE, 2, 2 ** 40, 20),
  Buffer.alloc(20, 0x62),
  request(Command.READ, 3, 0, 100),
  request(Command.BLOCK_STATUS, 4, 0, 100_000),
  request(99, 5, 0, 0),
  request(Command.WRITE, 6, 20, 5, 1),
  Buffer.from('hello'),
  request(Command.FLUSH, 7, 0, 0),
  request(Command.READ, 8, 15, 20),
  request(Command.DISC, 9, 0, 0),
]);

/** Everything the server says to these chunks. */
async function run(chunks: Buffer[]): Promise<Buffer> {
  const disk = new MemoryDisk({ size: 1024 * 1024, maxIo: 32 });
  const transport = new FakeTransport();
  const entrance = { provider: new MemoryProvider([['disk', disk]]), tls: 'off' } as const;
  const connection = new Connection(1, transport, entrance, {
    tlsAcceptor: () => {
      throw new Error('there is no TLS');
    },
    limits: resolveLimits(),
    gather: new GatherBudget(1024),
    budgets: makeBudgets(resolveLimits()),
    log: silent,
    poller: new Poller(0),
    stopping: () => false,
    opened: () => {},
    schedule: (transmission) => setImmediate(() => transmission.turn()),
  });
  transport.feed(...chunks);
  await connection.over;
  expect(disk.pool.inUse).toBe(0);
  return transport.sent;
}

const whole = run([session]);

describe('a session cut in pieces', () => {
  test('has the expected answers at all', async () => {
    const answers = await whole;
    expect(answers.includes(Buffer.from('aaaaahello'))).toBe(true);
    expect(answers.length).toBeGreaterThan(400);
  });

  test('at every single byte boundary', async () => {
    const expected = await whole;
    for (let cut = 1; cut < session.length; cut++) {
      const answers = await run([session.subarray(0, cut), session.subarray(cut)]);
      expect(answers.equals(expected), `cut at ${cut}`).toBe(true);
    }
  });

  test('into single bytes', async () => {
    const bytes = Array.from(session, (_, i) => session.subarray(i, i + 1));
    expect((await run(bytes)).equals(await whole)).toBe(true);
  });

  test('into any pieces', async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(fc.integer({ min: 1, max: session.length - 1 }), { maxLength: 20 }), async (cuts) => {
        const sorted = [0, ...cuts.sort((a, b) => a - b), session.length];
        const chunks = sorted.slice(1).map((end, i) => session.subarray(sorted[i], end));
        expect((await run(chunks)).equals(await whole)).toBe(true);
      }),
      { numRuns: 60 },
    );
  });
});
