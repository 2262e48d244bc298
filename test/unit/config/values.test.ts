import { describe, expect, test } from 'vitest';
import * as v from '../../../src/config/values.js';

describe('values', () => {
  test.each([
    ['0o007', 0o007],
    ['007', 0o007],
    ['7', 7],
    ['0', 0],
    ['27', 27],
    ['0o777', 0o777],
    ['0x1f', 0x1f],
  ])('umask %s is read as Python reads it', (text, value) => {
    expect(v.umask.parse(text)).toBe(value);
  });

  test.each(['', '8x', '08', '0o1000', '512', '-1', 'rwx', '0o'])('umask %j is refused', (text) => {
    expect(() => v.umask.parse(text)).toThrow(/must be a mask from 0o000 to 0o777/);
  });

  test.each(['True', 'true', 'YES', 'on', '1'])('%s is true', (text) => expect(v.boolean.parse(text)).toBe(true));
  test.each(['False', 'no', 'Off', '0'])('%s is false', (text) => expect(v.boolean.parse(text)).toBe(false));
  test('other words are not booleans', () => {
    expect(() => v.boolean.parse('maybe')).toThrow('"maybe" is not allowed; it must be True or False');
  });

  test('numbers are bounded and decimal', () => {
    const kind = v.integer(0, 3);
    expect(kind.parse('3')).toBe(3);
    for (const text of ['4', '-1', '1.5', '0x1', '1e0', '', ' ']) {
      expect(() => kind.parse(text), text).toThrow(/a number from 0 to 3/);
    }
  });

  test('powers of two', () => {
    const kind = v.powerOfTwo(1, 64);
    expect(['1', '2', '64'].map((text) => kind.parse(text))).toEqual([1, 2, 64]);
    for (const text of ['0', '3', '63', '128', '']) expect(() => kind.parse(text), text).toThrow(/power of two/);
  });

  test('words have their own spelling', () => {
    expect(v.oneOf('all', 'mapped').parse('ALL')).toBe('all');
    expect(() => v.oneOf('a', 'b', 'c').parse('d')).toThrow('"d" is not allowed; it must be a, b or c');
  });

  test('paths are absolute and lose trailing slashes', () => {
    expect(v.path.parse('/a/b//')).toBe('/a/b');
    expect(v.path.parse('/')).toBe('/');
    expect(() => v.path.parse('a/b')).toThrow(/absolute path/);
  });

  test('addresses', () => {
    expect(v.address.parse('127.0.0.1:10809')).toEqual({ host: '127.0.0.1', port: 10809 });
    expect(v.address.parse('[::1]:0')).toEqual({ host: '::1', port: 0 });
    expect(v.address.parse('')).toBeNull();
    for (const text of ['localhost', ':1', '::1:5', 'h:70000', 'h:', 'a b:1']) {
      expect(() => v.address.parse(text), text).toThrow(/HOST:PORT/);
    }
  });

  test('several addresses', () => {
    const [ip4, ip6] = [
      { host: '127.0.0.1', port: 10809 },
      { host: '::1', port: 10810 },
    ];
    expect(v.addresses.parse('127.0.0.1:10809, [::1]:10810')).toEqual([ip4, ip6]);
    expect(v.addresses.parse('127.0.0.1:10809 [::1]:10810')).toEqual([ip4, ip6]);
    expect(v.addresses.parse('[::1]:10810')).toEqual([ip6]);
    expect(v.addresses.parse('')).toEqual([]);
    expect(() => v.addresses.parse('127.0.0.1:10809, ::1:10810')).toThrow(/HOST:PORT/);
  });

  test('seconds may have a fraction', () => {
    expect(v.seconds(0, 10).parse('0.25')).toBe(0.25);
    expect(() => v.seconds(0, 10).parse('11')).toThrow(/0 to 10/);
  });
});
