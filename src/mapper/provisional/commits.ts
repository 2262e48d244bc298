/**
 * Provisional blocks: first writes are acknowledged when their object is there and noted (notes.ts); the object is made durable, and its
 * name written into the stored map, by a commit: soon after, and before anything that needs the stored map to be complete (FLUSH and FUA, every
 * operation that changes maps, the end of the lock). A commit's order is that of every change of a map: objects durable, lock looked at,
 * entries written; then the note goes. Until then the map in memory alone has these entries, and whatever is read of the stored one gets
 * them from here (overlay). Blocks that were made zero are committed with them (zeroes.ts).
 */
import { errnoOf, errnos, messageOf, SystemError } from '../../sys/errno.js';
import type { Clock } from '../clock.js';
import { type MapperContext, type MapperLog, mapOf } from '../context.js';
import { newObjectName, writeOwnEntries } from '../copy-up.js';
import type { MapHeader } from '../formats/header.js';
import { LostLock } from '../locking/lost.js';
import { noV0 } from '../map-store.js';
import type { StoredMap } from '../stored-map.js';
import type { Committer, ProvisionalBlock, Volume, ZeroedBlock } from '../volume.js';
import type { NotedBlock, NotedMap, NotedVolume } from './noted.js';
import type { Notes } from './notes.js';
import { owedOf, SpoiledError, Spoiling } from './spoiling.js';
import { Zeroes, zeroedAmong } from './zeroes.js';

/** How long first writes are gathered before they are committed unasked, in ms: the syncs of a burst are shared. */
const GATHER_MS = 500;
/** And trims: the space that they give back is waited for. */
const GATHER_ZEROES_MS = 100;
/** When a commit that failed is tried again unasked, in ms. */
const AGAIN_MS = 1000;
/** Blocks of one batch. */
const BATCH = 256;

export interface CommitsOptions {
  /** null: none can be kept, no block is ever provisional. */
  readonly notes: Notes | null;
  /** Both stores are durable when they answer: a first write gets its entry before its answer, since nothing would be won but the entry's way. */
  readonly isDurableOnAck: boolean;
  readonly context: (volume: Volume) => MapperContext;
  /** The lock of the volume is not this node's any more, nor anybody's. */
  readonly lose: (volume: Volume) => void;
  /** A commit of the volume succeeded after some that failed, and with them perhaps what had asked for them. */
  readonly recovered: (volume: Volume) => void;
  readonly clock: Clock;
  readonly log: MapperLog;
}

interface Plan {
  /** ms of the clock. */
  readonly due: number;
  readonly cancel: () => void;
}

interface Round {
  readonly running: Promise<void>;
  next: Promise<void> | null;
}

export class Commits implements Committer {
  readonly #options: CommitsOptions;
  readonly #rounds = new Map<Volume, Round>();
  readonly #planned = new Map<Volume, Plan>();
  /** Volumes of which the last commit failed. */
  readonly #failing = new WeakSet<Volume>();
  readonly #spoiling: Spoiling;
  readonly #zeroes: Zeroes;
  /** The last first write or trim could be noted. */
  #isNoting = true;
  #stopped = false;

  constructor(options: CommitsOptions) {
    this.#options = options;
    this.#spoiling = new Spoiling(options.notes, options.log);
    this.#zeroes = new Zeroes(options.notes);
  }

  accepts(volume: Volume): boolean {
    const { notes, isDurableOnAck } = this.#options;
    // Shared: another node is meant to see what was written.
    return notes !== null && !isDurableOnAck && volume.open !== 'shared' && !this.#stopped;
  }

  mount(before: string | null): string | null {
    return this.#options.notes?.mount(before) ?? null;
  }

