/** npm run simulate -- [--seed N] [--seeds N] [--cuts N] [--only N] [--trace]: power cuts on a modelled disk. See docs/testing.md. */
import { parseArgs } from 'node:util';
import { destroySegments } from './node.js';
import { type SimulationFailure, simulate } from './simulation.js';
import { realNow } from './time.js';

const { values } = parseArgs({
  options: {
    seed: { type: 'string', default: '1' },
    seeds: { type: 'string', default: '1' },
    cuts: { type: 'string', default: '100' },
    only: { type: 'string' },
    trace: { type: 'boolean', default: false },
  },
});

const first = Number(values.seed);
const began = realNow();
let total = 0;
let failures = 0;
for (let seed = first; seed < first + Number(values.seeds); seed++) {
  try {
    const { cuts, hash } = await simulate({
      seed,
      cuts: Number(values.cuts),
      only: values.only === undefined ? undefined : Number(values.only),
      trace: values.trace ? (line) => console.log(line) : undefined,
    });
    total += cuts;
    console.log(`seed ${seed}: ${cuts} cuts, trace ${hash.slice(0, 16)}`);
  } catch (error) {
    failures++;
    console.log((error as SimulationFailure).message);
  }
}
console.log(`${total} cuts in ${((realNow() - began) / 1000).toFixed(1)} s, ${failures} failures`);
destroySegments();
process.exit(failures > 0 ? 1 : 0);
