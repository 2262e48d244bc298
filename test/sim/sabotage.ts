/** Orderings that can be broken on purpose: the simulator must find each of them, or its disk is kinder than a real one. */
import type { Driver, ObjectIo } from '../../src/blockers/driver.js';
import { DirtyDirectories, FailedObjects } from '../../src/blockers/file/durability.js';
import type { Handle } from '../../src/blockers/file/handle.js';
import { FileIo } from '../../src/blockers/file/io.js';
import { Partial } from '../../src/blockers/file/partial/partial.js';
import { Units } from '../../src/blockers/file/partial/units.js';
import { DirectTransfer } from '../../src/composer/direct.js';
import { Commits } from '../../src/mapper/provisional/commits.js';
import { Notes } from '../../src/mapper/provisional/notes.js';
import { Spoiling } from '../../src/mapper/provisional/spoiling.js';
import { Zeroes } from '../../src/mapper/provisional/zeroes.js';
import type { Volume } from '../../src/mapper/volume.js';
import { Op } from '../../src/requests/ops.js';
import { errnoOf, SystemError } from '../../src/sys/errno.js';
import type { SimulationOptions } from './simulation.js';
import { type CallName, type Fault, WRITE_OUT } from './system.js';

type Break = Pick<
  SimulationOptions,
  'fault' | 'sabotage' | 'notes' | 'partials' | 'patch' | 'local' | 'flushes' | 'trims' | 'fails'
>;

const MAP_DATA = /_[0-9a-f]{16}$/;

/** Replaces methods of the driver of one store. */
const on = (store: 'blocks' | 'maps', replace: (driver: Driver) => void): Break => ({
  sabotage: (driver, of) => {
    if (of === store) replace(driver);
  },
});

/** What of a flush is done, of those that name objects. */
const flushing = (store: 'blocks' | 'maps', keep: (names: readonly string[]) => readonly string[]): Break =>
  on(store, (driver) => {
    const flush = driver.flush.bind(driver);
    // One object is flushed as a list of one.
    driver.flushObject = undefined;
    driver.flush = async (names, ...more) => {
      if (names === null) {
        await flush(null, ...more);
        return;
      }
      const kept = keep(names);
      if (kept.length > 0) await flush(kept, ...more);
    };
  });

/** Replaces a method of all objects of a class while it runs. */
const patched =
  <T extends object, K extends keyof T>(
    prototype: T,
    method: K,
    replace: (original: T[K]) => T[K],
  ): (() => () => void) =>
  () => {
    const original = prototype[method];
    prototype[method] = replace(original);
    return () => {
      prototype[method] = original;
    };
  };

/** Lets a failure pass: it is told to who hears of it, and to nobody else. */
const forgotten = (which: (error: unknown) => boolean): (() => () => void) =>
  patched(
    FailedObjects.prototype,
    'add',
    (add) =>
      function (this: FailedObjects, name: string, path: string, error: unknown) {
        return which(error) ? new SystemError(errnoOf(error), path) : add.call(this, name, path, error);
      },
  );

/** Leaves out every other of these calls, for each file. */
const everySecond = (which: CallName): Fault => {
  const left = new Set<string>();
  return (call, file) => {
    if (call !== which || left.delete(file)) return false;
    left.add(file);
    return true;
  };
};

/** An operation that has the volume to itself, where it should commit, or a release. */
const isAlone = (): boolean => /withAlone|alone\.(ts|js)/.test(new Error().stack ?? '');

