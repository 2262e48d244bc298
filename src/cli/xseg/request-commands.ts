/** Commands that send a request from SRC to DST. Each waits for its answer. */
import { Flag, Op } from '../../requests/ops.js';
import { decodeInfo, decodeName, encodeClone, encodeName, NAME_STRUCT_SIZE } from '../../requests/structs.js';
import { print } from '../common/io.js';
import { parseNumber } from './chain.js';
import type { Invocation, XsegCommand } from './command.js';

/** Most data of one request, in bytes; larger ranges go in several. */
const PIECE = 512 << 10;
/** Room for the JSON of a status. */
const JSON_CAPACITY = 256 << 10;

/** A command whose request has a target and an operation, and nothing to print. */
function plain(name: string, op: Op, help: string, flags = 0): XsegCommand {
  return {
    name,
    args: ['TARGET'],
    sends: true,
    help,
    run: async ({ state, ports, args }) => {
      await state.call(ports, { op, target: args[0], flags });
      return undefined;
    },
  };
}

export const requestCommands: readonly XsegCommand[] = [
  {
    name: 'ping',
    args: [],
    sends: true,
    help: 'ask whether the peer answers',
    run: async ({ state, ports }) => {
      await state.call(ports, { op: Op.PING });
      await print(state.io, `port ${ports?.dst} answers\n`);
      return undefined;
    },
  },
  {
    name: 'info',
    args: ['TARGET'],
    sends: true,
    help: 'size of a volume (mapperd, vlmcd) or an object (a blocker)',
    run: async ({ state, ports, args }) => {
      const { data } = await state.call(ports, { op: Op.INFO, target: args[0], capacity: 16, size: 16 });
      // Only a blocker writes the second word; elsewhere it stays 0.
      await print(state.io, `size: ${decodeInfo(data.subarray(0, 8)).size}\n`);
      return undefined;
    },
  },
  { name: 'read', args: ['TARGET', 'OFFSET', 'SIZE'], sends: true, help: 'data to standard output', run: read },
  { name: 'write', args: ['TARGET', 'OFFSET'], sends: true, help: 'data from standard input', run: write },
  {
    name: 'truncate',
    args: ['TARGET', 'SIZE'],
    sends: true,
    options: ['--force'],
    help: 'change the size of a volume (mapperd; --force to shrink) or an object (a blocker)',
    run: async ({ state, ports, args, options }) => {
      const flags = options.has('--force') ? Flag.FORCE : 0;
      await state.call(ports, { op: Op.TRUNCATE, target: args[0], offset: parseNumber(args[1], 'size'), flags });
      return undefined;
    },
  },
  plain('delete', Op.DELETE, 'remove a volume or an object'),
  plain('open', Op.OPEN, "take a volume's lock through the mapper"),
  plain('close', Op.CLOSE, "give up a volume's lock through the mapper"),
  plain('acquire', Op.ACQUIRE, 'take a lock of a blocker, at once or not at all', Flag.NOSYNC),
  {
    name: 'release',
    args: ['TARGET'],
    sends: true,
    options: ['--force'],
    help: "release a lock of a blocker; --force: another owner's too",
    run: async ({ state, ports, args, options }) => {
      await state.call(ports, { op: Op.RELEASE, target: args[0], flags: options.has('--force') ? Flag.FORCE : 0 });
      return undefined;
    },
  },
  {
    name: 'copy',
    args: ['SOURCE', 'TARGET', 'SIZE'],
    sends: true,
    help: 'copy at most SIZE bytes of an object (a blocker)',
    run: async ({ state, ports, args }) => {
      const size = parseNumber(args[2], 'size');
      await state.call(ports, { op: Op.COPY, target: args[1], data: encodeName(args[0]), size });
      return undefined;
    },
  },
  {
    name: 'clone',
    args: ['SOURCE', 'TARGET', 'SIZE'],
    sends: true,
    help: "make a volume of a snapshot (mapperd); SIZE in bytes, 0 = the snapshot's; SOURCE '' = blank",
    run: async ({ state, ports, args }) => {
      const data = encodeClone({ parent: args[0], size: parseNumber(args[2], 'size') });
      await state.call(ports, { op: Op.CLONE, target: args[1], data });
      return undefined;
    },
  },
  {
    name: 'snapshot',
    args: ['VOLUME', 'NAME'],
    sends: true,
    help: 'make a snapshot (vlmcd)',
    run: async ({ state, ports, args }) => {
      await state.call(ports, { op: Op.SNAPSHOT, target: args[0], data: encodeName(args[1]) });
      return undefined;
    },
  },
  {
    name: 'hash',
    args: ['TARGET', 'SIZE'],
    sends: true,
    help: "content-address an object's first SIZE bytes (a blocker) and print the hash",
    run: async ({ state, ports, args }) => {
      const size = parseNumber(args[1], 'size');
      const { data } = await state.call(ports, { op: Op.HASH, target: args[0], size, capacity: NAME_STRUCT_SIZE });
      await print(state.io, `${decodeName(data, 'HASH reply')}\n`);
      return undefined;
    },
  },
  {
    name: 'status',
    args: [],
    sends: true,
    help: "the peer's state, as JSON",
    run: async ({ state, ports }) => {
      const { data, serviced } = await state.call(ports, { op: Op.STATUS, size: 0, capacity: JSON_CAPACITY });
      await print(state.io, `${data.toString('utf8', 0, serviced)}\n`);
      return undefined;
    },
  },
  {
    name: 'wait',
    args: ['N'],
    help: 'accepted for old scripts: every request is waited for anyway',
    run: ({ args }) => {
      parseNumber(args[0], 'count');
      return undefined;
    },
  },
];

async function read({ state, ports, args }: Invocation): Promise<undefined> {
  const offset = parseNumber(args[1], 'offset');
  const size = parseNumber(args[2], 'size');
  for (let done = 0; done < size; done += PIECE) {
    const length = Math.min(PIECE, size - done);
    const request = { op: Op.READ, target: args[0], offset: offset + done, size: length, capacity: length };
    const { data } = await state.call(ports, request);
    await print(state.io, data.subarray(0, length));
  }
}

async function write({ state, ports, args }: Invocation): Promise<undefined> {
  let offset = parseNumber(args[1], 'offset');
  for await (const chunk of state.io.stdin) {
    for (let from = 0; from < chunk.length; from += PIECE) {
      const data = chunk.subarray(from, from + PIECE);
      await state.call(ports, { op: Op.WRITE, target: args[0], offset, data });
      offset += data.length;
    }
  }
}
