/** The pattern that the guest of scripts/rigs/guest/ganeti.sh writes, read and judged by the host. */
import { closeSync, mkdtempSync, openSync, readSync, rmSync, statSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { run } from '../e2e/harness/run.js';

const BLOCK = 4 << 20;
/** Bytes of half a place: one lies before the border of two blocks, one behind. */
const HALF = 32 << 10;

/** What the places of a disk hold: rounds of the guest; 0 where nothing was written. */
export interface Found {
  /** Bytes of the disk. */
  readonly size: number;
  readonly low: number;
  readonly high: number;
}

/** The round that half a place holds, 0 for zeros. @param part 0: the half before the border, 1: behind it */
function judge(place: number, part: number, got: Buffer): number {
  if (got.every((byte) => byte === 0)) return 0;
  // The second half begins within a line.
  const [, line] = got.toString('latin1', 0, 200).split('\n');
  const match = /^place (\d+) round (\d+)$/.exec(line);
  if (!match || Number(match[1]) !== place) throw new Error(`place ${place} holds ${got.toString('latin1', 0, 60)}`);
  const wanted = Buffer.alloc(2 * HALF, `${line}\n`, 'latin1').subarray(part * HALF, (part + 1) * HALF);
  if (!got.equals(wanted)) throw new Error(`place ${place}, part ${part}, holds round ${match[2]} and something else`);
  return Number(match[2]);
}

/**
 * Reads all places of a raw image.
 * @throws when one holds what the guest never wrote there, or the image is not what the disk was at one moment: the guest sends each half of a place
 * when the one before it was answered, so it holds a round up to some place, and from there on the round before
 */
export function judgeImage(file: string): Found {
  const { size } = statSync(file);
  const fd = openSync(file, 'r');
  try {
    const rounds: number[] = [];
    const got = Buffer.alloc(HALF);
    for (let place = 1; place < size / BLOCK; place++) {
      for (const part of [0, 1]) {
        const at = place * BLOCK + (part - 1) * HALF;
        if (readSync(fd, got, 0, HALF, at) !== HALF) throw new Error(`place ${place} is cut off`);
        const round = judge(place, part, got);
        const before = rounds.at(-1) ?? round;
        if (round > before)
          throw new Error(`place ${place} holds round ${round}, what was written before it ${before}`);
        rounds.push(round);
      }
    }
    return { size, low: Math.min(...rounds), high: Math.max(...rounds) };
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
