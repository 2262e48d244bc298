/**
 * Two nodes on one store do anything at random times: open, write, flush, break locks, hand over, die. Whatever happens, what was
 * acknowledged is read, a node whose lock was broken writes nothing more, and never two may write. Where first writes are noted, a lock that
 * is lost may take with it what was not flushed.
 */
import fc from 'fast-check';
import { expect, it } from 'vitest';
import type { Driver } from '../../../src/blockers/driver.js';
import { MemoryDriver } from '../../../src/blockers/memory/index.js';
import { PATIENCE_MS } from '../../../src/mapper/locking/breaking.js';
import { LockRegistry } from '../../../src/mapper/locking/registry.js';
import type { NoteStore } from '../../../src/mapper/provisional/notes.js';
import type { LeaseReply } from '../../../src/requests/lease.js';
import { Flag } from '../../../src/requests/ops.js';
import { errnoName, errnoOf, errnos, SystemError } from '../../../src/sys/errno.js';
import { SimulatedNotes } from '../../sim/notes.js';
import { checkInvariants } from './invariants.js';
import { A, B, settle, startNode, TestClock } from './nodes.js';
import { createSmall, DriverClient, memoryStores, type Node, readVolume } from './support.js';

const BLOCK = 256;
const BLOCKS = 3;
const CHANGES = ['write', 'trim', 'writeZeroes', 'reset', 'copy', 'delete', 'truncate'] as const;
/** What may be answered to something that met a lock, a loss or another operation. */
const ANSWERS = ['EBUSY', 'EIO', 'ENOENT', 'EPERM', 'EEXIST', 'ECANCELED'];

const OLD = 'old_1002';

const single = fc.record({
  what: fc.constantFrom(
    'write',
    'write',
    'write',
    'flush',
    'shared',
    'open',
    'close',
    'leave',
    'break',
    'break',
    'snapshot',
    'die',
    'maps take',
    'blocks take',
    'steal',
    'pass',
    'pass',
  ),
  side: fc.constantFrom(0, 1),
  block: fc.integer({ min: 0, max: BLOCKS - 1 }),
  ms: fc.constantFrom(1, 20, 120, 400, 1500, 4000, 7000),
});
type Single = typeof single extends fc.Arbitrary<infer T> ? T : never;
type Command = Pick<Single, 'what'> & { readonly side: number; readonly block: number; readonly ms: number };

/**
 * What single commands seldom come to: something is under way at a node that has the lock, for longer or shorter than the lock is good for,
 * when that is taken away.
 */
const scene = fc
  .record({
    side: fc.constantFrom(0, 1),
    block: fc.integer({ min: 0, max: BLOCKS - 1 }),
    slow: fc.constantFrom('maps take', 'blocks take', 'blocks take'),
    ms: fc.constantFrom(400, 1500, 2500, 4000, 7000),
    work: fc.constantFrom('write', 'write', 'snapshot'),
    how: fc.constantFrom('break', 'break', 'steal'),
  })
  .map(({ side, block, slow, ms, work, how }): Command[] => {
    const does = (what: Command['what'], by: number = side, time = 1): Command => ({ what, side: by, block, ms: time });
    const begin = [does('maps take', 0), does('maps take', 1), does('blocks take', 0), does('blocks take', 1)].map(
      (quick) => ({ ...quick, ms: 0 }),
    );
    // The block's object is shared from then on: the next write copies it.
    begin.push(does('close', 1 - side), does('pass', 0, 7000), does('write'), does('snapshot'), does('write'));
    if (how === 'steal') {
      const still = does('pass', 0, 20);
      // With a lease, that of another write: granting one looks at the lock.
      const other = { ...does('write'), block: (block + 1) % BLOCKS };
      return [...begin, does('snapshot'), still, other, still, does('steal'), does('write'), does('flush'), still];
    }
    const end = [does('pass', 0, 20), does('break', 1 - side), does('pass', 0, 7000), does('pass', 0, 7000)];
    return [...begin, does('snapshot'), does(slow, side, ms), does(work), ...end];
  });

const some = fc.oneof(
  { weight: 2, arbitrary: fc.array(single, { minLength: 1, maxLength: 10 }) },
  { weight: 1, arbitrary: scene },
);

