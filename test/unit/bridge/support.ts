/** A bridge to the made-up peers of a FakeNode, and a client that writes whatever it likes. */
import fs from 'node:fs';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { bridgeSocketOf } from '../../../src/bridge/protocol.js';
import { BridgeServer } from '../../../src/bridge/server.js';
import { loadConfig } from '../../../src/config/index.js';
import type { Config } from '../../../src/config/types.js';
import { type PortReport, report, verify } from '../../../src/xseg/index.js';
import { FakeNode } from '../cli/fake-node.js';

export class Bridged {
  readonly node: FakeNode;
  readonly config: Config;
  server!: BridgeServer;
  readonly #runDir: string;

  private constructor(peers: ConstructorParameters<typeof FakeNode>[0]) {
    this.#runDir = fs.mkdtempSync(path.join(os.tmpdir(), 'bridge-'));
    this.node = new FakeNode(peers, `[ARCHIPELAGO]\nRUN_DIR = ${this.#runDir}\n`);
    this.config = loadConfig(this.node.config);
  }

  static async start(peers?: ConstructorParameters<typeof FakeNode>[0]): Promise<Bridged> {
    const bridged = new Bridged(peers);
    await bridged.listen();
    return bridged;
  }

  async listen(): Promise<void> {
    this.server = await BridgeServer.listen(this.config, this.node.segment);
  }

  /** Ports that the bridge has. */
  get ports(): PortReport[] {
    return report(this.node.segment).bound.filter(({ name }) => name === 'bridge');
  }

  /** What is wrong with the segment. */
  get problems(): string[] {
    return verify(this.node.segment);
  }

  async close(): Promise<void> {
    await this.server.close(0);
    this.node.close();
    fs.rmSync(this.#runDir, { recursive: true, force: true });
  }
}

/** A connection by hand. */
export class RawClient {
  readonly socket: net.Socket;
  readonly closed: Promise<void>;
  #text = '';

  constructor(config: Config) {
    this.socket = net.connect(bridgeSocketOf(config));
    this.socket.setEncoding('utf8');
    this.socket.on('data', (text: string) => {
      this.#text += text;
    });
    this.socket.on('error', () => {});
    this.closed = new Promise((resolve) => this.socket.on('close', () => resolve()));
  }

  /** What came, line by line; the first is the greeting. */
  get lines(): Record<string, unknown>[] {
    return this.#text
      .split('\n')
      .slice(0, -1)
      .map((line) => JSON.parse(line) as Record<string, unknown>);
  }

  send(...messages: (object | string)[]): void {
    for (const message of messages) {
      this.socket.write(typeof message === 'string' ? message : `${JSON.stringify(message)}\n`);
    }
  }
}
