import fc from 'fast-check';
import { afterEach, describe, expect, it } from 'vitest';
import { MAX_ALLOCATION, report, verify } from '../../../src/xseg/index.js';
import { H } from '../../../src/xseg/layout.js';
import { cleanUp, createSegment, joinSegment, turn, until } from './help.js';

afterEach(cleanUp);

describe('the data heap', () => {
  it('random allocations by several ports never overlap, and all memory merges back', () => {
    const segment = createSegment({ mib: 16 });
    const empty = report(segment).freePages;
    const step = fc.record({
      port: fc.integer({ min: 0, max: 2 }),
      length: fc.oneof(fc.integer({ min: 0, max: 20_000 }), fc.integer({ min: 0, max: MAX_ALLOCATION })),
      free: fc.double({ min: 0, max: 0.999, noNaN: true }),
      kind: fc.constantFrom('allocate', 'allocate', 'free', 'free', 'spare'),
    });
    fc.assert(
      fc.property(fc.array(step, { maxLength: 200 }), (steps) => {
        const other = joinSegment(segment);
        const ports = [segment.bind(1), segment.bind(2), other.bind(3)];
        const { heap, heapPages, pageShift } = segment.geometry;
        const end = heap + heapPages * 2 ** pageShift;
        const blocks: { port: number; start: number; end: number }[] = [];
        for (const { port, length, free, kind } of steps) {
          if (kind === 'allocate') {
            const start = ports[port].allocate(length);
            if (start < 0) continue;
            const block = { port, start, end: start + ports[port].bufferLength(start) };
            expect(block.end - start).toBeGreaterThanOrEqual(Math.max(length, 1));
            expect(start % 4096).toBe(0);
            expect(start).toBeGreaterThanOrEqual(heap);
            expect(block.end).toBeLessThanOrEqual(end);
            for (const b of blocks) expect(b.end <= start || b.start >= block.end).toBe(true);
            blocks.push(block);
          } else if (kind === 'free' && blocks.length > 0) {
            const [block] = blocks.splice(Math.floor(free * blocks.length), 1);
            ports[block.port].free(block.start);
          } else ports[port].giveBackSpare();
        }
        expect(verify(segment)).toEqual([]);
        for (const block of blocks) ports[block.port].free(block.start);
        for (const port of ports) port.giveBackSpare();
        expect(report(segment).freePages).toBe(empty);
        expect(verify(segment)).toEqual([]);
        // Whole again: the largest blocks can all be had.
        const largest = segment.heap.allocate(segment.heap.maxOrder, 1);
        expect(largest).toBeGreaterThan(0);
        segment.heap.free(largest, 1);
        for (const port of ports) port.close();
        other.close();
      }),
      { numRuns: 40 },
    );
  });

  it('exhausted, it says -1 and calls back when there is memory again', async () => {
    const segment = createSegment();
    const port = segment.bind(1, { heapShare: 1 });
    const taken: number[] = [];
    for (let at = port.allocate(1 << 20); at >= 0; at = port.allocate(1 << 20)) taken.push(at);
    for (let at = port.allocate(4096); at >= 0; at = port.allocate(4096)) taken.push(at);
    expect(port.allocate(1)).toBe(-1);
    expect(report(segment).freePages).toBe(0);
    let called = false;
    segment.whenAvailable(() => {
      called = true;
    });
    port.free(taken.pop() as number);
    await turn();
    expect(called).toBe(true);
    expect(port.allocate(1)).toBeGreaterThan(0);
    await until(() => true, 'the loop goes on');
    for (const at of taken) port.free(at);
    expect(verify(segment)).toEqual([]);
  });

  it('a call that finds no memory waits for it', async () => {
    const segment = createSegment();
    const port = segment.bind(1, { heapShare: 1 });
    port.serve((r) => r.succeed(r.dataLength));
    const taken: number[] = [];
    for (let at = port.allocate(4096); at >= 0; at = port.allocate(4096)) taken.push(at);
    const call = port.call(1, { op: 1, capacity: 100_000 });
    await turn();
    for (const at of taken) port.free(at);
    expect((await call).serviced).toBe(100_000);
  });

  it('no port gets more than its share', () => {
    const segment = createSegment();
    const port = segment.bind(1, { heapShare: 0.25 });
    let bytes = 0;
    for (let at = port.allocate(65536); at >= 0; at = port.allocate(65536)) bytes += 65536;
    const { heapPages, pageShift } = segment.geometry;
    const share = (heapPages * 2 ** pageShift) / 4;
    expect(bytes).toBeLessThanOrEqual(share);
    expect(bytes).toBeGreaterThan(share - 2 * 65536);
    expect(segment.bind(2).allocate(1 << 20)).toBeGreaterThan(0);
  });

  it('what one peer keeps spare goes to another that is short of it', async () => {
    const segment = createSegment();
    const keeper = segment.bind(1, { heapShare: 1 });
    const other = joinSegment(segment).bind(2, { heapShare: 1 });
    const kept = Array.from({ length: 64 }, () => keeper.allocate(4096));
    for (const at of kept) keeper.free(at);
    const taken: number[] = [];
    const takeAll = (): void => {
      for (let at = other.allocate(4096); at >= 0; at = other.allocate(4096)) taken.push(at);
    };
    takeAll();
    await until(() => {
      takeAll();
      return taken.length === segment.geometry.heapPages;
    }, 'all pages are with the one who needs them');
    expect(verify(segment)).toEqual([]);
  });

  it('a buffer freed twice, of another port, or that never was, is refused', () => {
    const segment = createSegment();
    const port = segment.bind(1);
    const other = segment.bind(2);
    const invalid = expect.objectContaining({ code: 'EINVAL' });
    const buffer = port.allocate(8192);
    expect(() => other.free(buffer)).toThrow(invalid);
    expect(() => port.free(buffer + 4096)).toThrow(invalid);
    expect(() => port.free(buffer + 1)).toThrow(invalid);
    expect(() => port.free(0)).toThrow(invalid);
    expect(() => port.free(2 ** 33)).toThrow(invalid);
    port.free(buffer);
    expect(() => port.free(buffer)).toThrow(invalid);
    port.giveBackSpare();
    expect(() => port.free(buffer)).toThrow(invalid);
    expect(verify(segment)).toEqual([]);
  });

  it('free lists that somebody wrote over are made anew from what is allocated', () => {
    const segment = createSegment();
    const port = segment.bind(1);
    const kept = [4096, 70_000, 1 << 20].map((length) => port.allocate(length));
    const { u32 } = segment.memory;
    u32.fill(0x7fffffff, H.FREE_BLOCKS, H.FREE_BLOCKS + segment.heap.maxOrder + 1);
    expect(verify(segment)).not.toEqual([]);
    const more = Array.from({ length: 50 }, () => port.allocate(10_000));
    expect(more.every((at) => at > 0)).toBe(true);
    for (const at of [...kept, ...more]) port.free(at);
    expect(verify(segment)).toEqual([]);
  });
});
