import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { LineReader } from '../../../src/bridge/lines.js';

/** The lines that chunks hold. */
function read(limit: number, chunks: readonly Uint8Array[]): { lines: string[]; overlong: boolean } {
  const reader = new LineReader(limit);
  const lines = chunks.flatMap((chunk) => [...reader.push(Buffer.from(chunk))].map((line) => line.toString('latin1')));
  return { lines, overlong: reader.overlong };
}

describe('lines out of chunks', () => {
  it('are the same however the bytes are cut', () => {
    const bytes = fc.uint8Array({ maxLength: 300 }).map((array) => array.map((byte) => (byte < 40 ? 10 : byte)));
    fc.assert(
      fc.property(bytes, fc.array(fc.nat(300), { maxLength: 20 }), (all, cuts) => {
        const ends = [...cuts.filter((cut) => cut < all.length).sort((a, b) => a - b), all.length];
        const chunks = ends.map((end, i) => all.subarray(i === 0 ? 0 : ends[i - 1], end));
        const whole = Buffer.from(all).toString('latin1').split('\n').slice(0, -1);
        expect(read(300, chunks)).toEqual({ lines: whole, overlong: false });
      }),
    );
  });

  it('end with the first one that is too long, also before its end has come', () => {
    expect(read(4, [Buffer.from('ab\ncde'), Buffer.from('f')])).toEqual({ lines: ['ab'], overlong: false });
    expect(read(4, [Buffer.from('ab\ncde'), Buffer.from('fg'), Buffer.from('\nh\n')])).toEqual({
      lines: ['ab'],
      overlong: true,
    });
    expect(read(4, [Buffer.from('abcd\nabcde\nab\n')])).toEqual({ lines: ['abcd'], overlong: true });
  });

  it('stay what they were when the reader goes on', () => {
    const reader = new LineReader(100);
    const chunk = Buffer.from('first\nsec');
    const lines = [...reader.push(chunk), ...reader.push(Buffer.from('ond\nthi')), ...reader.push(Buffer.from('rd\n'))];
    expect(lines.map(String)).toEqual(['first', 'second', 'third']);
  });
});
