/** Clients that die at any byte of anything, in plaintext and in TLS: nothing of what they held or waited for stays behind. */
import crypto from 'node:crypto';
import type net from 'node:net';
import type { Duplex } from 'node:stream';
import fc from 'fast-check';
import { afterEach, describe, expect, onTestFinished, test, vi } from 'vitest';
import { Budget } from '../../../src/nbd/budget.js';
import { connectNbd } from '../../../src/nbd/client-connect.js';
import { writeRequest } from '../../../src/nbd/codec.js';
import { Command, CommandFlag, Option } from '../../../src/nbd/constants.js';
import { GatherBudget } from '../../../src/nbd/gather.js';
import { encodeInfoRequest, encodeMetaRequest, encodeOption } from '../../../src/nbd/handshake-codec.js';
import { MemoryDisk } from '../../../src/nbd/memory-device.js';
import { NbdServer } from '../../../src/nbd/server.js';
import { eventually, SteeredProvider, temporaryDirectory, transports } from './support.js';
import { Talker } from './tls-support.js';

const KiB = 1024;
const MiB = 1024 * KiB;
const key = crypto.randomBytes(32);

function request(command: number, offset: number, length: number, flags = 0): Buffer {
  const bytes = Buffer.alloc(28 + (command === Command.WRITE ? length : 0));
  const header = { flags, command, cookieHigh: 0, cookieLow: 7, offset, length };
  writeRequest(new DataView(bytes.buffer, bytes.byteOffset, 28), 0, header);
  return bytes;
}

const handshake = Buffer.concat([
  encodeOption(Option.STRUCTURED_REPLY, Buffer.alloc(0)),
  encodeOption(Option.LIST, Buffer.alloc(0)),
  encodeOption(Option.SET_META_CONTEXT, encodeMetaRequest('disk', ['base:allocation'])),
  encodeOption(Option.GO, encodeInfoRequest('disk', [1, 3])),
]);
const requests = Buffer.concat([
  request(Command.READ, 0, 700 * KiB, CommandFlag.DF),
  request(Command.WRITE, 4096, 200 * KiB),
  request(Command.BLOCK_STATUS, 0, 2 * MiB),
  request(Command.READ, 512, 1 * MiB),
  // The memory for these two at once is not there: one of them is streamed.
  request(Command.READ, 0, 700 * KiB, CommandFlag.DF),
  request(Command.READ, MiB, 700 * KiB, CommandFlag.DF),
  request(Command.WRITE_ZEROES, 0, 64 * KiB),
  request(Command.TRIM, 3 * MiB, 64 * KiB),
  request(Command.WRITE, 700_001, 300 * KiB),
  request(Command.FLUSH, 0, 0),
  request(Command.READ, 0, 9 * MiB),
  request(Command.DISC, 0, 0),
]);
const script = Buffer.concat([handshake, requests]);

/** How far it gets: where the script has something to say, or anywhere. */
const cut = fc.oneof(
  fc.integer({ min: 0, max: handshake.length + 100 }),
  fc.integer({ min: script.length - 300, max: script.length }),
  fc.integer({ min: 0, max: script.length }),
);
const life = fc.record({
  bytes: cut,
  reads: fc.boolean(),
  turns: fc.integer({ min: 0, max: 40 }),
  end: fc.constantFrom('destroy', 'reset', 'end'),
});

/** Reset right behind the TLS handshake, in the middle of a long write: Node's TLS loses the server's answer. */
const RESETS = [0, 1].map((turns) => ({ bytes: 160_000, reads: false, turns, end: 'reset' }) as const);

async function die(stream: Duplex, socket: net.Socket, how: string): Promise<void> {
  const closed = new Promise((resolve) => {
    socket.once('close', resolve);
  });
  if (how === 'end') {
    // Its answers may be more than it takes.
    stream.resume();
    stream.end();
  } else if (how === 'reset' && socket.remoteAddress !== undefined) socket.resetAndDestroy();
  else socket.destroy();
  await closed;
}

afterEach(() => {
  vi.restoreAllMocks();
});

describe.each(transports)('over the %s transport', (transport) => {
  test.each(['plaintext', 'TLS'] as const)('in %s', async (mode) => {
    const joined = vi.spyOn(Budget.prototype, 'join');
    const gathered = vi.spyOn(GatherBudget.prototype, 'take');
    const disk = new MemoryDisk({ size: 16 * MiB, maxIo: 64 * KiB });
    let count = 0;
    const provider = new SteeredProvider(disk, (device) => {
      device.hook = (io) => {
        if (count++ % 3 > 0) return false;
        setImmediate(() => device.run(io));
        return true;
      };
    });
    const tls = { psk: (identity: string) => (identity === 'alice' ? key : null) };
    const limits = {
      payload: MiB,
      gatherBytes: MiB,
      connections: 8,
      // No deadline is to tidy up.
      handshakeMs: 600_000,
      inFlight: 6,
      totalInFlight: 140,
      totalInFlightBytes: 9 * MiB,
    };
    const server = new NbdServer(provider, { transport, tls, limits });
    onTestFinished(() => server.close());
    const path = `${temporaryDirectory()}/s`;
    await server.listen({ path }, { tls: 'selective' });
    const bound = await server.listen({ host: '127.0.0.1', port: 0 }, { tls: 'selective' });
    const port = 'port' in bound ? bound.port : 0;

    const live = async ({
      bytes,
      reads,
      turns,
      end,
    }: {
      bytes: number;
      reads: boolean;
      turns: number;
      end: string;
    }) => {
      const plain = await Talker.greeted(end === 'reset' ? port : path);
      const socket = plain.stream as net.Socket;
      const secured = (): Promise<Talker> =>
        plain.startTls({
          ciphers: 'TLS_AES_128_GCM_SHA256',
          pskCallback: () => ({ identity: 'alice', psk: key }),
          checkServerIdentity: () => undefined,
        });
      const { stream } = mode === 'TLS' ? await secured() : plain;
      stream.on('error', () => {});
      socket.on('error', () => {});
      if (!reads) stream.pause();
      stream.write(script.subarray(0, bytes));
      for (let turn = 0; turn < turns; turn++) await new Promise((resolve) => setImmediate(resolve));
      await die(stream, socket, end);
    };
    const some = fc.array(life, { minLength: 1, maxLength: 4 });
    await fc.assert(
      fc.asyncProperty(some, async (lives) => {
        await Promise.all(lives.map(live));
        await eventually(() => server.connections()).toEqual([]);
        expect(disk.pool.inUse).toBe(0);
        expect(provider.devices.every(({ closed }) => closed === 1)).toBe(true);
        for (const budget of new Set(joined.mock.contexts as Budget[])) {
          expect([budget.lent, budget.waiting]).toEqual([0, 0]);
        }
      }),
      { numRuns: 30, examples: [[RESETS]] },
    );
    expect(joined).toHaveBeenCalled();
    // All the memory for long reads is there again.
    const [gather] = gathered.mock.contexts as GatherBudget[];
    const all = gather.take(MiB);
    expect(all).toHaveLength(MiB);
    if (all !== null) gather.give(all);
    const good = await connectNbd({ path });
    expect(await good.read(0, MiB)).toHaveLength(MiB);
    await good.disconnect();
  });
});
