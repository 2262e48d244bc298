/** RESIZE, and the memory disk that does it. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { DeviceInfo, Io } from '../../../src/nbd/device.js';
import { IoCommand } from '../../../src/nbd/device.js';
import { MemoryDisk } from '../../../src/nbd/memory-device.js';
import { CFLAG, CMD, E, enter, execute, request, type Style, takeOutcome } from './proto.js';
import { RawPeer, SteeredDevice, serveMemory, until } from './support.js';
import { type Asked, parseReplies, requestBytes, talk } from './talk.js';

const MiB = 1024 * 1024;
const styles = ['simple', 'structured', 'extended'] as const;
const to = (offset: number | bigint, more: Partial<Asked> = {}): Asked => ({ type: CMD.RESIZE, offset, ...more });

async function errors(style: Style, device: SteeredDevice, asked: Asked[]): Promise<(number | undefined)[]> {
  const bytes = requestBytes(style, [...asked, { type: CMD.DISC }]);
  const told = parseReplies(style, await talk({ style, device }, [bytes]), asked);
  return asked.map((_, i) => told.get(i)?.error);
}

const steered = (info: Partial<DeviceInfo>): SteeredDevice => new SteeredDevice(new MemoryDisk({ size: MiB, info }));

describe.each(styles)('with %s replies', (style) => {
  test('the new size holds for what follows on the connection', async () => {
    const device = steered({ canResize: true });
    const last = { type: CMD.TRIM, offset: 2 * MiB - 1, length: 1 };
    const asked = [last, to(2 * MiB), last, to(MiB / 2, { flags: CFLAG.FUA }), last, to(MiB / 2)];
    expect(await errors(style, device, asked)).toEqual([E.INVAL, 0, 0, 0, E.INVAL, 0]);
    expect(device.size).toBe(MiB / 2);
    expect(device.submitted.filter(({ command }) => command === IoCommand.RESIZE)).toMatchObject([
      { offset: 2 * MiB, length: 0, fua: false },
      { offset: MiB / 2, length: 0, fua: true },
      { offset: MiB / 2, length: 0, fua: false },
    ]);
  });

  test('what makes no sense is refused before the device sees it', async () => {
    const device = steered({ canResize: true, blockSize: { minimum: 512, preferred: 4096, maximum: MiB } });
    const asked = [
      to(0),
      to(2 * MiB, { length: 512 }),
      to(MiB + 1),
      to(2n ** 53n),
      to(0xfffffffffffffe00n),
      to(2 * MiB, { flags: CFLAG.NO_HOLE }),
    ];
    expect(await errors(style, device, asked)).toEqual([E.INVAL, E.INVAL, E.INVAL, E.NOSPC, E.NOSPC, E.INVAL]);
    expect(device.submitted).toEqual([]);
    expect(device.size).toBe(MiB);
  });

  test('where it is not offered it is unknown; a read-only export says EPERM', async () => {
    expect(await errors(style, steered({ canResize: false }), [to(2 * MiB)])).toEqual([E.INVAL]);
    expect(await errors(style, steered({ canResize: true, readOnly: true }), [to(2 * MiB)])).toEqual([E.PERM]);
  });

  test("the device's refusal is the client's", async () => {
    const device = steered({ canResize: true });
    device.hook = (io: Io) => {
      io.complete(io.offset > 2 * MiB ? 28 : 22, 'not to that size');
      return true;
    };
    expect(await errors(style, device, [to(4 * MiB), to(MiB / 2)])).toEqual([E.NOSPC, E.INVAL]);
  });
});

test('a memory disk that shrinks and grows has forgotten what was cut off', () => {
  const size = fc.integer({ min: 1, max: 300_000 });
  fc.assert(
    fc.property(
      fc.array(fc.tuple(size, fc.integer({ min: 1, max: 255 })), { minLength: 1, maxLength: 10 }),
      (steps) => {
        const disk = new MemoryDisk({ size: 1 });
        let model = Buffer.alloc(1);
        for (const [bytes, value] of steps) {
          disk.resize(bytes);
          model = Buffer.concat([model.subarray(0, bytes), Buffer.alloc(Math.max(0, bytes - model.length))]);
          const read = Buffer.alloc(bytes, 0xee);
          disk.read(read, 0, bytes);
          expect(read.equals(model)).toBe(true);
          const half = Math.floor(bytes / 2);
          disk.write(Buffer.alloc(bytes - half, value), half, bytes - half);
          model.fill(value, half);
        }
      },
    ),
    { numRuns: 100 },
  );
});

test('a memory disk that was cut takes nothing behind its new end, and reads as zeros there when it grows again', async () => {
  const { path, disk } = await serveMemory({ size: 4 * MiB, maxIo: 64 * 1024, info: { canResize: true } });
  const [writer, other] = [await RawPeer.connect(path), await RawPeer.connect(path)];
  await enter(writer, 'structured');
  await enter(other, 'structured');
  const fields = { type: CMD.WRITE, offset: MiB, length: MiB };
  writer.send(Buffer.concat([request(fields), Buffer.alloc(MiB / 2, 7)]));
  const first = Buffer.alloc(1);
  await until(() => {
    disk.read(first, MiB, 1);
    return first[0] === 7;
  });
  expect((await execute(other, 'structured', { type: CMD.RESIZE, offset: MiB })).error).toBe(0);
  writer.send(Buffer.alloc(MiB / 2, 7));
  expect((await takeOutcome(writer, 'structured', fields)).error).toBe(E.NOSPC);
  expect((await execute(other, 'structured', { type: CMD.RESIZE, offset: 4 * MiB })).error).toBe(0);
  const { data } = await execute(other, 'structured', { type: CMD.READ, offset: MiB, length: MiB });
  expect(data?.equals(Buffer.alloc(MiB))).toBe(true);
});
