/**
 * A connection for the kernel: connected and negotiated here, with simple replies, which are all that the kernel's client knows; then its
 * descriptor alone is left, with nothing read behind the handshake.
 */
import fs from 'node:fs';
import type net from 'node:net';
import type { Duplex } from 'node:stream';
import { type ExportInfo, NbdHandshake } from '../nbd/client-handshake.js';
import { addressName, openStream } from '../nbd/client-socket.js';
import { cleanText } from '../nbd/client-text.js';
import { GREETING_LENGTH, Info, OPTION_REPLY_HEADER_LENGTH, Option, Reply, replyName } from '../nbd/constants.js';
import { decodeInfo, encodeInfoRequest } from '../nbd/handshake-codec.js';
import { descriptorOf, duplicate } from '../nbd/sockets.js';
import { errnoOf, errnos, messageOf, SystemError } from '../sys/errno.js';
import type { EndpointAddress } from './types.js';

/** Milliseconds that the endpoint has for a handshake. */
const HANDSHAKE_MS = 10_000;

/** A connection that is past the handshake. Whoever has it closes it, also after the kernel has got it: that has its own reference. */
export interface Link {
  readonly fd: number;
  /** Of the socket: the kernel tells by it later whether the other end is there. */
  readonly inode: number;
  /** Bytes. */
  readonly size: number;
  /** Transmission flags. */
  readonly flags: number;
  /** Smallest block that the server takes, in bytes. */
  readonly minimumBlock: number;
}

export const closeLinks = (links: readonly Link[]): void => {
  for (const { fd } of links) fs.closeSync(fd);
};

/**
 * Connects and enters an export.
 * @throws SystemError ENOENT no such export, EOPNOTSUPP it wants TLS, ECONNREFUSED or ENOENT nobody listens, ETIMEDOUT
 */
export function openLink(address: EndpointAddress, exportName: string): Promise<Link> {
  return within(address, async (socket) => {
    const handshake = await NbdHandshake.connect({ stream: socket });
    const info = await enter(handshake, socket, address, exportName);
    socket.pause();
    const fd = duplicate(descriptorOf(socket));
    const { inode, minimumBlock } = { inode: fs.fstatSync(fd).ino, minimumBlock: info.blockSize?.minimum ?? 1 };
    return { fd, inode, size: info.size, flags: info.flags, minimumBlock };
  });
}

/** Several at a time, or none. @throws SystemError as openLink */
export async function openLinks(address: EndpointAddress, exportName: string, count: number): Promise<Link[]> {
  const outcomes = await Promise.allSettled(Array.from({ length: count }, () => openLink(address, exportName)));
  const links = outcomes.flatMap((outcome) => (outcome.status === 'fulfilled' ? outcome.value : []));
  const failed = outcomes.find((outcome) => outcome.status === 'rejected');
  if (failed === undefined) return links;
  closeLinks(links);
  throw failed.reason;
}

/** Exports that one connection is asked about: the endpoint grants some dozen options. */
const PER_CONNECTION = 16;

/** Sizes of exports in bytes, as the endpoint tells them now; null: there is no such export. @throws SystemError it cannot be asked */
export async function askSizes(address: EndpointAddress, exportNames: readonly string[]): Promise<(number | null)[]> {
  const sizes: (number | null)[] = [];
  for (let at = 0; at < exportNames.length; at += PER_CONNECTION) {
    const some = exportNames.slice(at, at + PER_CONNECTION);
    sizes.push(
      ...(await within(address, async (socket) => {
        const handshake = await NbdHandshake.connect({ stream: socket });
        const found: (number | null)[] = [];
        for (const name of some) found.push(await handshake.info(name).then(({ size }) => size, gone));
        await handshake.abort();
        return found;
      })),
    );
  }
  return sizes;
}

function gone(error: unknown): null {
  if (errnoOf(error) === errnos.ENOENT) return null;
  throw error;
}

/** Connects, and closes this process's end of it when `use` is done: without a shutdown, which would be the end for all who have it. */
async function within<T>(address: EndpointAddress, use: (socket: net.Socket) => Promise<T>): Promise<T> {
  const name = addressName(address);
  const late = new SystemError(errnos.ETIMEDOUT, `the endpoint ${name} did not answer within ${HANDSHAKE_MS / 1000} s`);
  const ended = new AbortController();
  const timer = setTimeout(() => ended.abort(late), HANDSHAKE_MS);
  let stream: Duplex | undefined;
  try {
    stream = await openStream(address, ended.signal);
    const socket = stream as net.Socket;
    // What goes wrong is told by the reads that wait for it.
    socket.on('error', () => {});
    ended.signal.addEventListener('abort', () => socket.destroy(), { once: true });
    return await use(socket);
  } catch (error) {
    throw ended.signal.aborted ? late : asSystemError(error, name);
  } finally {
    clearTimeout(timer);
    stream?.destroy();
  }
}

const asSystemError = (error: unknown, name: string): SystemError =>
  error instanceof SystemError
    ? error
    : new SystemError(errnoOf(error), `${name}: ${messageOf(error)}`, { cause: error });

/** GO by hand: a client of the library would begin to read. */
async function enter(
  handshake: NbdHandshake,
  socket: net.Socket,
  address: EndpointAddress,
  exportName: string,
): Promise<ExportInfo> {
  const replies = await handshake.option(Option.GO, encodeInfoRequest(exportName, [Info.BLOCK_SIZE]));
  const last = replies.at(-1);
  if (last?.type !== Reply.ACK) throw refusal(last?.type ?? 0, last?.data, address, exportName);
  let size = -1;
  let flags = 0;
  let blockSize: ExportInfo['blockSize'] = null;
  let received = GREETING_LENGTH;
  for (const { type, data } of replies) {
    received += OPTION_REPLY_HEADER_LENGTH + data.length;
    if (type !== Reply.INFO) continue;
    const info = decodeInfo(data);
    if (info.info === 'export') ({ size, flags } = info);
    else if (info.info === 'blockSize') blockSize = info;
  }
  if (size < 0) throw new SystemError(errnos.EPROTO, `${addressName(address)} does not tell the size of ${exportName}`);
  if (socket.bytesRead !== received) {
    throw new SystemError(errnos.EPROTO, `${addressName(address)} sent more than its answer to the handshake`);
  }
  return { name: exportName, size, flags, description: null, blockSize };
}

function refusal(type: number, data: Buffer | undefined, address: EndpointAddress, exportName: string): SystemError {
  const text = data === undefined ? '' : cleanText(data);
  const words = text === '' ? replyName(type) : text;
  if (type === Reply.ERR_UNKNOWN) return new SystemError(errnos.ENOENT, `there is no export ${exportName}: ${words}`);
  if (type === Reply.ERR_TLS_REQD) {
    return new SystemError(
      errnos.EOPNOTSUPP,
      `${addressName(address)} demands TLS, which a device of the kernel has not: set socket_tls = off (or selective) in [nbd]`,
    );
  }
  return new SystemError(errnos.EACCES, `the endpoint refuses ${exportName}: ${words}`);
}
