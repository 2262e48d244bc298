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
            'unix, tls, subject NAME or identity NAME',
        );
      }
      rules.push(rule);
    }
    return new AccessRules(rules);
  }

  /** Whether the client may open an export, or a snapshot by `export@…`. */
  allows(exportName: string, client: Client): boolean {
    for (const { allow, exports, who } of this.#rules) {
      if (covers(exports, exportName) && isMeant(who, client)) return allow;
    }
    return false;
  }

  /** Whether a client in plaintext that may not open an export could hope to in TLS. */
  mightWithTls(exportName: string, client: Client): boolean {
    if (client.tls !== null) return false;
    for (const { allow, exports, who } of this.#rules) {
      if (!covers(exports, exportName)) continue;
      // What decides about it in plaintext would decide in TLS too.
      if (isMeant(who, client)) return allow;
      if (allow && who.kind !== 'unix' && who.kind !== 'anyone') return true;
    }
    return false;
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
  if ((kind === 'subject' || kind === 'identity') && rest !== undefined) return { kind, matches: glob(rest) };
  return null;
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

/** A rule for a volume is one for what is reached through its name: `vol@snapshot`, `vol@time`. */
function covers(exports: Glob, name: string): boolean {
  if (exports(name)) return true;
  for (let at = name.indexOf('@'); at >= 0; at = name.indexOf('@', at + 1)) {
    if (exports(name.slice(0, at))) return true;
  }
  return false;
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
