/** The file of access rules ([nbd] tls_acl): who may open which exports. Syntax in docs/tls.md. */
import type { Client } from '../nbd/index.js';
import { errnos, SystemError } from '../sys/errno.js';

type Glob = (text: string) => boolean;

/** Who a rule is about. */
type Who =
  | { readonly kind: 'anyone' | 'unix' | 'tls' }
  | { readonly kind: 'subject' | 'identity'; readonly matches: Glob };

interface Rule {
  readonly allow: boolean;
  readonly exports: Glob;
  readonly who: Who;
}

const SIMPLE = new Set(['anyone', 'unix', 'tls']);

/** `needs TLS`: not in plaintext, but perhaps when the client has told by TLS who it is. */
export type Verdict = 'allowed' | 'needs TLS' | 'refused';

/** Rules in their order: the first that fits both the export and the client decides; without one the answer is no. */
export class AccessRules {
  readonly #rules: readonly Rule[];

  private constructor(rules: readonly Rule[]) {
    this.#rules = rules;
  }

  /**
   * @param file for messages
   * @throws SystemError EINVAL naming file, line and what a rule looks like
   */
  static parse(text: string, file: string): AccessRules {
    const rules: Rule[] = [];
    for (const [index, line] of text.split(/\r?\n/).entries()) {
      const trimmed = line.trim();
      if (trimmed === '' || trimmed.startsWith('#')) continue;
      const rule = parseRule(trimmed);
      if (rule === null) {
        throw new SystemError(
          errnos.EINVAL,
          `${file}, line ${index + 1}: "${trimmed}" is no rule; write allow or deny, an export (with * for anything), and anyone, ` +
            'unix, tls, subject NAME (as CN=alice,O=Example) or identity NAME',
        );
      }
      rules.push(rule);
    }
    return new AccessRules(rules);
  }

  /**
   * What the rules say about an export.
   * @param names its name, and the volumes that it is of: a rule for one of them is one for it
   */
  verdict(names: readonly string[], client: Client): Verdict {
    let verdict: Verdict = 'refused';
    for (const { allow, exports, who } of this.#rules) {
      if (!names.some(exports)) continue;
      // What decides about it in plaintext would decide in TLS too.
      if (isMeant(who, client)) return allow ? 'allowed' : verdict;
      if (allow && client.tls === null && who.kind !== 'unix' && who.kind !== 'anyone') verdict = 'needs TLS';
    }
    return verdict;
  }
}

function parseRule(line: string): Rule | null {
  const match = /^(allow|deny)\s+("(?:[^"\\]|\\.)*"|\S+)\s+(\S+)(?:\s+(.+))?$/.exec(line);
  if (match === null) return null;
  const [, action, name, kind, rest] = match;
  const exportName = unquoted(name);
  const who = parseWho(kind, rest);
  if (exportName === null || who === null) return null;
  return { allow: action === 'allow', exports: glob(exportName), who };
}

function parseWho(kind: string, rest: string | undefined): Who | null {
  if (SIMPLE.has(kind)) return rest === undefined ? { kind: kind as 'anyone' | 'unix' | 'tls' } : null;
  if (rest === undefined) return null;
  if (kind === 'identity') return { kind, matches: glob(rest) };
  return kind === 'subject' ? parseSubject(rest) : null;
}

/** A pattern that no subject can have would be a rule that never holds, and nobody would notice: `/CN=alice`, `"CN=alice"`, `alice`. */
function parseSubject(pattern: string): Who | null {
  if (/^["/]|^[^=*]*$/.test(pattern)) return null;
  const matches = glob(hexEscaped(pattern).replace(/, +/g, ','));
  return { kind: 'subject', matches: (subject) => matches(hexEscaped(subject).replaceAll('*', '\\2A')) };
}

/**
 * A subject with every escaped character as `\HH`: a comma is then one between two parts, and a pattern that has one cannot be met by a
 * comma within a part, which whoever asks for a certificate may choose.
 */
function hexEscaped(subject: string): string {
  return subject.replace(/\\([0-9a-f]{2}|.)/gis, (_, what: string) => {
    const hex = what.length === 2 ? what : what.charCodeAt(0).toString(16).padStart(2, '0');
    return `\\${hex.toUpperCase()}`;
  });
}

function unquoted(name: string): string | null {
  if (!name.startsWith('"')) return name;
  try {
    return JSON.parse(name) as string;
  } catch {
    return null;
  }
}

/** Text in which `*` stands for any characters, or none. Takes time in proportion to what is matched: clients choose that. */
function glob(pattern: string): Glob {
  const [first, ...rest] = pattern.split('*');
  const last = rest.pop();
  if (last === undefined) return (text) => text === first;
  return (text) => {
    if (!text.startsWith(first)) return false;
    let at = first.length;
    for (const part of rest) {
      const found = text.indexOf(part, at);
      if (found < 0) return false;
      at = found + part.length;
    }
    return text.length - at >= last.length && text.endsWith(last);
  };
}

function isMeant(who: Who, { peer, tls }: Client): boolean {
  switch (who.kind) {
    case 'anyone':
      return true;
    case 'unix':
      return peer === 'unix';
    case 'tls':
      return tls !== null;
    case 'subject':
      return tls?.subject != null && who.matches(tls.subject);
    case 'identity':
      return tls?.identity != null && who.matches(tls.identity);
  }
}
