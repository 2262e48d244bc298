/**
 * What goes over the bridge: JSON lines over a unix socket. The server greets, then each line of the client is a request, answered in
 * whatever order they are done. No I/O here. docs/bridge.md tells it to those who write another client.
 */
import path from 'node:path';
import { isPeer, type Peer } from '../config/peers.js';
import type { Config } from '../config/types.js';
import { errnos, SystemError } from '../sys/errno.js';
import { type CallInit, type CallReply, ReplyError } from '../xseg/call.js';
import { MAX_ALLOCATION, MAX_TARGET } from '../xseg/layout.js';

/** Goes up with every change that an old server or client would misunderstand. */
export const BRIDGE_VERSION = 1;
/** Bytes of a request's line without its end: the largest piece of data of a tool (512 KiB) in base64, and the rest. */
export const MAX_LINE = 1 << 20;
/** Bytes of an answer's line: the largest data buffer of the segment in base64, and the rest. */
export const MAX_ANSWER_LINE = 6 << 20;

/** Where the bridge of a node listens. */
export const bridgeSocketOf = (config: Pick<Config, 'runDir'>): string => path.join(config.runDir, 'bridge.sock');

/** The first line from the server. */
export interface Greeting {
  readonly bridge: number;
  /** Name of the segment that it leads to. */
  readonly segment: string;
}

/** What can be asked over the bridge; see CallInit. */
export type BridgeCall = Pick<CallInit, 'op' | 'target' | 'offset' | 'size' | 'flags' | 'v0Size' | 'data' | 'capacity'>;

/** A request as the server has it, complete. */
export interface BridgeRequest {
  readonly id: number;
  readonly peer: Peer;
  readonly call: BridgeCall;
}

/** An answer: `serviced` alone, or `errno` and `message`; of a peer's own refusal also its `serviced`. */
export interface BridgeAnswer {
  /** null: the line could not be read as a request; the connection ends. */
  readonly id: number | null;
  readonly serviced?: number;
  /** Base64 of the data buffer without the zeros at its end; left out when nothing is left. */
  readonly data?: string;
  readonly errno?: number;
  readonly message?: string;
  /** The bridge itself refuses: nothing has been asked of the peer. */
  readonly refused?: true;
}

/** A line that is no request: nothing after it can be trusted. */
export class BadLine extends SystemError {
  constructor(problem: string) {
    super(errnos.EPROTO, `not a request: ${problem}`);
    this.name = 'BadLine';
  }
}

const U32 = 0xffff_ffff;
const FIELDS = new Set(['id', 'peer', 'op', 'target', 'offset', 'size', 'flags', 'v0Size', 'data', 'capacity']);
const BASE64 = /^[A-Za-z0-9+/]*={0,2}$/;

/** The line of a request, with its end. @throws SystemError EMSGSIZE */
export function encodeRequest(id: number, peer: Peer, call: BridgeCall): string {
  const { op, target, offset, size, flags, v0Size, data, capacity } = call;
  const base64 = data && Buffer.from(data.buffer, data.byteOffset, data.byteLength).toString('base64');
  const line = JSON.stringify({ id, peer, op, target, offset, size, flags, v0Size, capacity, data: base64 });
  if (Buffer.byteLength(line) > MAX_LINE) {
    throw new SystemError(
      errnos.EMSGSIZE,
      `a request with ${data?.length ?? 0} bytes of data is too long for the bridge`,
    );
  }
  return `${line}\n`;
}

/**
 * Reads the line of a request.
 * @throws BadLine when it is none; SystemError EINVAL, ENAMETOOLONG with `id` set (RefusedRequest) when it is one that cannot be
 */
