/** The fuzzer itself: it reads and writes its corpus, finds nothing where there is nothing, and finds mistakes that were put in. */
import { Transform } from 'node:stream';
import { expect, onTestFinished, test } from 'vitest';
import type { BlockDevice, ExportProvider, Io } from '../../../src/nbd/device.js';
import { readCorpus } from '../../fuzz/corpus.js';
import { Engine, type Finding } from '../../fuzz/engine.js';
import { generate } from '../../fuzz/generate.js';
import { parseInput, printInput } from '../../fuzz/input.js';
import { mutate } from '../../fuzz/mutate.js';
import { pair } from '../../fuzz/pair.js';
import { Random } from '../../fuzz/random.js';
import type { ServerTargetOptions } from '../../fuzz/server-target.js';
import { makeTargets, serverTarget } from '../../fuzz/targets.js';

/** Rounds a planted mistake must be found within. */
const ROUNDS = 3000;

async function hunt(options: ServerTargetOptions, rounds = ROUNDS): Promise<Finding | null> {
  const target = serverTarget({ hangMs: 3000, ...options });
  onTestFinished(() => target.close());
  const engine = new Engine(target, { seed: 7 });
  for (let i = 0; i < rounds; i++) {
    const finding = await engine.round();
    if (finding !== null) return finding;
  }
  return null;
}

/** Devices whose operations pass through `submit`. */
function between(submit: (io: Io, device: BlockDevice) => void): (provider: ExportProvider) => ExportProvider {
  return (provider) => ({
    list: (client) => provider.list(client),
    describe: (name, client) => provider.describe(name, client),
    open: async (name, client) => {
      const device = await provider.open(name, client);
      const wrapped: BlockDevice = Object.create(device, {
        info: { get: () => device.info },
        size: { get: () => device.size },
        maxIo: { get: () => device.maxIo },
        allocate: { value: (length: number) => device.allocate(length) },
        release: { value: (buffer: never) => device.release(buffer) },
        whenAvailable: { value: (callback: () => void) => device.whenAvailable(callback) },
        submit: { value: (io: Io) => submit(io, device) },
        close: { value: () => device.close() },
      });
      return wrapped;
    },
  });
}

test('an input survives the way to text and back', () => {
  const random = new Random(3);
  for (let i = 0; i < 200; i++) {
    const input = mutate(random, generate(random), generate(random));
    const again = parseInput(printInput(input, 'a comment\nof two lines'));
    expect(Buffer.concat(again.messages).equals(Buffer.concat(input.messages))).toBe(true);
    expect(again.messages.length).toBe(input.messages.length);
    expect([...again.settings]).toEqual([...input.settings]);
  }
});

test('every input of the corpus is answered as it must be', async () => {
  const corpus = readCorpus();
  expect(corpus.length).toBeGreaterThan(10);
  for (const target of await makeTargets()) {
    const own = corpus.filter((input) => input.target === target.name);
    expect(own.length, target.name).toBeGreaterThan(0);
    const finding = await new Engine(target, { seed: 1, corpus: own }).replay();
    await target.close();
    expect(finding, finding === null ? '' : `${finding.error.stack}\n${printInput(finding.input)}`).toBeNull();
  }
});

test('finds a device that answers twice', async () => {
  const finding = await hunt({
    wrapProvider: between((io, device) => {
      device.submit(io);
      if (io.command === 4) io.complete(0);
    }),
  });
  expect(finding?.error.message).toContain('twice');
});

test('finds a device that is wrong by one byte at the end of long reads', async () => {
  const finding = await hunt({
    wrapProvider: between((io, device) => {
      if (io.command === 0 && io.length === 16_384 && io.buffer !== null) {
        const complete = io.complete.bind(io);
        const { buffer } = io;
        io.complete = (errno, text) => {
          buffer.bytes[16_383] ^= 1;
          io.hole = false;
          complete(errno, text);
        };
      }
      device.submit(io);
    }),
  });
  expect(finding?.error.message).toMatch(/byte \d+ is \d+, not \d+|command 0/);
});

