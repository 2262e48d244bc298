/** That a contender keeps what it says, seen once before anything is measured: what was written comes back, and trims give room back. */
import type { Contender, Disk } from './contender.js';
import { run } from './process.js';

export interface Verified {
  readonly contender: string;
  /** Bytes that were written at random places and read back as they were. */
  readonly written: number;
  /** For each size of a trim: which share of what was trimmed was given back to the file system; null where that cannot be told. */
  readonly trims: readonly { readonly bytes: number; readonly freed: number | null }[];
}

const WRITTEN = 16 << 20;
/** Bytes that each pass of trims takes away, in requests of each of these sizes. */
const TRIMMED = 32 << 20;
const SIZES = [4 << 10, 64 << 10, 4 << 20];

async function fio({ client }: Disk, ...how: readonly string[]): Promise<void> {
  await run('fio', ['--name=verify', ...client, ...how, '--output=/dev/null']);
}

/** What trims of one size gave back, of a place of the disk of its own. */
async function trim(disk: Disk, bytes: number, offset: number): Promise<number | null> {
  if (!disk.allocated) return null;
  const where = [`--offset=${offset}`, `--size=${TRIMMED}`];
  await fio(disk, '--rw=write', '--bs=1m', '--iodepth=8', ...where, '--end_fsync=1', '--refill_buffers');
  const before = await disk.allocated();
  // What a trim does may come later than its answer; a flush, which a write of the last sector and its fsync are, waits for it.
  await fio(disk, '--rw=trim', `--bs=${bytes}`, '--iodepth=8', ...where);
  await fio(disk, '--rw=write', '--bs=4k', `--offset=${offset + TRIMMED}`, '--size=4k', '--end_fsync=1');
  return (before - (await disk.allocated())) / TRIMMED;
}

/** @throws when something comes back other than it was written, or a request fails */
export async function verify(contender: Contender): Promise<Verified | null> {
  const disk = await contender.disk('fresh', async () => {});
  if (!disk) return null;
  try {
    const blocks = ['--rw=randwrite', '--bsrange=512-64k', '--bs_unaligned', '--iodepth=16', `--size=${WRITTEN}`];
    await fio(disk, ...blocks, '--verify=crc32c', '--do_verify=1', '--verify_fatal=1', '--verify_state_save=0');
    const trims: { bytes: number; freed: number | null }[] = [];
    for (const [index, bytes] of SIZES.entries()) {
      // Places apart, with a block between for the write that ends each pass.
      const freed = await trim(disk, bytes, 2 * WRITTEN + index * 2 * TRIMMED);
      trims.push({ bytes, freed });
    }
    return { contender: contender.id, written: WRITTEN, trims };
  } finally {
    await disk.dispose();
  }
}
