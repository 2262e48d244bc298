/** Valid sessions of a client, and messages to put into them: what mutations start from. */
import {
  CFLAG,
  CMD,
  counted,
  extendedRequest,
  infoData,
  metaData,
  OPT,
  option,
  type RequestFields,
  request,
  u16,
  u32,
  u64,
} from '../unit/nbd/proto.js';
import type { Input } from './input.js';
import type { Random } from './random.js';
import { LIMITS } from './world.js';

type Style = 'simple' | 'structured' | 'extended';

const SIZES: ReadonlyMap<string, number> = new Map([
  ['disk', 300_077],
  ['', 300_077],
  ['ro', 65_536],
  ['4k', 262_144],
  ['bare', 100_000],
  ['large', 2 ** 33 + 4096],
  ['faulty', 204_800],
]);
const NAMES = [...SIZES.keys()];
const CONTEXTS = ['base:allocation', 'x-fuzz:one', 'x-fuzz:two', 'base:', 'x-other:thing', 'x-fuzz:'];

/** Lengths that sit on an edge of something. */
const LENGTHS = [0, 1, 511, 512, 513, 4095, 4096, 8192, 16_383, 16_384, 16_385, 32_768, 65_536, 65_537, LIMITS.payload];

const metaQueries = (random: Random): string[] => Array.from({ length: random.below(4) }, () => random.pick(CONTEXTS));

/** An option that is well-formed (or an unknown one); never one that ends the handshake. */
export function anyOption(random: Random): Buffer {
  const name = random.oneIn(8)
    ? random.pick(['nowhere', 'x'.repeat(random.below(5000)), 'd\0', 'ä'])
    : random.pick(NAMES);
  const infos = Array.from({ length: random.below(5) }, () => random.below(6));
  switch (random.below(9)) {
    case 0:
      return option(OPT.LIST);
    case 1:
      return option(OPT.INFO, infoData(name, [...new Set(infos)]));
    case 2:
      return option(OPT.STRUCTURED_REPLY);
    case 3:
      return option(OPT.LIST_META_CONTEXT, metaData(name, metaQueries(random)));
    case 4:
      return option(OPT.SET_META_CONTEXT, metaData(name, metaQueries(random)));
    case 5:
      return option(OPT.EXTENDED_HEADERS);
    case 6:
      return option(OPT.STARTTLS);
    case 7:
      return option(random.below(2 ** 32), random.bytes(random.below(100)));
    default:
      return option(random.below(13), Buffer.concat([counted(name), random.bytes(random.below(40))]));
  }
}

const COMMANDS = [
  CMD.READ,
  CMD.READ,
  CMD.WRITE,
  CMD.WRITE,
  CMD.FLUSH,
  CMD.TRIM,
  CMD.CACHE,
  CMD.WRITE_ZEROES,
  CMD.BLOCK_STATUS,
];
const FLAGS: ReadonlyMap<number, readonly number[]> = new Map([
  [CMD.READ, [CFLAG.DF]],
  [CMD.WRITE, [CFLAG.FUA]],
  [CMD.TRIM, [CFLAG.FUA]],
  [CMD.WRITE_ZEROES, [CFLAG.FUA, CFLAG.NO_HOLE, CFLAG.FAST_ZERO, CFLAG.FAST_ZERO | CFLAG.NO_HOLE]],
  [CMD.BLOCK_STATUS, [CFLAG.REQ_ONE]],
]);

let cookies = 0n;