class World {
  readonly clock = new TestClock();
  readonly stores = memoryStores();
  readonly sides: Side[] = [];
  /** Owners whose lock was broken, and who have not taken it since. */
  readonly banned = new Set<string>();
  /** Owners whose lock was taken by a node that waits for nobody, while they did nothing: what they begin from then on changes no map. */
  readonly robbed = new Set<string>();
  /**
   * By block: what it was last known to hold; what it may hold as well, as that was written since or the lock was lost; and what it held before
   * that without a flush in between.
   */
  readonly blocks = Array.from({ length: BLOCKS }, () => ({
    sure: 0,
    maybe: new Set<number>(),
    older: new Set<number>(),
  }));
  /** First writes are noted. */
  readonly noted: boolean;
  value = 0;
  /** What must not be: told at the end, since here it would be taken for an answer. */
  readonly violations: string[] = [];

  constructor(noted: boolean) {
    this.noted = noted;
  }

  /** How often somebody's lock was lost. */
  losses = 0;

  /** Somebody's lock was lost, with what it had not flushed. */
  lose(): void {
    this.losses++;
    if (!this.noted) return;
    for (const { maybe, older } of this.blocks) for (const value of older) maybe.add(value);
  }

  /**
   * What is done by a holder, and makes durable what was acknowledged before.
   * @param isClose succeeds also where the lock was lost meanwhile, for it ends a loss: durable is what there was when the lock was given back, or
   *   kept, as by the end of a client of a volume that is open
   */
  async settling(side: Side, work: () => Promise<unknown>, isClose = false): Promise<void> {
    const held = side.holds;
    const { released } = side;
    const { losses } = this;
    const before = this.blocks.map(({ older }) => [...older]);
    await work();
    const kept = side.holds && this.losses === losses;
    if (!held || (isClose && side.released === released && !kept)) return;
    for (const [i, { older }] of this.blocks.entries()) for (const value of before[i]) older.delete(value);
  }

  /** Whoever may write by a lease that is good. */
  writers(): string[] {
    return this.sides.filter((side) => side.mayWrite).map((side) => side.owner);
  }
}

/** A mapper that was killed writes no notes. */
function whileAlive(notes: SimulatedNotes, isAlive: () => boolean): NoteStore {
  const alive = (): SimulatedNotes => {
    if (!isAlive()) throw new SystemError(errnos.EBADF, 'this mapper was killed');
    return notes;
  };
  return {
    load: () => notes.load(),
    write: (volume, bytes, at) => alive().write(volume, bytes, at),
    truncate: (volume, length) => alive().truncate(volume, length),
    remove: (volume) => alive().remove(volume),
  };
}

/** A node with a composer that survives its mapper. */
class Side {
  readonly owner: string;
  readonly #world: World;
  readonly #registry = LockRegistry.volatile();
  readonly #notes: SimulatedNotes | null;
  /** The lock was taken by plain calls of the file system, and not got again since. */
  #stolen = false;
  node: Node;
  /** How often the volume's lock was given back in order. */
  released = 0;
  /** The composer's way to the blocks. */
  readonly #disk: DriverClient;
  /** ms that each request takes: to the store of maps and locks, to that of blocks. */
  readonly slow = { maps: 0, blocks: 0 };
  #died: () => void = () => {};
  #death = new Promise<void>((resolve) => (this.#died = resolve));
  #lease: LeaseReply | null = null;
  #revocations = 0;
  #losses = 0;
  #inFlight = 0;
  #asking = 0;
  #drained: (() => void)[] = [];

  constructor(world: World, owner: string) {
    this.#world = world;
    this.owner = owner;
    this.#notes = world.noted ? new SimulatedNotes() : null;
    this.node = this.#start([]);
    this.#disk = new DriverClient(new MemoryDriver(owner, world.stores.blocks));
    this.#disk.now = () => world.clock.now();
    this.#disk.before = () => this.#delay('blocks');
    this.#guard(this.#disk.driver);
  }

