/** npm run simulate -- [--seed N] [--seeds N] [--cuts N] [--only N] [--break NAME] [--trace]: power cuts on a modelled disk. See docs/testing.md. */
import { parseArgs } from 'node:util';
import { destroySegments } from './node.js';
import { breaks } from './sabotage.js';
import { type SimulationFailure, simulate } from './simulation.js';
import { realNow } from './time.js';

const { values } = parseArgs({
  options: {
    seed: { type: 'string', default: '1' },
    seeds: { type: 'string', default: '1' },
    cuts: { type: 'string', default: '100' },
    only: { type: 'string' },
    /** An ordering that is broken on purpose (sabotage.ts); 'list' names them. */
    break: { type: 'string' },
    trace: { type: 'boolean', default: false },
  },
});

if (values.break === 'list') {
  console.log(Object.keys(breaks).join('\n'));
  process.exit(0);
}
if (values.break !== undefined && !(values.break in breaks)) throw new Error(`no such break: ${values.break}`);

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
      ...(values.break === undefined ? {} : breaks[values.break]),
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
