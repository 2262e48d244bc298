/** The corpus: one file for each input, in text, under test/fuzz/corpus. */
import crypto from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';
import { type Input, parseInput, printInput } from './input.js';

/** The nearest directory above this file, compiled or not, that has the corpus in it. */
export function corpusDirectory(): string {
  for (let at = import.meta.dirname; ; at = path.dirname(at)) {
    const directory = path.join(at, 'test', 'fuzz', 'corpus');
    if (fs.existsSync(directory)) return directory;
    if (at === path.dirname(at)) throw new Error('there is no test/fuzz/corpus above this file');
  }
}

/** @throws Error naming the file that is not an input */
export function readCorpus(): Input[] {
  const directory = corpusDirectory();
  const files = fs.readdirSync(directory).filter((name) => name.endsWith('.txt'));
  return files.sort().map((name) => {
    try {
      return parseInput(fs.readFileSync(path.join(directory, name), 'utf8'));
    } catch (error) {
      throw new Error(`${name}: ${(error as Error).message}`);
    }
  });
}

/** Longest file that is added: what people do not read does not belong into the tree. */
const MAX_TEXT = 2000;

/** Adds inputs, each under a name made of its content; long ones are left out. */
export function writeCorpus(inputs: readonly Input[]): void {
  for (const input of inputs) {
    const text = printInput(input);
    if (text.length > MAX_TEXT) continue;
    const hash = crypto.createHash('sha256').update(text).digest('hex').slice(0, 12);
    fs.writeFileSync(path.join(corpusDirectory(), `${input.target}-${hash}.txt`), text);
  }
}