  #start(inherited: number[]): Node {
    const { clock, stores, banned, robbed, violations } = this.#world;
    const prepare = (node: Node): void => {
      node.holders.set(500, (_volume, flags) => this.#revoke(flags));
      for (const store of ['maps', 'blocks'] as const) {
        const client = node[store];
        // Requests stand in a queue before they are begun.
        client.before = async () => {
          await this.#delay(store);
          // A port's next owner begins when what was sent by the last is over (xseg/settling.ts): here it never is.
          if (node !== this.node) await new Promise(() => {});
        };
        this.#guard(client.driver);
      }
      const { driver } = node.maps;
      const write = driver.write.bind(driver);
      driver.write = (io) => {
        if (robbed.has(this.owner)) violations.push(`${this.owner} changes a map`);
        write(io);
      };
    };
    let started = false;
    const node: Node = startNode(stores, clock, this.owner, {
      inherited,
      prepare,
      registry: this.#registry,
      lockWaitMs: 8000,
      ...(this.#notes ? { notes: whileAlive(this.#notes, () => !started || node === this.node) } : {}),
    });
    started = true;
    const { driver } = node.maps;
    const acquire = driver.acquire.bind(driver);
    driver.acquire = async (target) => {
      await acquire(target);
      banned.delete(this.owner);
      robbed.delete(this.owner);
      this.#stolen = false;
    };
    const release = driver.release.bind(driver);
    driver.release = async (target, force) => {
      await release(target, force);
      if (!force && target === 'volume') this.released++;
    };
    return node;
  }

  /** Whatever changes the store is begun under a lock that nobody broke. */
  #guard(driver: Driver): void {
    const { banned, violations } = this.#world;
    for (const method of CHANGES) {
      const original = driver[method].bind(driver) as (...args: unknown[]) => unknown;
      (driver as unknown as Record<string, unknown>)[method] = (...args: unknown[]): unknown => {
        if (banned.has(this.owner)) violations.push(`${this.owner}: ${method}`);
        return original(...args);
      };
    }
  }

  async #delay(store: 'maps' | 'blocks'): Promise<void> {
    const ms = this.slow[store];
    if (ms > 0) await new Promise<void>((resolve) => this.#world.clock.after(ms, resolve));
  }

  /** The lock is this node's, and its mapper knows. */
  get holds(): boolean {
    return this.#world.stores.maps.locks.get('volume')?.owner === this.owner && this.node.mapper.status().locked === 1;
  }

  get #until(): number {
    return Math.max(this.#lease?.until ?? 0, this.node.renewed.get(500) ?? 0);
  }

  get mayWrite(): boolean {
    return this.#lease?.granted === 'exclusive' && this.#world.clock.now() < this.#until;
  }

  async #revoke(flags: number): Promise<void> {
    this.#lease = null;
    this.#revocations++;
    if (flags & Flag.LOST) this.#losses++;
    if (this.#inFlight > 0) await new Promise<void>((resolve) => this.#drained.push(resolve));
  }

  /** Asks the mapper; what a mapper that dies leaves is asked of the next. */
  async ask<T>(work: (node: Node) => Promise<T>): Promise<T> {
    this.#asking++;
    try {
      for (;;) {
        const death = this.#death.then(() => null);
        const result = await Promise.race([work(this.node).then((value) => ({ value })), death]);
        if (result) return result.value;
      }
    } finally {
      this.#asking--;
    }
  }

