import { afterEach, describe, expect, it } from 'vitest';
import { MAX_MESSAGE, MAX_TARGET, type Request, report, verify } from '../../../src/xseg/index.js';
import { P, R, RequestState } from '../../../src/xseg/layout.js';
import { ask, cleanUp, createSegment, joinSegment, stateOf, turn, until } from './help.js';

afterEach(cleanUp);

/** Two ways for an asker to reach a server: in the same Segment, and through rings and doorbells. */
const ways = [
  ['within a Segment', false],
  ['between two Segments', true],
] as const;

describe.each(ways)('requests %s', (_, apart) => {
  const pair = () => {
    const segment = createSegment();
    const asker = segment.bind(1, { name: 'asker' });
    const server = (apart ? joinSegment(segment) : segment).bind(2, { name: 'server' });
    return { segment, asker, server };
  };

  it('carry all their fields there and the answer back', async () => {
    const { segment, asker, server } = pair();
    const seen: unknown[] = [];
    server.serve((r) => {
      seen.push([r.op, r.flags, r.offset, r.size, r.target, r.v0Size, r.hint, r.src, r.dst, r.data.toString()]);
      r.data.write('answer');
      r.hint = 77;
      r.succeed(6);
    });
    const buffer = asker.allocate(6);
    const request = await ask(asker, 2, (r) => {
      r.op = 65;
      r.flags = 0xf0000001;
      r.offset = 2 ** 44 + 5;
      r.size = 2 ** 33;
      r.v0Size = 12345678901;
      r.hint = 9;
      r.target = 'archip_naïve';
      segment.memory.bytes.write('please', buffer);
      r.setData(buffer, 6);
    });
    expect(seen).toEqual([[65, 0xf0000001, 2 ** 44 + 5, 2 ** 33, 'archip_naïve', 12345678901, 9, 1, 2, 'please']]);
    expect(request.served).toBe(true);
    expect(request.serviced).toBe(6);
    expect(request.hint).toBe(77);
    expect(request.data.toString()).toBe('answer');
    asker.putRequest(request);
    asker.free(buffer);
    expect(verify(segment)).toEqual([]);
  });

  it('fail with errno and message, cut to what fits', async () => {
    const { asker, server } = pair();
    server.serve((r) => r.fail(28, 'é'.repeat(1000), 42));
    const request = await ask(asker, 2);
    expect(request.served).toBe(false);
    expect(request.errno).toBe(28);
    expect(request.serviced).toBe(42);
    expect(request.message).toBe('é'.repeat(MAX_MESSAGE / 2));
  });

  it('a record used again shows nothing of its last life', async () => {
    const { asker, server } = pair();
    server.serve((r) => r.fail(5, 'secret', 3));
    asker.putRequest(
      await ask(asker, 2, (r) => {
        r.target = 'old';
        r.setData(asker.allocate(4096), 4096);
        r.offset = 4096;
        r.size = 4096;
        r.flags = 8;
      }),
    );
    const again = asker.getRequest() as Request;
    const fields = [again.op, again.offset, again.size, again.flags, again.errno, again.serviced, again.v0Size];
    expect(fields).toEqual([0, 0, 0, 0, 0, 0, -1]);
    expect([again.target, again.message, again.dataLength, again.hasValidData]).toEqual(['', '', 0, false]);
  });

  it('keep their order from one asker to one server, at any depth', async () => {
    const { segment, asker, server } = pair();
    const seen: number[] = [];
    server.serve((r) => {
      seen.push(r.size);
      r.succeed(r.size);
    });
    const total = 5000;
    const answers: number[] = [];
    await new Promise<void>((resolve) => {
      let sent = 0;
      const next = (): void => {
        if (sent === total) return;
        const request = asker.getRequest() as Request;
        request.size = sent++;
        request.onReply = () => {
          answers.push(request.serviced);
          asker.putRequest(request);
          if (answers.length === total) resolve();
          else next();
        };
        asker.submit(request, 2);
      };
      for (let i = 0; i < 64; i++) next();
    });
    const inOrder = Array.from({ length: total }, (_, i) => i);
    expect(seen).toEqual(inOrder);
    expect(answers).toEqual(inOrder);
    expect(verify(segment)).toEqual([]);
  });

  it('sent before anybody serves the port are delivered in order once it does', async () => {
    const { asker, server } = pair();
    const answers = [1, 2, 3].map((size) =>
      ask(asker, 2, (r) => {
        r.size = size;
      }),
    );
    await turn();
    const seen: number[] = [];
    server.serve((r) => {
      seen.push(r.size);
      r.succeed(0);
    });
    expect(seen).toEqual([]);
    const later = ask(asker, 2, (r) => {
      r.size = 4;
    });
    await Promise.all([...answers, later]);
    expect(seen).toEqual([1, 2, 3, 4]);
  });

  it('a handler that throws fails its request with EIO and goes on serving', async () => {
    const { segment, asker, server } = pair();
    const reported: unknown[] = [];
    server.segment.onError = (error) => reported.push(error);
    server.serve((r) => {
      if (r.op === 1) throw new Error('a mistake');
      r.succeed(1);
    });
    const failed = await ask(asker, 2, (r) => {
      r.op = 1;
    });
    expect([failed.served, failed.errno, failed.message]).toEqual([false, 5, 'a mistake']);
    expect((await ask(asker, 2)).served).toBe(true);
    expect(reported).toHaveLength(1);
    expect(verify(segment)).toEqual([]);
  });

  it('an onReply that throws stops nobody', async () => {
    const { asker, server } = pair();
    const reported: unknown[] = [];
    asker.segment.onError = (error) => reported.push(error);
    server.serve((r) => r.succeed(1));
    const request = asker.getRequest() as Request;
    request.onReply = () => {
      throw new Error('a mistake');
    };
    asker.submit(request, 2);
    expect((await ask(asker, 2)).served).toBe(true);
    expect(reported).toHaveLength(1);
  });

  it('a second answer is reported and changes nothing', async () => {
    const { segment, asker, server } = pair();
    const reported: string[] = [];
    server.segment.onError = (error) => reported.push((error as Error).message);
    server.serve((r) => {
      r.succeed(1);
      r.fail(5, 'too late');
    });
    const request = await ask(asker, 2);
    expect([request.served, request.serviced, request.message]).toEqual([true, 1, '']);
    expect(reported).toEqual([expect.stringContaining('answered twice')]);
    asker.putRequest(request);
    expect(verify(segment)).toEqual([]);
  });

  it('that nobody waits for give their record back', async () => {
    const { segment, asker, server } = pair();
    let served = 0;
    server.serve((r) => {
      served++;
      r.succeed(0);
    });
    for (let round = 0; round < 40; round++) {
      for (let i = 0; i < 100; i++) asker.submit(asker.getRequest() as Request, 2);
      await until(() => served === (round + 1) * 100, 'all are served');
      await turn();
      await turn();
    }
    await until(() => report(segment).inFlight === 0, 'all are back');
    expect(verify(segment)).toEqual([]);
  });

  it('whose fields lead out of the heap never reach the handler', async () => {
    const { segment, asker, server } = pair();
    let reached = 0;
    server.serve((r) => {
      reached++;
      r.succeed(0);
    });
    const { heap, size } = segment.geometry;
    const ranges = [
      [0, 4096],
      [heap - 1, 2],
      [size - 4096, 8192],
      [2 ** 40, 1],
      [heap, 0xffffffff],
    ];
    for (const [offset, length] of ranges) {
      const request = await ask(asker, 2, (r) => r.setData(offset, length));
      expect([request.served, request.errno]).toEqual([false, 14]);
    }
    const long = await ask(asker, 2, (r) => {
      segment.memory.u32[r.word + R.TARGET_LENGTH] = MAX_TARGET + 1;
    });
    expect(long.errno).toBe(14);
    expect(long.target.length).toBeLessThanOrEqual(MAX_TARGET);
    expect(reached).toBe(0);
    expect((await ask(asker, 2)).served).toBe(true);
  });
});