  add(volume: Volume, header: MapHeader, blocks: readonly NotedBlock[], mount: string | null): boolean {
    if (!this.#note(volume, (notes) => notes.add(volume.name, noteOf(volume, header), blocks, mount))) return false;
    for (const { block, epoch } of blocks)
      volume.provisional.set(block, { block, epoch, isProven: true, spoiled: null, told: 'nobody' });
    this.#plan(volume, GATHER_MS);
    return true;
  }

  acceptsZeroes(volume: Volume, count: number): boolean {
    // Where nothing is committed, whoever trims is told so.
    return this.accepts(volume) && !this.#failing.has(volume) && this.#zeroes.accepts(volume, count);
  }

  addZeroes(volume: Volume, header: MapHeader, blocks: readonly ZeroedBlock[]): boolean {
    const noted = Zeroes.noted(volume, blocks);
    if (!this.#note(volume, (notes) => notes.addZeroed(volume.name, noteOf(volume, header), noted))) return false;
    for (const each of blocks) volume.zeroed.set(each.block, each);
    this.#plan(volume, GATHER_ZEROES_MS);
    return true;
  }

  async settleZeroes(volume: Volume, first: number, end: number): Promise<void> {
    try {
      await this.commit(volume);
    } catch (error) {
      // What else could not be committed is for others to hear of.
      if (error instanceof LostLock || zeroedAmong(volume, first, end).length > 0) throw error;
    }
  }

  /** False: it cannot be noted. */
  #note(volume: Volume, work: (notes: Notes) => void): boolean {
    const { notes, log } = this.#options;
    if (!notes || !this.accepts(volume)) return false;
    try {
      work(notes);
      this.#isNoting = true;
    } catch (error) {
      if (this.#isNoting)
        log.warn(`first writes and trims cannot be noted, so each waits until it is durable: ${messageOf(error)}`);
      this.#isNoting = false;
      return false;
    }
    return true;
  }

  drop(volume: Volume, first: number, end: number): void {
    this.#spoiling.absolve(volume, first, end);
    const zeroed = zeroedAmong(volume, first, end).map(({ block }) => block);
    if (zeroed.length > 0) this.#options.notes?.drop(volume.name, zeroed);
    for (const block of zeroed) volume.zeroed.delete(block);
    if (volume.provisional.size === 0) return;
    const blocks = [...volume.provisional.keys()].filter((block) => block >= first && block < end);
    if (blocks.length === 0) return;
    this.#options.notes?.drop(volume.name, blocks);
    this.#options.notes?.absolve(volume.name, blocks);
    for (const block of blocks) volume.provisional.delete(block);
  }

  forget(volume: Volume): void {
    volume.provisional.clear();
    volume.zeroed.clear();
    volume.owed.clear();
    volume.adopted = null;
    this.#planned.get(volume)?.cancel();
    this.#planned.delete(volume);
    this.#options.notes?.remove(volume.name);
  }

  adopt(volume: Volume, { map, blocks, zeroed, spoiled }: NotedVolume): void {
    volume.adopted = map;
    for (const { block, epoch } of blocks)
      volume.provisional.set(block, { block, epoch, isProven: false, spoiled: null, told: 'nobody' });
    this.#zeroes.adopt(volume, zeroed);
    for (const { block, epoch } of spoiled) volume.owed.set(block, { epoch, told: 'nobody' });
    this.#plan(volume, GATHER_MS);
  }

  async confirm(volume: Volume, header: MapHeader | null): Promise<void> {
    const { adopted } = volume;
    if (adopted === null) return;
    const { locks } = this.#options.context(volume);
    await locks.verify(volume);
    const mark = adopted.lock === undefined ? null : await locks.mark(volume);
    if (volume.adopted !== adopted) return;
    if (mark !== null && mark !== adopted.lock) await this.#refuse(volume, locks);
    const present = header && mapId(header);
    if (present && isOf(adopted, present)) {
      // It never got the id: what is added is noted of the map as it is.
      if (adopted.id !== present.id) this.#options.notes?.become(volume.name, present);
      volume.adopted = null;
    } else {
      this.#options.log.warn(
        `volume ${volume.name}: the note of its first writes is of another map, and counts for nothing`,
      );
      this.forget(volume);
    }
  }

  /** The lock is this node's by its name, and not the one that its mapper took: others may have had it. It is nobody's from now on. @throws LostLock */
  async #refuse(volume: Volume, locks: MapperContext['locks']): Promise<never> {
    const { log, lose } = this.#options;
    log.warn(
      `the lock of volume ${volume.name} was taken again since its last first writes, and not by a mapper that knew of them`,
    );
    await locks.client.release(volume.name, false).catch((error) => {
      log.warn(`the lock of volume ${volume.name} stays: ${messageOf(error)}; run vlmc unlock ${volume.name}`);
    });
    lose(volume);
    throw new LostLock(volume);
  }

  become(volume: Volume, header: MapHeader): void {
    this.#options.notes?.become(volume.name, mapId(header));
  }

  commit(volume: Volume): Promise<void> {
    if (isDone(volume)) return Promise.resolve();
    const round = this.#rounds.get(volume);
    if (!round) return this.#start(volume);
    const start = (): Promise<void> => this.#start(volume);
    // The one that runs may have begun before the last of them was noted.
    round.next ??= round.running.then(start, start);
    return round.next;
  }

