/** A node for tests of the tools: a real segment, and peers on the real ports that answer what a test tells them to. */
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import type { Io } from '../../../src/cli/common/io.js';
import { Session } from '../../../src/cli/common/session.js';
import { vlmcMain } from '../../../src/cli/vlmc/program.js';
import { xsegMain } from '../../../src/cli/xseg/main.js';
import { Op } from '../../../src/requests/ops.js';
import { errnoOf, errnos, messageOf, SystemError } from '../../../src/sys/errno.js';
import { type Port, type Request, Segment } from '../../../src/xseg/index.js';
import { ownSegment } from '../../support/own.js';
import { capture, type Outcome, type RunOptions } from './capture.js';
import { FakeDevices } from './fake-devices.js';

export const PORTS = { composer: 500, blocks: 1000, mapper: 1001, maps: 1002, endpoint: 1023 } as const;
export type PeerName = keyof typeof PORTS;

/** A request as it came: the record itself is used again. */
export interface Seen {
  readonly peer: PeerName;
  readonly op: number;
  readonly target: string;
  readonly offset: number;
  readonly size: number;
  readonly flags: number;
  readonly v0Size: number;
  readonly src: number;
  readonly deadline: number;
  readonly note: string;
  /** All of the data buffer. */
  readonly data: Buffer;
}

/** Answers with data, or a JSON value, or nothing. */
export type Handler = (seen: Seen) => Promise<Reply> | Reply;
type Reply = Buffer | object | null | undefined;

export class FakeNode {
  readonly segment: Segment;
  readonly spec: string;
  readonly config: string;
  readonly seen: Seen[] = [];
  readonly ports = new Map<PeerName, Port>();
  readonly devices = new FakeDevices();
  readonly #directory: string;
  readonly #handlers = new Map<string, Handler>();

  /** @param peers those that run */
  constructor(peers: readonly PeerName[] = Object.keys(PORTS) as PeerName[], configuration = '') {
    const name = ownSegment('cli');
    this.#directory = fs.mkdtempSync(path.join(os.tmpdir(), 'cli-test-'));
    this.spec = `posix:${name}:2048:1024:64:12`;
    this.config = path.join(this.#directory, 'archipelago.conf');
    fs.writeFileSync(this.config, `[XSEG]\nSEGMENT_NAME = ${name}\nSEGMENT_SIZE = 64\n${configuration}`);
    this.segment = Segment.create(this.spec);
    for (const peer of peers) {
      const port = this.segment.bind(PORTS[peer], { name: peer });
      port.serve((request) => void this.#serve(peer, request));
      this.ports.set(peer, port);
    }
    this.reset();
  }

  /** Forgets what was asked and how to answer: nothing is mapped, nothing is locked, all else is refused. */
  reset(): void {
    this.devices.reset();
    this.seen.length = 0;
    this.#handlers.clear();
    this.on('endpoint', Op.SHOWMAPPED, () => ({ mapped: [], connections: [] }));
    this.on('maps', Op.LOCKINFO, () => null);
  }

  /** Says how a peer answers an operation. */
  on(peer: PeerName, op: number, handler: Handler): void {
    this.#handlers.set(`${peer} ${op}`, handler);
  }

  /** Makes a peer answer an operation with EIO where `which` says so, else as before. */
  refuse(peer: PeerName, op: number, which: (seen: Seen) => boolean): void {
    const before = this.#handlers.get(`${peer} ${op}`);
    this.on(peer, op, (seen) => {
      if (which(seen)) throw new SystemError(errnos.EIO, `${seen.target} is made to fail`);
      return before?.(seen);
    });
  }

  /** Requests of an operation that came. */
  asked(peer: PeerName, op: number): Seen[] {
    return this.seen.filter((s) => s.peer === peer && s.op === op);
  }

  /** Runs vlmc with this node's configuration. */
  vlmc(...words: string[]): Promise<Outcome> {
    return this.vlmcWith({}, ...words);
  }

  vlmcWith(options: RunOptions, ...words: string[]): Promise<Outcome> {
    const session = (io: Io): Session =>
      new Session('vlmc', io, async (_, endpoint) => {
        if (endpoint !== null) this.devices.endpoint = endpoint;
        return this.devices;
      });
    return capture(options, (io) => vlmcMain(['-c', this.config, ...words], session(io)));
  }

  /** Runs xseg on this node's segment. */
  xseg(...words: string[]): Promise<Outcome> {
    return this.xsegWith({}, ...words);
  }

  xsegWith(options: RunOptions, ...words: string[]): Promise<Outcome> {
    return capture(options, (io) => xsegMain([this.spec, ...words], io));
  }

  /** As when the node was stopped: the configuration stays. */
  stop(): void {
    this.segment.close();
    if (Segment.exists(this.spec)) Segment.destroy(this.spec);
  }

  close(): void {
    this.stop();
    fs.rmSync(this.#directory, { recursive: true, force: true });
  }

  async #serve(peer: PeerName, request: Request): Promise<void> {
    const { op, target, offset, size, flags, v0Size, src, deadline, note } = request;
    const data = request.dataLength > 0 ? Buffer.from(request.data) : Buffer.alloc(0);
    const seen = { peer, op, target, offset, size, flags, v0Size, src, deadline, note, data };
    this.seen.push(seen);
    try {
      const handler = this.#handlers.get(`${peer} ${op}`);
      if (!handler) throw new SystemError(errnos.EOPNOTSUPP, `${peer} does not serve op ${op} in this test`);
      const answer = await handler(seen);
      const reply =
        answer === undefined ? Buffer.alloc(0) : Buffer.isBuffer(answer) ? answer : Buffer.from(JSON.stringify(answer));
      if (reply.length > request.dataLength) {
        request.fail(errnos.ERANGE, `the reply needs ${reply.length} bytes`, reply.length);
        return;
      }
      if (reply.length > 0) request.data.set(reply);
      request.succeed(reply.length);
    } catch (error) {
      request.fail(errnoOf(error), messageOf(error));
    }
  }
}
