/**
 * Addresses of Ceph's clients: an IP address, a port (0: it listens on none) and a number that tells this instance from all others of
 * the machine. As text `192.0.2.7:0/3141592` or `[2001:db8::7]:0/3141592`, which `osd blocklist add` takes.
 */
import net from 'node:net';
import { malformed, type Reader, type Writer } from './ceph-encoding.js';

const AF_INET = 2;
const AF_INET6 = 10;
/** As the lock class stores it: the address of the first protocol. */
const LEGACY = 1;
const V4_LENGTH = 16;
const V6_LENGTH = 28;
/** Length of the address in the form from before versions: room for any kind. */
const STORAGE_LENGTH = 128;

function textV6(bytes: Buffer): string {
  const groups = Array.from({ length: 8 }, (_, i) => bytes.readUInt16BE(2 * i).toString(16));
  // The URL parser shortens the longest row of zeros, as all who print addresses do.
  return new URL(`http://[${groups.join(':')}]`).hostname;
}

/** @param family as the machine's own number; sockaddr: port and address as the network has them */
function text(family: number, sockaddr: Buffer, nonce: number): string {
  if (family === AF_INET && sockaddr.length >= 6) {
    return `${sockaddr.subarray(2, 6).join('.')}:${sockaddr.readUInt16BE(0)}/${nonce}`;
  }
  if (family === AF_INET6 && sockaddr.length >= 22) {
    return `${textV6(sockaddr.subarray(6, 22))}:${sockaddr.readUInt16BE(0)}/${nonce}`;
  }
  return '';
}

/** The address as text; '' when there is none, or none of a known kind. @throws SystemError EBADMSG */
export function readAddress(reader: Reader): string {
  const marker = reader.u8();
  if (marker === 0) {
    // From before versions: the rest of the marker, and the family as the network has it.
    reader.raw(3);
    const nonce = reader.u32();
    const storage = reader.raw(STORAGE_LENGTH);
    return text(storage.readUInt16BE(0), storage.subarray(2), nonce);
  }
  if (marker !== 1) throw malformed(`an address that begins with ${marker}`);
  const inner = reader.struct();
  inner.u32();
  const nonce = inner.u32();
  const length = inner.u32();
  if (length === 0) return '';
  if (length < 2) throw malformed(`an address of ${length} byte`);
  const sockaddr = inner.raw(length);
  return text(sockaddr.readUInt16LE(0), sockaddr.subarray(2), nonce);
}

interface Parsed {
  /** As in struct sockaddr_in or sockaddr_in6. */
  readonly sockaddr: Buffer;
  readonly nonce: number;
}

function parse(address: string): Parsed | null {
  const match = /^(?:\[([0-9a-f:.]+)\]|([0-9.]+)):(\d+)\/(\d+)$/i.exec(address.replace(/^(v1|v2|any):/, ''));
  if (!match) return null;
  const [, v6, v4, port, nonce] = match;
  if (Number(port) > 0xffff || Number(nonce) > 0xffff_ffff) return null;
  const sockaddr = Buffer.alloc(v4 ? V4_LENGTH : V6_LENGTH);
  sockaddr.writeUInt16LE(v4 ? AF_INET : AF_INET6, 0);
  sockaddr.writeUInt16BE(Number(port), 2);
  if (v4) {
    if (!net.isIPv4(v4)) return null;
    for (const [i, part] of v4.split('.').entries()) sockaddr[4 + i] = Number(part);
  } else {
    const groups = groupsV6(v6);
    if (!groups) return null;
    for (const [i, group] of groups.entries()) sockaddr.writeUInt16BE(group, 8 + 2 * i);
  }
  return { sockaddr, nonce: Number(nonce) };
}

function groupsV6(address: string): number[] | null {
  if (!net.isIPv6(address)) return null;
  // Without dots (a v4 address at the end) and with one run of zeros at most.
  const [head, tail] = new URL(`http://[${address}]`).hostname.slice(1, -1).split('::');
  const numbers = (part: string | undefined): number[] =>
    part ? part.split(':').map((group) => Number.parseInt(group, 16)) : [];
  const [first, last] = [numbers(head), numbers(tail)];
  return [...first, ...new Array<number>(8 - first.length - last.length).fill(0), ...last];
}

/** Appends the address as the lock class stores it; one that cannot be understood as no address. */
export function writeAddress(writer: Writer, address: string): void {
  const parsed = parse(address);
  writer.u8(1).struct((inner) => {
    if (parsed) inner.u32(LEGACY).u32(parsed.nonce).u32(parsed.sockaddr.length).raw(parsed.sockaddr);
    else inner.u32(0).u32(0).u32(0);
  });
}
