/** Orderings broken on purpose: the simulator finds each of them, so its disk is no kinder than a real one. */
import { afterAll, describe, expect, it } from 'vitest';
import { destroySegments } from '../../sim/node.js';
import { breaks } from '../../sim/sabotage.js';
import { SimulationFailure, simulate } from '../../sim/simulation.js';

/** Cuts after which a break must have been found. */
const WITHIN = 2000;

afterAll(destroySegments);

describe('finds within 2,000 cuts that', () => {
  it.each(Object.keys(breaks))(
    '%s',
    async (name) => {
      let cuts = 0;
      for (let seed = 1; cuts < WITHIN; seed++) {
        try {
          cuts += (await simulate({ seed, cuts: 60, ...breaks[name] })).cuts;
        } catch (error) {
          expect(error).toBeInstanceOf(SimulationFailure);
          const failure = error as SimulationFailure;
          expect(failure.message).toContain(`npm run simulate -- --seed ${seed}`);
          console.log(`${name}: found after ${cuts + failure.cuts} cuts`);
          // What is found is found again, in the same place, by the seed and the cut that the message names.
          const again = { seed, cuts: 60, ...breaks[name], only: failure.cut < 0 ? undefined : failure.cut };
          await expect(simulate(again)).rejects.toMatchObject({ seed, cut: failure.cut });
          return;
        }
      }
      expect.fail(`${cuts} cuts, and nothing was found`);
    },
    600_000,
  );
});
