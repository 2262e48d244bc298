/**
 * Meta contexts of exports (protocol document, "Metadata querying"): which names there are, and what the mapper is asked for each.
 *
 *     base:allocation                                       answered by the composer
 *     qemu:allocation-depth                                 0 no object, 1 own, 2 shared with a snapshot
 *     archipelago:object                                    which object holds an extent
 *     archipelago:diff:S  =  qemu:dirty-bitmap:S            1 where the export differs from the snapshot S
 */
import { BASE_ALLOCATION, type Client } from '../nbd/index.js';
import { decodeMapStatus, encodeMapStatus } from '../requests/json.js';
import { errnoOf, errnos, messageOf } from '../sys/errno.js';
import { parseTime } from './names.js';
import { isNone, type Resolved, type Resolver } from './resolve.js';
import { plainAddress, type VolumeLookup } from './volumes.js';

const DEPTH = 'qemu:allocation-depth';
const OBJECT = 'archipelago:object';
const DIFF_PREFIXES = ['archipelago:diff:', 'qemu:dirty-bitmap:'] as const;

/** Contexts that every export has. */
export const FIXED_CONTEXTS: readonly string[] = [BASE_ALLOCATION, DEPTH, OBJECT];
/** Most snapshots of a volume that a list of contexts names: the newest. Others can be asked for by name. */
const MAX_LISTED = 500;

/** What the chosen contexts of one export ask the mapper for (MAPSTATUS), by their names. base:allocation is not among them. */
export type ContextRequests = ReadonlyMap<string, Uint8Array>;

const fixedRequests = (): Map<string, Uint8Array> =>
  new Map([
    [DEPTH, encodeMapStatus({ what: 'depth' })],
    [OBJECT, encodeMapStatus({ what: 'object' })],
  ]);

/** What an export is compared with. One that is made under its name later has another epoch. */
interface Reference {
  readonly from: string;
  readonly epoch: number;
}

/** What is there is no map that can be compared with: none, damaged, of another format, or the name cannot be one. */
const noReference: ReadonlySet<number> = new Set([
  errnos.ENOENT,
  errnos.ENAMETOOLONG,
  errnos.EINVAL,
  errnos.EIO,
  errnos.EOPNOTSUPP,
]);

export interface ContextsOptions {
  readonly volumes: VolumeLookup;
  readonly resolver: Resolver;
  /** Is told why a context that was asked for is not offered. */
  readonly log: { info(message: string): void };
}

export class Contexts {
  readonly #options: ContextsOptions;
  /** Of each connection and each name of an export: a time in a context's name is resolved once. */
  readonly #chosen = new WeakMap<Client, Map<string, Map<string, Uint8Array>>>();

  constructor(options: ContextsOptions) {
    this.#options = options;
  }

  /** What this connection's contexts of an export ask the mapper for; contexts chosen later are in it too. */
  requests(exportName: string, client: Client): ContextRequests {
    return this.#requests(exportName, client);
  }

