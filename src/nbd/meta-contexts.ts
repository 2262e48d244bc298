/** Which meta contexts an export has and which of them a client chose (protocol document, "Metadata querying"). */
import type { Client, ExportProvider } from './device.js';
import type { MetaContext } from './session.js';

/** The state of one handshake. A choice is bound to the export it was made for. */
export class MetaContexts {
  readonly #provider: ExportProvider;
  #chosen: readonly MetaContext[] = [];
  #exportName: string | null = null;

  constructor(provider: ExportProvider) {
    this.#provider = provider;
  }

  /**
   * Names of the contexts that queries match, each once.
   * @param set SET_META_CONTEXT: exact names only, and no query chooses none; else LIST_META_CONTEXT, where no query lists all
   * @throws what the provider says of the export
   */
  async find(exportName: string, queries: readonly string[], set: boolean, client: Client): Promise<readonly string[]> {
    const provider = this.#provider;
    const none = set && queries.length === 0;
    if (provider.metaContexts === undefined || none) {
      const { metaContexts } = (await provider.describe(exportName, client)).info;
      return metaContexts.filter((context) => (set ? queries.includes(context) : isListed(context, queries)));
    }
    const found = new Set<string>();
    for (const query of queries.length === 0 ? [null] : queries) {
      for (const context of await provider.metaContexts(exportName, query, set, client)) found.add(context);
    }
    return [...found];
  }

  /** Makes these the choice for an export. */
  choose(exportName: string, names: readonly string[]): readonly MetaContext[] {
    this.#chosen = names.map((name, i) => ({ id: i + 1, name }));
    this.#exportName = exportName;
    return this.#chosen;
  }

  /** What was chosen for an export. */
  of(exportName: string): readonly MetaContext[] {
    return this.#exportName === exportName ? this.#chosen : [];
  }

  clear(): void {
    this.#chosen = [];
    this.#exportName = null;
  }
}

/** LIST_META_CONTEXT: no query lists all, `namespace:` lists that namespace, anything else itself. */
function isListed(context: string, queries: readonly string[]): boolean {
  if (queries.length === 0) return true;
  return queries.some((query) => query === context || (query.endsWith(':') && context.startsWith(query)));
}
