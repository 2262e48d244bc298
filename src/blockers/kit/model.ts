/** Kit: random operations against a model in memory. */

import { type OneIo, runIo } from '../object-io.js';
import { type Kit, pattern, randoms } from './context.js';

export function modelTests({ expect, group, test, isEqual }: Kit): void {
  group('against a model', () => {
    for (const seed of [1, 2, 3]) {
      test(`300 random operations, seed ${seed}`, async (driver) => {
        const next = randoms(seed);
        const model = new Map<string, Buffer>();
        const hints = new Map<string, number>();
        const names = ['model-a', 'model-b', 'model-c', 'model-d'];
        const grown = (name: string, length: number) => {
          const old = model.get(name) ?? Buffer.alloc(0);
          return old.length >= length ? old : Buffer.concat([old], length);
        };
        for (let step = 0; step < 300; step++) {
          const name = names[next(names.length)];
          const other = names[next(names.length)];
          const offset = next(3) === 0 ? next(20) * 4096 : next(80_000);
          const length = next(4) === 0 ? (1 + next(20)) * 4096 : next(30_000);
          const one: OneIo = { name, offset, length, hint: hints.get(name) ?? 0, fua: next(20) === 0 };
          const present = model.get(name);
          switch (next(9)) {
            case 0:
            case 1: {
              const data = pattern(length, step);
              hints.set(name, (await runIo(driver, 'write', { ...one, data })).hint);
              const bytes = length === 0 ? (present ?? Buffer.alloc(0)) : grown(name, offset + length);
              data.copy(bytes, offset);
              model.set(name, bytes);
              break;
            }
            case 2:
            case 3: {
              await runIo(driver, next(2) ? 'trim' : 'writeZeroes', one);
              present?.fill(0, Math.min(offset, present.length), Math.min(offset + length, present.length));
              break;
            }
            case 4: {
              await driver.reset(name, next(2) === 0);
              model.set(name, Buffer.alloc(0));
              break;
            }
            case 5: {
              const copy = driver.copy(name, other, length, { durable: next(2) === 0, exclusive: false });
              if (present) {
                await copy;
                model.set(other, Buffer.from(present.subarray(0, length)));
              } else await expect(copy).rejects.toMatchObject({ code: 'ENOENT' });
              break;
            }
            case 6: {
              if (next(3)) break;
              if (present) await driver.delete(name);
              else await expect(driver.delete(name)).rejects.toMatchObject({ code: 'ENOENT' });
              model.delete(name);
              break;
            }
            case 7: {
              if (!present) break;
              await driver.truncate(name, length);
              model.set(name, Buffer.concat([present.subarray(0, length)], length));
              break;
            }
            default:
              await driver.flush(next(2) ? null : [name, other]);
          }
          const checked = names[next(names.length)];
          const wanted = model.get(checked);
          const got = runIo(driver, 'read', {
            name: checked,
            offset: 0,
            length: 130_000,
            hint: hints.get(checked) ?? 0,
          });
          if (wanted) {
            const { data, hint } = await got;
            hints.set(checked, hint);
            isEqual(data, Buffer.concat([wanted], 130_000));
            expect((await driver.info(checked)).size).toBe(wanted.length);
          } else await expect(got).rejects.toMatchObject({ code: 'ENOENT' });
        }
      });
    }
  });
}
