/** The kinds of values a setting can have: how each is read from text, and the words for what is allowed. */

/** A kind of value. parse throws a plain Error whose message says what is wrong; the caller adds where. */
export interface Kind<T> {
  /** What is allowed, for messages and the documentation, e.g. `a number from 0 to 3`. */
  readonly allowed: string;
  parse(text: string): T;
}

const kind = <T>(allowed: string, read: (text: string) => T | undefined): Kind<T> => ({
  allowed,
  parse(text) {
    const value = read(text);
    if (value === undefined) throw new Error(`"${text}" is not allowed; it must be ${allowed}`);
    return value;
  },
});

/** Any text but nothing. */
export const text = (what: string): Kind<string> => kind(what, (value) => (value === '' ? undefined : value));

/** Any text, nothing included. */
export const optionalText = (what: string): Kind<string> => kind(`${what}, or nothing`, (value) => value);

/** A decimal number of a range, bounds included. */
export function integer(min: number, max: number, unit = ''): Kind<number> {
  const allowed = `a number${unit && ` of ${unit}`} from ${min} to ${max}`;
  return kind(allowed, (value) => {
    const number = /^\d{1,15}$/.test(value) ? Number(value) : Number.NaN;
    return number >= min && number <= max ? number : undefined;
  });
}

/** A number that may have a fraction, bounds included. */
export function seconds(min: number, max: number): Kind<number> {
  return kind(`a number of seconds from ${min} to ${max}`, (value) => {
    const number = /^\d{1,9}(\.\d{1,6})?$/.test(value) ? Number(value) : Number.NaN;
    return number >= min && number <= max ? number : undefined;
  });
}

/** A power of two of a range. */
export function powerOfTwo(min: number, max: number): Kind<number> {
  return kind(`a power of two from ${min} to ${max}`, (value) => {
    const number = /^\d{1,9}$/.test(value) ? Number(value) : 0;
    return number >= min && number <= max && Number.isInteger(Math.log2(number)) ? number : undefined;
  });
}

const booleans = new Map([
  ...['true', 'yes', 'on', '1'].map((word) => [word, true] as const),
  ...['false', 'no', 'off', '0'].map((word) => [word, false] as const),
]);

/** True or False, as Python's ConfigParser reads them. */
export const boolean: Kind<boolean> = kind('True or False (yes, no, on, off, 1, 0)', (value) =>
  booleans.get(value.toLowerCase()),
);

/** True, False, or a word. */
export const booleanOr = <const T extends string>(word: T): Kind<boolean | T> =>
  kind(`${word}, ${boolean.allowed}`, (value) =>
    value.toLowerCase() === word ? word : booleans.get(value.toLowerCase()),
  );

/** A file mode mask as Python's int(text, 0) reads it: 0o007 and 007 are octal, 7 is decimal, 0x7 hexadecimal. */
export const umask: Kind<number> = kind('a mask from 0o000 to 0o777, e.g. 0o007', (value) => {
  const match = /^(?:0o?([0-7]{1,6})|0x([0-9a-f]{1,3})|(0|[1-9]\d{0,2}))$/i.exec(value);
  if (!match) return undefined;
  const number = match[1] ? Number.parseInt(match[1], 8) : match[2] ? Number.parseInt(match[2], 16) : Number(match[3]);
  return number <= 0o777 ? number : undefined;
});

/** One of some words, without case. */
export function oneOf<const T extends string>(...words: readonly T[]): Kind<T> {
  return kind(words.length === 1 ? words[0] : `${words.slice(0, -1).join(', ')} or ${words.at(-1)}`, (value) =>
    words.find((word) => word.toLowerCase() === value.toLowerCase()),
  );
}

/** Words separated by blanks (or commas). */
export const words = (what: string): Kind<string[]> =>
  kind(what, (value) => {
    const list = value.split(/[\s,]+/).filter(Boolean);
    return list.length === 0 ? undefined : list;
  });

/** An absolute path without a trailing slash. */
export const path: Kind<string> = kind('an absolute path', (value) =>
  value.startsWith('/') && !value.includes('\0') ? value.replace(/(?<=.)\/+$/, '') : undefined,
);

/** An absolute path, or nothing. */
export const optionalPath: Kind<string> = kind('an absolute path, or nothing', (value) =>
  value === '' ? '' : value.startsWith('/') ? value : undefined,
);

export interface Address {
  readonly host: string;
  readonly port: number;
}

/** HOST:PORT or [IPV6]:PORT, or nothing (null). */
export const address: Kind<Address | null> = kind('HOST:PORT, [IPV6]:PORT, or nothing', (value) => {
  if (value === '') return null;
  const match = /^(?:\[([0-9a-f:.%\w]+)\]|([^\s:[\]]+)):(\d{1,5})$/i.exec(value);
  if (!match || Number(match[3]) > 65535) return undefined;
  return { host: match[1] ?? match[2], port: Number(match[3]) };
});

/** Several addresses separated by commas or blanks, or nothing: an empty list. */
export const addresses: Kind<Address[]> = kind(
  'HOST:PORT or [IPV6]:PORT, several separated by commas, or nothing',
  (value) => {
    const list: Address[] = [];
    for (const word of value.split(/[\s,]+/).filter(Boolean)) {
      try {
        list.push(address.parse(word) as Address);
      } catch {
        return undefined;
      }
    }
    return list;
  },
);
