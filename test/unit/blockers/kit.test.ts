/** The exported kit on the drivers of this project: memory, and files on a RAM disk and on a real disk. */
import fs, { promises as fsp } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import type { Driver } from '../../../src/blockers/driver.js';
import { FileDriver, type FileDriverSettings } from '../../../src/blockers/file/index.js';
import { driverKit, type KitStore } from '../../../src/blockers/kit.js';
import { MemoryDriver, MemoryStore } from '../../../src/blockers/memory/index.js';

const runner = { describe, expect, it };

driverKit(
  {
    name: 'memory',
    async make(owner): Promise<KitStore> {
      const store = new MemoryStore();
      const another = async (other: string): Promise<Driver> => {
        const driver = new MemoryDriver(other, store);
        await driver.open();
        return driver;
      };
      return {
        driver: await another(owner),
        another,
        dispose: async () => {},
      };
    },
  },
  runner,
);

async function fileStore(parent: string, owner: string, settings: Partial<FileDriverSettings>, lockDir: boolean) {
  const directory = await fsp.mkdtemp(path.join(parent, 'archipelago-kit-'));
  const root = path.join(directory, 'objects');
  const locks = path.join(directory, 'locks');
  await fsp.mkdir(root);
  await fsp.mkdir(locks);
  const drivers: Driver[] = [];
  const another = async (uniqueStr: string): Promise<Driver> => {
    const driver = new FileDriver({ root, uniqueStr, lockDir: lockDir ? locks : null, ...settings });
    await driver.open();
    drivers.push(driver);
    return driver;
  };
  return {
    driver: await another(owner),
    another,
    async dispose() {
      for (const driver of drivers) await driver.close();
      await fsp.rm(directory, { recursive: true });
    },
  };
}

driverKit({ name: 'file (temporary directory)', make: (owner) => fileStore(os.tmpdir(), owner, {}, false) }, runner);
driverKit(
  {
    name: 'file (four open files, flat locks)',
    make: (owner) => fileStore(os.tmpdir(), owner, { fdcache: 4, dirtyFiles: 2 }, true),
  },
  runner,
);
if (fs.existsSync('/dev/shm')) {
  driverKit({ name: 'file (tmpfs)', make: (owner) => fileStore('/dev/shm', owner, {}, false) }, runner);
} else describe.skip('driver file (tmpfs): SKIPPED, there is no /dev/shm', () => {});