test('finds a device that forgets to trim the last byte', async () => {
  const finding = await hunt({
    wrapProvider: between((io, device) => {
      if (io.command === 6 && io.length > 4096) Object.assign(io, { length: io.length - 1 });
      device.submit(io);
    }),
  });
  expect(finding).not.toBeNull();
});

test('finds a request that is never answered', async () => {
  const held: Io[] = [];
  const finding = await hunt({
    hangMs: 300,
    wrapProvider: between((io, device) => {
      if (io.command === 5 && io.fua === false && io.offset % 512 === 511) held.push(io);
      else device.submit(io);
    }),
  });
  for (const io of held) io.complete(0);
  expect(finding?.error.message).toMatch(/hang|left behind/);
});

test('finds FUA that is lost between pieces', async () => {
  const finding = await hunt({
    wrapProvider: between((io, device) => {
      if (io.command === 1 && io.offset % 16_384 === 0 && io.fua) Object.assign(io, { fua: false });
      device.submit(io);
    }),
  });
  expect(finding?.error.message).toContain('with FUA');
});

test('finds a flush that never reaches the device', async () => {
  const finding = await hunt({
    wrapProvider: between((io, device) => {
      if (io.command === 3) io.complete(0);
      else device.submit(io);
    }),
  });
  expect(finding?.error.message).toContain('flushes');
});

test('finds a wrong byte in the chunk behind one that failed', async () => {
  let failed = false;
  const finding = await hunt({
    wrapProvider: between((io, device) => {
      const { buffer } = io;
      if (failed && io.command === 0 && io.offset === 80 * 1024 && buffer !== null) {
        const complete = io.complete.bind(io);
        io.complete = (errno, text) => {
          if (!io.hole) buffer.bytes[0] ^= 1;
          complete(errno, text);
        };
      }
      failed = device.size === 204_800 && io.offset <= 64 * 1024 && io.offset + io.length === 80 * 1024;
      device.submit(io);
    }),
  });
  expect(finding?.error.message).toMatch(/byte 0 is \d+, not \d+/);
});

/** Lets what the client sends pass through a function before the server has it. */
function through(change: (chunk: Buffer) => Buffer): ServerTargetOptions['wrapStream'] {
  return (server) => {
    const [outer, inner] = pair();
    const filter = new Transform({
      transform(chunk: Buffer, _encoding, done) {
        done(null, change(chunk));
      },
    });
    server.pipe(filter).pipe(inner);
    inner.pipe(server);
    server.on('error', () => inner.destroy());
    server.on('close', () => inner.destroy());
    return outer;
  };
}

test('finds a decoder that reads a length wrong by one', async () => {
  const finding = await hunt({
    wrapStream: through((chunk) => {
      // A READ with compact headers whose length is odd: one byte less.
      for (let at = chunk.indexOf(Buffer.from('25609513', 'hex')); at >= 0 && at + 28 <= chunk.length; ) {
        if (chunk.readUInt16BE(at + 6) === 0 && chunk[at + 27] % 2 === 1) chunk[at + 27]--;
        at = chunk.indexOf(Buffer.from('25609513', 'hex'), at + 1);
      }
      return chunk;
    }),
  });
  expect(finding).not.toBeNull();
});

test('makes a finding small', async () => {
  const finding = await hunt({
    wrapProvider: between((io, device) => {
      if (io.command === 7 && io.reqOne) io.complete(5);
      else device.submit(io);
    }),
  });
  expect(finding?.error.message).toContain('command 7');
  expect(finding?.input.messages.length).toBeLessThanOrEqual(6);
});

test('finds nothing where nothing is wrong', async () => {
  const finding = await hunt({ hangMs: 20_000 }, 100);
  expect(finding, finding === null ? '' : `${finding.error.stack}\n${printInput(finding.input)}`).toBeNull();
});