describe('limits and misuse', () => {
  it('a target longer than 256 bytes is refused, of exactly 256 it arrives', async () => {
    const segment = createSegment();
    const port = segment.bind(1);
    port.serve((r) => r.succeed(r.targetLength));
    const name = 'n'.repeat(MAX_TARGET);
    expect((await port.call(1, { op: 1, target: name })).serviced).toBe(MAX_TARGET);
    await expect(port.call(1, { op: 1, target: `${name}n` })).rejects.toMatchObject({ code: 'ENAMETOOLONG' });
    await expect(port.call(1, { op: 1, target: 'é'.repeat(129) })).rejects.toMatchObject({ code: 'ENAMETOOLONG' });
    const request = port.getRequest() as Request;
    expect(() => request.setTargetBytes(new Uint8Array(257))).toThrow(
      expect.objectContaining({ code: 'ENAMETOOLONG' }),
    );
    port.putRequest(request);
    expect(verify(segment)).toEqual([]);
  });

  it.each([-1, 16, 2 ** 32, Number.NaN, 1.5])(
    'port %s does not exist: ENXIO, and the record can be used on',
    async (dst) => {
      const segment = createSegment();
      const port = segment.bind(1);
      const request = port.getRequest() as Request;
      expect(() => port.submit(request, dst)).toThrow(expect.objectContaining({ code: 'ENXIO' }));
      port.putRequest(request);
      expect(verify(segment)).toEqual([]);
    },
  );

  it('a full queue is EAGAIN, and the record can be sent again once there is room', async () => {
    const segment = createSegment({ mib: 128 });
    const askers = [segment.bind(1), segment.bind(2)];
    const { queueCapacity } = segment.geometry;
    const server = joinSegment(segment).bind(3);
    let answered = 0;
    for (let i = 0; i < queueCapacity; i++) {
      const port = askers[i % 2];
      const request = port.getRequest() as Request;
      request.onReply = () => {
        answered++;
        port.putRequest(request);
      };
      port.submit(request, 3);
    }
    const request = askers[0].getRequest() as Request;
    expect(() => askers[0].submit(request, 3)).toThrow(
      expect.objectContaining({ code: 'EAGAIN', message: expect.stringContaining(String(queueCapacity)) }),
    );
    expect(stateOf(request, segment)).toBe(RequestState.HELD);
    server.serve((r) => r.succeed(0));
    await until(() => answered === queueCapacity, 'all are answered');
    const again = new Promise<void>((resolve) => {
      request.onReply = () => resolve();
    });
    askers[0].submit(request, 3);
    await again;
    askers[0].putRequest(request);
    expect(verify(segment)).toEqual([]);
  });

  it('a port holds no more records than it may, and getRequest says null', () => {
    const segment = createSegment();
    const port = segment.bind(1);
    const limit = segment.memory.u32[segment.tables.portWord(1) + P.REQUEST_LIMIT];
    const taken: Request[] = [];
    for (let r = port.getRequest(); r; r = port.getRequest()) taken.push(r);
    expect(taken).toHaveLength(limit);
    expect(limit).toBeLessThan(segment.geometry.requests);
    port.putRequest(taken.pop() as Request);
    expect(port.getRequest()).not.toBeNull();
  });

  it('an exhausted table is null for everybody, and what one gives back another gets', async () => {
    const segment = createSegment();
    const taken: [number, Request][] = [];
    const ports = [1, 2, 3].map((n) => segment.bind(n));
    for (const [i, port] of ports.entries()) {
      for (let r = port.getRequest(); r; r = port.getRequest()) taken.push([i, r]);
    }
    expect(taken).toHaveLength(segment.geometry.requests);
    const late = joinSegment(segment).bind(4);
    expect(late.getRequest()).toBeNull();
    const available = new Promise<void>((resolve) => late.segment.whenAvailable(resolve));
    for (const [i, r] of taken.splice(0, 10)) ports[i].putRequest(r);
    await available;
    // The other process keeps them spare until it is asked for them.
    await until(() => late.getRequest() !== null, 'a record comes over');
    for (const [i, r] of taken) ports[i].putRequest(r);
    expect(verify(segment)).toEqual([]);
  });

  it('records given back twice, sent twice or sent by another port are refused', async () => {
    const segment = createSegment();
    const port = segment.bind(1);
    const other = segment.bind(2);
    other.serve(() => {});
    const invalid = expect.objectContaining({ code: 'EINVAL' });
    const request = port.getRequest() as Request;
    expect(() => other.submit(request, 1)).toThrow(invalid);
    expect(() => other.putRequest(request)).toThrow(invalid);
    port.submit(request, 2);
    expect(() => port.submit(request, 2)).toThrow(invalid);
    expect(() => port.putRequest(request)).toThrow(invalid);
    await turn();
    expect(() => port.putRequest(request)).toThrow(invalid);
    const second = port.getRequest() as Request;
    port.putRequest(second);
    expect(() => port.putRequest(second)).toThrow(invalid);
    expect(() => port.submit(second, 2)).toThrow(invalid);
  });

  it('two peers that talk without end leave the event loop its turns', async () => {
    const segment = createSegment();
    const port = segment.bind(1);
    port.serve((r) => r.succeed(0));
    let running = true;
    const forever = (async () => {
      while (running) await port.call(1, { op: 0 });
    })();
    await new Promise((resolve) => setTimeout(resolve, 1));
    running = false;
    await forever;
  });
});

