import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { formatSize, parseSize } from '../../../src/cli/vlmc/size.js';

describe('sizes on the command line', () => {
  it.each([
    ['100', 100 * 2 ** 20],
    ['512B', 512],
    ['512b', 512],
    ['1k', 1024],
    ['1K', 1024],
    ['64KiB', 65536],
    ['3M', 3 * 2 ** 20],
    ['3MiB', 3 * 2 ** 20],
    ['10G', 10 * 2 ** 30],
    ['10g', 10 * 2 ** 30],
    ['1.5T', 1.5 * 2 ** 40],
    ['0.5', 2 ** 19],
    ['16TiB', 2 ** 44],
  ])('reads %s as %d bytes', (text, bytes) => {
    expect(parseSize(text)).toBe(bytes);
  });

  it.each(['', 'x', '10X', '-1', '1e3', '10 GB', '1,5G', '0x10', 'G', '1.G', '.5G'])('refuses %j', (text) => {
    expect(() => parseSize(text)).toThrow(/is not understood: a number is MiB/);
  });

  it('says that units of 1000 are not offered', () => {
    expect(() => parseSize('10GB')).toThrow(/Units of 1000/);
  });

  it.each(['0', '0G', '0.0B'])('refuses %s as a size of nothing', (text) => {
    expect(() => parseSize(text)).toThrow(/size 0/);
  });

  it('names the nearest multiples of 512', () => {
    expect(() => parseSize('1000B')).toThrow('not a multiple of 512: use 512B or 1024B');
    expect(() => parseSize('100B')).toThrow('not a multiple of 512: use 512B');
    expect(() => parseSize('1.3K')).toThrow('use 1024B or 1536B');
  });

  it('refuses what no number can count exactly', () => {
    expect(() => parseSize('9000000T')).toThrow(/too large/);
  });

  it('accepts exactly the multiples of 512', () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: Number.MAX_SAFE_INTEGER }), (bytes) => {
        const even = bytes - (bytes % 512);
        if (even > 0) expect(parseSize(`${even}B`)).toBe(even);
        if (bytes % 512 !== 0) expect(() => parseSize(`${bytes}B`)).toThrow(/multiple of 512/);
      }),
    );
  });

  it.each([
    [0, '0 B'],
    [512, '512 B'],
    [4 << 20, '4 MiB'],
    [1.5 * 2 ** 30, '1.50 GiB'],
    [100.25 * 2 ** 30, '100.3 GiB'],
    [2 ** 60, '1024 PiB'],
  ])('shows %d as %s', (bytes, text) => {
    expect(formatSize(bytes)).toBe(text);
  });
});
