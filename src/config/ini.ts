/**
 * Reads the INI dialect of the original (Python's ConfigParser): `[section]`, `key = value` or `key: value`, whole-line
 * comments with # or ;, trailing comments after a blank and # or ;, indented lines continue a value. It keeps line numbers,
 * which error messages need.
 */
import { ConfigError, formatPlace } from './errors.js';

export interface IniEntry {
  /** As written. */
  readonly key: string;
  value: string;
  readonly line: number;
}

export interface IniSection {
  readonly name: string;
  readonly line: number;
  /** By lower-case key: keys have no case. */
  readonly entries: Map<string, IniEntry>;
}

export interface IniFile {
  readonly path: string;
  /** By name; section names have case, as in the original. */
  readonly sections: Map<string, IniSection>;
  /** Sentences about what is readable but surely not meant. */
  readonly warnings: string[];
}

const stripComment = (text: string): string => text.replace(/(^|\s)[#;].*$/, '').trim();

/**
 * Parses the text of a configuration file. A section that comes twice is merged; of a key that comes twice the last counts,
 * with a warning.
 * @param path for messages only
 * @throws ConfigError naming the line
 */
export function parseIni(text: string, path: string): IniFile {
  const sections = new Map<string, IniSection>();
  const warnings: string[] = [];
  let section: IniSection | undefined;
  let entry: IniEntry | undefined;
  for (const [index, raw] of text.split(/\r?\n/).entries()) {
    const line = index + 1;
    const body = stripComment(raw);
    if (body === '') continue;
    if (/^\s/.test(raw) && entry) {
      entry.value = `${entry.value} ${body}`.trim();
      continue;
    }
    if (body.startsWith('[')) {
      if (!body.endsWith(']') || body.length < 3) {
        throw new ConfigError({ file: path, line }, `"${body}" is not a section title; write [NAME]`);
      }
      const name = body.slice(1, -1).trim();
      section = sections.get(name) ?? { name, line, entries: new Map() };
      sections.set(name, section);
      entry = undefined;
      continue;
    }
    const match = /^([^=:]+?)\s*[=:]\s*(.*)$/s.exec(body);
    if (!match) throw new ConfigError({ file: path, line }, `"${body}" is neither [SECTION] nor KEY = VALUE`);
    if (!section) {
      throw new ConfigError({ file: path, line, key: match[1] }, 'stands before the first [SECTION]');
    }
    const before = section.entries.get(match[1].toLowerCase());
    entry = { key: match[1], value: match[2], line };
    if (before) {
      const place = formatPlace({ file: path, line, section: section.name, key: entry.key });
      warnings.push(`${place}: replaces the value of line ${before.line}`);
    }
    section.entries.set(entry.key.toLowerCase(), entry);
  }
  return { path, sections, warnings };
}
