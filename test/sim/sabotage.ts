/** Orderings that can be broken on purpose: the simulator must find each of them, or its disk is kinder than a real one. */
import type { Driver, ObjectIo } from '../../src/blockers/driver.js';
import type { SimulationOptions } from './simulation.js';

type Break = Pick<SimulationOptions, 'fault' | 'sabotage'>;

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
    driver.flush = async (names, ...more) => {
      if (names === null) {
        await flush(null, ...more);
        return;
      }
      const kept = keep(names);
      if (kept.length > 0) await flush(kept, ...more);
    };
  });

export const breaks: Record<string, Break> = {
  'a sync of data does nothing': { fault: (call, file) => call === 'fdatasync' && file.startsWith('/blocks') },
  'a sync of maps does nothing': { fault: (call, file) => call === 'fdatasync' && file.startsWith('/maps') },
  'no directory of objects is synced': { fault: (call, file) => call === 'fsync' && file.startsWith('/blocks') },
  'no directory of maps is synced': { fault: (call, file) => call === 'fsync' && file.startsWith('/maps') },
  'a copied object is not synced': {
    fault: (call, file) => call === 'fdatasync' && file.startsWith('/blocks/.archipelago-tmp'),
  },
  'a header is durable before the entries': flushing('maps', (names) => names.filter((name) => !MAP_DATA.test(name))),
  'headers are not flushed': flushing('maps', (names) => names.filter((name) => MAP_DATA.test(name))),
  'a flush does not reach the maps': flushing('maps', () => []),
  'a flush leaves out one object': flushing('blocks', (names) => names.slice(1)),
  'an entry is durable before the copy it names': on('blocks', (driver) => {
    const copy = driver.copy.bind(driver);
    driver.copy = (source, target, size, options, ...more) =>
      copy(source, target, size, { ...options, durable: false }, ...more);
  }),
  'an entry is durable before the new object it names': on('blocks', (driver) => {
    const reset = driver.reset.bind(driver);
    driver.reset = (name, _durable, ...more) => reset(name, false, ...more);
  }),
  'a write with FUA is not durable': on('blocks', (driver) => {
    const write = driver.write.bind(driver);
    driver.write = (io) => {
      (io as ObjectIo & { fua: boolean }).fua = false;
      write(io);
    };
  }),
};
