/** vlmc in the test's own process: for tests with very many commands, where most of the time would go into starting processes. */
import { Session } from '../../../src/cli/common/session.js';
import { vlmcMain } from '../../../src/cli/vlmc/program.js';
import { capture, type Outcome } from '../../unit/cli/capture.js';

/** Runs `vlmc`. @param conf the node's configuration file */
export const vlmcHere = (conf: string, words: readonly string[]): Promise<Outcome> =>
  capture({}, (io) => vlmcMain(['-c', conf, ...words], new Session('vlmc', io)));

/** Runs `vlmc`; it must succeed. Resolves to what it printed. */
export async function vlmcDone(conf: string, ...words: string[]): Promise<string> {
  const { status, out, err } = await vlmcHere(conf, words);
  if (status !== 0) throw new Error(`vlmc ${words.join(' ')} ended with ${status}: ${err}${out}`);
  return out;
}
