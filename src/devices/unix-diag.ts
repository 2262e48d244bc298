/**
 * Whether the peer of a connected unix socket is there still, of sockets that no process has open any more (the kernel's nbd driver has them):
 * asked of the kernel by their inodes (linux/unix_diag.h). Encoding and decoding only.
 */
import { listAttributes, NLM_F_REQUEST, NLMSG_ERROR } from './genl.js';

const HEADER = 16;
export const NETLINK_SOCK_DIAG = 4;
const SOCK_DIAG_BY_FAMILY = 20;
const AF_UNIX = 1;
const ALL_STATES = 0xffffffff;
/** "Whatever cookie it has." */
const NO_COOKIE = 0xffffffff;
const REQUEST = 24;
const REPLY = 16;
const ATTRIBUTE_SHUTDOWN = 6;

export function encodeUnixDiag(inode: number, sequence: number): Buffer {
  const out = Buffer.alloc(HEADER + REQUEST);
  out.writeUInt32LE(out.length, 0);
  out.writeUInt16LE(SOCK_DIAG_BY_FAMILY, 4);
  out.writeUInt16LE(NLM_F_REQUEST, 6);
  out.writeUInt32LE(sequence, 8);
  out.writeUInt8(AF_UNIX, HEADER);
  out.writeUInt32LE(ALL_STATES, HEADER + 4);
  out.writeUInt32LE(inode, HEADER + 8);
  out.writeUInt32LE(NO_COOKIE, HEADER + 16);
  out.writeUInt32LE(NO_COOKIE, HEADER + 20);
  return out;
}

/**
 * What the kernel tells of one socket.
 * @returns true: it can send and receive; false: it is gone, or one direction has ended; null: the answer says neither
 */
export function decodeUnixDiag(bytes: Buffer): boolean | null {
  if (bytes.length < HEADER + 4) return null;
  const type = bytes.readUInt16LE(4);
  const body = bytes.subarray(HEADER, Math.min(bytes.length, bytes.readUInt32LE(0)));
  const ENOENT = 2;
  if (type === NLMSG_ERROR) return body.readInt32LE(0) === -ENOENT ? false : null;
  if (type !== SOCK_DIAG_BY_FAMILY || body.length < REPLY) return null;
  const shutdown = listAttributes(body.subarray(REPLY)).find(([attribute]) => attribute === ATTRIBUTE_SHUTDOWN)?.[1];
  return shutdown === undefined || shutdown.length < 1 ? null : shutdown[0] === 0;
}
