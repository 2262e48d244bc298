/**
 * A whole node for one test: its own configuration, directories, segment and TCP port, all gone afterwards. It is driven as an
 * administrator drives it, by `archipelago` and `vlmc` as separate processes, and reached by clients only through NBD.
 */
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { afterAll, afterEach, beforeAll } from 'vitest';
import { guard, unguard } from './guard.js';
import { type Placement, placements, usualPlacement } from './placements.js';
import { attempt, describeOutcome, type Outcome, type RunOptions, run } from './run.js';
import { FileStore, makeStores, type Store, type StoreKind, type Stores, usualStore } from './stores.js';

/** Where the compiled tools are; an installed package's can be tested instead. */
export const bin = process.env.ARCHIPELAGO_TEST_BIN ?? path.resolve(import.meta.dirname, '../../../dist/cli');

export interface NodeOptions {
  readonly placement?: Placement;
  /** What the node keeps maps and blocks in. Default: that of ARCHIPELAGO_TEST_STORE, else files. */
  readonly store?: StoreKind;
  /** Stores that exist already or are shared with another node, or their directories. Default: fresh ones. */
  readonly maps?: string | Store;
  readonly blocks?: string | Store;
  /** A directory for locks of maps in a directory. */
  readonly lockDir?: string;
  /** This node's name in locks. */
  readonly hostname?: string;
  /** More settings, by section and key; they win over the harness's own. */
  readonly settings?: Readonly<Record<string, Readonly<Record<string, string | number>>>>;
}

/** Below those that the kernel gives to connections (ip_local_port_range): it would give one away before a test listens on it. */
const FIRST_PORT = 15_000;
const PORTS = 17_000;

/** A TCP port of 127.0.0.1 that nobody listens on. */
export async function freePort(): Promise<number> {
  for (;;) {
    const port = FIRST_PORT + Math.floor(Math.random() * PORTS);
    if (await isFree(port)) return port;
  }
}

function isFree(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const server = net.createServer().once('error', () => resolve(false));
    server.listen(port, '127.0.0.1', () => server.close(() => resolve(true)));
  });
}

export class TestNode {
  /** Everything of this node is below it. */
  readonly dir: string;
  readonly conf: string;
  readonly socket: string;
  readonly port: number;
  readonly stores: Stores;
  readonly segment: string;
  /** Stores that are of nobody else. */
  readonly #own: readonly Store[];

  private constructor(options: NodeOptions, dir: string, port: number, fresh: Stores) {
    this.dir = dir;
    const given = (part: 'maps' | 'blocks'): Store | undefined => {
      const store = options[part];
      const lockDir = part === 'maps' ? options.lockDir : undefined;
      return typeof store === 'string' ? new FileStore(part, store, lockDir) : store;
    };
    this.stores = { maps: given('maps') ?? fresh.maps, blocks: given('blocks') ?? fresh.blocks };
    this.#own = Object.values(this.stores).filter((store) => store === fresh.maps || store === fresh.blocks);
    this.conf = path.join(this.dir, 'archipelago.conf');
    this.socket = path.join(this.dir, 'run', 'nbd.sock');
    this.port = port;
    this.segment = path.basename(this.dir);
    for (const directory of ['run', 'log']) mkdirSync(path.join(this.dir, directory));
    writeFileSync(this.conf, this.#configuration(options));
  }

  /** Directory of the maps, for tests that are about files. @throws when they are elsewhere */
  get maps(): string {
    return directoryOf(this.stores.maps);
  }

  /** Directory of the blocks, for tests that are about files. @throws when they are elsewhere */
  get blocks(): string {
    return directoryOf(this.stores.blocks);
  }

  /** Makes a node's configuration without starting it. */
  static async prepare(options: NodeOptions = {}): Promise<TestNode> {
    const dir = mkdtempSync(path.join(os.tmpdir(), 'archipelago-test-'));
    guard(dir);
    const given = options.maps !== undefined && options.blocks !== undefined;
    const fresh = await makeStores(given ? 'files' : (options.store ?? usualStore()), dir, options.lockDir);
    return new TestNode(options, dir, await freePort(), fresh);
  }

  /** Makes a node and starts it. */
  static async start(options: NodeOptions = {}): Promise<TestNode> {
    const node = await TestNode.prepare(options);
    try {
      await node.archipelago('start');
    } catch (error) {
      const log = node.logs();
      await node.dispose().catch(() => {});
      throw new Error(`${(error as Error).message}\n${log}`);
    }
    return node;
  }

  #configuration(options: NodeOptions): string {
    const { username, gid } = os.userInfo();
    const placement = placements[options.placement ?? usualPlacement()];
    const sections: Record<string, Readonly<Record<string, string | number>>> = {
      ARCHIPELAGO: {
        USER: username,
        GROUP: groupName(gid),
        RUN_DIR: path.join(this.dir, 'run'),
        LOG_DIR: path.join(this.dir, 'log'),
        LOG: 'file',
        ...(options.hostname ? { HOSTNAME: options.hostname } : {}),
      },
      XSEG: { SEGMENT_NAME: this.segment, EXPECTED_VOLUMES: 1 },
      PEERS: placement === null ? {} : { PLACEMENT: placement },
      blockerb: this.stores.blocks.settings,
      blockerm: this.stores.maps.settings,
      nbd: { socket: this.socket, listen: `127.0.0.1:${this.port}` },
    };
    for (const [name, values] of Object.entries(options.settings ?? {})) {
      sections[name] = { ...sections[name], ...values };
    }
    return Object.entries(sections)
      .map(([name, values]) =>
        [`[${name}]`, ...Object.entries(values).map(([key, value]) => `${key} = ${value}`), ''].join('\n'),
      )
      .join('\n');
  }

