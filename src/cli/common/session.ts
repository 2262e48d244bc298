/** One run of a command: its streams, its configuration, the node it talks to, connected when first asked for, and the kernel's devices. */
import { loadConfig } from '../../config/index.js';
import type { Config } from '../../config/types.js';
import type { EndpointAddress } from '../../devices/types.js';
import { messageOf } from '../../sys/errno.js';
import { NodeClient } from './client.js';
import { type DeviceAccess, kernelDevices, type OpenDevices } from './devices.js';
import { CliError } from './exit.js';
import { type Io, print, printJson } from './io.js';
import { Progress } from './progress.js';

/** The options that every command of a tool has. */
export interface GlobalOptions {
  readonly config?: string;
  readonly json?: boolean;
}

export class Session {
  readonly name: string;
  readonly io: Io;
  readonly progress: Progress;
  #options: GlobalOptions = {};
  #config: Config | null = null;
  #client: NodeClient | null = null;
  readonly #openDevices: OpenDevices;

  /** @param name of the tool @param openDevices for tests: other devices than the kernel's */
  constructor(name: string, io: Io, openDevices: OpenDevices = kernelDevices) {
    this.name = name;
    this.io = io;
    this.#openDevices = openDevices;
    this.progress = new Progress(io);
  }

  /** Takes over what was on the command line. */
  configure(options: GlobalOptions): void {
    this.#options = options;
  }

  get json(): boolean {
    return this.#options.json === true;
  }

  /** @throws CliError naming file, section and key */
  get config(): Config {
    try {
      this.#config ??= loadConfig(this.#options.config ?? null);
    } catch (error) {
      throw new CliError(messageOf(error), undefined, { cause: error });
    }
    return this.#config;
  }

  /** @throws CliError when the node does not run */
  get client(): NodeClient {
    this.#client ??= NodeClient.connect(this.config, this.name, patienceOf(this.io.env.ARCHIPELAGO_PATIENCE));
    return this.#client;
  }

  /** The devices of this node. @param endpoint where a new one connects; null: as configured */
  devices(endpoint: EndpointAddress | null = null): Promise<DeviceAccess> {
    return this.#openDevices(this.config, endpoint);
  }

  /** Leaves the node for now; the next request joins it anew. */
  disconnect(): void {
    this.#client?.close();
    this.#client = null;
  }

  /** Prints the outcome of a command: `text` (a line, or nothing when empty), or `value` with --json. */
  async result(value: unknown, text = ''): Promise<void> {
    if (this.json) await printJson(this.io, value);
    else if (text !== '') await print(this.io, `${text}\n`);
  }

  /** Leaves the node. */
  close(): void {
    this.progress.clear();
    this.disconnect();
  }
}

/** Seconds of the environment as ms; undefined: as built in. @throws CliError for what is no number */
function patienceOf(text: string | undefined): number | undefined {
  if (text === undefined || text === '') return undefined;
  const seconds = Number(text);
  if (!(seconds > 0 && seconds <= 86_400)) throw new CliError(`ARCHIPELAGO_PATIENCE=${text} is no number of seconds`);
  return seconds * 1000;
}
