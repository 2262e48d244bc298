/**
 * A family of volumes, snapshots and clones on the whole stack, and byte arrays that say what is in them. Random steps change both;
 * compare() compares every byte.
 */
import fc from 'fast-check';
import { expect } from 'vitest';
import { Flag } from '../../../src/requests/ops.js';
import { pattern, type Stack } from './stack.js';

const BLOCK = 4096;
const zeroFlags = { zero: 0, zeroKeep: Flag.NO_HOLE, zeroFast: Flag.FAST_ZERO } as const;
const kindsOfZero = ['zero', 'zeroKeep', 'zeroFast'] as const;

export type Step =
  | {
      kind: 'write' | 'trim' | keyof typeof zeroFlags;
      volume: number;
      at: number;
      length: number;
      seed: number;
      fua: boolean;
    }
  | { kind: 'snapshot' | 'clone' | 'rename' | 'remove' | 'close' | 'flush' | 'recreate'; volume: number }
  | { kind: 'resize'; volume: number; size: number };

const range = {
  volume: fc.nat({ max: 5 }),
  at: fc.double({ min: 0, max: 1, noNaN: true }),
  length: fc.oneof(fc.integer({ min: 1, max: 600 }), fc.integer({ min: 1, max: 5 * BLOCK }), fc.constant(BLOCK)),
  seed: fc.nat({ max: 250 }),
  fua: fc.boolean(),
};

export const step: fc.Arbitrary<Step> = fc.oneof(
  { weight: 8, arbitrary: fc.record({ kind: fc.constant('write' as const), ...range }) },
  {
    weight: 3,
    arbitrary: fc.record({ kind: fc.constantFrom('trim' as const, ...kindsOfZero), ...range }),
  },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant('snapshot' as const), volume: range.volume }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant('clone' as const), volume: range.volume }) },
  {
    weight: 1,
    arbitrary: fc.record({
      kind: fc.constantFrom(
        'rename' as const,
        'remove' as const,
        'close' as const,
        'flush' as const,
        'recreate' as const,
      ),
      volume: range.volume,
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      kind: fc.constant('resize' as const),
      volume: range.volume,
      size: fc.integer({ min: 1, max: 12 * BLOCK }),
    }),
  },
);

interface Disk {
  name: string;
  bytes: Buffer;
  readOnly: boolean;
}

export class Family {
  readonly disks: Disk[] = [];
  readonly #alwaysFua: boolean;
  /** Another one may take its place, with what is left of the objects. */
  stack: Stack;
  /** Names of volumes that were removed: they are used again. */
  readonly #free: string[] = [];
  #next = 0;

  /** @param alwaysFua everything that changes data is durable before its answer */
  constructor(stack: Stack, alwaysFua = false) {
    this.stack = stack;
    this.#alwaysFua = alwaysFua;
  }

