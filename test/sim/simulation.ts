/**
 * The simulator: a node lives over a modelled disk, under a random workload; at chosen changes of the disk the power is cut, and what is
 * left is the disk of another node, which must find everything that was promised, and goes on. At others all of its processes are killed: then
 * the kernel has everything still, and all that was acknowledged must be there. The first node does not notice: a cut is a copy. All that
 * happens is decided by one seed.
 */
import { createHash } from 'node:crypto';
import { hashedPath } from '../../src/blockers/file/paths.js';
import { errnoOf, errnos } from '../../src/sys/errno.js';
import { Disk } from './disk.js';
import { encode, Model, Violation, VolumeModel } from './model.js';
import { BLOCKS_ROOT, MAPS_ROOT, Node, type NodeSettings } from './node.js';
import { SimulatedNotes } from './notes.js';
import { mix, Random } from './random.js';
import { checkStore } from './store-check.js';
import { type Fault, SimulatedSystem, type SystemHooks } from './system.js';
import { VirtualTime } from './time.js';
import { verify } from './verify.js';
import { unexpected, Workload } from './workload.js';

/** Virtual milliseconds that a system call takes, of which each run has one: what is done after a while comes early or late. */
const CALL_MS = [0.02, 0.02, 0.4];
/** Virtual milliseconds without any system call after which what is waited for never comes. */
const HANG_MS = 120_000;

export interface SimulationOptions {
  readonly seed: number;
  /** Cuts of the first life. */
  readonly cuts: number;
  /** Operations of the first life. */
  readonly operations?: number;
  /** Leaves out system calls on purpose. */
  readonly fault?: Fault;
  /** Breaks the drivers on purpose. */
  readonly sabotage?: NodeSettings['sabotage'];
  /** Whether first writes are noted, default: in most runs; and whether a power cut is taken for no restart of the machine. */
  readonly notes?: 'always' | 'never' | 'outlive a cut';
  /** Whether calls are made on the driver's own thread, and requests on the short way; default: in most runs. */
  readonly local?: boolean;
  /** Whether most is small changes and flushes of them; default: in some runs. */
  readonly flushes?: boolean;
  /** Whether most is whole blocks that are written and made zero in turn; default: in some runs. */
  readonly trims?: boolean;
  /** Whether the disk of blocks fails; default: in few runs. */
  readonly fails?: boolean;
  /** Copies are partial; default: in most runs. */
  readonly partials?: boolean;
  /** Breaks code on purpose, until what it returns is called. */
  readonly patch?: () => () => void;
  /** Only this cut of the first life, to look at it. */
  readonly only?: number;
  /** Called with everything that happens. */
  trace?(line: string): void;
}

export interface SimulationReport {
  /** Cuts that were looked at, those of recoveries included. */
  readonly cuts: number;
  /** SHA-256 of all that happened, in order. */
  readonly hash: string;
}

/** What a run found, with the way to it. */
export class SimulationFailure extends Error {
  readonly seed: number;
  /** Which cut of the first life, -1: none, the first life itself went wrong. */
  readonly cut: number;
  /** Cuts that were looked at before. */
  readonly cuts: number;

  constructor(options: SimulationOptions, cut: number, cuts: number, cause: unknown) {
    const { seed } = options;
    const command = `npm run simulate -- --seed ${seed} --cuts ${options.cuts}${cut < 0 ? '' : ` --only ${cut}`}`;
    super(`seed ${seed}, cut ${cut}: ${unexpected(cause).message}\n  reproduce: ${command}`, { cause });
    this.seed = seed;
    this.cut = cut;
    this.cuts = cuts;
  }
}

/** A disk and what may be on it. */
interface Cut {
  readonly index: number;
  readonly disk: Disk;
  /** What may be found after a power cut. */
  readonly model: Model;
  /** All processes were killed, and the machine goes on: what must be found then. */
  readonly acknowledged: Model | null;
  readonly machine: Machine;
}

/** What outlives the processes of a node beside the disk. */
interface Machine {
  readonly notes: SimulatedNotes | null;
  readonly boot: number;
}

interface World {
  readonly settings: NodeSettings;
  readonly blockSizes: readonly number[];
  readonly unit: number;
  readonly parallel: number;
  readonly noted: boolean;
  readonly shares: boolean;
  readonly pieces: boolean;
  readonly callMs: number;
  /** One process, and a disk of its machine. */
  readonly local: boolean;
  readonly flushes: boolean;
  readonly trims: boolean;
  /** The disk does not take all blocks. */
  readonly fails: boolean;
}

export async function simulate(options: SimulationOptions): Promise<SimulationReport> {
  const simulation = new Simulation(options);
  return await simulation.run();
}

