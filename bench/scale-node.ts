/** A node for the curves: its tools are timed, and its processes looked at. */
import { once } from 'node:events';
import { readdirSync, readFileSync } from 'node:fs';
import net from 'node:net';
import path from 'node:path';
import { createInterface } from 'node:readline';
import { Archipelago } from './archipelago.js';
import { run } from './process.js';

const bin = process.env.ARCHIPELAGO_TEST_BIN ?? path.resolve(import.meta.dirname, '../cli');

/** Numbers of operations. */
const OPEN = 14;
const SNAPSHOT = 16;
/** More than there are volumes in use. */
const CONNECTIONS = 2500;
/** Bytes of a name in a request's data; its length follows. */
const NAME = 256;

/** A request to one of the node's roles. */
interface Ask {
  readonly peer: 'mapper' | 'composer';
  readonly op: number;
  readonly target: string;
  readonly data?: string;
}

/** What a node's processes use. */
export interface Usage {
  /** Resident memory without what is shared between processes, in bytes. */
  readonly memory: number;
  /** CPU time, ms. */
  readonly cpu: number;
  /** How often a thread went to sleep and was woken. */
  readonly wakeUps: number;
}

export class ScaleNode {
  readonly #dir: string;
  readonly #node: Archipelago;
  /** Where its stores are. */
  readonly maps: string;
  readonly blocks: string;
  /** The socket of its exports. */
  readonly socket: string;

  private constructor(dir: string, node: Archipelago) {
    this.#dir = path.join(dir, node.id);
    this.#node = node;
    this.maps = path.join(this.#dir, 'maps');
    this.blocks = path.join(this.#dir, 'blocks');
    this.socket = path.join(this.#dir, 'nbd.sock');
  }

  /** Starts one with its files in `dir`. */
  static async start(dir: string): Promise<ScaleNode> {
    // These lines belong to [nbd], the last section. Before it can be connected to again, the former connection may still be there.
    const node = new Archipelago(dir, { diskSize: 1 << 30, configuration: [`max_connections = ${CONNECTIONS}`] });
    await node.start();
    return new ScaleNode(dir, node);
  }

  stop(): Promise<void> {
    return this.#node.stop();
  }

  /** Runs a tool to its end; its milliseconds. */
  async timed(tool: string, ...args: string[]): Promise<number> {
    const began = performance.now();
    await run(process.execPath, [path.join(bin, `${tool}.js`), '-c', path.join(this.#dir, 'conf'), ...args]);
    return performance.now() - began;
  }

  /** Does for all these volumes what `vlmc open` does for one. @throws with what the node said when it refused one */
  open(volumes: readonly string[]): Promise<void> {
    return this.#askAll(volumes.map((target) => ({ peer: 'mapper', op: OPEN, target })));
  }

  /** Does for all these names what `vlmc snapshot` does for one. @throws with what the node said when it refused one */
  takeSnapshots(volume: string, names: readonly string[]): Promise<void> {
    const asks = names.map((name): Ask => {
      const data = Buffer.alloc(NAME + 4);
      data.writeUInt32LE(data.write(name, 'latin1'), NAME);
      return { peer: 'composer', op: SNAPSHOT, target: volume, data: data.toString('base64') };
    });
    return this.#askAll(asks);
  }

  /** One after the other. */
  async #askAll(asks: readonly Ask[]): Promise<void> {
    const socket = net.connect(path.join(this.#dir, 'run', 'bridge.sock'));
    try {
      const lines = createInterface({ input: socket })[Symbol.asyncIterator]();
      await once(socket, 'connect');
      await lines.next();
      for (const [id, ask] of asks.entries()) {
        socket.write(`${JSON.stringify({ id, ...ask })}\n`);
        const { value } = await lines.next();
        if (!value?.includes('"serviced"') || value.includes('"errno"')) {
          throw new Error(`the node refused operation ${ask.op} on ${ask.target}: ${value}`);
        }
      }
    } finally {
      socket.destroy();
    }
  }

  /** What all its processes use now, or have used until now. */
  usage(): Usage {
    const usage = { memory: 0, cpu: 0, wakeUps: 0 };
    for (const pid of this.#node.servers()) {
      const status = readFileSync(`/proc/${pid}/status`, 'utf8');
      usage.memory += Number(/RssAnon:\s+(\d+)/.exec(status)?.[1]) * 1024;
      for (const task of readdirSync(`/proc/${pid}/task`)) {
        usage.wakeUps += Number(
          /\nvoluntary_ctxt_switches:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/task/${task}/status`, 'utf8'))?.[1],
        );
      }
      const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
      const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
      usage.cpu += (Number(fields[11]) + Number(fields[12])) * 10;
    }
    return usage;
  }
}
