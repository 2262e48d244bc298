/**
 * Netlink sockets, and the kernel's nbd driver behind one. Requests are served in the call that sends them, which can take as long as a
 * server that takes no requests: they are sent from a thread.
 */
import { errnoOf, errnos, SystemError } from '../sys/errno.js';
import * as libc from '../sys/libc.js';
import {
  CtrlAttribute,
  CtrlCommand,
  decodeFamily,
  decodeMessages,
  encodeRequest,
  GENL_ID_CTRL,
  type Message,
  string,
} from './genl.js';
import * as nbd from './nbd-messages.js';

const NETLINK_GENERIC = 16;
const SOL_NETLINK = 270;
const NETLINK_ADD_MEMBERSHIP = 1;
/** Room for answers; those of the nbd driver are of some dozen bytes, the controller's about a family of some hundred. */
const ROOM = 16 * 1024;
/** Seconds that one receive waits. */
const RECEIVE_SECONDS = 1;
/** Seconds for the answer to a request: it is there when the request was sent. */
const ANSWER_SECONDS = 10;

/** A netlink socket with a buffer of its own. One request, or one receive, at a time. */
export class NetlinkSocket {
  #fd: number;
  readonly #memory: libc.Memory;
  #busy = false;
  #closing = false;

  /** @throws SystemError what the system says */
  constructor(protocol: number) {
    this.#fd = libc.socket(libc.AF_NETLINK, libc.SOCK_RAW | libc.SOCK_CLOEXEC, protocol);
    if (this.#fd < 0) throw new SystemError(libc.errno(), 'cannot open a netlink socket');
    this.#memory = libc.allocateMemory(ROOM);
    const { address, bytes } = this.#memory;
    bytes.writeUInt16LE(libc.AF_NETLINK, 0);
    if (libc.bindSocket(this.#fd, address, 12) < 0) throw this.#failed('cannot bind a netlink socket');
    bytes.fill(0, 0, 16);
    bytes.writeBigInt64LE(BigInt(RECEIVE_SECONDS), 0);
    if (libc.setsockopt(this.#fd, libc.SOL_SOCKET, libc.SO_RCVTIMEO, address, 16) < 0) {
      throw this.#failed('cannot set the time that a netlink socket waits');
    }
  }

  #failed(what: string): SystemError {
    const code = libc.errno();
    this.close();
    return new SystemError(code, what);
  }

  /** Takes part in a multicast group. @throws SystemError */
  join(group: number): void {
    this.#memory.bytes.writeUInt32LE(group, 0);
    const { address } = this.#memory;
    if (libc.setsockopt(this.#fd, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, address, 4) < 0) {
      throw new SystemError(libc.errno(), `cannot join the netlink group ${group}`);
    }
  }

  /** Sends one datagram; resolves when the kernel has served it. @throws SystemError */
  async send(message: Buffer): Promise<void> {
    await this.#alone(async () => {
      message.copy(this.#memory.bytes);
      const sent = await later((done) => libc.send.async(this.#fd, this.#memory.address, message.length, 0, done));
      // What errno was is the thread's. The kernel's refusals are answers; without one the request never reached it.
      if (sent < 0) throw new SystemError(errnos.EIO, 'a netlink request cannot be sent');
    });
  }

  /** One datagram; null: nothing came within a second. @throws SystemError */
  receive(): Promise<Buffer | null> {
    return this.#alone(async () => {
      if (this.#closing) return null;
      // errno belongs to the thread that called: what is not there is told by looking once more without waiting.
      const { address, bytes } = this.#memory;
      let count = await later((done) => libc.recv.async(this.#fd, address, ROOM, 0, done));
      if (count < 0) count = libc.recv(this.#fd, address, ROOM, libc.MSG_DONTWAIT);
      if (count >= 0) return Buffer.from(bytes.subarray(0, count));
      const code = libc.errno();
      // ENOBUFS: messages of the group were lost; whoever listens looks for himself then, as for any message.
      if (code === errnos.EAGAIN || code === errnos.EINTR || code === errnos.ENOBUFS) return null;
      throw new SystemError(code, 'nothing can be received from netlink');
    });
  }

  async #alone<T>(work: () => Promise<T>): Promise<T> {
    if (this.#busy) throw new SystemError(errnos.EBUSY, 'a netlink socket serves one call at a time');
    this.#busy = true;
    try {
      return await work();
    } finally {
      this.#busy = false;
      if (this.#closing) this.close();
    }
  }

  /** Now, or as soon as the call that waits is over. */
  close(): void {
    this.#closing = true;
    if (this.#busy || this.#fd < 0) return;
    libc.close(this.#fd);
    this.#fd = -1;
    libc.freeMemory(this.#memory);
  }
}

const later = (call: (done: (error: Error | null, result: number) => void) => void): Promise<number> =>
  new Promise((resolve, reject) => {
    call((error, result) => (error ? reject(error) : resolve(result)));
  });

/** The kernel's nbd driver. */
export class NbdDriver {
  readonly #family: number;
  readonly #group: number | null;
  #sequence = 1;

  private constructor(family: number, group: number | null) {
    this.#family = family;
    this.#group = group;
  }

  /** @throws SystemError ENOENT when there is no such driver, or one without netlink */
  static async open(): Promise<NbdDriver> {
    const name = string(CtrlAttribute.FAMILY_NAME, nbd.FAMILY);
    const answers = await exchange(encodeRequest(GENL_ID_CTRL, CtrlCommand.GETFAMILY, 1, [name]), 1);
    for (const { body } of answers) {
      const family = decodeFamily(body);
      if (family !== null) return new NbdDriver(family.id, family.groups.get(nbd.MULTICAST_GROUP) ?? null);
    }
    throw new SystemError(errnos.ENOENT, 'the kernel does not tell of its nbd driver');
  }

  /** Makes a device. @returns its index @throws SystemError the kernel's refusal */
  async connect(request: nbd.ConnectRequest): Promise<number> {
    const sequence = this.#sequence++;
    for (const answer of await exchange(nbd.encodeConnect(this.#family, sequence, request), sequence)) {
      const index = answer.command === nbd.Command.CONNECT ? nbd.decodeIndex(answer.body) : -1;
      if (index >= 0) return index;
    }
    throw new SystemError(errnos.EIO, 'the kernel made a device and did not say which');
  }

  /** Says goodbye to the server and ends the device; one that somebody has open goes when it is closed. @throws SystemError */
  async disconnect(index: number): Promise<void> {
    const sequence = this.#sequence++;
    await exchange(nbd.encodeDisconnect(this.#family, sequence, index), sequence);
  }

  /** Gives a device connections in the place of lost ones. @throws SystemError EINVAL when it is not the one with that identifier */
  async reconnect(index: number, identifier: string, fds: readonly number[]): Promise<void> {
    const sequence = this.#sequence++;
    await exchange(nbd.encodeReconnect(this.#family, sequence, index, identifier, fds), sequence);
  }

  /** @param size bytes @throws SystemError EINVAL when it is not the device with that identifier */
  async resize(index: number, identifier: string, size: number): Promise<void> {
    const sequence = this.#sequence++;
    await exchange(nbd.encodeResize(this.#family, sequence, index, identifier, size), sequence);
  }

  /**
   * Calls back with the index of each device that lost a connection, until the signal aborts.
   * @throws SystemError where the kernel has no such group
   */
  async hearLost(signal: AbortSignal, lost: (index: number) => void): Promise<void> {
    if (this.#group === null)
      throw new SystemError(errnos.EOPNOTSUPP, 'the nbd driver does not tell of lost connections');
    const socket = new NetlinkSocket(NETLINK_GENERIC);
    try {
      socket.join(this.#group);
      while (!signal.aborted) {
        const datagram = await socket.receive();
        if (datagram === null || signal.aborted) continue;
        for (const { type, command, body } of decodeMessages(datagram)) {
          if (type === this.#family && command === nbd.Command.LINK_DEAD) lost(nbd.decodeIndex(body));
        }
      }
    } finally {
      socket.close();
    }
  }
}

/** Sends a request and collects what comes up to its acknowledgement. @throws SystemError with the kernel's errno */
async function exchange(request: Buffer, sequence: number): Promise<Message[]> {
  const socket = new NetlinkSocket(NETLINK_GENERIC);
  try {
    await socket.send(request);
    const answers: Message[] = [];
    for (let waited = 0; waited < ANSWER_SECONDS; ) {
      const datagram = await socket.receive();
      if (datagram === null) waited += RECEIVE_SECONDS;
      else
        for (const message of decodeMessages(datagram)) {
          if (message.sequence !== sequence) continue;
          if (message.error === null) answers.push(message);
          else if (message.error === 0) return answers;
          else throw new SystemError(message.error, 'the kernel refused');
        }
    }
    throw new SystemError(errnos.ETIMEDOUT, `the kernel did not answer within ${ANSWER_SECONDS} s`);
  } catch (error) {
    throw error instanceof SystemError ? error : new SystemError(errnoOf(error), 'netlink failed', { cause: error });
  } finally {
    socket.close();
  }
}

/** Asks the kernel about unix sockets one after the other; an answer per question, null where there is none. @throws SystemError */
export async function askDiag<T>(
  protocol: number,
  questions: readonly Buffer[],
  decode: (answer: Buffer) => T | null,
): Promise<(T | null)[]> {
  const socket = new NetlinkSocket(protocol);
  try {
    const answers: (T | null)[] = [];
    for (const question of questions) {
      await socket.send(question);
      let answer = await socket.receive();
      // One to an earlier question, which came too late for it, would be told of another socket.
      while (answer !== null && !isAnswerTo(question, answer)) answer = await socket.receive();
      answers.push(answer === null ? null : decode(answer));
    }
    return answers;
  } finally {
    socket.close();
  }
}

const SEQUENCE = 8;

const isAnswerTo = (question: Buffer, answer: Buffer): boolean =>
  answer.length >= SEQUENCE + 4 && answer.readUInt32LE(SEQUENCE) === question.readUInt32LE(SEQUENCE);