  tell(volume: Volume): void {
    for (const each of owedOf(volume)) if (each.told === 'nobody') each.told = 'flush';
  }

  untell(volume: Volume): void {
    for (const each of owedOf(volume)) each.told = 'nobody';
  }

  async conclude(volume: Volume, isAsked: boolean, isHeard = !isAsked): Promise<void> {
    for (;;) {
      try {
        return await this.commit(volume);
      } catch (error) {
        if (!(error instanceof SpoiledError)) throw error;
        const owed = owedOf(volume);
        if (!owed.every(({ told }) => (isHeard ? told !== 'nobody' : told === 'close'))) {
          if (isAsked) for (const each of owed) each.told = 'close';
          throw error;
        }
      }
      await this.#spoiling.giveUp(this.#options.context(volume), volume);
    }
  }

  async ended(volume: Volume): Promise<void> {
    for (let round = this.#rounds.get(volume); round; round = this.#rounds.get(volume)) {
      await (round.next ?? round.running).catch(() => {});
    }
  }

  stop(): void {
    this.#stopped = true;
    for (const { cancel } of this.#planned.values()) cancel();
    this.#planned.clear();
  }

  #start(volume: Volume): Promise<void> {
    this.#planned.get(volume)?.cancel();
    this.#planned.delete(volume);
    const running = this.#round(volume);
    const round: Round = { running, next: null };
    this.#rounds.set(volume, round);
    const over = (): void => {
      if (this.#rounds.get(volume) === round && !round.next) this.#rounds.delete(volume);
    };
    running.then(
      () => {
        over();
        this.#succeeded(volume);
      },
      (error) => {
        over();
        if (!(error instanceof LostLock)) this.#failed(volume);
      },
    );
    return running;
  }

  #succeeded(volume: Volume): void {
    if (volume.provisional.size > 0) this.#plan(volume, GATHER_MS);
    if (volume.zeroed.size > 0) this.#plan(volume, GATHER_ZEROES_MS);
    if (this.#failing.delete(volume)) this.#options.recovered(volume);
  }

  /** Whoever asked may be gone, and nobody may ever ask again. */
  #failed(volume: Volume): void {
    this.#failing.add(volume);
    const isSound = ({ spoiled }: ProvisionalBlock): boolean => spoiled === null;
    if (volume.zeroed.size > 0 || [...volume.provisional.values()].some(isSound)) this.#plan(volume, AGAIN_MS);
  }

  #plan(volume: Volume, ms: number): void {
    const { clock } = this.#options;
    const due = clock.now() + ms;
    const planned = this.#planned.get(volume);
    if (this.#stopped || (planned && planned.due <= due)) return;
    planned?.cancel();
    const cancel = clock.after(ms, () => {
      this.#planned.delete(volume);
      void this.#unasked(volume);
    });
    this.#planned.set(volume, { due, cancel });
  }