  /** A node that runs the original takes this one's lock, by plain calls of the file system. */
  robbed(): void {
    const { stores, robbed } = this.#world;
    if (stores.maps.locks.get('volume')?.owner !== this.owner) return;
    stores.maps.locks.set('volume', { owner: OLD, since: 0 });
    this.#stolen = true;
    this.#world.lose();
    if (this.#asking === 0) robbed.add(this.owner);
  }

  /** A flush under a lock that is another's is not acknowledged. */
  async flush(): Promise<void> {
    const { robbed, violations } = this.#world;
    const wasRobbed = robbed.has(this.owner);
    await this.ask((node) => node.mapper.flush('volume', true));
    if (wasRobbed && robbed.has(this.owner)) violations.push(`${this.owner}: a flush is acknowledged`);
  }

  /** The mapper is killed, and started again. */
  die(): void {
    const died = this.#died;
    this.#death = new Promise((resolve) => (this.#died = resolve));
    this.node = this.#start([500]);
    died();
  }

  async write(block: number): Promise<void> {
    const world = this.#world;
    const value = ++world.value;
    const cell = world.blocks[block];
    for (;;) {
      if (!this.mayWrite) {
        const { node } = this;
        const revocations = this.#revocations;
        const lease = await this.ask((asked) => asked.mapper.lease('volume', { write: true }, 500));
        if (revocations !== this.#revocations || node !== this.node) continue;
        this.#lease = lease;
        if (world.writers().length > 1) world.violations.push(`${world.writers()} may write`);
      }
      const losses = this.#losses;
      const granted = this.#lease?.until ?? 0;
      this.#inFlight++;
      try {
        const [segment] = await this.ask((node) => node.mapper.mapWrite('volume', block * BLOCK, 4, 500));
        if (losses !== this.#losses) throw new SystemError(errnos.EIO, 'lost');
        const until = Math.max(granted, this.node.renewed.get(500) ?? 0);
        const bytes = Buffer.alloc(4);
        bytes.writeUInt32LE(value);
        cell.maybe.add(value);
        await this.#disk.withDeadline(() => until).write(segment.target, segment.offset, bytes);
        // What this takes the place of: after a loss nobody knows which.
        for (const before of [cell.sure, ...cell.maybe]) cell.older.add(before);
        // Until it notices, nobody keeps what it writes.
        if (this.#stolen && world.noted) for (const older of cell.older) cell.maybe.add(older);
        else cell.maybe.clear();
        cell.sure = value;
        return;
      } catch (error) {
        if (errnoOf(error) !== errnos.ETIME) throw error;
        this.#lease = null;
      } finally {
        if (--this.#inFlight === 0) for (const drained of this.#drained.splice(0)) drained();
      }
    }
  }
}

async function run(world: World, { what, side: i, block, ms }: Command, n: number): Promise<void> {
  const side = world.sides[i];
  switch (what) {
    case 'write':
      return side.write(block);
    case 'flush':
      return world.settling(side, () => side.flush());
    case 'steal':
      side.robbed();
      return;
    case 'shared':
    case 'open':
      world.robbed.delete(side.owner);
      return side.ask((node) => node.mapper.open('volume', undefined, what === 'shared'));
    case 'close':
    case 'leave':
      world.robbed.delete(side.owner);
      return world.settling(side, () => side.ask((node) => node.mapper.close('volume', what === 'leave')), true);
    case 'snapshot':
      return side.ask((node) => node.mapper.snapshot('volume', `snapshot-${n}`));
    case 'break': {
      const { holder } = await side.ask((node) => node.mapper.unlock('volume', true));
      if (holder !== null && world.stores.maps.locks.get('volume')?.owner !== holder) world.banned.add(holder);
      if (holder !== null) world.lose();
      return;
    }
    case 'maps take':
      side.slow.maps = side.slow.maps === 0 ? Math.min(ms, 400) : 0;
      return;
    case 'blocks take':
      side.slow.blocks = side.slow.blocks === 0 ? ms : 0;
      return;
    case 'die':
      side.die();
      return;
    default:
      return world.clock.pass(ms);
  }
}

async function check(world: World): Promise<void> {
  for (const [i, { sure, maybe }] of world.blocks.entries()) {
    const found = (await readVolume(world.sides[0].node, 'volume', i * BLOCK, 4)).readUInt32LE();
    expect([sure, ...maybe], `block ${i}`).toContain(found);
  }
}

it('two nodes on one store lose nothing that was acknowledged, whatever happens', async () => {
  await fc.assert(
    fc.asyncProperty(fc.boolean(), fc.array(some, { minLength: 1, maxLength: 12 }), async (noted, some) => {
      const commands = some.flat();
      const world = new World(noted);
      world.sides.push(new Side(world, A), new Side(world, B));
      await createSmall(world.sides[0].node, 'volume', BLOCKS * BLOCK, BLOCK);
      const running: Promise<void>[] = [];
      for (const [n, each] of commands.entries()) {
        const done = run(world, each, n).catch((error) => {
          expect(ANSWERS, `${JSON.stringify(each)}: ${error}`).toContain(errnoName(errnoOf(error)));
        });
        if (each.what === 'pass') await done;
        else running.push(done);
        await settle();
      }
      for (const { slow } of world.sides) Object.assign(slow, { maps: 0, blocks: 0 });
      if (world.stores.maps.locks.get('volume')?.owner === OLD) {
        // Whom it was stolen from believes in it until the next look, and what it has sent by then is begun until its deadline: a thief who gave it
        // away earlier would make two writers, which is why our unlock -f waits.
        await world.clock.pass(PATIENCE_MS);
        // It may have been broken meanwhile, and be somebody's who has it rightly.
        if (world.stores.maps.locks.get('volume')?.owner === OLD) world.stores.maps.locks.delete('volume');
      }
      await world.clock.until(Promise.all(running), 120_000);
      expect(world.violations).toEqual([]);
      await Promise.all(running);
      for (const side of world.sides) {
        // A commit that nobody asked for may be under way, with requests that take their time.
        const closing = side.ask((node) => node.mapper.close('volume'));
        await world.clock.until(closing, 60_000);
        await closing;
      }
      await world.clock.pass(10_000);
      await check(world);
      await checkInvariants(world.sides[0].node, []);
      // Both can use it again.
      for (const side of world.sides) {
        const writing = side.write(0);
        await world.clock.until(writing, 10_000);
        await writing;
        const closing = side.ask((node) => node.mapper.close('volume'));
        await world.clock.until(closing, 60_000);
        await closing;
      }
      await check(world);
    }),
    { numRuns: Number(process.env.ARCHIPELAGO_TEST_RUNS ?? 60) },
  );
}, 120_000);