class Simulation {
  readonly #options: SimulationOptions;
  readonly #time = new VirtualTime();
  readonly #hash = createHash('sha256');
  readonly #world: World;
  #cuts = 0;

  constructor(options: SimulationOptions) {
    this.#options = options;
    const random = new Random(options.seed);
    // A unit lies in one block: what spans two is two writes.
    const unit = random.pick([512, 512, 4096]);
    const parallel = random.pick([1, 2, 4, 6]);
    const flushes = options.flushes ?? random.chance(0.3);
    const world = {
      unit,
      blockSizes: random.pick([unit < 4096 ? [1024] : [4096], [4096], [4096, 8192], [8192]]),
      settings: {
        fdcache: random.pick([4, 8, 64]),
        writeThrough: random.chance(0.1),
        sabotage: options.sabotage,
      },
      parallel: flushes && random.chance(0.7) ? 1 : parallel,
      noted: options.notes === undefined ? random.chance(0.85) : options.notes !== 'never',
      callMs: random.pick(CALL_MS),
      shares: random.chance(0.4),
      pieces: false,
      local: options.local ?? random.chance(0.7),
      flushes,
      fails: options.fails ?? random.chance(0.05),
      trims: options.trims ?? options.seed % 12 === 11,
    };
    // Chosen last, so that all else of a seed's life does not depend on it.
    const some = random.chance(0.8);
    const partials = options.partials ?? some;
    this.#world = { ...world, settings: { ...world.settings, partials } };
    // Copies of a part of a block, again and again.
    if (options.partials ?? (partials && random.chance(0.5)))
      this.#world = { ...this.#world, pieces: true, blockSizes: random.pick([[8192], [16384], [16384]]) };
  }

