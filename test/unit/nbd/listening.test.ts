/** Sockets that accept clients. */
import fs from 'node:fs';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { startListening } from '../../../src/nbd/listening.js';

let directory: string;

beforeEach(() => {
  directory = fs.mkdtempSync(path.join(os.tmpdir(), 'listening-'));
});

afterEach(() => fs.rmSync(directory, { recursive: true }));

it('lets a thousand clients connect at the same moment', async () => {
  const most = Number(fs.readFileSync('/proc/sys/net/core/somaxconn', 'utf8'));
  const count = Math.min(1000, most);
  const accepted: net.Socket[] = [];
  const file = path.join(directory, 'nbd.sock');
  const { listener } = await startListening({ path: file }, (socket) => accepted.push(socket));
  // All of them before the listener has its turn: a connection that finds the queue full is refused with EAGAIN.
  const clients = Array.from({ length: count }, () => net.connect({ path: file }));
  try {
    const outcomes = clients.map(
      (client) =>
        new Promise<string>((resolve) => {
          client.once('connect', () => resolve('connected'));
          client.once('error', ({ message }) => resolve(message));
        }),
    );
    expect(new Set(await Promise.all(outcomes))).toEqual(new Set(['connected']));
  } finally {
    for (const socket of [...clients, ...accepted]) socket.destroy();
    await new Promise((resolve) => listener.close(resolve));
  }
});