describe('calls', () => {
  it('to a port without owner are refused at once, unless they may wait for one', async () => {
    const segment = createSegment();
    const port = segment.bind(1);
    await expect(port.call(2, { op: 1 })).rejects.toMatchObject({ code: 'ECONNREFUSED' });
    const waiting = port.call(2, { op: 1, size: 5 }, { wait: true });
    await turn();
    joinSegment(segment)
      .bind(2)
      .serve((r) => r.succeed(r.size));
    expect((await waiting).serviced).toBe(5);
    expect(verify(segment)).toEqual([]);
  });

  it('time out on a server that never answers, and everything comes back when it does after all', async () => {
    const segment = createSegment();
    const port = segment.bind(1);
    const server = joinSegment(segment).bind(2);
    const accepted: Request[] = [];
    server.serve((r) => accepted.push(r));
    await expect(port.call(2, { op: 1, capacity: 9000 }, { timeout: 20 })).rejects.toMatchObject({ code: 'ETIMEDOUT' });
    expect(accepted).toHaveLength(1);
    accepted[0].succeed(9000);
    await until(() => report(segment).inFlight === 0, 'the answer comes back');
    await turn();
    port.giveBackSpare();
    expect(report(segment).bound.find((b) => b.port === 1)).toMatchObject({ heapPages: 0, requests: 0 });
    expect(verify(segment)).toEqual([]);
  });

  it('that time out before they were looked at are withdrawn', async () => {
    const segment = createSegment();
    const port = segment.bind(1);
    const server = joinSegment(segment).bind(2);
    await expect(port.call(2, { op: 1 }, { timeout: 5 })).rejects.toMatchObject({ code: 'ETIMEDOUT' });
    let seen = 0;
    server.serve((r) => {
      seen++;
      r.succeed(0);
    });
    await port.call(2, { op: 2 });
    expect(seen).toBe(1);
    expect(verify(segment)).toEqual([]);
  });

  it('carry up to 4 MiB both ways; more is E2BIG', async () => {
    const segment = createSegment({ mib: 64 });
    const port = segment.bind(1);
    port.serve((r) => {
      r.data.reverse();
      r.succeed(r.dataLength);
    });
    const data = Buffer.alloc(4 << 20, 1);
    data[0] = 7;
    const reply = await port.call(1, { op: 1, data });
    expect(reply.data.length).toBe(data.length);
    expect(reply.data[data.length - 1]).toBe(7);
    await expect(port.call(1, { op: 1, capacity: (4 << 20) + 1 })).rejects.toMatchObject({ code: 'E2BIG' });
    expect(verify(segment)).toEqual([]);
  });

  it("reject with the server's errno, message and needed length", async () => {
    const segment = createSegment();
    const port = segment.bind(1);
    port.serve((r) => r.fail(34, 'needs 500 bytes', 500));
    await expect(port.call(1, { op: 1, capacity: 16 })).rejects.toMatchObject({
      code: 'ERANGE',
      message: 'needs 500 bytes',
      serviced: 500,
    });
  });

  it('do not show a server what another request left in the buffer', async () => {
    const segment = createSegment();
    const port = segment.bind(1);
    const dirty = port.allocate(4096);
    segment.memory.bytes.fill(0xaa, dirty, dirty + 4096);
    port.free(dirty);
    port.serve((r) => r.succeed(r.data.every((byte) => byte === 0) ? 1 : 0));
    expect((await port.call(1, { op: 1, capacity: 4096 })).serviced).toBe(1);
  });

  it('that ask for a brief answer get what was serviced, and their body arrives', async () => {
    const segment = createSegment();
    const port = segment.bind(1);
    port.serve((r) => {
      const body = Buffer.from(r.data.subarray(0, r.size));
      r.data.set([...body].reverse());
      r.succeed(r.size);
    });
    const data = Buffer.from('abc');
    const reply = await port.call(1, { op: 1, data, capacity: 65536, brief: true });
    expect(reply).toEqual({ serviced: 3, data: Buffer.from('cba') });
    expect((await port.call(1, { op: 1, capacity: 65536, size: 0, brief: true })).data).toHaveLength(0);
    expect((await port.call(1, { op: 1, data, capacity: 65536 })).data).toHaveLength(65536);
    port.serve((r) => r.succeed(1 << 20));
    expect((await port.call(1, { op: 1, capacity: 4096, brief: true })).data).toHaveLength(4096);
    expect(verify(segment)).toEqual([]);
  });
});
