/**
 * Generic netlink messages to bytes and back (linux/netlink.h, linux/genetlink.h): a header, a command, and attributes that may hold others.
 * Everything in the machine's byte order, which is little endian wherever this runs. No I/O.
 */

/** Of a netlink message, and of the command behind it. */
const HEADER = 16;
const COMMAND = 4;
const ATTRIBUTE = 4;
/** Attributes begin at multiples of it. */
const ALIGN = 4;

export const NLM_F_REQUEST = 1;
export const NLM_F_ACK = 4;
export const NLMSG_ERROR = 2;
/** Marks attributes that hold attributes. */
export const NLA_F_NESTED = 0x8000;
const NLA_TYPE_MASK = 0x3fff;

/** The controller: it tells the numbers of the other families. */
export const GENL_ID_CTRL = 16;
export const CtrlCommand = { GETFAMILY: 3 } as const;
export const CtrlAttribute = { FAMILY_ID: 1, FAMILY_NAME: 2, MCAST_GROUPS: 7 } as const;
export const CtrlGroupAttribute = { NAME: 1, ID: 2 } as const;

const aligned = (length: number): number => Math.ceil(length / ALIGN) * ALIGN;

/** One attribute with its padding. */
export function attribute(type: number, value: Uint8Array): Buffer {
  const out = Buffer.alloc(ATTRIBUTE + aligned(value.length));
  out.writeUInt16LE(ATTRIBUTE + value.length, 0);
  out.writeUInt16LE(type, 2);
  out.set(value, ATTRIBUTE);
  return out;
}

export function u32(type: number, value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value);
  return attribute(type, bytes);
}

export function u64(type: number, value: number): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(BigInt(value));
  return attribute(type, bytes);
}

/** Text with the NUL that ends it. */
export function string(type: number, text: string): Buffer {
  return attribute(type, Buffer.from(`${text}\0`, 'utf8'));
}

export function nested(type: number, attributes: readonly Uint8Array[]): Buffer {
  return attribute(type | NLA_F_NESTED, Buffer.concat(attributes));
}

/** A request: `command` of `family`, its attributes behind it. */
export function encodeRequest(
  family: number,
  command: number,
  sequence: number,
  attributes: readonly Uint8Array[],
  version = 1,
): Buffer {
  const head = Buffer.alloc(HEADER + COMMAND);
  head.writeUInt16LE(family, 4);
  head.writeUInt16LE(NLM_F_REQUEST | NLM_F_ACK, 6);
  head.writeUInt32LE(sequence, 8);
  head.writeUInt8(command, HEADER);
  head.writeUInt8(version, HEADER + 1);
  const out = Buffer.concat([head, ...attributes]);
  out.writeUInt32LE(out.length, 0);
  return out;
}

/** A message as it came. */
export interface Message {
  /** The family, or one of the types that all have. */
  readonly type: number;
  readonly sequence: number;
  /** Of NLMSG_ERROR: 0 is an acknowledgement, else a positive errno. Null for all other messages. */
  readonly error: number | null;
  /** Of generic netlink; -1 where there is none. */
  readonly command: number;
  /** What follows the command, or the header where there is none. */
  readonly body: Buffer;
}

/** The messages of one datagram. What is cut off in the middle is left out. */
export function decodeMessages(bytes: Buffer): Message[] {
  const messages: Message[] = [];
  let at = 0;
  while (at + HEADER <= bytes.length) {
    const length = bytes.readUInt32LE(at);
    if (length < HEADER || at + length > bytes.length) break;
    const type = bytes.readUInt16LE(at + 4);
    const sequence = bytes.readUInt32LE(at + 8);
    const payload = bytes.subarray(at + HEADER, at + length);
    if (type === NLMSG_ERROR) {
      const error = payload.length < 4 ? 0 : Math.abs(payload.readInt32LE(0));
      messages.push({ type, sequence, error, command: -1, body: payload });
    } else {
      const command = payload.length < COMMAND ? -1 : payload[0];
      messages.push({ type, sequence, error: null, command, body: payload.subarray(COMMAND) });
    }
    at += aligned(length);
  }
  return messages;
}

/** Attributes by their types; of several of one type the last. What is cut off is left out. */
export function decodeAttributes(bytes: Buffer): Map<number, Buffer> {
  return new Map(listAttributes(bytes));
}

/** Attributes in order, also those of one type: lists are made of them. */
export function listAttributes(bytes: Buffer): [type: number, value: Buffer][] {
  const found: [number, Buffer][] = [];
  let at = 0;
  while (at + ATTRIBUTE <= bytes.length) {
    const length = bytes.readUInt16LE(at);
    if (length < ATTRIBUTE || at + length > bytes.length) break;
    found.push([bytes.readUInt16LE(at + 2) & NLA_TYPE_MASK, bytes.subarray(at + ATTRIBUTE, at + length)]);
    at += aligned(length);
  }
  return found;
}

/** A string attribute without the NUL that ends it. */
export function text(value: Buffer | undefined): string {
  if (value === undefined) return '';
  const end = value.indexOf(0);
  return value.toString('utf8', 0, end < 0 ? value.length : end);
}

/** What the controller tells of a family: its number, and its multicast groups by name. Null: the answer is not about one. */
export function decodeFamily(body: Buffer): { id: number; groups: Map<string, number> } | null {
  const attributes = decodeAttributes(body);
  const id = attributes.get(CtrlAttribute.FAMILY_ID);
  if (id === undefined || id.length < 2) return null;
  const groups = new Map<string, number>();
  for (const [, group] of listAttributes(attributes.get(CtrlAttribute.MCAST_GROUPS) ?? Buffer.alloc(0))) {
    const of = decodeAttributes(group);
    const number = of.get(CtrlGroupAttribute.ID);
    if (number !== undefined && number.length >= 4)
      groups.set(text(of.get(CtrlGroupAttribute.NAME)), number.readUInt32LE(0));
  }
  return { id: id.readUInt16LE(0), groups };
}
