/**
 * A composer between a mapper and a blocker that a test plays: each request can be held, looked at, and answered when the test
 * says so. For what depends on the order of answers.
 */
import { MemoryStore } from '../../../src/blockers/memory/index.js';
import { Composer } from '../../../src/composer/composer.js';
import { decodeExtents, type PackedExtent } from '../../../src/requests/extents.js';
import { encodeJson } from '../../../src/requests/json.js';
import type { LeaseReply } from '../../../src/requests/lease.js';
import type { LockLook } from '../../../src/requests/lock-look.js';
import { Op } from '../../../src/requests/ops.js';
import { EntryFlag, ResolvedMap } from '../../../src/requests/resolved-map.js';
import { decodeBlocks, encodeMapReply, type MapSegment } from '../../../src/requests/structs.js';
import { errnos } from '../../../src/sys/errno.js';
import { type Port, type Request, Segment, verify } from '../../../src/xseg/index.js';
import { ownSegment } from '../../support/own.js';

const PORTS = { composer: 500, blocker: 1000, mapper: 1001, client: 1 } as const;
const OWN = EntryFlag.WRITABLE | EntryFlag.ARCHIP;

/** A server whose requests of chosen operations wait for the test. */
class Held {
  /** What each served request was, in order. */
  readonly log: { op: number; target: string; offset: number; size: number; flags: number; deadline: number }[] = [];
  readonly #held = new Map<number, Request[]>();
  readonly #takers: { op: number; take: (request: Request) => void }[] = [];
  readonly #serve: (request: Request) => void;

  constructor(port: Port, serve: (request: Request) => void, arrived: (request: Request) => void = () => {}) {
    this.#serve = serve;
    port.serve((request) => {
      arrived(request);
      const { op, target, offset, size, flags, deadline } = request;
      this.log.push({ op, target, offset, size, flags, deadline });
      const queue = this.#held.get(op);
      if (!queue) {
        serve(request);
        return;
      }
      const taker = this.#takers.findIndex((candidate) => candidate.op === op);
      if (taker < 0) queue.push(request);
      else this.#takers.splice(taker, 1)[0].take(request);
    });
  }

  /** From now on requests of this operation wait for take. */
  hold(op: number): void {
    this.#held.set(op, []);
  }

  /** The next held request of the operation, as soon as there is one. */
  take(op: number): Promise<Request> {
    const next = this.#held.get(op)?.shift();
    if (next) return Promise.resolve(next);
    return new Promise((resolve) => {
      this.#takers.push({ op, take: resolve });
    });
  }

  /** How many wait now. */
  waiting(op: number): number {
    return this.#held.get(op)?.length ?? 0;
  }

  /** Answers a held request as it would have been. */
  answer(request: Request): void {
    this.#serve(request);
  }

  /** Holds the operation no longer, and answers what waits. */
  release(op: number): void {
    const queue = this.#held.get(op) ?? [];
    this.#held.delete(op);
    for (const request of queue) this.#serve(request);
  }
}

export interface RigOptions {
  readonly blocks: number;
  readonly blockSize: number;
  readonly nrOps?: number;
  readonly writeThrough?: boolean;
  readonly lockLook?: LockLook;
}

export class Rig {
  readonly segment: Segment;
  readonly composer: Composer;
  readonly client: Port;
  /** The composer's. */
  readonly port: Port;
  readonly mapper: Held;
  readonly blocker: Held;
  /** The entries, as the mapper has them. */
  readonly map: ResolvedMap;
  readonly objects = new MemoryStore().objects;
  /** What LEASE answers besides the size. */
  lease: Partial<LeaseReply> = {};
  /** Names of every FLUSH the blocker got; null: everything. */
  readonly flushed: (string[] | null)[] = [];
  /** Objects for which a hint of another one came. */
  readonly wrongHints: string[] = [];
  readonly #hints: string[] = [''];
  readonly #mapperPort: Port;
  readonly #ports: Port[];
  readonly #options: RigOptions;

