import fs from 'node:fs';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { ControlClient, type ControlHandler, ControlServer } from '../../../src/peer/control.js';
import { errnos, SystemError } from '../../../src/sys/errno.js';

let dir: string;
let socket: string;
let server: ControlServer | null = null;
beforeEach(() => {
  dir = fs.mkdtempSync(path.join(os.tmpdir(), 'control-'));
  socket = path.join(dir, 'c.sock');
});
afterEach(() => {
  server?.close();
  server = null;
  fs.rmSync(dir, { recursive: true });
});

async function serve(handler: ControlHandler): Promise<ControlClient> {
  server = await ControlServer.listen(socket, handler);
  return ControlClient.connect(socket);
}

describe('a question', () => {
  test('has its answer, whatever the order of answers', async () => {
    let release: (value: string) => void = () => undefined;
    const slow = new Promise<string>((resolve) => {
      release = resolve;
    });
    const client = await serve(async (op, params) => (op === 'slow' ? slow : { op, ...params }));
    const first = client.call('slow');
    expect(await client.call('fast', { a: 1 })).toEqual({ op: 'fast', a: 1 });
    release('done');
    expect(await first).toBe('done');
    client.end();
  });

  test('has events before its answer', async () => {
    const client = await serve(async (_op, _params, emit) => {
      emit({ n: 1 });
      emit({ n: 2 });
      return 'end';
    });
    const events: unknown[] = [];
    expect(await client.call('x', {}, 0, (event) => events.push(event))).toBe('end');
    expect(events).toEqual([{ n: 1 }, { n: 2 }]);
    client.end();
  });

  test('that fails keeps errno and message', async () => {
    const client = await serve(async () => {
      throw new SystemError(errnos.EBUSY, 'not now');
    });
    await expect(client.call('x')).rejects.toMatchObject({ code: 'EBUSY', message: 'not now' });
    client.end();
  });

  test('that nobody answers in time is given up', async () => {
    const client = await serve(() => new Promise(() => undefined));
    await expect(client.call('x', {}, 20)).rejects.toMatchObject({ code: 'ETIMEDOUT' });
    client.end();
  });

  test('to a process that goes away fails', async () => {
    const client = await serve(() => new Promise(() => server?.close()));
    await expect(client.call('x')).rejects.toMatchObject({ code: 'ECONNRESET' });
    await client.untilClosed();
    await expect(client.call('x')).rejects.toMatchObject({ code: 'ECONNRESET' });
  });
});

describe('the socket', () => {
  test('is for owner and group only, replaces a stale one, and is removed', async () => {
    fs.writeFileSync(socket, '');
    server = await ControlServer.listen(socket, async () => null);
    expect(fs.statSync(socket).mode & 0o777).toBe(0o660);
    server.close();
    expect(fs.existsSync(socket)).toBe(false);
  });

  test('that nobody listens on is told from one that is not there', async () => {
    await expect(ControlClient.connect(socket)).rejects.toMatchObject({ code: 'ENOENT' });
  });

  test('with too long a path is refused before anything is cut off', async () => {
    const long = path.join(dir, 'x'.repeat(120));
    await expect(ControlServer.listen(long, async () => null)).rejects.toThrow(
      /too long for a socket \(107 bytes\); shorten RUN_DIR/,
    );
  });

  test('hangs up on rubbish and serves others on', async () => {
    const client = await serve(async () => 'fine');
    const rude = net.connect(socket);
    await new Promise((resolve) => rude.once('connect', resolve));
    const ended = new Promise((resolve) => rude.once('close', resolve));
    rude.write('rubbish\n');
    await ended;
    expect(await client.call('x')).toBe('fine');
    client.end();
  });

  test('takes messages in pieces', async () => {
    server = await ControlServer.listen(socket, async (op) => op);
    const slow = net.connect(socket);
    await new Promise((resolve) => slow.once('connect', resolve));
    const answer = new Promise<string>((resolve) =>
      slow.setEncoding('utf8').once('data', (text) => resolve(String(text))),
    );
    for (const character of '{"id":7,"op":"ping"}\n') slow.write(character);
    expect(JSON.parse(await answer)).toEqual({ id: 7, ok: true, result: 'ping' });
    slow.destroy();
  });
});
