/** What the commands of one chain share: the segment, joined when first needed, and the ports they bound. */
import { errnoOf, errnos, messageOf, SystemError } from '../../sys/errno.js';
import { type CallInit, type CallReply, MAX_TARGET, type Port, Segment, type SegmentSpec } from '../../xseg/index.js';
import type { Io } from '../common/io.js';
import type { Ports } from './chain.js';

/** The segment cannot be joined: nothing that follows makes sense. */
export class JoinError extends SystemError {
  constructor(name: string, cause: unknown) {
    super(errnoOf(cause), `cannot join segment ${name}: ${messageOf(cause)}`, { cause });
    this.name = 'JoinError';
  }
}

export class ChainState {
  readonly io: Io;
  readonly spec: SegmentSpec;
  /** Print data as JSON. */
  readonly json: boolean;
  #segment: Segment | null = null;
  readonly #ports = new Map<number, Port>();
  #dynamic: Port | null = null;

  constructor(io: Io, spec: SegmentSpec, json: boolean) {
    this.io = io;
    this.spec = spec;
    this.json = json;
  }

  /** The segment, joined. @throws JoinError */
  get segment(): Segment {
    try {
      this.#segment ??= Segment.join(this.spec);
    } catch (error) {
      throw new JoinError(this.spec.name, error);
    }
    return this.#segment;
  }

  /** Makes the segment of the spec. @throws SystemError EEXIST, … */
  create(): void {
    this.#segment = Segment.create(this.spec);
  }

  /** Leaves the segment and removes it. @throws SystemError ENOENT */
  destroy(): void {
    this.close();
    Segment.destroy(this.spec);
  }

  /** Binds a port for the rest of the chain. */
  bind(number: number): Port {
    const known = this.#ports.get(number);
    if (known) return known;
    const port = this.segment.bind(number, { name: 'xseg' });
    this.#ports.set(number, port);
    return port;
  }

  /** Gives up a port that this chain bound; false when it did not. */
  free(number: number): boolean {
    const port = this.#ports.get(number);
    port?.close();
    return this.#ports.delete(number);
  }

  /** Sends a request from SRC to DST and waits for its answer. */
  call(ports: Ports | null, request: CallInit): Promise<CallReply> {
    const { src, dst } = ports as Ports;
    const length = Buffer.byteLength(request.target ?? '');
    if (length > MAX_TARGET) {
      throw new SystemError(errnos.ENAMETOOLONG, `a target has at most ${MAX_TARGET} bytes, not ${length}`);
    }
    if (src !== null) return this.bind(src).call(dst, request);
    this.#dynamic ??= this.segment.bind('dynamic', { name: 'xseg' });
    return this.#dynamic.call(dst, request);
  }

  /** Gives up the ports and leaves the segment. */
  close(): void {
    this.#ports.clear();
    this.#dynamic = null;
    this.#segment?.close();
    this.#segment = null;
  }
}