  async #unasked(volume: Volume): Promise<void> {
    const isKnown = this.#failing.has(volume);
    try {
      await this.commit(volume);
    } catch (error) {
      if (isKnown || error instanceof LostLock) return;
      this.#options.log.warn(
        `volume ${volume.name}: first writes and trims are not durable yet, and each flush says so: ${messageOf(error)}`,
      );
    }
  }

  /** Commits what is provisional now; all of it is tried. @throws the first error */
  async #round(volume: Volume): Promise<void> {
    const context = this.#options.context(volume);
    if (isDone(volume)) return;
    const map = await this.#mapOf(context, volume);
    if (map === null) return;
    const todo = [...volume.provisional.values()];
    const zeroed = [...volume.zeroed.values()];
    let failure: unknown = null;
    for (let from = 0; from < todo.length; from += BATCH) {
      const batch = todo.slice(from, from + BATCH);
      await this.#batch(context, volume, map, batch).catch((error) => (failure ??= error));
    }
    for (let from = 0; from < zeroed.length; from += BATCH) {
      const batch = zeroed.slice(from, from + BATCH);
      await this.#zeroes.commit(context, volume, map, batch).catch((error) => (failure ??= error));
    }
    if (failure) throw failure;
    for (const block of volume.owed.keys()) throw new SpoiledError(volume, block, null);
  }

  /** The map; null when what was to be committed is of none that exists. */
  async #mapOf(context: MapperContext, volume: Volume): Promise<StoredMap | null> {
    let map: StoredMap | null = null;
    try {
      map = await mapOf(context, volume, noV0);
    } catch (error) {
      if (volume.adopted === null || errnoOf(error) !== errnos.ENOENT) throw error;
    }
    await this.confirm(volume, map?.header ?? null);
    return map;
  }

  async #batch(
    context: MapperContext,
    volume: Volume,
    map: StoredMap,
    batch: readonly ProvisionalBlock[],
  ): Promise<void> {
    const { locks, blocks } = context;
    const nameOf = nameIn(volume);
    const verified = locks.verify(volume);
    verified.catch(() => {});
    const found = await this.#prove(context, volume, batch, nameOf);
    const durable = await this.#spoiling.flush(blocks, volume, found, nameOf);
    await verified;
    const ranges = runsOf(durable);
    await volume.blocks.runAll(ranges, async () => {
      // Meanwhile some may have become zero, and be provisional again, with another object of that name.
      const left = durable.filter((each) => volume.provisional.get(each.block) === each);
      if (left.length === 0) return;
      if (!locks.isFresh(volume)) await locks.verify(volume);
      if (this.#options.notes?.isElsewhere(volume.name)) {
        // Who was asked to sync them may know nothing of what the former mount did not take; nor of the others that are noted.
        const cause = new SystemError(errnos.EIO, 'their file system was mounted anew');
        const all = [...volume.provisional.values()].filter(({ spoiled }) => spoiled === null);
        this.#spoiling.spoil(volume, all, cause);
        this.#options.notes?.moved(volume.name);
        return;
      }
      const epochs = new Map(left.map(({ block, epoch }) => [block, epoch]));
      await writeOwnEntries(
        context,
        volume,
        map,
        [...epochs.keys()].sort((a, b) => a - b),
        epochs,
        true,
      );
      this.#options.notes?.drop(volume.name, [...epochs.keys()]);
      for (const block of epochs.keys()) volume.provisional.delete(block);
    });
    const spoiled = batch.find((each) => each.spoiled !== null && volume.provisional.get(each.block) === each);
    if (spoiled) throw new SpoiledError(volume, spoiled.block, spoiled.spoiled);
  }

  /** Those that are not spoiled; one that an earlier mapper noted is when its object is not there. */
  async #prove(
    context: MapperContext,
    volume: Volume,
    batch: readonly ProvisionalBlock[],
    nameOf: (block: ProvisionalBlock) => string,
  ): Promise<ProvisionalBlock[]> {
    for (const each of batch) {
      if (!each.isProven) {
        try {
          await context.blocks.info(nameOf(each));
          each.isProven = true;
        } catch (error) {
          if (errnoOf(error) !== errnos.ENOENT) throw error;
          // Where its file system is just not mounted it only seems to be gone.
          this.#options.notes?.isElsewhere(volume.name);
          this.#spoiling.spoil(volume, [each], new SystemError(errnos.ENOENT, `object ${nameOf(each)} is missing`));
        }
      }
    }
    return batch.filter(({ spoiled }) => spoiled === null);
  }
}

/** Nothing is to be committed, and nobody to be told of what cannot be. */
const isDone = ({ provisional, zeroed, owed }: Volume): boolean => provisional.size + zeroed.size + owed.size === 0;

const nameIn =
  ({ name }: Volume) =>
  ({ block, epoch }: ProvisionalBlock): string =>
    newObjectName(name, epoch, block);

const mapId = ({ lineage, epoch }: MapHeader): NotedMap => ({ id: lineage?.id ?? '', epoch });

/** What is noted now is of this map and of this tenure of the lock. */
function noteOf({ tenure, marked }: Volume, header: MapHeader): NotedMap {
  const lock = marked?.tenure === tenure ? marked.mark : null;
  return lock === null ? mapId(header) : { ...mapId(header), lock };
}

/** Whether what was noted is of this map: its epoch, and the id that it gets late (lateLineage), are noted right before the map has them. */
const isOf = (noted: NotedMap, map: NotedMap): boolean =>
  map.id === noted.id ? [map.epoch, map.epoch + 1].includes(noted.epoch) : map.id === '' && map.epoch === noted.epoch;

/** Runs of blocks that follow each other, as [first, end). */
function runsOf(blocks: readonly ProvisionalBlock[]): { first: number; end: number }[] {
  const runs: { first: number; end: number }[] = [];
  for (const block of blocks.map((each) => each.block).sort((a, b) => a - b)) {
    const last = runs[runs.length - 1];
    if (last?.end === block) last.end++;
    else runs.push({ first: block, end: block + 1 });
  }
  return runs;
}
