/** The pattern that the guest of scripts/rigs/guest/ganeti.sh writes, read and judged by the host. */
import { closeSync, mkdtempSync, openSync, readSync, rmSync, statSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { run } from '../e2e/harness/run.js';

const BLOCK = 4 << 20;
/** Bytes of a place; half of them before the border of two blocks, half behind. */
const PLACE = 64 << 10;

/** What the places of a disk hold: rounds of the guest; 0 where nothing was written. */
export interface Found {
  /** Bytes of the disk. */
  readonly size: number;
  readonly places: number;
  readonly low: number;
  readonly high: number;
}

function judge(place: number, got: Buffer): number {
  if (got.every((byte) => byte === 0)) return 0;
  const match = /^place (\d+) round (\d+)\n/.exec(got.toString('latin1', 0, 60));
  if (!match || Number(match[1]) !== place) throw new Error(`place ${place} holds ${got.toString('latin1', 0, 60)}`);
  const wanted = Buffer.alloc(PLACE, match[0], 'latin1');
  if (!got.equals(wanted)) throw new Error(`place ${place} holds round ${match[2]} and something else`);
  return Number(match[2]);
}

/** Reads all places of a raw image. @throws when one holds what the guest never wrote there */
export function judgeImage(file: string): Found {
  const { size } = statSync(file);
  const fd = openSync(file, 'r');
  try {
    const rounds: number[] = [];
    const got = Buffer.alloc(PLACE);
    for (let place = 1; place < size / BLOCK; place++) {
      if (readSync(fd, got, 0, PLACE, place * BLOCK - PLACE / 2) !== PLACE)
        throw new Error(`place ${place} is cut off`);
      rounds.push(judge(place, got));
    }
    return { size, places: rounds.length, low: Math.min(...rounds), high: Math.max(...rounds) };
  } finally {
    closeSync(fd);
  }
}

/** As judgeImage, of an export. */
export async function judgeExport(uri: string): Promise<Found> {
  const dir = mkdtempSync(path.join(os.tmpdir(), 'archipelago-image-'));
  try {
    const file = path.join(dir, 'image');
    await run('qemu-img', ['convert', '-f', 'raw', '-O', 'raw', uri, file]);
    return judgeImage(file);
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
}