  #requests(exportName: string, client: Client): Map<string, Uint8Array> {
    const exports = this.#chosen.get(client) ?? new Map<string, Map<string, Uint8Array>>();
    const requests = exports.get(exportName) ?? fixedRequests();
    this.#chosen.set(client, exports.set(exportName, requests));
    return requests;
  }

  /**
   * Names that match a query: ExportProvider.metaContexts.
   * @param what the export, as its name was resolved
   */
  async find(
    exportName: string,
    what: Resolved,
    query: string | null,
    set: boolean,
    client: Client,
  ): Promise<readonly string[]> {
    if (query === null || (!set && query.endsWith(':'))) return this.#list(what, query ?? '', client);
    if (FIXED_CONTEXTS.includes(query)) return [query];
    const prefix = DIFF_PREFIXES.find((candidate) => query.startsWith(candidate));
    if (prefix === undefined) return [];
    const requests = this.#requests(exportName, client);
    if (requests.has(query)) return [query];
    const from = await this.#snapshot(what, query.slice(prefix.length), client);
    if (from === null) return [];
    requests.set(query, encodeMapStatus({ what: 'diff', ...from }));
    return [query];
  }

  /**
   * The snapshot that a context which find() told of tells the differences from; null: it tells none.
   * A name is itself; what a time means was settled when it was found.
   */
  comparedWith(exportName: string, context: string, client: Client): string | null {
    const prefix = DIFF_PREFIXES.find((candidate) => context.startsWith(candidate));
    if (prefix === undefined) return null;
    const request = this.#requests(exportName, client).get(context);
    const asked = request && decodeMapStatus(request);
    return asked?.what === 'diff' ? asked.from : context.slice(prefix.length);
  }

  /** All contexts whose names begin so. */
  async #list(what: Resolved, start: string, client: Client): Promise<readonly string[]> {
    const names = FIXED_CONTEXTS.filter((name) => name.startsWith(start));
    const prefixes = DIFF_PREFIXES.filter((prefix) => prefix.startsWith(start));
    if (prefixes.length === 0) return names;
    const snapshots = await this.#comparable(what, client);
    return [...names, ...prefixes.flatMap((prefix) => snapshots.map((snapshot) => prefix + snapshot))];
  }

  /** The snapshots that an export is listed as comparable with: its volume's other ones, and what it was cloned from. */
  async #comparable({ volume, info, via }: Resolved, client: Client): Promise<string[]> {
    const base = baseVolume({ volume, info, via });
    const snapshots = base === null ? [] : (await this.#snapshotsOf(base, client)).slice(0, MAX_LISTED);
    if (!info.readOnly && info.parent !== null) {
      const parent = await this.#look(info.parent, info.blockSize);
      if (typeof parent !== 'string') snapshots.push(parent.from);
    }
    return snapshots.filter((name) => name !== volume.name);
  }

  /** All snapshots of the volume that an export is of. */
  async siblings(what: Resolved, client: Client): Promise<string[]> {
    const base = baseVolume(what);
    return base === null ? [] : this.#snapshotsOf(base, client);
  }

  /** A volume that is gone or damaged has none: that must not keep clients from its snapshots. */
  async #snapshotsOf(volume: string, client: Client): Promise<string[]> {
    try {
      return await this.#options.resolver.snapshots(volume, client);
    } catch (error) {
      if (!isNone(error)) this.#options.log.info(`no snapshots of ${volume} are listed: ${messageOf(error)}`);
      return [];
    }
  }

  /** The snapshot that a part of a context's name means; null, with a word in the log, when it means none. */
  async #snapshot(what: Resolved, selector: string, client: Client): Promise<Reference | null> {
    const named = await this.#look(selector, what.info.blockSize);
    if (typeof named !== 'string') return named;
    const time = parseTime(selector, Date.now());
    const base = baseVolume(what);
    let reason = named;
    if (time !== null && base !== null) {
      try {
        const name = await this.#options.resolver.newestAt(base, time, client);
        const found = await this.#look(name, what.info.blockSize);
        if (typeof found !== 'string') return found;
        reason = found;
      } catch (error) {
        if (errnoOf(error) !== errnos.ENOENT) throw error;
        reason = messageOf(error);
      }
    }
    this.#options.log.info(`no difference of ${what.name} from ${selector} is offered: ${reason}`);
    return null;
  }

  /** The read-only map of this name, or why nothing can be compared with it. */
  async #look(name: string, blockSize: number): Promise<Reference | string> {
    if (name === '') return 'it has no name';
    try {
      const info = await this.#options.volumes.info(plainAddress(name));
      if (!info.readOnly) return `${name} is not read-only: what it holds can change`;
      if (info.blockSize !== blockSize) return `${name} has blocks of ${info.blockSize} bytes, not ${blockSize}`;
      return { from: name, epoch: info.epoch };
    } catch (error) {
      if (noReference.has(errnoOf(error))) return messageOf(error);
      throw error;
    }
  }
}

/** The volume whose snapshots a time in a context's name is looked for among. */
function baseVolume({ volume, info, via }: Pick<Resolved, 'volume' | 'info' | 'via'>): string | null {
  if (!info.readOnly || via !== volume.name) return via;
  return info.parent;
}
