/**
 * Unix sockets of single volumes: whoever connects to one gets its volume, by whatever name of an export it asks for. They are for clients
 * that cannot name an export, or give it a name of their own (tapdisk sends `tapdisk_client` and a NUL). Such clients know no flush either,
 * so that every write is durable before its answer.
 */
import path from 'node:path';
import type { BlockDevice, Client, DeviceInfo, ExportProvider, NbdServer } from '../nbd/index.js';
import { errnos, messageOf, SystemError } from '../sys/errno.js';
import type { Exports } from './exports.js';

/** Longest path of a unix socket (sun_path without its NUL), in bytes. */
const MAX_PATH = 107;

export interface VolumeSocketsOptions {
  readonly server: Pick<NbdServer, 'listen' | 'unlisten'>;
  readonly exports: Exports;
  readonly runDir: string;
  readonly log: { error(message: string): void };
}

export class VolumeSockets {
  readonly #options: VolumeSocketsOptions;
  /** Of each volume that has one: resolves when it listens. */
  readonly #open = new Map<string, Promise<unknown>>();

  constructor(options: VolumeSocketsOptions) {
    this.#options = options;
  }

  /** Where the socket of a volume is. @throws SystemError ENAMETOOLONG */
  pathOf(volume: string): string {
    const file = path.join(this.#options.runDir, `vol-${volume}.sock`);
    if (Buffer.byteLength(file) <= MAX_PATH) return file;
    throw new SystemError(
      errnos.ENAMETOOLONG,
      `the socket ${file} would have a path of more than ${MAX_PATH} bytes; use a shorter RUN_DIR or volume name`,
    );
  }

  /** The path of a volume's socket; null when it has none. */
  listening(volume: string): string | null {
    return this.#open.has(volume) ? this.pathOf(volume) : null;
  }

  /** Listens for clients of a volume; it does so already when asked twice. @throws SystemError */
  async open(volume: string): Promise<void> {
    const known = this.#open.get(volume);
    if (known) {
      await known;
      return;
    }
    const { server, exports } = this.#options;
    const address = { path: this.pathOf(volume), mode: 0o660 };
    // The name may be no string of the protocol: nothing is taken from it.
    const listening = server.listen(address, { provider: new OneVolume(exports, volume), exportName: () => '' });
    this.#open.set(volume, listening);
    try {
      await listening;
    } catch (error) {
      this.#open.delete(volume);
      throw error;
    }
  }

  /** Ends that, and removes the socket; its clients stay connected. */
  async close(volume: string): Promise<void> {
    const known = this.#open.get(volume);
    if (!known) return;
    this.#open.delete(volume);
    await known.catch(() => {});
    this.#options.server.unlisten({ path: this.pathOf(volume) });
  }

  /** Listens for all of these after a restart; what fails is logged and does not keep the others from their clients. */
  async restore(volumes: readonly string[]): Promise<void> {
    for (const volume of volumes) {
      try {
        await this.open(volume);
      } catch (error) {
        this.#options.log.error(`volume ${volume} has no socket of its own: ${messageOf(error)}`);
      }
    }
  }
}

/** A volume under any name of an export. */
class OneVolume implements ExportProvider {
  readonly #exports: Exports;
  readonly #volume: string;

  constructor(exports: Exports, volume: string) {
    this.#exports = exports;
    this.#volume = volume;
  }

  async list(): Promise<{ name: string; description?: string }[]> {
    return [{ name: this.#volume }];
  }

  describe(_name: string, client: Client): Promise<{ info: DeviceInfo; size: number }> {
    return this.#exports.describe(this.#volume, client);
  }

  metaContexts(_name: string, query: string | null, set: boolean, client: Client): Promise<readonly string[]> {
    return this.#exports.metaContexts(this.#volume, query, set, client);
  }

  open(_name: string, client: Client): Promise<BlockDevice> {
    return this.#exports.open(this.#volume, client, { writeThrough: true, mapped: true });
  }
}
