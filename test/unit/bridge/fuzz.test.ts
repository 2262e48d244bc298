/** Whatever comes in: the bridge lives, the segment is whole, and nothing of the client is left. */
import fc from 'fast-check';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { BridgeClient } from '../../../src/bridge/client.js';
import { Op } from '../../../src/requests/ops.js';
import { Bridged, RawClient } from './support.js';

let bridged: Bridged;

beforeAll(async () => {
  bridged = await Bridged.start();
  for (const peer of ['mapper', 'composer', 'endpoint', 'blocks', 'maps'] as const) {
    // An answer for every operation: at once, later, too large for the buffer, or a refusal.
    for (const op of Object.values(Op)) {
      const answers = [undefined, { some: 'answer' }, Buffer.alloc(5000, 7)];
      bridged.node.on(peer, op, async ({ target }) => {
        if (op % 2 === 0) await new Promise((resolve) => setImmediate(resolve));
        if (op % 5 === 4) throw new Error(`no ${target}`);
        return answers[op % 3];
      });
    }
  }
});
afterAll(() => bridged.close());

const odd = fc.oneof(
  fc.integer(),
  fc.double(),
  fc.string(),
  fc.constant(null),
  fc.boolean(),
  fc.jsonValue(),
  fc.constant(2 ** 53),
);
/** A request, with one of its fields perhaps something else. */
const request = fc
  .tuple(
    fc.record(
      {
        id: fc.nat(20),
        peer: fc.constantFrom('mapper', 'composer', 'endpoint', 'blocks', 'maps'),
        op: fc.nat(90),
        target: fc.string({ maxLength: 300 }),
        offset: fc.maxSafeNat(),
        size: fc.maxSafeNat(),
        flags: fc.nat(0xffff_ffff),
        v0Size: fc.maxSafeNat(),
        capacity: fc.nat(9000),
        data: fc.base64String({ maxLength: 400 }),
      },
      { requiredKeys: ['id', 'peer', 'op'] },
    ),
    fc.option(fc.tuple(fc.constantFrom('id', 'peer', 'op', 'target', 'size', 'capacity', 'data', 'x'), odd)),
  )
  .map(([fields, change]) => `${JSON.stringify(change ? { ...fields, [change[0]]: change[1] } : fields)}\n`);
const garbage = fc.oneof(
  fc.uint8Array({ maxLength: 200 }).map((bytes) => Buffer.from(bytes)),
  fc.json().map((json) => Buffer.from(`${json}\n`)),
  request.map((line) => Buffer.from(line)),
  // A request that lost its end, or a byte of its middle.
  fc.tuple(request, fc.nat(400)).map(([line, at]) => Buffer.from(line.slice(0, at))),
  fc.tuple(request, fc.nat(400)).map(([line, at]) => Buffer.from(line.slice(0, at) + line.slice(at + 1))),
);

it('of a client that sends what it likes and goes when it likes', { timeout: 120_000 }, async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(garbage, { maxLength: 30 }), fc.boolean(), async (pieces, goesAtOnce) => {
      const raw = new RawClient(bridged.config);
      for (const piece of pieces) raw.socket.write(piece);
      if (goesAtOnce) raw.socket.destroy();
      else raw.socket.end();
      await raw.closed;
      for (const { id, serviced, errno } of raw.lines.slice(1)) {
        expect(id === null || typeof id === 'number').toBe(true);
        expect(typeof serviced === 'number' || typeof errno === 'number').toBe(true);
      }
    }),
    { numRuns: 150 },
  );
  await expect.poll(() => bridged.server.load).toEqual({ connections: 0, inFlight: 0, bytes: 0 });
  expect(bridged.problems).toEqual([]);
  const client = await BridgeClient.connect(bridged.config);
  expect((await client.call('mapper', { op: Op.LIST, capacity: 6000 })).serviced).toBeGreaterThan(0);
  client.close();
});

it('of many at a time', { timeout: 120_000 }, async () => {
  const [lines] = fc.sample(fc.array(request, { minLength: 2000, maxLength: 2000 }), { numRuns: 1, seed: 7 });
  const raws = Array.from({ length: 40 }, () => new RawClient(bridged.config));
  lines.forEach((line, i) => void raws[i % raws.length].socket.write(line));
  raws.forEach((raw, i) => void (i % 2 === 0 ? raw.socket.end() : raw.socket.destroy()));
  await Promise.all(raws.map(({ closed }) => closed));
  await expect.poll(() => bridged.server.load).toEqual({ connections: 0, inFlight: 0, bytes: 0 });
  await expect.poll(() => bridged.problems).toEqual([]);
  expect(bridged.ports.length).toBeLessThanOrEqual(2);
});
