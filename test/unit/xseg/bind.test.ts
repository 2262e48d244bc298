import fs from 'node:fs';
import { afterEach, describe, expect, it } from 'vitest';
import { report, verify } from '../../../src/xseg/index.js';
import { P } from '../../../src/xseg/layout.js';
import { cleanUp, createSegment, die, giveToParentProcess, joinSegment } from './help.js';

afterEach(cleanUp);

describe('binding ports', () => {
  it('a bound port shows its owner to everybody', () => {
    const segment = createSegment();
    segment.bind(3, { name: 'blockerb' });
    expect(joinSegment(segment).portOwner(3)).toEqual({ pid: process.pid, name: 'blockerb', alive: true });
    expect(joinSegment(segment).portOwner(4)).toBeNull();
  });

  it('a taken port is refused, naming who has it', () => {
    const segment = createSegment();
    segment.bind(3, { name: 'mapperd' });
    const taken = expect.objectContaining({
      code: 'EADDRINUSE',
      message: expect.stringContaining(`mapperd (process ${process.pid})`),
    });
    expect(() => segment.bind(3)).toThrow(taken);
    expect(() => joinSegment(segment).bind(3)).toThrow(taken);
  });

  it.each([-1, 16, 1.5, Number.NaN, 2 ** 32])('port %s is not in the table: EINVAL', (number) => {
    const segment = createSegment({ ports: 16 });
    expect(() => segment.bind(number)).toThrow(expect.objectContaining({ code: 'EINVAL' }));
    expect(verify(segment)).toEqual([]);
  });

  it('dynamic ports are handed out from the first dynamic one until they are exhausted', () => {
    const segment = createSegment({ ports: 12, dynamic: 8 });
    const other = joinSegment(segment);
    const bound = [segment, other, segment, other].map((s) => s.bind('dynamic').number);
    expect(bound).toEqual([8, 9, 10, 11]);
    expect(() => other.bind('dynamic')).toThrow(
      expect.objectContaining({ code: 'ENOSPC', message: expect.stringContaining('all 4 dynamic ports') }),
    );
    // Static ports are not touched by that.
    expect(segment.bind(7).number).toBe(7);
  });

  it("a dead owner's port is taken over, dynamic ones too", () => {
    const segment = createSegment({ ports: 12, dynamic: 10 });
    for (const port of [segment.bind(3, { name: 'first' }), segment.bind(10), segment.bind(11)]) die(port);
    const other = joinSegment(segment);
    expect(other.portOwner(3)?.alive).toBe(false);
    expect(other.bind(3, { name: 'second' }).number).toBe(3);
    expect([other.bind('dynamic').number, other.bind('dynamic').number]).toEqual([10, 11]);
    expect(verify(other)).toEqual([]);
  });

  it('a pid that was given to a later process does not keep a port', () => {
    const segment = createSegment();
    const port = segment.bind(3);
    giveToParentProcess(port);
    expect(segment.portOwner(3)?.alive).toBe(true);
    segment.memory.u32[segment.tables.portWord(3) + P.START] = 12345;
    expect(segment.portOwner(3)?.alive).toBe(false);
    expect(joinSegment(segment).bind(3).number).toBe(3);
  });

  it('a closed port is free at once, with its doorbell, records and buffers', () => {
    const segment = createSegment();
    const before = report(segment);
    const port = segment.bind(3);
    const bell = `/dev/shm/${segment.name}.bells/3`;
    expect(fs.statSync(bell).isFIFO()).toBe(true);
    port.allocate(100_000);
    port.free(port.allocate(5000));
    port.getRequest();
    port.close();
    port.close();
    expect(fs.existsSync(bell)).toBe(false);
    expect(report(segment)).toEqual(before);
    expect(verify(segment)).toEqual([]);
    expect(joinSegment(segment).bind(3).number).toBe(3);
  });

  it('closing late does not take the port, or the doorbell, of who has it now', () => {
    const segment = createSegment();
    const first = segment.bind(3);
    die(first);
    const other = joinSegment(segment);
    other.bind(3, { name: 'second' });
    const bell = fs.statSync(`/dev/shm/${segment.name}.bells/3`).ino;
    first.close();
    expect(other.portOwner(3)).toEqual({ pid: process.pid, name: 'second', alive: true });
    expect(fs.statSync(`/dev/shm/${segment.name}.bells/3`).ino).toBe(bell);
    expect(verify(other)).toEqual([]);
  });

  it('what is left of a dead owner in the place of its doorbell is replaced', () => {
    const segment = createSegment();
    const bell = `/dev/shm/${segment.name}.bells/3`;
    fs.writeFileSync(bell, 'not a FIFO');
    segment.bind(3);
    expect(fs.statSync(bell).isFIFO()).toBe(true);
    expect(fs.statSync(bell).mode & 0o777).toBe(0o660);
  });

  it('a doorbell that cannot be made is an error that names it, and the port stays free', () => {
    const segment = createSegment();
    fs.rmSync(`/dev/shm/${segment.name}.bells`, { recursive: true });
    expect(() => segment.bind(3)).toThrow(
      expect.objectContaining({ code: 'ENOENT', message: expect.stringContaining(`${segment.name}.bells/3`) }),
    );
    expect(segment.portOwner(3)).toBeNull();
    expect(verify(segment)).toEqual([]);
  });

  it('after closing, a port answers for nothing any more', async () => {
    const segment = createSegment();
    const port = segment.bind(3);
    const request = port.getRequest();
    if (!request) throw new Error('no record');
    const buffer = port.allocate(4096);
    const unanswered = port.call(3, { op: 1 });
    const ended = expect(unanswered).rejects.toMatchObject({ code: 'ECANCELED' });
    port.close();
    await ended;
    expect(() => port.submit(request, 1)).toThrow();
    expect(() => port.serve(() => {})).toThrow(expect.objectContaining({ code: 'ECANCELED' }));
    expect(port.getRequest()).toBeNull();
    expect(port.allocate(1)).toBe(-1);
    port.free(buffer);
    port.putRequest(request);
    await expect(port.call(3, { op: 1 }, { wait: true })).rejects.toMatchObject({ code: 'ECANCELED' });
    expect(verify(segment)).toEqual([]);
  });
});
