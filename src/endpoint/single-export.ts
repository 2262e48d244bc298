/** An export provider with a default export: the empty name means one volume, and other names are refused unless all are allowed. */
import type { BlockDevice, Client, DeviceInfo, ExportProvider } from '../nbd/index.js';
import { errnos, SystemError } from '../sys/errno.js';

/** What is behind it: a provider with meta contexts. */
type Inner = Required<ExportProvider>;

export class SingleExport implements ExportProvider {
  readonly #inner: Inner;
  readonly #volume: string | null;
  readonly #all: boolean;

  /**
   * @param volume the default export; null: none
   * @param all other names are passed on
   */
  constructor(inner: Inner, volume: string | null, all: boolean) {
    this.#inner = inner;
    this.#volume = volume;
    this.#all = all;
  }

  async list(client: Client): Promise<{ name: string; description?: string }[]> {
    const names = await this.#inner.list(client);
    return this.#all ? names : names.filter(({ name }) => name === this.#volume);
  }

  async open(name: string, client: Client): Promise<BlockDevice> {
    return this.#inner.open(this.#name(name), client);
  }

  async describe(name: string, client: Client): Promise<{ info: DeviceInfo; size: number }> {
    return this.#inner.describe(this.#name(name), client);
  }

  async metaContexts(name: string, query: string | null, set: boolean, client: Client): Promise<readonly string[]> {
    return this.#inner.metaContexts(this.#name(name), query, set, client);
  }

  #name(name: string): string {
    if (name === '' && this.#volume !== null) return this.#volume;
    if (this.#all || name === this.#volume) return name;
    throw new SystemError(errnos.ENOENT, `only ${this.#volume} is exported here`);
  }
}
