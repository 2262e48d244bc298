/** Devices of the kernel as a call finds them, on a table and a /sys of a test's own; vlmc is what it was asked to do. */
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { Kernel } from '../../../../src/cli/ganeti/kernel.js';
import { parseConfig } from '../../../../src/config/index.js';
import { type Entry, writeTable } from '../../../../src/devices/table.js';
import { errnos, SystemError } from '../../../../src/sys/errno.js';

const VOLUME = 'ganeti-disk';
let dir: string;
let asked: string[][];
let refusals: number;

beforeEach(() => {
  dir = fs.mkdtempSync(path.join(os.tmpdir(), 'ganeti-kernel-'));
  for (const part of ['run', 'sys/block', 'dev', 'proc']) fs.mkdirSync(path.join(dir, part), { recursive: true });
  asked = [];
  refusals = 0;
});
afterEach(() => fs.rmSync(dir, { recursive: true, force: true }));

const entry = (more: Partial<Entry> = {}): Entry => ({
  index: 3,
  volume: VOLUME,
  exportName: VOLUME,
  identifier: `archipelago:segment:${VOLUME}`,
  size: 1 << 20,
  readOnly: false,
  readOnlyAsked: false,
  connections: 1,
  since: 0,
  pid: 77,
  sockets: [],
  state: 'attached',
  ...more,
});

/** A device that is connected. */
function connect(index: number, backend: string): void {
  const directory = path.join(dir, 'sys/block', `nbd${index}`);
  fs.mkdirSync(directory, { recursive: true });
  for (const [file, text] of Object.entries({ pid: '77', backend, size: '2048', ro: '0' })) {
    fs.writeFileSync(path.join(directory, file), `${text}\n`);
  }
}

const remember = (...entries: Entry[]): void => writeTable(path.join(dir, 'run'), entries);

function kernel(busyMs = 5000): Kernel {
  const text = `[ARCHIPELAGO]\nRUN_DIR = ${path.join(dir, 'run')}\n[XSEG]\nSEGMENT_NAME = segment\n`;
  const roots = { sys: path.join(dir, 'sys'), proc: path.join(dir, 'proc'), dev: path.join(dir, 'dev') };
  return new Kernel(parseConfig(text, null), {
    roots,
    busyMs,
    vlmc: async (_config, args) => {
      asked.push([...args]);
      if (refusals-- > 0) throw new SystemError(errnos.EIO, 'vlmc unmap failed: /dev/nbd3 is mounted on /mnt');
      if (args[0] === 'unmap') fs.rmSync(path.join(dir, 'sys/block/nbd3'), { recursive: true });
      return '/dev/nbd9\n';
    },
  });
}

describe('the device of a volume', () => {
  it('is found without vlmc where table and kernel agree', async () => {
    remember(entry());
    connect(3, `archipelago:segment:${VOLUME}`);
    expect(await kernel().attach(VOLUME)).toBe(path.join(dir, 'dev/nbd3'));
    expect(asked).toEqual([]);
  });

  it("is left to vlmc where there is none, or one that is somebody else's or on its way", async () => {
    const there = kernel();
    expect(await there.attach(VOLUME)).toBe('/dev/nbd9');
    remember(entry());
    expect(await there.attach(VOLUME)).toBe('/dev/nbd9');
    connect(3, 'archipelago:other:ganeti-disk');
    expect(await there.attach(VOLUME)).toBe('/dev/nbd9');
    connect(3, `archipelago:segment:${VOLUME}`);
    remember(entry({ state: 'leaving' }));
    expect(await there.attach(VOLUME)).toBe('/dev/nbd9');
    expect(asked).toEqual(Array(4).fill(['map', '--endpoint', 'kernel', '--', VOLUME]));
  });

  it('is detached where it is, in the table or not', async () => {
    const there = kernel();
    await there.detach(VOLUME);
    // What the table alone knows is gone.
    remember(entry());
    await there.detach(VOLUME);
    connect(3, 'archipelago:other:ganeti-disk');
    await there.detach(VOLUME);
    expect(asked).toEqual([]);
    connect(3, `archipelago:segment:${VOLUME}`);
    await there.detach(VOLUME);
    remember();
    connect(3, `archipelago:segment:${VOLUME}`);
    await there.detach(VOLUME);
    expect(asked).toEqual(Array(2).fill(['unmap', '--', VOLUME]));
  });

  it('is detached once who had it open for a moment has gone, and not when they stay', async () => {
    remember(entry());
    connect(3, `archipelago:segment:${VOLUME}`);
    refusals = 2;
    await kernel().detach(VOLUME);
    expect(asked).toHaveLength(3);
    connect(3, `archipelago:segment:${VOLUME}`);
    refusals = Number.POSITIVE_INFINITY;
    await expect(kernel(0).detach(VOLUME)).rejects.toThrow('/dev/nbd3 is mounted on /mnt');
  });

  it('is made larger where there is one', async () => {
    const there = kernel();
    await there.resize(VOLUME, 2 << 20);
    expect(asked).toEqual([]);
    remember(entry());
    connect(3, `archipelago:segment:${VOLUME}`);
    await there.resize(VOLUME, 2 << 20);
    expect(asked).toEqual([['resize', '--size', `${2 << 20}B`, '--', VOLUME]]);
  });
});