  #name(): string {
    return this.#free.shift() ?? `volume-${this.#next++}`;
  }

  async begin(): Promise<void> {
    await this.#create(this.#name(), 7 * BLOCK + 100);
  }

  async #create(name: string, size: number): Promise<void> {
    await this.stack.create(name, size, BLOCK);
    this.disks.push({ name, bytes: Buffer.alloc(size), readOnly: false });
  }

  async run(step: Step): Promise<void> {
    const disk = this.disks[step.volume % this.disks.length];
    switch (step.kind) {
      case 'write':
      case 'trim':
      case 'zero':
      case 'zeroKeep':
      case 'zeroFast':
        await this.#change(disk, step);
        break;
      case 'snapshot':
        await this.#snapshot(disk);
        break;
      case 'clone':
        await this.#clone(disk);
        break;
      case 'rename': {
        const name = this.#name();
        await this.stack.rename(disk.name, name);
        this.#free.push(disk.name);
        disk.name = name;
        break;
      }
      case 'remove':
        if (this.disks.length < 2) break;
        await this.stack.remove(disk.name);
        this.disks.splice(this.disks.indexOf(disk), 1);
        this.#free.push(disk.name);
        break;
      case 'recreate':
        if (this.disks.length < 6) await this.#create(this.#name(), 3 * BLOCK);
        break;
      case 'close':
        await this.stack.close(disk.name);
        break;
      case 'flush':
        await this.stack.flush(disk.name);
        break;
      case 'resize':
        await this.#resize(disk, step.size);
        break;
    }
  }

  async #change(disk: Disk, step: Extract<Step, { at: number }>): Promise<void> {
    if (disk.readOnly) {
      await expect(this.stack.write(disk.name, 0, Buffer.alloc(1))).rejects.toMatchObject({ code: 'EROFS' });
      return;
    }
    const at = Math.floor(step.at * (disk.bytes.length - 1));
    const length = Math.min(step.length, disk.bytes.length - at);
    const fua = step.fua || this.#alwaysFua ? Flag.FUA : 0;
    if (step.kind === 'write') {
      const data = pattern(length, step.seed);
      await this.stack.write(disk.name, at, data, fua);
      data.copy(disk.bytes, at);
    } else if (step.kind === 'trim') {
      await this.stack.trim(disk.name, at, length, fua);
      // A trim may leave parts of shared blocks as they were; what it did is read back, and must be old bytes or zeros.
      const now = await this.stack.read(disk.name, at, length);
      for (let i = 0; i < length; i++) expect([0, disk.bytes[at + i]]).toContain(now[i]);
      now.copy(disk.bytes, at);
    } else {
      try {
        await this.stack.writeZeroes(disk.name, at, length, fua | zeroFlags[step.kind]);
      } catch (error) {
        // It may be refused, and then compare() finds nothing changed.
        if (step.kind !== 'zeroFast') throw error;
        expect(error).toMatchObject({ code: 'EOPNOTSUPP' });
        return;
      }
      disk.bytes.fill(0, at, at + length);
    }
  }

  async #snapshot(disk: Disk): Promise<void> {
    if (this.disks.length >= 6) return;
    const name = this.#name();
    await this.stack.snapshot(disk.name, name);
    this.disks.push({ name, bytes: Buffer.from(disk.bytes), readOnly: true });
  }

  async #clone(disk: Disk): Promise<void> {
    if (this.disks.length >= 6) return;
    const name = this.#name();
    if (!disk.readOnly) {
      await expect(this.stack.clone(name, disk.name)).rejects.toThrow();
      this.#free.push(name);
      return;
    }
    const size = disk.bytes.length + (disk.bytes.length % 3) * BLOCK;
    await this.stack.clone(name, disk.name, size);
    const bytes = Buffer.alloc(size);
    disk.bytes.copy(bytes);
    this.disks.push({ name, bytes, readOnly: false });
  }

  async #resize(disk: Disk, size: number): Promise<void> {
    if (disk.readOnly) return;
    await this.stack.resize(disk.name, size);
    const bytes = Buffer.alloc(size);
    disk.bytes.copy(bytes);
    disk.bytes = bytes;
  }

  /** Every byte of every volume is what the model says, and every extent that claims to be zero is. */
  async compare(): Promise<void> {
    for (const disk of this.disks) {
      const bytes = await this.stack.read(disk.name, 0, disk.bytes.length);
      if (!bytes.equals(disk.bytes)) {
        const at = bytes.findIndex((byte, i) => byte !== disk.bytes[i]);
        throw new Error(`${disk.name} differs at ${at}: ${bytes[at]} instead of ${disk.bytes[at]}`);
      }
      let at = 0;
      for (const { length, flags } of await this.stack.extents(disk.name, 0, disk.bytes.length)) {
        if (flags !== 0) expect(disk.bytes.subarray(at, at + length).every((byte) => byte === 0)).toBe(true);
        at += length;
      }
      expect(at).toBe(disk.bytes.length);
    }
  }

  /** What is told from maps alone: holes in reads, differences from snapshots. */
  async compareMaps(): Promise<void> {
    for (const disk of this.disks) {
      await this.#compareSparsely(disk);
      for (const from of this.disks) if (from.readOnly) await this.#compareDifferences(disk, from);
    }
  }

  /** Block by block, so that there are holes. */
  async #compareSparsely({ name, bytes }: Disk): Promise<void> {
    for (let at = 0; at < bytes.length; at += BLOCK) {
      const expected = bytes.subarray(at, at + BLOCK);
      const { hole, data } = await this.stack.sparseRead(name, at, expected.length);
      expect((hole ? Buffer.alloc(data.length) : data).equals(expected), `${name} at ${at}, hole: ${hole}`).toBe(true);
    }
  }

  /** What is said not to differ does not, and nothing of a map differs from itself. */
  async #compareDifferences({ name, bytes }: Disk, from: Disk): Promise<void> {
    const reference = Buffer.concat([from.bytes], bytes.length);
    let at = 0;
    for (const { length, flags } of await this.stack.diff(name, from.name, bytes.length)) {
      if (name === from.name) expect(flags).toBe(0);
      const same = bytes.subarray(at, at + length).equals(reference.subarray(at, at + length));
      if (flags === 0) expect(same, `${name} and ${from.name} at ${at}`).toBe(true);
      at += length;
    }
    expect(at).toBe(bytes.length);
  }
}
