/** Who may open what: an export provider that asks the access rules first. What a client may not open is, to it, not there. */
import { type BlockDevice, type Client, type DeviceInfo, type ExportProvider, TlsRequiredError } from '../nbd/index.js';
import { errnos, SystemError } from '../sys/errno.js';
import type { AccessRules } from './access-rules.js';

/** What is guarded. */
export interface GuardedProvider extends ExportProvider {
  metaContexts(name: string, query: string | null, set: boolean, client: Client): Promise<readonly string[]>;
  /** The snapshot that a context, which metaContexts told of, tells differences from; null: it tells none. */
  comparedWith(name: string, context: string, client: Client): string | null;
  /** Names of the snapshots of the volume that an export is of. */
  siblings(name: string, client: Client): Promise<ReadonlySet<string>>;
}

/** Applies rules to a provider; without rules everybody may everything. */
export class Authorisation implements ExportProvider {
  readonly #inner: GuardedProvider;
  #rules: AccessRules | null;

  constructor(inner: GuardedProvider, rules: AccessRules | null) {
    this.#inner = inner;
    this.#rules = rules;
  }

  /** Replaces the rules, for what is opened from now on. */
  setRules(rules: AccessRules | null): void {
    this.#rules = rules;
  }

  async list(client: Client): Promise<{ name: string; description?: string }[]> {
    const all = await this.#inner.list(client);
    return all.filter(({ name }) => this.#rules?.allows(name, client) ?? true);
  }

  async describe(name: string, client: Client): Promise<{ info: DeviceInfo; size: number }> {
    this.#check(name, client);
    return this.#inner.describe(name, client);
  }

  async open(name: string, client: Client): Promise<BlockDevice> {
    this.#check(name, client);
    return this.#inner.open(name, client);
  }

  /** A difference tells of the snapshot that it is from: that must be of the same volume, or allowed itself. */
  async metaContexts(name: string, query: string | null, set: boolean, client: Client): Promise<readonly string[]> {
    this.#check(name, client);
    const found = await this.#inner.metaContexts(name, query, set, client);
    const rules = this.#rules;
    if (rules === null) return found;
    const allowed: string[] = [];
    let siblings: ReadonlySet<string> | null = null;
    for (const context of found) {
      const snapshot = this.#inner.comparedWith(name, context, client);
      if (snapshot !== null && !rules.allows(snapshot, client)) {
        siblings ??= await this.#inner.siblings(name, client);
        if (!siblings.has(snapshot)) continue;
      }
      allowed.push(context);
    }
    return allowed;
  }

  /**
   * Nothing is asked of the provider before, so that whether an export is there shows in nothing.
   * @throws TlsRequiredError when TLS might help, else SystemError ENOENT
   */
  #check(name: string, client: Client): void {
    const rules = this.#rules;
    if (rules === null || rules.allows(name, client)) return;
    if (rules.mightWithTls(name, client)) {
      throw new TlsRequiredError('this export is for clients that use TLS: start it first (STARTTLS)');
    }
    throw new SystemError(errnos.ENOENT, `there is no export ${JSON.stringify(name)} that you may open`);
  }
}