export function decodeRequest(line: Buffer): BridgeRequest {
  const value = parseObject(line);
  const { id, peer, op, target = '', data } = value;
  if (!Number.isSafeInteger(id) || (id as number) < 0) throw new BadLine('id is not a number that counts from 0');
  const refuse = (errno: number, problem: string): RefusedRequest => new RefusedRequest(id as number, errno, problem);
  const number = (name: string, lowest: number, highest: number): number | undefined => {
    const field = value[name];
    if (field === undefined) return undefined;
    if (Number.isSafeInteger(field) && lowest <= (field as number) && (field as number) <= highest)
      return field as number;
    throw refuse(errnos.EINVAL, `${name} is not a whole number from ${lowest} to ${highest}`);
  };
  const unknown = Object.keys(value).find((name) => !FIELDS.has(name));
  // What is not understood may be what makes the request harmless.
  if (unknown !== undefined) throw refuse(errnos.EINVAL, `the bridge knows no field ${JSON.stringify(unknown)}`);
  if (!isPeer(peer)) throw refuse(errnos.EINVAL, 'peer is none of mapper, composer, endpoint, blocks, maps');
  if (op === undefined) throw refuse(errnos.EINVAL, 'op is missing');
  if (typeof target !== 'string') throw refuse(errnos.EINVAL, 'target is not a string');
  if (Buffer.byteLength(target) > MAX_TARGET) {
    throw refuse(errnos.ENAMETOOLONG, `target is longer than ${MAX_TARGET} bytes`);
  }
  if (data !== undefined && (typeof data !== 'string' || data.length % 4 !== 0 || !BASE64.test(data))) {
    throw refuse(errnos.EINVAL, 'data is not base64');
  }
  const call: BridgeCall = {
    op: number('op', 0, U32) as number,
    target,
    offset: number('offset', 0, Number.MAX_SAFE_INTEGER),
    size: number('size', 0, Number.MAX_SAFE_INTEGER),
    flags: number('flags', 0, U32),
    v0Size: number('v0Size', -1, Number.MAX_SAFE_INTEGER),
    capacity: number('capacity', 0, MAX_ALLOCATION),
    data: data === undefined ? undefined : Buffer.from(data as string, 'base64'),
  };
  return { id: id as number, peer, call };
}

/** A line that is a request, but not one that can be asked. */
export class RefusedRequest extends SystemError {
  readonly id: number;
  constructor(id: number, errno: number, problem: string) {
    super(errno, `the bridge refuses the request: ${problem}`);
    this.name = 'RefusedRequest';
    this.id = id;
  }
}

/** Bytes of data that a call moves at most, in either direction. */
export const bytesOf = ({ data, capacity = 0 }: BridgeCall): number => Math.max(data?.length ?? 0, capacity);

/** The answer of a peer that did what it was asked. */
export function answerOf(id: number, { serviced, data }: CallReply): BridgeAnswer {
  let end = data.length;
  while (end > 0 && data[end - 1] === 0) end--;
  return end === 0 ? { id, serviced } : { id, serviced, data: data.toString('base64', 0, end) };
}

/** What an answer means to who asked. @throws ReplyError the peer's own refusal; SystemError the segment's; BridgeRefusal */
export function resultOf(answer: BridgeAnswer, call: BridgeCall): CallReply {
  const { serviced, errno, message = '', data, refused } = answer;
  if (errno !== undefined) {
    if (refused) throw new BridgeRefusal(errno, message);
    throw serviced === undefined ? new SystemError(errno, message) : new ReplyError(errno, message, serviced);
  }
  if (typeof serviced !== 'number') throw new SystemError(errnos.EPROTO, 'an answer of the bridge says nothing');
  const length = bytesOf(call);
  const filled = Buffer.alloc(length);
  if (data !== undefined) Buffer.from(data, 'base64').copy(filled);
  return { serviced, data: filled };
}

/** The bridge did not pass a request on: it can be asked over the segment, or again. */
export class BridgeRefusal extends SystemError {
  constructor(errno: number, message: string, options?: ErrorOptions) {
    super(errno, message, options);
    this.name = 'BridgeRefusal';
  }
}

/** @throws BadLine */
export function parseObject(line: Buffer): Record<string, unknown> {
  let value: unknown;
  try {
    value = JSON.parse(line.toString('utf8'));
  } catch {
    throw new BadLine('the line is not JSON');
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw new BadLine('the line is not a JSON object');
  return value as Record<string, unknown>;
}
