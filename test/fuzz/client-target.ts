/**
 * The library's client against a server that says anything: answers of a real server, recorded, with bytes changed. Whatever comes, each of
 * the client's promises settles, with a result or with an error of the library.
 */
import { NbdHandshake } from '../../src/nbd/client-handshake.js';
import { MemoryDisk, MemoryProvider } from '../../src/nbd/memory-device.js';
import { NbdServer } from '../../src/nbd/server.js';
import { SystemError } from '../../src/sys/errno.js';
import type { Target } from './engine.js';
import { bytesOf, type Input } from './input.js';
import { mutateBytes } from './mutate.js';
import { demand, Violation } from './oracle.js';
import { pair } from './pair.js';
import type { Random } from './random.js';

const STYLES = ['simple', 'structured', 'extended'] as const;
type Style = (typeof STYLES)[number];
const HANG_MS = 20_000;
const SIZE = 256 * 1024;

/** What the client does; the same at each run, so that recorded answers fit. */
async function session(handshake: NbdHandshake, style: Style): Promise<void> {
  await handshake.list();
  if (style !== 'simple') {
    if (style === 'extended') await handshake.extendedHeaders();
    else await handshake.structuredReply();
    await handshake.listMetaContexts('disk');
    await handshake.setMetaContexts('disk', ['base:allocation']);
  }
  await handshake.info('disk');
  const client = await handshake.go('disk');
  try {
    const read = client.read(1000, 50_000).then((data) => demand(data.length === 50_000, 'a READ of another length'));
    const results = await Promise.allSettled([
      read,
      client.write(0, Buffer.alloc(5000, 1)),
      client.read(0, 70_000, { df: style !== 'simple' }),
      client.writeZeroes(100, 1000),
      client.flush(),
      client.trim(8192, 4096),
      ...(style === 'simple' ? [] : [client.blockStatus(0, SIZE), client.blockStatus(0, 512, { reqOne: true })]),
      client.read(SIZE, 1),
    ]);
    for (const result of results) if (result.status === 'rejected') allowed(result.reason);
  } finally {
    client.destroy();
  }
}

/** @throws the error when it is none of the library's */
function allowed(error: unknown): void {
  if (error instanceof Violation || !(error instanceof SystemError)) throw error;
}

async function within<T>(promise: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const hang = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Violation('hang: the client does not settle')), HANG_MS);
  });
  try {
    return await Promise.race([promise, hang]);
  } finally {
    clearTimeout(timer);
  }
}

/** What a server answers to the session, in the pieces it was sent in. */
async function record(style: Style): Promise<Buffer[]> {
  const disk = new MemoryDisk({ size: SIZE, maxIo: 16 * 1024 });
  disk.write(Buffer.alloc(20_000, 9), 30_000, 20_000);
  const server = new NbdServer(new MemoryProvider([['disk', disk]]), { transport: 'stream', busyPollUs: 0 });
  const [client, end] = pair();
  const pieces: Buffer[] = [];
  const push = client.push.bind(client);
  client.push = (chunk: Buffer | null): boolean => {
    if (chunk !== null) pieces.push(Buffer.from(chunk));
    return push(chunk);
  };
  server.serve(end as Parameters<typeof server.serve>[0]);
  await session(await NbdHandshake.connect({ stream: client }), style);
  await server.close();
  return pieces;
}

export class ClientTarget implements Target {
  readonly name = 'client';
  readonly #recordings: ReadonlyMap<Style, readonly Buffer[]>;

  private constructor(recordings: ReadonlyMap<Style, readonly Buffer[]>) {
    this.#recordings = recordings;
  }

  static async make(): Promise<ClientTarget> {
    const recordings = new Map<Style, readonly Buffer[]>();
    for (const style of STYLES) recordings.set(style, await record(style));
    return new ClientTarget(recordings);
  }

  generate(random: Random): Input {
    const style = random.pick(STYLES);
    const settings = new Map<string, string>([['style', style]]);
    if (random.oneIn(2)) settings.set('cut', String(random.pick([1, 5, 16, 19, 100, 5000])));
    return { target: this.name, settings, messages: this.#recordings.get(style) ?? [] };
  }

  mutate(random: Random, input: Input, other: Input): Input {
    const messages = [...input.messages];
    for (let i = 1 + random.below(3); i > 0 && messages.length > 0; i--) {
      const at = random.below(messages.length);
      const choice = random.below(12);
      if (choice === 0) messages.splice(at, 1);
      else if (choice === 1) messages.splice(at, 0, messages[random.below(messages.length)]);
      else if (choice === 2) messages.splice(at, messages.length, ...other.messages.slice(at));
      else messages[at] = mutateBytes(random, messages[at]);
    }
    return { ...input, messages: messages.slice(0, 80) };
  }

  async run(input: Input): Promise<void> {
    const [client, server] = pair();
    const style = (input.settings.get('style') ?? 'simple') as Style;
    const done = (async () => {
      try {
        await session(await NbdHandshake.connect({ stream: client }), style);
      } catch (error) {
        allowed(error);
      } finally {
        client.destroy();
      }
    })();
    done.catch(() => {});
    server.on('error', () => {}).resume();
    const bytes = bytesOf(input);
    const step = Math.max(Number(input.settings.get('cut') ?? bytes.length), Math.ceil(bytes.length / 200), 1);
    for (let at = 0; at < bytes.length && !client.destroyed; at += step) {
      server.write(bytes.subarray(at, at + step));
      if (step < bytes.length) await new Promise((resolve) => setImmediate(resolve));
    }
    server.end();
    try {
      await within(done);
    } finally {
      server.destroy();
    }
  }

  async close(): Promise<void> {}
}
