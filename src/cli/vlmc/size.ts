/** Sizes on the command line: plain numbers are MiB, as they always were; suffixes are binary. */
import { CliError } from '../common/exit.js';

const UNITS: Readonly<Record<string, number>> = { b: 1, k: 2 ** 10, m: 2 ** 20, g: 2 ** 30, t: 2 ** 40 };
/** Clients address disks by sectors of this many bytes. */
export const SECTOR = 512;

/**
 * Parses a volume's size. `100` is 100 MiB, `10G` and `10GiB` are 10 * 2^30 bytes, `1048576B` are bytes; fractions as in `1.5T`.
 * @returns bytes, a positive multiple of 512
 * @throws CliError
 */
export function parseSize(text: string): number {
  const match = /^(\d+(?:\.\d+)?)(b|[kmgt](?:ib)?)?$/i.exec(text.trim());
  if (!match) {
    const decimal = /^[\d.]+[kmgt]b$/i.test(text.trim());
    throw new CliError(
      `size "${text}" is not understood: a number is MiB; use K, M, G, T (or KiB, MiB, GiB, TiB) or B for bytes, e.g. 10G` +
        (decimal ? '. Units of 1000 are not offered, since disks made with them rarely match' : ''),
    );
  }
  const unit = UNITS[(match[2]?.[0] ?? 'm').toLowerCase()];
  const bytes = Number(match[1]) * unit;
  if (bytes === 0) throw new CliError('size 0: a volume has at least 512 bytes (512B)');
  if (bytes > Number.MAX_SAFE_INTEGER) throw new CliError(`size "${text}" is too large; the limit is 8191T`);
  if (bytes % SECTOR !== 0) {
    const below = Math.floor(bytes / SECTOR) * SECTOR;
    const near = below === 0 ? `${SECTOR}B` : `${below}B or ${below + SECTOR}B`;
    throw new CliError(`size ${text} is ${bytes} bytes, which is not a multiple of ${SECTOR}: use ${near}`);
  }
  return bytes;
}

/** Bytes for people: `1.5 GiB`, exact where it can be. */
export function formatSize(bytes: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'];
  let unit = 0;
  let value = bytes;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit++;
  }
  return `${Number.isInteger(value) ? value : value.toFixed(value < 10 ? 2 : 1)} ${units[unit]}`;
}
