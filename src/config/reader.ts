/** Reads one section by its schema: values or defaults, errors with their place, warnings for keys that nobody knows. */
import { ConfigError, formatPlace, type Place } from './errors.js';
import type { IniFile, IniSection } from './ini.js';
import type { Setting, Settings, Values } from './schema.js';

/** A section of a file that may not have it, or of no file at all. */
export class SectionReader {
  readonly name: string;
  readonly #file: string;
  readonly #section: IniSection | undefined;

  constructor(file: IniFile | null, name: string, path: string) {
    this.name = name;
    this.#file = path;
    this.#section = file?.sections.get(name);
  }

  /** Where a setting stands, or would stand. */
  place(setting: Pick<Setting, 'key'>): Place {
    const entry = this.#section?.entries.get(setting.key.toLowerCase());
    return {
      file: this.#file,
      line: entry?.line ?? this.#section?.line,
      section: this.name,
      key: entry?.key ?? setting.key,
    };
  }

  has(setting: Pick<Setting, 'key'>): boolean {
    return this.#section?.entries.has(setting.key.toLowerCase()) ?? false;
  }

  error(setting: Pick<Setting, 'key'>, problem: string): ConfigError {
    return new ConfigError(this.place(setting), problem);
  }

  /** @throws ConfigError naming file, line, section, key and what is allowed */
  read<S extends Settings>(settings: S): Values<S> {
    const values: Record<string, unknown> = {};
    for (const [name, setting] of Object.entries(settings)) values[name] = this.#value(setting);
    return values as Values<S>;
  }

  #value(setting: Setting): unknown {
    const entry = this.#section?.entries.get(setting.key.toLowerCase());
    if (!entry) return setting.default;
    try {
      return setting.kind.parse(entry.value);
    } catch (error) {
      const problem =
        entry.value === '' ? `has no value; it must be ${setting.kind.allowed}` : (error as Error).message;
      throw this.error(setting, problem);
    }
  }

  /** Sentences about the keys of the section that none of `settings` has. */
  unknownKeys(...settings: Settings[]): string[] {
    const known = settings.flatMap((group) => Object.values(group).map((setting) => setting.key));
    const byLowerCase = new Set(known.map((key) => key.toLowerCase()));
    return [...(this.#section?.entries.values() ?? [])]
      .filter((entry) => !byLowerCase.has(entry.key.toLowerCase()))
      .map((entry) => {
        const place = formatPlace({ file: this.#file, line: entry.line, section: this.name, key: entry.key });
        const near = nearest(entry.key, known);
        return `${place}: no such setting, ignored${near === null ? '' : `; did you mean ${near}?`}`;
      });
  }
}

/** The candidate that takes the fewest edits to become `word`, or null when none is near. */
export function nearest(word: string, candidates: readonly string[]): string | null {
  let best: string | null = null;
  let least = Math.max(2, Math.floor(word.length / 3)) + 1;
  for (const candidate of candidates) {
    const edits = distance(word.toLowerCase(), candidate.toLowerCase());
    if (edits < least) {
      least = edits;
      best = candidate;
    }
  }
  return best;
}

/** Levenshtein distance. */
function distance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, index) => index);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      next.push(Math.min(row[j] + 1, next[j - 1] + 1, row[j - 1] + (a[i - 1] === b[j - 1] ? 0 : 1)));
    }
    row = next;
  }
  return row[b.length];
}
