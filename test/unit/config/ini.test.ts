import { describe, expect, test } from 'vitest';
import { parseIni } from '../../../src/config/ini.js';

const values = (text: string, section = 'A'): Record<string, string> =>
  Object.fromEntries([...parseIni(text, 'f').sections.get(section)!.entries].map(([key, entry]) => [key, entry.value]));

describe('the INI dialect', () => {
  test('takes = and :, and keys of any case', () => {
    expect(values('[A]\nOne = 1\nTWO: 2\nthree=a=b:c\n')).toEqual({ one: '1', two: '2', three: 'a=b:c' });
  });

  test('drops whole-line and trailing comments, keeps # and ; within words', () => {
    expect(values('# x\n[A] ; y\n; z\na = 1 # one\nb = c#d;e ; f\nc =\n')).toEqual({ a: '1', b: 'c#d;e', c: '' });
  });

  test('joins indented lines to the value above', () => {
    expect(values('[A]\nroles = x\n  y\n\n\tz\nb = 1\n')).toEqual({ roles: 'x y z', b: '1' });
  });

  test('reads Windows line ends', () => {
    expect(values('[A]\r\na = 1\r\n')).toEqual({ a: '1' });
  });

  test('merges a section that comes twice, and the last of a repeated key counts with a warning', () => {
    const file = parseIni('[A]\na = 1\n[B]\n[A]\na = 2\n', 'f.conf');
    expect(file.sections.get('A')?.entries.get('a')?.value).toBe('2');
    expect(file.warnings).toEqual(['f.conf:5: [A] a: replaces the value of line 2']);
  });

  test.each([
    ['[A\n', /^f:1: "\[A" is not a section title/],
    ['[]\n', /^f:1: "\[\]" is not a section title/],
    ['[A]\nword\n', /^f:2: "word" is neither \[SECTION\] nor KEY = VALUE/],
    ['[A]\n= 1\n', /^f:2: "= 1" is neither/],
    ['\na = 1\n', /^f:2: a: stands before the first \[SECTION\]/],
  ])('refuses %j naming the line', (text, message) => {
    expect(() => parseIni(text, 'f')).toThrow(message);
  });
});
