/** Who may open what: an export provider that asks the access rules first. What a client may not open is, to it, not there. */
import { type BlockDevice, type Client, type DeviceInfo, type ExportProvider, TlsRequiredError } from '../nbd/index.js';
import { errnos, SystemError } from '../sys/errno.js';
import type { AccessRules, Verdict } from './access-rules.js';
import { splitName } from './names.js';
import { isNone } from './resolve.js';

/** What is guarded. */
export interface GuardedProvider extends ExportProvider {
  metaContexts(name: string, query: string | null, set: boolean, client: Client): Promise<readonly string[]>;
  /** The snapshot that a context, which metaContexts told of, tells differences from; null: it tells none. */
  comparedWith(name: string, context: string, client: Client): string | null;
  /** Names of the snapshots of the volume that an export is of. */
  siblings(name: string, client: Client): Promise<ReadonlySet<string>>;
  /** Of the volumes that the name of an export begins with, before an `@`, those that it is a snapshot of. @throws SystemError ENOENT */
  volumesOf(name: string, client: Client): Promise<readonly string[]>;
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
    const allowed: typeof all = [];
    for (const entry of all) if (await this.#allows(entry.name, client)) allowed.push(entry);
    return allowed;
  }

  async describe(name: string, client: Client): Promise<{ info: DeviceInfo; size: number }> {
    await this.#check(name, client);
    return this.#inner.describe(name, client);
  }

  async open(name: string, client: Client): Promise<BlockDevice> {
    await this.#check(name, client);
    return this.#inner.open(name, client);
  }

  /** A difference tells of the snapshot that it is from: that must be of the same volume, or allowed itself. */
  async metaContexts(name: string, query: string | null, set: boolean, client: Client): Promise<readonly string[]> {
    await this.#check(name, client);
    const found = await this.#inner.metaContexts(name, query, set, client);
    if (this.#rules === null) return found;
    const allowed: string[] = [];
    let siblings: ReadonlySet<string> | null = null;
    for (const context of found) {
      const snapshot = this.#inner.comparedWith(name, context, client);
      if (snapshot !== null && !(await this.#allows(snapshot, client))) {
        siblings ??= await this.#inner.siblings(name, client);
        if (!siblings.has(snapshot)) continue;
      }
      allowed.push(context);
    }
    return allowed;
  }

  async #allows(name: string, client: Client): Promise<boolean> {
    return (await this.#verdict(name, client)) === 'allowed';
  }

  /** @throws TlsRequiredError when TLS might help, else SystemError ENOENT: whether the export is there shows in nothing */
  async #check(name: string, client: Client): Promise<void> {
    const verdict = await this.#verdict(name, client);
    if (verdict === 'allowed') return;
    if (verdict === 'needs TLS') {
      throw new TlsRequiredError('this export is for clients that use TLS: start it first (STARTTLS)');
    }
    throw new SystemError(errnos.ENOENT, `there is no export ${JSON.stringify(name)} that you may open`);
  }

  /**
   * A rule for `vol` is one for `vol@snapshot` too, but not for another volume that is called `vol@other`. Which of these it is is asked
   * of the provider only for clients that may open one of them.
   */
  async #verdict(name: string, client: Client): Promise<Verdict> {
    const rules = this.#rules;
    if (rules === null) return 'allowed';
    const verdicts = [rules.verdict([name], client)];
    for (const { volume } of splitName(name)) verdicts.push(rules.verdict([name, volume], client));
    const [first] = verdicts;
    if (verdicts.every((verdict) => verdict === first)) return first;
    if (!verdicts.includes('allowed')) return 'needs TLS';
    try {
      return rules.verdict([name, ...(await this.#inner.volumesOf(name, client))], client);
    } catch (error) {
      if (isNone(error)) return 'refused';
      throw error;
    }
  }
}
