/** One input out of another: whole messages moved, their bytes and lengths changed, two inputs spliced. */
import { anyOption, anyRequest, anySettings, DICTIONARY } from './generate.js';
import type { Input } from './input.js';
import type { Random } from './random.js';

/** Most bytes of one input, so that a splice of splices stays quick. */
const MAX_BYTES = 150_000;
const MAX_MESSAGES = 40;

/** Changes some bytes of one message, most often among its first, where the fields are. */
export function mutateBytes(random: Random, message: Buffer): Buffer {
  const bytes = Buffer.from(message);
  const head = random.oneIn(5) ? bytes.length : Math.min(bytes.length, 48);
  const at = random.below(head);
  switch (random.below(8)) {
    case 0:
      if (bytes.length > 0) bytes[at] ^= 1 << random.below(8);
      return bytes;
    case 1:
      if (bytes.length > 0) bytes[at] = random.below(256);
      return bytes;
    case 2:
      return addTo(random, bytes);
    case 3: {
      const word = random.pick(DICTIONARY);
      word.copy(bytes, Math.max(0, Math.min(at - (at % 2), bytes.length - word.length)));
      return bytes;
    }
    case 4:
      return bytes.subarray(0, random.below(bytes.length + 1));
    case 5:
      return Buffer.concat([bytes.subarray(0, at), random.pick(DICTIONARY), bytes.subarray(at)]);
    case 6:
      return Buffer.concat([bytes.subarray(0, at), bytes.subarray(at + 1 + random.below(8))]);
    default:
      return Buffer.concat([bytes, random.bytes(random.below(40))]);
  }
}

/** Adds something small to a big-endian number of 2, 4 or 8 bytes: lengths and counts go wrong by one. */
function addTo(random: Random, bytes: Buffer): Buffer {
  const size = random.pick([2, 4, 8]);
  if (bytes.length < size) return bytes;
  const at = 2 * random.below(Math.floor((Math.min(bytes.length, 48) - size) / 2) + 1);
  const by = BigInt(random.pick([-1, 1, -8, 8, -512, 512]));
  let value = 0n;
  for (let i = 0; i < size; i++) value = (value << 8n) | BigInt(bytes[at + i]);
  value = BigInt.asUintN(size * 8, value + by);
  for (let i = size - 1; i >= 0; i--) {
    bytes[at + i] = Number(value & 0xffn);
    value >>= 8n;
  }
  return bytes;
}

/** @param other what a splice takes its second half from */
export function mutate(random: Random, input: Input, other: Input): Input {
  let messages = [...input.messages];
  let settings = input.settings;
  for (let i = 1 + random.below(4); i > 0; i--) {
    const at = random.below(messages.length);
    switch (random.below(9)) {
      case 0:
        messages.splice(at, 1);
        break;
      case 1:
        messages.splice(at, 0, messages[random.below(messages.length)] ?? Buffer.alloc(0));
        break;
      case 2:
        messages.splice(at + 1, 0, anyOption(random));
        break;
      case 3:
        messages.splice(at + 1, 0, anyRequest(random, random.pick(['simple', 'extended']), 'disk'));
        break;
      case 4:
        messages = [...messages.slice(0, at), ...other.messages.slice(random.below(other.messages.length))];
        break;
      case 5:
        settings = anySettings(random);
        break;
      default:
        if (messages.length > 0) messages[at] = mutateBytes(random, messages[at]);
    }
  }
  let bytes = 0;
  const kept = messages.slice(0, MAX_MESSAGES).filter((message) => {
    bytes += message.length;
    return bytes <= MAX_BYTES;
  });
  return { target: input.target, settings, messages: kept };
}