export const breaks: Record<string, Break> = {
  'a sync of data does nothing': { fault: (call, file) => call === 'fdatasync' && file.startsWith('/blocks') },
  'a sync of maps does nothing': { fault: (call, file) => call === 'fdatasync' && file.startsWith('/maps') },
  'no directory of objects is synced': { fault: (call, file) => call === 'fsync' && file.startsWith('/blocks') },
  'no directory of maps is synced': { fault: (call, file) => call === 'fsync' && file.startsWith('/maps') },
  'what a killed process left is synced once': { fault: everySecond('syncfs') },
  'a copied object is not synced': {
    fault: (call, file) => call === 'fdatasync' && file.startsWith('/blocks/.archipelago-tmp'),
  },
  'a header is durable before the entries': flushing('maps', (names) => names.filter((name) => !MAP_DATA.test(name))),
  'headers are not flushed': flushing('maps', (names) => names.filter((name) => MAP_DATA.test(name))),
  'a flush does not reach the maps': flushing('maps', () => []),
  'a flush leaves out one object': flushing('blocks', (names) => names.slice(1)),
  'an entry is durable before the copy it names': {
    ...on('blocks', (driver) => {
      const copy = driver.copy.bind(driver);
      driver.copy = (source, target, size, options, ...more) =>
        copy(source, target, size, { ...options, durable: false }, ...more);
    }),
    notes: 'never',
  },
  'an entry is durable before the new object it names': {
    ...on('blocks', (driver) => {
      const reset = driver.reset.bind(driver);
      driver.reset = (name, _durable, ...more) => reset(name, false, ...more);
    }),
    notes: 'never',
  },
  'a commit writes entries before their objects are durable': {
    notes: 'always',
    patch: patched(Spoiling.prototype, 'flush', () => async (_blocks, _volume, batch) => [...batch]),
  },
  'first writes are not noted': { notes: 'always', patch: patched(Notes.prototype, 'add', () => () => {}) },
  'a trim is not noted': {
    notes: 'always',
    trims: true,
    patch: patched(Notes.prototype, 'addZeroed', () => () => {}),
  },
  'the objects of trimmed blocks go before the entries that name them': {
    notes: 'always',
    trims: true,
    patch: patched(Zeroes.prototype, 'makeDurable', () => async () => {}),
  },
  'notes of first writes count after a power cut': { notes: 'outlive a cut' },
  'a snapshot is made without a commit': {
    notes: 'always',
    patch: patched(
      Commits.prototype,
      'commit',
      (commit) =>
        function (this: Commits, volume: Volume) {
          return isAlone() ? Promise.resolve() : commit.call(this, volume);
        },
    ),
  },
  'a flush in place skips its file': {
    local: true,
    flushes: true,
    fault: (call, file) => call === 'fdatasyncNow' && file.startsWith('/blocks'),
  },
  'a flush of one object leaves out what leads to it': {
    local: true,
    patch: patched(DirtyDirectories.prototype, 'owes', () => () => false),
  },
  'a write-out before a trim fails, and nobody is told': {
    local: true,
    flushes: true,
    fails: true,
    patch: forgotten((error) => (error as Error).message.includes(WRITE_OUT)),
  },
  'a trim in place is not owed to a flush': {
    local: true,
    flushes: true,
    patch: patched(
      FileIo.prototype,
      'punch',
      (punch) =>
        async function (this: FileIo, handle: Handle, ...more) {
          const { dirty } = handle;
          await punch.call(this, handle, ...more);
          if (!dirty) handle.forgetDirty();
        },
    ),
  },
  'a write on the short way is not owed to a flush': {
    local: true,
    patch: patched(
      DirectTransfer.prototype,
      'serve',
      (serve) =>
        function (this: DirectTransfer, volume, asked) {
          const block = Math.floor(asked.offset / volume.blockSize);
          const owed = volume.dirtyBlocks.has(block);
          const done = serve.call(this, volume, asked);
          if (done && asked.op === Op.WRITE && !owed) volume.dirtyBlocks.delete(block);
          return done;
        },
    ),
  },
  'a write on the short way leaves its file clean': {
    local: true,
    patch: patched(
      FileIo.prototype,
      'writeNow',
      (writeNow) =>
        function (this: FileIo, handle, request) {
          const { dirty } = handle;
          const done = writeNow.call(this, handle, request);
          if (!dirty) handle.forgetDirty();
          return done;
        },
    ),
  },
  'what is there of a partial object is not made durable': {
    partials: true,
    patch: patched(Partial.prototype, 'settle', () => () => 0),
  },
  'what is there of a partial object is said to be so for good when it is written': {
    partials: true,
    patch: patched(
      Partial.prototype,
      'note',
      (note) =>
        function (this: Partial, ...what) {
          return note.apply(this, what) || this.settle(this.toSettle());
        },
    ),
  },
  'what is there of a partial object counts after a power cut though it was not synced': {
    partials: true,
    fault: (call) => call === 'stamp',
  },
  'bases of partial objects are not synced': {
    partials: true,
    fault: (call, file) => call === 'fsync' && file.startsWith('/blocks/.archipelago-bases'),
  },
  'a partial object is synced without its attributes': {
    partials: true,
    fault: (call) => call === 'attributes',
  },
  'a write to a part of what is not there is not completed': {
    partials: true,
    patch: patched(Units.prototype, 'cut', () => () => []),
  },
  'a write with FUA is not durable': on('blocks', (driver) => {
    const write = driver.write.bind(driver);
    driver.write = (io) => {
      (io as ObjectIo & { fua: boolean }).fua = false;
      write(io);
    };
  }),
};
