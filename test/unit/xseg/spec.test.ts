import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { DEFAULT_SPEC, formatSpec, parseSpec } from '../../../src/xseg/index.js';

describe('segment specs', () => {
  it('a full spec names ports, first dynamic port, size and page shift', () => {
    expect(parseSpec('posix:archipelago:2048:1024:512:12')).toEqual({
      type: 'posix',
      name: 'archipelago',
      ports: 2048,
      firstDynamic: 1024,
      size: 512 << 20,
      pageShift: 12,
    });
  });

  it('the two port counts come in either order: the larger is the total', () => {
    expect(parseSpec('posix:a:64:128:256:12')).toEqual(parseSpec('posix:a:128:64:256:12'));
  });

  it('what is left out takes the default', () => {
    expect(parseSpec('posix:globalxseg:')).toEqual({ ...DEFAULT_SPEC, name: 'globalxseg' });
    expect(parseSpec('posix:globalxseg')).toEqual({ ...DEFAULT_SPEC, name: 'globalxseg' });
    expect(parseSpec('posix:a::::14').pageShift).toBe(14);
    expect(parseSpec('posix:a:16').firstDynamic).toBeLessThan(16);
  });

  it('formatting and parsing are each other inverse', () => {
    fc.assert(
      fc.property(
        fc.stringMatching(/^[A-Za-z0-9_+-]{1,40}$/),
        fc.integer({ min: 2, max: 60000 }),
        fc.integer({ min: 1, max: 59999 }),
        fc.integer({ min: 1, max: 4095 }),
        fc.integer({ min: 12, max: 16 }),
        (name, ports, dynamic, mib, pageShift) => {
          fc.pre(dynamic < ports);
          const spec = { type: 'posix' as const, name, ports, firstDynamic: dynamic, size: mib * 2 ** 20, pageShift };
          expect(parseSpec(formatSpec(spec))).toEqual(spec);
        },
      ),
    );
  });

  it.each([
    ['segdev:a:', 'type "segdev"'],
    ['posix', 'name'],
    ['posix::64:128:256:12', 'name'],
    ['posix:a/b:', 'name'],
    ['posix:..:', 'name'],
    ['posix:a:b:', 'port count "b"'],
    ['posix:a:64:64:', 'both 64'],
    ['posix:a:1:', 'port count "1"'],
    ['posix:a:128:0', 'dynamic port count "0"'],
    ['posix:a:128:64:0', 'size "0"'],
    ['posix:a:128:64:4096', 'size "4096"'],
    ['posix:a:128:64:-5', 'size "-5"'],
    ['posix:a:128:64:1.5', 'size "1.5"'],
    ['posix:a:128:64:256:11', 'page shift "11"'],
    ['posix:a:128:64:256:12:x', 'too many'],
  ])('%s is refused and the message names the field', (text, part) => {
    expect(() => parseSpec(text)).toThrow(
      expect.objectContaining({ code: 'EINVAL', message: expect.stringContaining(part) }),
    );
  });
});
