/** Parsers of what strangers say: option data, request headers, URIs, export names. They understand or refuse, and never anything else. */
import { formatTime, parseTime, splitName } from '../../src/endpoint/names.js';
import {
  type RequestHeader,
  readExtendedRequest,
  readRequest,
  writeExtendedRequest,
  writeRequest,
} from '../../src/nbd/codec.js';
import { ProtocolError } from '../../src/nbd/errors.js';
import {
  decodeInfo,
  decodeInfoRequest,
  decodeMetaContext,
  decodeMetaRequest,
  decodeServerEntry,
  encodeInfoBlockSize,
  encodeInfoExport,
  encodeInfoRequest,
  encodeInfoText,
  encodeMetaContext,
  encodeMetaRequest,
  encodeServerEntry,
  InvalidOptionError,
} from '../../src/nbd/handshake-codec.js';
import { formatNbdUri, parseNbdUri } from '../../src/nbd/uri.js';
import { SystemError } from '../../src/sys/errno.js';
import { infoData, metaData, request, u16, u32, u64 } from '../unit/nbd/proto.js';
import type { Target } from './engine.js';
import type { Input } from './input.js';
import { mutateBytes } from './mutate.js';
import { demand } from './oracle.js';
import type { Random } from './random.js';

/** What a decoder makes of the bytes; null when it refuses them. @throws what is no refusal */
function understood<T>(decode: () => T): T | null {
  try {
    return decode();
  } catch (error) {
    if (error instanceof InvalidOptionError || error instanceof ProtocolError) return null;
    throw error;
  }
}

/** What was understood is what was sent: encoding it again gives the same bytes. */
function same<T>(what: string, bytes: Buffer, decode: (bytes: Buffer) => T, encode: (value: T) => Buffer | null): void {
  const value = understood(() => decode(bytes));
  if (value === null) return;
  const again = encode(value);
  demand(again === null || again.equals(bytes), `${what}: ${bytes.toString('hex')} becomes ${again?.toString('hex')}`);
}

function encodeInfoReply(reply: ReturnType<typeof decodeInfo>): Buffer | null {
  if (reply.info === 'export') return encodeInfoExport(reply.size, reply.flags);
  if (reply.info === 'blockSize') return encodeInfoBlockSize(reply.minimum, reply.preferred, reply.maximum);
  if (reply.info === 'name' || reply.info === 'description') {
    return encodeInfoText(reply.info === 'name' ? 1 : 2, reply.text);
  }
  return null;
}

function options(bytes: Buffer): void {
  same('INFO', bytes, decodeInfoRequest, ({ name, infos }) => encodeInfoRequest(name, infos));
  same('META_CONTEXT', bytes, decodeMetaRequest, ({ name, queries }) => encodeMetaRequest(name, queries));
  same('INFO reply', bytes, decodeInfo, encodeInfoReply);
  same('META_CONTEXT reply', bytes, decodeMetaContext, ({ id, name }) => encodeMetaContext(id, name));
  same('SERVER reply', bytes, decodeServerEntry, ({ name, description }) => encodeServerEntry(name, description));
}

function requests(bytes: Buffer): void {
  if (bytes.length < 32) return;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const out = Buffer.alloc(32);
  const outView = new DataView(out.buffer, out.byteOffset, 32);
  const header = {
    flags: 0,
    command: 0,
    cookieHigh: 0,
    cookieLow: 0,
    offset: 0,
    length: 0,
    offsetHigh: 0,
    offsetLow: 0,
  };
  const exact = ({ offset, length }: RequestHeader) => Number.isSafeInteger(offset) && Number.isSafeInteger(length);
  if (readRequest(view, 0, header) && exact(header)) {
    writeRequest(outView, 0, header);
    demand(out.subarray(0, 28).equals(bytes.subarray(0, 28)), 'a request is read as another');
  }
  if (readExtendedRequest(view, 0, header) && exact(header)) {
    writeExtendedRequest(outView, 0, header);
    demand(out.equals(bytes.subarray(0, 32)), 'an extended request is read as another');
  }
}

function uri(text: string): void {
  let parts: ReturnType<typeof parseNbdUri>;
  try {
    parts = parseNbdUri(text);
  } catch (error) {
    if (error instanceof SystemError) return;
    throw error;
  }
  const again = JSON.stringify(parseNbdUri(formatNbdUri(parts)));
  demand(again === JSON.stringify(parts), `the URI ${text} becomes ${formatNbdUri(parts)}`);
}

function names(text: string): void {
  for (const { volume, selector } of splitName(text)) {
    demand(volume.length > 0 && selector.length > 0 && `${volume}@${selector}` === text, `${text} is split wrongly`);
    time(selector);
  }
  time(text);
}

function time(selector: string): void {
  const ms = parseTime(selector, Date.UTC(2026, 10, 19));
  if (ms === null) return;
  demand(!Number.isNaN(ms), `${selector} is no time and no refusal`);
  demand(/^[+-]?\d+-\d\d-\d\dT\d\d:\d\d:\d\dZ$/.test(formatTime(ms)), `${selector} is told as ${formatTime(ms)}`);
}

const TEXTS = [
  'nbd://example.com:10809/disk',
  'nbd+unix:///disk?socket=%2Ftmp%2Fs',
  'nbds://alice@[::1]:1/a%20b?tls-hostname=x&tls-verify-peer=0',
  'nbds+unix:///?socket=s&tls-psk-file=/k',
  'vol@snap',
  'vol@-1h30m',
  'vol@-999999999w999999999w',
  'vol@2026-11-19T03:00:10+01:00',
  'a@b@c@1763600000',
];

export class ParsersTarget implements Target {
  readonly name = 'parsers';

  generate(random: Random): Input {
    const text = Buffer.from(random.pick(TEXTS));
    const choices: (() => Buffer)[] = [
      () => text,
      () => infoData('disk', [1, 3]),
      () => metaData('disk', ['base:', 'x-a:b']),
      () => Buffer.concat([u16(random.below(5)), u64(random.bits()), u16(1), u16(0)]),
      () => Buffer.concat([u32(4), Buffer.from('disk and text')]),
      () => Buffer.concat([request({ type: random.below(9), offset: random.bits(), length: 512 }), u32(0)]),
      () => random.bytes(random.below(60)),
    ];
    return { target: this.name, settings: new Map(), messages: [random.pick(choices)()] };
  }

  mutate(random: Random, input: Input, other: Input): Input {
    const messages = input.messages.map((message) => mutateBytes(random, mutateBytes(random, message)));
    if (random.oneIn(5)) messages.push(Buffer.concat([...input.messages.slice(0, 1), ...other.messages.slice(0, 1)]));
    return { ...input, messages: messages.slice(0, 8) };
  }

  async run(input: Input): Promise<void> {
    for (const bytes of input.messages) {
      options(bytes);
      requests(bytes);
      const text = bytes.toString('utf8');
      uri(text);
      names(text);
    }
  }

  async close(): Promise<void> {}
}
