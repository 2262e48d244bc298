/** What the kernel's nbd driver is asked for over generic netlink (linux/nbd-netlink.h). No I/O. */
import { decodeAttributes, encodeRequest, nested, string, u32, u64 } from './genl.js';

export const FAMILY = 'nbd';
export const MULTICAST_GROUP = 'nbd_mc_group';

export const Command = { CONNECT: 1, DISCONNECT: 2, RECONFIGURE: 3, LINK_DEAD: 4, STATUS: 5 } as const;

export const Attribute = {
  INDEX: 1,
  SIZE_BYTES: 2,
  BLOCK_SIZE_BYTES: 3,
  TIMEOUT: 4,
  SERVER_FLAGS: 5,
  CLIENT_FLAGS: 6,
  SOCKETS: 7,
  DEAD_CONN_TIMEOUT: 8,
  DEVICE_LIST: 9,
  BACKEND_IDENTIFIER: 10,
} as const;

const SOCKET_ITEM = 1;
const SOCKET_FD = 1;

/** A device to be. */
export interface ConnectRequest {
  /** Bytes. */
  readonly size: number;
  /** Bytes, a power of two from 512 to 4096. */
  readonly blockSize: number;
  /** Transmission flags of the export. */
  readonly flags: number;
  /** Seconds for which requests wait for another connection when all are lost. */
  readonly deadConnTimeout: number;
  /**
   * Seconds after which the connection of a request without an answer is given up, and the request sent on another. 0, with one connection:
   * never, but one whose connection was lost is sent again on the new one.
   */
  readonly timeout: number;
  /** Shown in /sys/block/nbdN/backend; whoever changes the device later has to know it. */
  readonly identifier: string;
  /** Descriptors of connections that are past the handshake. */
  readonly sockets: readonly number[];
}

const sockets = (fds: readonly number[]): Buffer =>
  nested(
    Attribute.SOCKETS,
    fds.map((fd) => nested(SOCKET_ITEM, [u32(SOCKET_FD, fd)])),
  );

/** Without an index the kernel takes a free device, or makes one: callers need no agreement among them. */
export function encodeConnect(family: number, sequence: number, request: ConnectRequest): Buffer {
  return encodeRequest(family, Command.CONNECT, sequence, [
    u64(Attribute.SIZE_BYTES, request.size),
    u64(Attribute.BLOCK_SIZE_BYTES, request.blockSize),
    u64(Attribute.TIMEOUT, request.timeout),
    u64(Attribute.SERVER_FLAGS, request.flags),
    u64(Attribute.DEAD_CONN_TIMEOUT, request.deadConnTimeout),
    sockets(request.sockets),
    string(Attribute.BACKEND_IDENTIFIER, request.identifier),
  ]);
}

export function encodeDisconnect(family: number, sequence: number, index: number): Buffer {
  return encodeRequest(family, Command.DISCONNECT, sequence, [u32(Attribute.INDEX, index)]);
}

/** New connections in the place of lost ones. Those that find none lost are let go by the kernel without a word. */
export function encodeReconnect(
  family: number,
  sequence: number,
  index: number,
  identifier: string,
  fds: readonly number[],
): Buffer {
  return encodeRequest(family, Command.RECONFIGURE, sequence, [
    u32(Attribute.INDEX, index),
    sockets(fds),
    string(Attribute.BACKEND_IDENTIFIER, identifier),
  ]);
}

/** @param size bytes */
export function encodeResize(
  family: number,
  sequence: number,
  index: number,
  identifier: string,
  size: number,
): Buffer {
  return encodeRequest(family, Command.RECONFIGURE, sequence, [
    u32(Attribute.INDEX, index),
    u64(Attribute.SIZE_BYTES, size),
    string(Attribute.BACKEND_IDENTIFIER, identifier),
  ]);
}

/** The device that an answer or a message of the group is about; -1: it names none. */
export function decodeIndex(body: Buffer): number {
  const index = decodeAttributes(body).get(Attribute.INDEX);
  return index === undefined || index.length < 4 ? -1 : index.readUInt32LE(0);
}