  /** Runs `archipelago`; it must succeed. Resolves to what it printed. */
  async archipelago(...args: string[]): Promise<string> {
    return (await run(process.execPath, [path.join(bin, 'archipelago.js'), '-c', this.conf, ...args])).stdout;
  }

  /** Runs `archipelago`, whatever it says. */
  tryArchipelago(...args: string[]): Promise<Outcome> {
    return attempt(process.execPath, [path.join(bin, 'archipelago.js'), '-c', this.conf, ...args]);
  }

  /** Runs `vlmc`; it must succeed. Resolves to what it printed. */
  async vlmc(...args: string[]): Promise<string> {
    return (await run(process.execPath, [path.join(bin, 'vlmc.js'), '-c', this.conf, ...args])).stdout;
  }

  /** Runs `vlmc … --json`; it must succeed. Resolves to what it printed, parsed. */
  async vlmcJson<T>(...args: string[]): Promise<T> {
    return JSON.parse(await this.vlmc(...args, '--json')) as T;
  }

  /** Runs `vlmc`, whatever it says. */
  tryVlmc(args: readonly string[], options?: RunOptions): Promise<Outcome> {
    return attempt(process.execPath, [path.join(bin, 'vlmc.js'), '-c', this.conf, ...args], options);
  }

  /** Creates a volume of `size` (bytes, or with a suffix) and resolves to its URI. */
  async create(name: string, size: string | number): Promise<string> {
    await this.vlmc('create', name, '--size', typeof size === 'number' ? bytes(size) : size);
    return this.uri(name);
  }

  /** The volume's URI on the unix socket. */
  uri(volume: string): string {
    return `nbd+unix:///${volume}?socket=${this.socket}`;
  }

  /** The volume's URI on TCP. */
  tcpUri(volume: string): string {
    return `nbd://127.0.0.1:${this.port}/${volume}`;
  }

  /** Pids of this node's processes: those that were given its configuration. */
  pids(): number[] {
    return readdirSync('/proc')
      .filter((entry) => /^\d+$/.test(entry) && Number(entry) !== process.pid)
      .filter((entry) => {
        try {
          return readFileSync(`/proc/${entry}/cmdline`, 'utf8').split('\0').includes(this.conf);
        } catch {
          return false; // it ended while we looked
        }
      })
      .map(Number);
  }

  /** The pid in a role's pidfile. */
  rolePid(role: string): number {
    return Number(readFileSync(path.join(this.dir, 'run', `${role}.pid`), 'utf8'));
  }

