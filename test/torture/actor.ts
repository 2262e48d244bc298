/**
 * A client process, to be killed at any time: connections to volumes by the NBD library, which it makes again when they are lost, and
 * requests for the mapper through the segment. node actor.js CONF SOCKET; its parent says what to do (protocol.ts).
 */
import { NodeClient } from '../../src/cli/common/client.js';
import { findRole, loadConfig } from '../../src/config/index.js';
import { connectNbd, DisconnectedError, type NbdClient, NbdError } from '../../src/nbd/index.js';
import { Flag, Op } from '../../src/requests/ops.js';
import { encodeClone, encodeName } from '../../src/requests/structs.js';
import { errnoName, errnoOf, messageOf } from '../../src/sys/errno.js';
import type { CallInit } from '../../src/xseg/index.js';
import { makeContent, readContent, SECTOR } from './content.js';
import { type Asked, CONNECTIONS, type Control, type Outcome, type Reopened } from './protocol.js';

/** Between two attempts to connect to an endpoint that is being started again, in ms. */
const RETRY_MS = 20;

const [, , conf, socket] = process.argv;
const config = loadConfig(conf);
const mapperPort = findRole(config, 'mapperd')?.portnoStart ?? -1;
const composerPort = findRole(config, 'vlmcd')?.portnoStart ?? -1;
const endpointPort = findRole(config, 'nbd')?.portnoStart ?? -1;

const say = (message: Outcome | Reopened): void => void process.send?.(message);
const pause = (): Promise<void> => new Promise((resolve) => setTimeout(resolve, RETRY_MS));

/** The connections of one volume. All of them are made anew when one is lost. */
class Volume {
  readonly name: string;
  #clients: NbdClient[] = [];
  #open: Promise<void>;
  #closed = false;

  constructor(name: string) {
    this.name = name;
    this.#open = this.#connect();
  }

  opened(): Promise<void> {
    return this.#open;
  }

  async #connect(): Promise<void> {
    while (!this.#closed) {
      try {
        const clients: NbdClient[] = [];
        for (let i = 0; i < CONNECTIONS; i++) {
          const replies = i % 2 === 0 ? 'extended' : 'simple';
          clients.push(await connectNbd({ path: socket }, { exportName: this.name, strict: false, replies }));
        }
        this.#clients = clients;
        for (const client of clients) void client.closed.then(() => this.#lost(client));
        return;
      } catch (error) {
        if (!isAway(error)) throw error;
        await pause();
      }
    }
  }

  #lost(client: NbdClient): void {
    if (this.#closed || !this.#clients.includes(client)) return;
    for (const other of this.#clients) other.destroy();
    this.#clients = [];
    this.#open = this.#connect();
    // What waited for these connections goes on before the word gets out, and may.
    this.#open.then(
      () => say({ reopened: this.name }),
      // Whoever asks for a connection is told.
      () => {},
    );
  }

  /** @throws DisconnectedError when there is no connection at present */
  async client(connection: number): Promise<NbdClient> {
    await this.#open;
    const client = this.#clients[connection];
    if (!client) throw new DisconnectedError('the connection was lost');
    return client;
  }

  async close(): Promise<void> {
    this.#closed = true;
    await this.#open.catch(() => undefined);
    await Promise.all(this.#clients.map((client) => client.disconnect().catch(() => undefined)));
  }
}

const isLoss = (error: unknown): boolean => error instanceof DisconnectedError;

/** The endpoint is not there yet, or went away while it was asked. */
function isAway(error: unknown): boolean {
  if (error instanceof NbdError) return false;
  return ['ECONNREFUSED', 'ENOENT', 'ECONNRESET', 'EPIPE'].some((name) => errnoName(errnoOf(error)) === name);
}

const volumes = new Map<string, Volume>();
let node: NodeClient | null = null;

function request(control: Control): { port: number; init: CallInit } {
  switch (control.kind) {
    case 'create': {
      const data = encodeClone({ parent: control.parent ?? '', size: control.size });
      return { port: mapperPort, init: { op: Op.CLONE, target: control.name, data } };
    }
    case 'snapshot':
      return {
        port: composerPort,
        init: { op: Op.SNAPSHOT, target: control.name, data: encodeName(control.snapshot) },
      };
    case 'resize':
      return {
        port: mapperPort,
        init: { op: Op.TRUNCATE, target: control.name, offset: control.size, flags: Flag.FORCE },
      };
    case 'rename':
      return { port: mapperPort, init: { op: Op.RENAME, target: control.name, data: encodeName(control.to) } };
    case 'remove':
      return { port: composerPort, init: { op: Op.DELETE, target: control.name } };
  }
}

async function change(control: Control): Promise<void> {
  node ??= NodeClient.connect(config, 'torture');
  const own = await node.join();
  const { port, init } = request(control);
  await own.port.call(port, init, { wait: true });
  if (control.kind !== 'resize') return;
  const refresh = { op: Op.INFO, target: control.name, capacity: 8 };
  // Nobody is told when nobody has it open.
  await own.port.call(endpointPort, refresh, { wait: true }).catch(() => undefined);
}

async function work(asked: Asked): Promise<Partial<Extract<Outcome, { state: 'done' }>>> {
  if (asked.do === 'control') {
    await change(asked.control);
    return {};
  }
  if (asked.do === 'open') {
    const volume = volumes.get(asked.volume) ?? new Volume(asked.volume);
    volumes.set(asked.volume, volume);
    await volume.opened();
    return {};
  }
  const volume = volumes.get(asked.volume);
  if (!volume) throw new Error(`${asked.volume} is not open here`);
  if (asked.do === 'close') {
    volumes.delete(asked.volume);
    await volume.close();
    return {};
  }
  const client = await volume.client(asked.connection);
  if (asked.do === 'flush') {
    await client.flush();
    return {};
  }
  const { first, count } = asked;
  const [offset, length] = [first * SECTOR, count * SECTOR];
  if (asked.do === 'read') return readContent(await client.read(offset, length), first);
  const { tag, fua } = asked;
  if (asked.do === 'write') await client.write(offset, makeContent(tag, first, count), { fua });
  else if (asked.do === 'zero') await client.writeZeroes(offset, length, { fua, noHole: tag % 2 === 1 });
  else await client.trim(offset, length, { fua });
  return {};
}

process.on('message', (asked: Asked) => {
  const { id } = asked;
  work(asked).then(
    (result) => say({ id, state: 'done', ...result }),
    (error: unknown) => {
      if (isLoss(error)) say({ id, state: 'lost' });
      else say({ id, state: 'failed', errno: errnoOf(error), message: messageOf(error) });
    },
  );
});
process.on('disconnect', () => process.exit(0));
