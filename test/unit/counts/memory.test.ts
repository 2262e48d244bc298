/**
 * What a request costs in memory: bytes that the node's own code allocates for it on the heap, by V8's sampling of allocations, and bytes that it copies
 * from one place of its memory to another. The whole node is in this process, and a client on its socket, whose code does not count.
 */
import fs from 'node:fs';
import { Session } from 'node:inspector/promises';
import os from 'node:os';
import path from 'node:path';
import pino from 'pino';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { findRole, parseConfig } from '../../../src/config/load.js';
import { start } from '../../../src/endpoint/peer.js';
import { connectNbd, type NbdClient } from '../../../src/nbd/index.js';
import type { RunningRole } from '../../../src/peer/role.js';
import { Stack } from '../composer/stack.js';

const copied = vi.hoisted(() => ({ bytes: 0 }));
vi.mock('../../../src/sys/libc.js', async (original) => {
  const libc = await original<typeof import('../../../src/sys/libc.js')>();
  const memcpy = (to: number, from: number, length: number): number => {
    copied.bytes += length;
    return libc.memcpy(to, from, length);
  };
  return { ...libc, memcpy };
});

const BLOCK = 4 << 20;
const SIZE = 4 * BLOCK;
const SECTOR = 4096;
const HALF = 512 << 10;
const payload = Buffer.alloc(HALF, 0xa5);
const sector = payload.subarray(0, SECTOR);
const place = (i: number): number => ((i * 7919) % (SIZE / SECTOR)) * SECTOR;

interface Cell {
  readonly title: string;
  readonly requests: number;
  readonly depth: number;
  readonly request: (client: NbdClient, i: number) => Promise<unknown>;
  /** The most that a request may allocate on the heap, and copy, in bytes. */
  readonly heap: number;
  readonly copies: number;
}

const read4k = (client: NbdClient, i: number): Promise<unknown> => client.read(place(i), SECTOR);
const write4k = (client: NbdClient, i: number): Promise<unknown> => client.write(place(i), sector);
const read512k = (client: NbdClient, i: number): Promise<unknown> => client.read((i % 32) * HALF, HALF);
const write512k = (client: NbdClient, i: number): Promise<unknown> => client.write((i % 32) * HALF, payload);
const flushed = async (client: NbdClient, i: number): Promise<void> => {
  await client.write(place(i), sector);
  await client.flush();
};

// At depth 32, where there are enough requests for all code to be compiled: what is not keeps its numbers in objects.
const cells: readonly Cell[] = [
  { title: '4k read, depth 32', requests: 2560, depth: 32, request: read4k, heap: 900, copies: 0 },
  { title: '4k write, depth 32', requests: 2560, depth: 32, request: write4k, heap: 900, copies: SECTOR },
  { title: '512k read', requests: 64, depth: 1, request: read512k, heap: 5000, copies: 0 },
  // What comes with a header is read to where headers are. While the kernel holds writers back they are requests, and wait on the pool.
  { title: '512k write', requests: 64, depth: 1, request: write512k, heap: 10_000, copies: HALF / 4 },
  { title: '4k write and flush', requests: 128, depth: 1, request: flushed, heap: 20_000, copies: SECTOR },
];

/** What looking at the locks and the like allocates every second, at most. */
const UNASKED = 100_000;

interface ProfileNode {
  readonly callFrame: { readonly functionName: string; readonly url: string };
  readonly selfSize: number;
  readonly children: readonly ProfileNode[];
}

/** Bytes by function of the node, the most first. */
function ownAllocations(head: ProfileNode): Map<string, number> {
  const found = new Map<string, number>();
  const visit = ({ callFrame, selfSize, children }: ProfileNode): void => {
    const file = /\/src\/(.+)\.[jt]s$/.exec(callFrame.url)?.[1];
    if (file !== undefined && !/^nbd\/client/.test(file) && selfSize > 0) {
      const name = `${file} ${callFrame.functionName}`;
      found.set(name, (found.get(name) ?? 0) + selfSize);
    }
    for (const child of children) visit(child);
  };
  visit(head);
  return new Map([...found].toSorted(([, a], [, b]) => b - a));
}

describe('what a request costs in memory', () => {
  const session = new Session();
  const table: string[] = [];
  let directory: string;
  let stack: Stack;
  let role: RunningRole;
  let client: NbdClient;

  beforeAll(async () => {
    directory = fs.mkdtempSync(path.join(os.tmpdir(), 'counts-'));
    stack = await Stack.start({ store: 'file' });
    await stack.create('counted', SIZE, BLOCK);
    const socket = path.join(directory, 's');
    const text = `[ARCHIPELAGO]\nRUN_DIR = ${directory}\n[nbd]\nlisten =\nsocket = ${socket}\nbusy_poll_us = 0\n`;
    const config = parseConfig(text, path.join(directory, 'conf'));
    const settings = findRole(config, 'nbd');
    if (!settings) throw new Error('no nbd role');
    const ports = { first: settings.portnoStart, last: settings.portnoEnd };
    const log = pino({ level: 'silent' });
    role = await start({ name: 'nbd', settings, config, segment: stack.segment, ports, log });
    client = await connectNbd(`nbd+unix:///counted?socket=${socket}`);
    for (let at = 0; at < SIZE; at += HALF) await client.write(at, payload);
    await client.flush();
    session.connect();
  });
  afterAll(async () => {
    session.disconnect();
    await client?.disconnect();
    await role?.stop();
    expect(await stack?.stop()).toEqual([]);
    fs.rmSync(directory, { recursive: true, force: true });
    console.log(['bytes of each request: on the heap, copied; where most of the heap goes', ...table].join('\n'));
  });

  async function run({ depth, request }: Cell, requests: number): Promise<void> {
    for (let i = 0; i < requests; i += depth) {
      await Promise.all(Array.from({ length: depth }, (_, k) => request(client, i + k)));
    }
  }

  it.each(cells)('$title', async (cell) => {
    const { requests, title } = cell;
    // What is compiled meanwhile, and pools that grow, are not the price of a request.
    await run(cell, requests);
    copied.bytes = 0;
    await session.post('HeapProfiler.startSampling', {
      samplingInterval: 512,
      includeObjectsCollectedByMajorGC: true,
      includeObjectsCollectedByMinorGC: true,
    });
    const began = performance.now();
    await run(cell, requests);
    const seconds = (performance.now() - began) / 1000;
    const { profile } = await session.post('HeapProfiler.stopSampling');
    const own = ownAllocations(profile.head as ProfileNode);
    const heap = [...own.values()].reduce((sum, size) => sum + size, 0) / requests;
    const copies = copied.bytes / requests;
    const most = [...own].slice(0, 6).map(([name, size]) => `${name} ${Math.round(size / requests)}`);
    table.push(`${title}: ${Math.round(heap)}, ${Math.round(copies)}; ${most.join(', ')}`);
    expect(heap, most.join('\n')).toBeLessThanOrEqual(cell.heap + (UNASKED * seconds) / requests);
    expect(copies).toBeLessThanOrEqual(cell.copies);
  });
});