  constructor(options: RigOptions) {
    this.#options = options;
    this.segment = Segment.create(`posix:${ownSegment('rig')}:1200:1100:32:12`);
    this.segment.ref();
    this.map = new ResolvedMap(options.blocks);
    for (let block = 0; block < options.blocks; block++) this.map.setZero(block);
    const blockerPort = this.segment.bind(PORTS.blocker, { name: 'blockerb' });
    this.#mapperPort = this.segment.bind(PORTS.mapper, { name: 'mapperd' });
    this.port = this.segment.bind(PORTS.composer, { name: 'vlmcd' });
    this.client = this.segment.bind(PORTS.client, { name: 'client' });
    this.#ports = [this.client, this.port, this.#mapperPort, blockerPort];
    this.composer = new Composer({
      port: this.port,
      blockerPort: PORTS.blocker,
      mapperPort: PORTS.mapper,
      nrOps: options.nrOps ?? 64,
      writeThrough: options.writeThrough ?? false,
      lockLook: options.lockLook,
    });
    this.mapper = new Held(this.#mapperPort, (request) => this.#serveMap(request));
    this.blocker = new Held(
      blockerPort,
      (request) => this.#serveObject(request),
      ({ hint, target }) => {
        if (hint !== 0 && this.#hints[hint] !== target) this.wrongHints.push(target);
      },
    );
    this.port.serve((request) => this.composer.handle(request));
  }

  /** What `verify` says of the segment when everything is closed. */
  stop(): string[] {
    for (const port of this.#ports) port.close();
    const problems = verify(this.segment);
    this.segment.close();
    Segment.destroy(`posix:${this.segment.name}:`);
    return problems;
  }

  /** Makes the block's object, own or shared, with this content. */
  put(block: number, name: string, content: Uint8Array, own = true): void {
    this.map.set(block, own ? OWN : EntryFlag.ARCHIP, name);
    this.objects.set(name, Buffer.from(content));
  }

  async read(offset: number, length: number, flags = 0): Promise<Buffer> {
    const init = { op: Op.READ, target: 'volume', offset, size: length, capacity: length, flags };
    return (await this.client.call(PORTS.composer, init)).data;
  }

  async write(offset: number, data: Uint8Array, flags = 0): Promise<void> {
    await this.client.call(PORTS.composer, { op: Op.WRITE, target: 'volume', offset, data, flags });
  }

  async zero(op: number, offset: number, length: number, flags = 0): Promise<void> {
    await this.client.call(PORTS.composer, { op, target: 'volume', offset, size: length, flags });
  }

  async extents(offset: number, length: number): Promise<PackedExtent[]> {
    const init = { op: Op.BLOCK_STATUS, target: 'volume', offset, size: length, capacity: 65536 };
    const { data, serviced } = await this.client.call(PORTS.composer, init);
    return decodeExtents(data.subarray(0, serviced));
  }

  async flush(target = 'volume'): Promise<void> {
    await this.client.call(PORTS.composer, { op: Op.FLUSH, target, size: 0 });
  }

  async send(op: number, target = 'volume'): Promise<void> {
    await this.client.call(PORTS.composer, { op, target });
  }

  /** @param reason data of the request, for LOST */
  async revoke(target = 'volume', flags = 0, reason = ''): Promise<void> {
    await this.#mapperPort.call(PORTS.composer, { op: Op.REVOKE, target, flags, data: Buffer.from(reason) });
  }

  /** RENEW: the exclusive leases are good until then, ms of the monotonic clock. */
  async renew(until: number): Promise<void> {
    await this.#mapperPort.call(PORTS.composer, { op: Op.RENEW, offset: until });
  }

  #serveMap(request: Request): void {
    const { blockSize, blocks } = this.#options;
    const { op, offset, size } = request;
    const first = Math.floor(offset / blockSize);
    const end = Math.ceil((offset + size) / blockSize);
    switch (op) {
      case Op.LEASE: {
        const lease: LeaseReply = {
          granted: 'exclusive',
          size: blocks * blockSize,
          blockSize,
          epoch: 1,
          readOnly: false,
          version: 2,
          generation: 1,
          ...this.lease,
        };
        reply(request, encodeJson(lease));
        break;
      }
      case Op.MAPFETCH:
        reply(request, this.map.serialiseChunk(offset, size, request.dataLength));
        break;
      case Op.MAPR:
        reply(request, encodeMapReply(this.#segments(offset, offset + size)));
        break;
      case Op.MAPW:
        for (let block = first; block < end; block++) this.#makeOwn(block);
        reply(request, encodeMapReply(this.#segments(offset, offset + size)));
        break;
      case Op.MAPOWN: {
        const asked = decodeBlocks(request.data.subarray(0, size));
        for (const block of asked) this.#makeOwn(block);
        const whole = (block: number) => this.#segments(block * blockSize, (block + 1) * blockSize);
        reply(request, encodeMapReply(asked.flatMap(whole)));
        break;
      }
      case Op.MAPZERO:
        for (let block = first; block < end; block++) {
          const name = this.map.objectName(block);
          this.objects.delete(name);
          const hint = this.#hints.lastIndexOf(name);
          if (hint > 0) this.#hints[hint] = '';
          this.map.setZero(block);
        }
        request.succeed(0);
        break;
      default:
        request.succeed(0);
    }
  }

  #makeOwn(block: number): void {
    if (this.map.flags(block) & EntryFlag.WRITABLE) return;
    const content = this.objects.get(this.map.objectName(block)) ?? Buffer.alloc(0);
    this.map.setOwn(block, OWN, 'volume', 1);
    this.objects.set(this.map.objectName(block), Buffer.from(content));
  }

  #segments(offset: number, end: number): MapSegment[] {
    const { blockSize } = this.#options;
    const out: MapSegment[] = [];
    for (let at = offset; at < end; ) {
      const block = Math.floor(at / blockSize);
      const within = at - block * blockSize;
      const size = Math.min(blockSize - within, end - at);
      const zero = (this.map.flags(block) & EntryFlag.ZERO) !== 0;
      out.push({ target: this.map.objectName(block), zero, offset: within, size });
      at += size;
    }
    return out;
  }

  #hintOf(name: string): number {
    const known = this.#hints.lastIndexOf(name);
    return known > 0 ? known : this.#hints.push(name) - 1;
  }

  #serveObject(request: Request): void {
    const { op, target, offset, size } = request;
    const object = this.objects.get(target);
    // A deleted object's hint is not that of the next object of the name.
    if (object && request.hint === 0 && (op === Op.READ || op === Op.WRITE)) request.hint = this.#hintOf(target);
    switch (op) {
      case Op.READ:
        if (!object) request.fail(errnos.ENOENT, `object ${target} does not exist`);
        else {
          const data = request.data.subarray(0, size);
          data.fill(0, object.copy(data, 0, Math.min(offset, object.length), offset + size));
          request.succeed(size);
        }
        break;
      case Op.WRITE: {
        const bytes = Buffer.alloc(Math.max(object?.length ?? 0, offset + size));
        object?.copy(bytes);
        request.data.copy(bytes, offset, 0, size);
        this.objects.set(target, bytes);
        request.succeed(size);
        break;
      }
      case Op.TRIM:
      case Op.WRITE_ZEROES:
        object?.fill(0, Math.min(offset, object.length), Math.min(offset + size, object.length));
        request.succeed(size);
        break;
      case Op.FLUSH:
        if (target !== '') this.flushed.push([target]);
        else this.flushed.push(size === 0 ? null : request.data.subarray(0, size).toString('utf8').split('\n'));
        request.succeed(size);
        break;
      default:
        request.fail(errnos.EOPNOTSUPP, `operation ${op}`);
    }
  }
}

function reply(request: Request, bytes: Buffer): void {
  request.data.set(bytes);
  request.succeed(bytes.length);
}
