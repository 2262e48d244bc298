/** Power cuts until there were enough of them; two files of tests share the work, since two run at a time. */
import { destroySegments } from '../../sim/node.js';
import { simulate } from '../../sim/simulation.js';
import { realNow } from '../../sim/time.js';

/** Cuts of one seed's first life; those of recoveries come on top. */
export const CUTS = 150;

/** Simulates one seed after the other until `wanted` cuts were looked at, and prints how many, how long it took, and the seeds. */
export async function cutMany(first: number, wanted: number): Promise<number> {
  const began = realNow();
  const { user } = process.cpuUsage();
  let cuts = 0;
  let seed = first;
  for (; cuts < wanted; seed++) cuts += (await simulate({ seed, cuts: CUTS })).cuts;
  const seconds = (realNow() - began) / 1000;
  const busy = (process.cpuUsage().user - user) / 1e6;
  console.log(
    `${cuts} power cuts in ${seconds.toFixed(1)} s (${busy.toFixed(1)} s of processor), seeds ${first} to ${seed - 1}`,
  );
  destroySegments();
  return cuts;
}