  /** What the node left behind after it stopped; nothing, if all is well. */
  leftovers(): string[] {
    const found = this.pids().map((pid) => `process ${pid}`);
    for (const file of readdirSync('/dev/shm')) {
      if (file === this.segment || file.startsWith(`${this.segment}.`)) found.push(`segment /dev/shm/${file}`);
    }
    // Whatever a node keeps in its run directory, nothing there may outlive it but the registry of mappings.
    for (const file of readdirSync(path.join(this.dir, 'run'))) {
      const full = path.join(this.dir, 'run', file);
      if (file.endsWith('.pid') || statSync(full).isSocket() || statSync(full).isFIFO()) found.push(full);
    }
    return found;
  }

  /** The end of each log file. */
  logs(lines = 60): string {
    const directory = path.join(this.dir, 'log');
    if (!existsSync(directory)) return '';
    return readdirSync(directory)
      .map((file) => {
        const text = readFileSync(path.join(directory, file), 'utf8').trimEnd().split('\n');
        return [`--- ${file}`, ...text.slice(-lines)].join('\n');
      })
      .join('\n');
  }

  /** How the node is, and the end of each log: for somebody who looks into a test that failed. */
  async report(): Promise<string> {
    const status = await this.tryArchipelago('status').then(describeOutcome, (error: Error) => error.message);
    return `${status}\n${this.logs()}`;
  }

  /** Stops the node and removes all of it. @throws when it does not stop, or leaves something behind */
  async dispose(): Promise<void> {
    let problem: string | null = null;
    try {
      const outcome = await this.tryArchipelago('stop', '-f');
      if (outcome.code !== 0) problem = describeOutcome(outcome);
    } catch (error) {
      problem = (error as Error).message;
    }
    const left = this.leftovers();
    if (left.length > 0) problem = [problem, `left behind: ${left.join(', ')}`, this.logs()].filter(Boolean).join('\n');
    this.kill();
    for (const part of ['', '.bells']) rmSync(`/dev/shm/${this.segment}${part}`, { recursive: true, force: true });
    await Promise.all(this.#own.map((store) => store.dispose()));
    rmSync(this.dir, { recursive: true, force: true });
    unguard(this.dir);
    if (problem !== null) throw new Error(`the node did not stop as it should\n${problem}`);
  }

  /** kill -9 of everything of this node; its files stay when this process ends, for somebody to look at. */
  keep(): void {
    this.kill();
    unguard(this.dir);
  }

  /** kill -9 of everything of this node. */
  kill(): void {
    this.signal('SIGKILL');
  }

  /** A signal to the processes of some roles; of none: to everything of this node. Processes that are gone are fine. */
  signal(signal: NodeJS.Signals, ...roles: readonly string[]): void {
    const pids = roles.length === 0 ? this.pids() : new Set(roles.map((role) => this.rolePid(role)));
    for (const pid of pids) {
      try {
        process.kill(pid, signal);
      } catch {
        // it was quicker
      }
    }
  }
}

function directoryOf(store: Store): string {
  if (store instanceof FileStore) return store.directory;
  throw new Error(`the ${store.part} of this node are on RADOS: look by its stores`);
}

/** A size in bytes as `vlmc --size` takes it. */
export function bytes(size: number): string {
  return `${size}B`;
}

function groupName(gid: number): string {
  const line = readFileSync('/etc/group', 'utf8')
    .split('\n')
    .find((entry) => entry.split(':')[2] === String(gid));
  return line?.split(':')[0] ?? String(gid);
}

/**
 * A node for the tests of the enclosing describe (or file): started before them, stopped and removed after them, its status and logs shown
 * when one fails. `extra` makes options that need preparation of their own, e.g. a directory.
 */
export function useNode(options: NodeOptions | (() => NodeOptions | Promise<NodeOptions>) = {}): {
  readonly node: TestNode;
} {
  let node: TestNode | undefined;
  beforeAll(async () => {
    node = await TestNode.start(typeof options === 'function' ? await options() : options);
  });
  afterEach(async ({ task }) => {
    if (task.result?.state === 'fail') console.error(await node?.report());
  });
  afterAll(async () => {
    await node?.dispose();
    node = undefined;
  });
  return {
    get node(): TestNode {
      if (!node) throw new Error('the node is there only while tests run');
      return node;
    },
  };
}