/** One request in this style, most often one that must succeed. */
export function anyRequest(random: Random, style: Style, name: string): Buffer {
  const size = SIZES.get(name) ?? 65_536;
  const unit = name === '4k' && !random.oneIn(8) ? 4096 : 1;
  const type: number = random.oneIn(40) ? random.below(12) : random.pick(COMMANDS);
  const wide = type === CMD.TRIM || type === CMD.WRITE_ZEROES || type === CMD.BLOCK_STATUS || type === CMD.CACHE;
  const most = wide && random.oneIn(3) ? size : Math.min(size, LIMITS.payload);
  let length = random.oneIn(3)
    ? random.pick(LENGTHS)
    : 1 + random.below(random.oneIn(6) || wide ? most : Math.min(most, 5000));
  length = Math.min(Math.max(unit, length - (length % unit)), size);
  let offset = random.oneIn(4) ? size - length : random.below(size - length + 1);
  offset -= offset % unit;
  if (type === CMD.FLUSH) [offset, length] = [0, 0];
  let flags = random.oneIn(3) ? random.pick(FLAGS.get(type) ?? [0]) : 0;
  if (random.oneIn(50)) flags = 1 << random.below(16);
  const cookie = ((cookies++ & 0xffffffffn) << 32n) | BigInt(random.bits());
  const fields: RequestFields = { type, flags, cookie, offset, length };
  if (type === CMD.WRITE) {
    const data = random.oneIn(2) ? Buffer.alloc(length, random.below(256)) : random.bytes(Math.min(length, 64));
    const payload = data.length === length ? data : Buffer.concat([data, Buffer.alloc(length - data.length, 0x77)]);
    if (style !== 'extended') return Buffer.concat([request(fields), payload]);
    return Buffer.concat([extendedRequest({ ...fields, flags: flags | CFLAG.PAYLOAD_LEN }), payload]);
  }
  if (style === 'extended' && type === CMD.BLOCK_STATUS && random.oneIn(2)) {
    const payload = Buffer.concat([
      u64(length),
      ...Array.from({ length: random.below(4) }, () => u32(1 + random.below(4))),
    ]);
    const filtered = { ...fields, flags: flags | CFLAG.PAYLOAD_LEN, length: payload.length };
    return Buffer.concat([extendedRequest(filtered), payload]);
  }
  return style === 'extended' ? extendedRequest(fields) : request(fields);
}

const disconnect = (style: Style): Buffer =>
  style === 'extended' ? extendedRequest({ type: CMD.DISC }) : request({ type: CMD.DISC });

/** A session that follows the protocol from its first byte to its last. */
export function validSession(random: Random, name: string, style: Style, requests: number): Buffer[] {
  const messages = [u32(random.oneIn(4) ? 1 : 3)];
  if (style !== 'simple') {
    messages.push(option(style === 'extended' ? OPT.EXTENDED_HEADERS : OPT.STRUCTURED_REPLY));
    const queries = random.oneIn(4) ? metaQueries(random) : ['base:allocation'];
    messages.push(option(OPT.SET_META_CONTEXT, metaData(name, queries)));
  }
  if (style !== 'extended' && random.oneIn(4)) messages.push(option(OPT.EXPORT_NAME, Buffer.from(name)));
  else messages.push(option(OPT.GO, infoData(name, random.oneIn(2) ? [3] : [])));
  for (let i = 0; i < requests; i++) messages.push(anyRequest(random, style, name));
  return messages;
}

/** A fresh input for the server. */
export function generate(random: Random): Input {
  const style = random.pick(['simple', 'structured', 'extended'] as const);
  const messages = validSession(random, random.pick(NAMES), style, random.below(14));
  for (let i = random.below(4); i > 0; i--) messages.splice(1, 0, anyOption(random));
  if (random.oneIn(4)) messages.push(disconnect(style));
  if (random.oneIn(30)) messages.splice(1 + random.below(3), 0, option(OPT.ABORT));
  return { target: 'server', settings: anySettings(random), messages };
}

/** How an input meets the server: over which transport, by a device that answers when, in pieces of which size. */
export function anySettings(random: Random): Map<string, string> {
  const settings = new Map<string, string>();
  settings.set('transport', random.oneIn(5) ? 'raw' : 'stream');
  if (random.oneIn(3)) settings.set('lag', String(1 + random.below(1000)));
  if (random.oneIn(2))
    settings.set('cut', String(random.pick([1, 2, 7, 15, 16, 27, 28, 29, 31, 32, 33, 100, 1000, 20_000])));
  if (random.oneIn(6)) settings.set('slow', '1');
  if (random.oneIn(10)) settings.set('vanish', '1');
  return settings;
}

/** Numbers that break things, as bytes. */
export const DICTIONARY: readonly Buffer[] = [
  u64(0x49484156454f5054n),
  u64(0x3e889045565a9n),
  u64(0x4e42444d41474943n),
  ...[0x25609513, 0x21e41c71, 0x67446698, 0x668e33ef, 0x6e8a278c, 0, 1, 0x7fffffff, 0x80000000, 0xffffffff].map(u32),
  ...[2 ** 32 - 1, 2 ** 32, 2 ** 32 + 1, 2 ** 53, 2n ** 63n - 1n, 2n ** 63n, 2n ** 64n - 1n].map(u64),
  ...[0, 1, 0xff, 0x100, 0x7fff, 0x8000, 0xffff].map(u16),
  ...[LIMITS.payload, LIMITS.payload + 1, LIMITS.optionLength, LIMITS.optionLength + 1].map(u32),
  Buffer.from('base:allocation'),
  Buffer.from('disk'),
];
