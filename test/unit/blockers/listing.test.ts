/** Pages of names: in the order of places, each name once, whatever the size of the page. */
import { createHash } from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';
import { expect, it } from 'vitest';
import { kernel } from '../../../src/blockers/file/kernel.js';
import { ListedStore, listNames } from '../../../src/blockers/file/listing.js';
import type { FileSystem } from '../../../src/blockers/file/system.js';
import { temporaryDirectory } from './support.js';

const digest = (name: string): string => createHash('sha256').update(name).digest('hex');
const NAMES = Array.from({ length: 400 }, (_, i) => `object-${i}`);
const IN_ORDER = NAMES.toSorted((a, b) => (digest(a) < digest(b) ? -1 : 1));

function store(): string {
  const root = temporaryDirectory();
  for (const name of NAMES) {
    const h = digest(name);
    const directory = path.join(root, h.slice(0, 2), h.slice(2, 4), h.slice(4, 6));
    fs.mkdirSync(directory, { recursive: true });
    fs.writeFileSync(path.join(directory, name), '');
  }
  return root;
}

async function pages(listed: ListedStore, limit: number): Promise<string[][]> {
  const all: string[][] = [];
  let cursor: string | null = null;
  do {
    const page = await listNames(listed, cursor, limit);
    all.push([...page.names]);
    cursor = page.cursor;
  } while (cursor !== null);
  return all;
}

/** As the kernel's, by the thread pool alone. */
const byPool: FileSystem = Object.create(kernel, { readdirNow: { value: undefined } });

it.each([
  ['this thread', kernel],
  ['the pool', byPool],
])('are the same whatever their size, read by %s', async (_who, system) => {
  const listed = new ListedStore(system, store());
  for (const limit of [1, 7, 64, 399, 400, 1000]) {
    const all = await pages(listed, limit);
    expect(all.flat()).toEqual(IN_ORDER);
    expect(all.slice(0, -1).every((page) => page.length === limit)).toBe(true);
  }
});

it('go on behind a name that was removed meanwhile', async () => {
  const root = store();
  const listed = new ListedStore(kernel, root);
  const first = await listNames(listed, null, 10);
  const last = first.names[9];
  const h = digest(last);
  fs.rmSync(path.join(root, h.slice(0, 2), h.slice(2, 4), h.slice(4, 6)), { recursive: true });
  const second = await listNames(listed, first.cursor, 10);
  expect([...first.names, ...second.names]).toEqual(IN_ORDER.slice(0, 20));
});