  async run(): Promise<SimulationReport> {
    this.#time.install();
    const restore = this.#options.patch?.();
    let index = -1;
    try {
      const { disk, model } = this.#blank();
      const { seed, cuts, only, operations = this.#world.flushes || this.#world.pieces ? 100 : 50 } = this.#options;
      const machine = { notes: this.#world.noted ? new SimulatedNotes() : null, boot: 1 };
      const first = { index, disk, model, acknowledged: null, machine };
      const taken = await this.#life(first, seed, { operations, cuts, window: 0 });
      for (const cut of taken) {
        if (only !== undefined && cut.index !== only) continue;
        index = cut.index;
        await this.#recover(cut, mix(seed, cut.index), true);
      }
      return { cuts: this.#cuts, hash: this.#hash.digest('hex') };
    } catch (error) {
      throw new SimulationFailure(this.#options, index, this.#cuts, error);
    } finally {
      restore?.();
      this.#time.uninstall();
    }
  }

  #trace(line: string): void {
    this.#hash.update(line);
    this.#options.trace?.(line);
  }

  /** An empty store, but for a volume of an old format under each of its possible names. */
  #blank(): { disk: Disk; model: Model } {
    const disk = new Disk();
    const { unit } = this.#world;
    const model = new Model(unit);
    for (const root of [BLOCKS_ROOT, MAPS_ROOT]) disk.mkdir(root);
    disk.syncAll(disk.root, disk.seq);
    for (const [name, stored] of [
      ['old-volume', 'old-volume'],
      ['older-volume', 'archip_older-volume'],
    ]) {
      const values = model.fresh(Math.max(2, Math.ceil(6144 / unit)));
      const volume = new VolumeModel(name, unit, values, true);
      volume.frozen = true;
      model.add(volume);
      const digest = createHash('sha256').update(name).digest();
      const map = Buffer.alloc(45);
      map.writeUInt32LE(1, 0);
      map.writeBigUInt64LE(BigInt(volume.size), 4);
      map[12] = 1;
      digest.copy(map, 13);
      installObject(disk, MAPS_ROOT, stored, map);
      installObject(disk, BLOCKS_ROOT, `archip_${digest.toString('hex')}`, encode(values, unit));
    }
    return { disk, model };
  }

  /** What a cut left is looked at, and used again, maybe until the next cut. */
  async #recover(cut: Cut, seed: number, again: boolean): Promise<void> {
    this.#cuts++;
    this.#trace(`${cut.acknowledged ? 'kill' : 'cut'} ${cut.index} of ${cut.disk.paths().length} files`);
    await checkStore(cut.disk, cut.model);
    const random = new Random(seed);
    const cuts = again && random.chance(cut.acknowledged ? 0.5 : 0.1) ? 1 : 0;
    const operations = again && random.chance(0.5) ? random.below(6) : 0;
    const taken = await this.#life(cut, seed, { operations, cuts, window: 60, recovers: true });
    for (const next of taken) await this.#recover(next, mix(seed, next.index), false);
  }

  /**
   * A node's life on what a cut, or the end of its processes, left.
   * @param plan window: the cuts are among so many changes from the start; 0: among all
   * @returns the cuts
   */
  async #life(
    { disk, model, acknowledged, machine }: Cut,
    seed: number,
    plan: { operations: number; cuts: number; window: number; recovers?: boolean },
  ): Promise<Cut[]> {
    const random = new Random(mix(seed, 1));
    const cutting = new Random(mix(seed, 2));
    const taken: Cut[] = [];
    let now = model;
    let changes = 0;
    const { notes, boot } = machine;
    const { local, fails } = this.#world;
    const hooks: SystemHooks = {
      fault: this.#options.fault,
      trace: (line) => this.#trace(line),
      changed: () => {
        const index = changes++;
        this.#trace(`change ${index}`);
        if (taken.length >= plan.cuts) return;
        // About as many changes come as there are places; the rest of the cuts is taken at the end.
        const places = plan.window > 0 ? plan.window : plan.operations * 8;
        // What makes, renames or removes a volume takes several steps, each of which must be durable before the next.
        const weight = now.changes.size > 0 ? 2 : 0.8;
        if (!cutting.chance((weight * plan.cuts) / places)) return;
        const tear = this.#world.unit < 4096 && cutting.chance(0.5);
        // Until a recovery is over, what was acknowledged before it counts on.
        // What a failing disk has lost the kernel still has: who starts anew reads that, and cannot know.
        if (cutting.chance(notes ? 0.3 : 0.1) && !system.failed) {
          const recovering = now === model && plan.recovers;
          const acked = recovering ? (acknowledged ?? model.freeze()) : now.freezeAcknowledged();
          const next = { notes: notes?.clone() ?? null, boot };
          taken.push({ index, disk: disk.clone(), model: now.freeze(), acknowledged: acked, machine: next });
          return;
        }
        const next = { notes: notes?.clone() ?? null, boot: this.#options.notes === 'outlive a cut' ? boot : boot + 1 };
        const left = disk.cut(mix(seed, index, 4), tear);
        taken.push({ index, disk: left, model: now.freeze(), acknowledged: null, machine: next });
      },
    };
    // A failing disk is replaced by a sound one.
    const kind = { local, fails: fails && !plan.recovers ? BLOCKS_ROOT : null };
    const system: SimulatedSystem = new SimulatedSystem(
      disk,
      new Random(mix(seed, 3)),
      this.#time,
      hooks,
      kind,
      `boot ${boot}`,
    );
    if (notes) notes.changed = () => system.changedApart('note');
    const { settings, blockSizes, parallel, shares, pieces, flushes, trims } = this.#world;
    const node = await this.#drive(system, Node.start(system, settings, notes, `boot ${boot}`));
    const live = async (): Promise<void> => {
      if (plan.recovers) {
        const found = await verify(node, acknowledged ?? model);
        // What was found after a kill is in the kernel alone.
        if (acknowledged) await this.#flushAll(node, found);
        now = found;
      }
      const workload = new Workload(node, now, random, {
        blockSizes,
        parallel,
        shares,
        pieces,
        flushes,
        trims,
        direct: local,
        writeThrough: settings.writeThrough,
        trace: (line) => this.#trace(line),
      });
      await workload.finish();
      if (plan.operations === 0) return;
      try {
        await workload.run(plan.operations);
        await workload.readAll();
        await workload.flushAll();
      } catch (error) {
        // What the disk has lost is an error to whoever relies on it, and the end of this life.
        if (!isLoss(error)) throw error;
        await workload.settled();
      }
    };
    const isLoss = (error: unknown): boolean => system.failed && errnoOf(error) === errnos.EIO;
    await this.#drive(system, live());
    await this.#drive(system, node.stop(isLoss));
    return taken;
  }

  async #flushAll(node: Node, model: Model): Promise<void> {
    for (const { name, readOnly } of model.volumes.values()) if (!readOnly) await node.flush(name);
  }

  /** Does one waiting system call after the other, and lets time pass, until the work is done. */
  async #drive<T>(system: SimulatedSystem, work: Promise<T>): Promise<T> {
    let settled = false;
    const settle = (): void => {
      settled = true;
    };
    work.then(settle, settle);
    let idleSince = this.#time.now;
    for (let idle = 0; ; ) {
      await new Promise<void>((resolve) => setImmediate(resolve));
      if (settled) return work;
      if (system.waiting > 0) {
        system.step();
        this.#time.pass(this.#world.callMs);
        idleSince = this.#time.now;
        idle = 0;
      } else if (++idle > 2) {
        if (!this.#time.skip() || this.#time.now - idleSince > HANG_MS) {
          throw new Violation('nothing happens any more, and something is still waited for');
        }
      }
    }
  }
}

function installObject(disk: Disk, root: string, name: string, bytes: Uint8Array): void {
  disk.install(hashedPath(root, name), bytes);
}
