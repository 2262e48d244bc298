/**
 * A page of the documentation as something to run: its blocks of code by the names that follow the language (```sh NAME), with the places of an example
 * (sockets, ports) replaced by those of a test. The page and what was tested are then the same, and no block can be left out.
 */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { bin, type TestNode } from './node.js';
import { type Outcome, run } from './run.js';

const docs = path.resolve(import.meta.dirname, '../../../docs');

interface Block {
  readonly language: string;
  readonly text: string;
}

/** What an example says, and what it is here. */
export type Places = Readonly<Record<string, string | number>>;

export class Manual {
  readonly #page: string;
  readonly #blocks = new Map<string, Block>();
  readonly #unused: Set<string>;

  /** @throws for a block without a name, or with one that another has */
  constructor(page: string) {
    this.#page = page;
    const text = readFileSync(path.join(docs, page), 'utf8');
    for (const [, language, name, code] of text.matchAll(/^```(\S+)[ ]?(.*)\n([\s\S]*?)^```$/gm)) {
      if (name === '' || this.#blocks.has(name)) throw new Error(`${page}: a block needs a name of its own:\n${code}`);
      this.#blocks.set(name, { language, text: code });
    }
    this.#unused = new Set(this.#blocks.keys());
  }

  /** Names of blocks that no test has asked for yet. */
  unused(): string[] {
    return [...this.#unused];
  }

  /** A block as it is used here. @throws when there is none of that name and language */
  text(language: 'sh' | 'json', name: string, places: Places): string {
    const block = this.#blocks.get(name);
    if (block?.language !== language) throw new Error(`${this.#page} has no block "${language} ${name}"`);
    this.#unused.delete(name);
    return Object.entries(places).reduce((text, [from, to]) => text.replaceAll(from, String(to)), block.text);
  }

  /** The arguments of a line `PROGRAM … ARGUMENT…`, as a shell splits them. */
  async arguments(name: string, places: Places): Promise<string[]> {
    const [, line] = this.text('sh', name, places).split('…');
    const { stdout } = await run('sh', ['-c', `printf '%s\\0' ${line}`]);
    return stdout.split('\0').slice(0, -1);
  }

  /** The commands of a block for a monitor, in order. */
  commands(name: string, places: Places): { execute: string; arguments?: object }[] {
    const lines = this.text('json', name, places).trim().split('\n');
    return lines.map((line) => JSON.parse(line) as { execute: string; arguments?: object });
  }

  /** Runs a block as an administrator of the node does; it must succeed. */
  shell(name: string, node: TestNode, places: Places = {}): Promise<Outcome> {
    return run('sh', ['-e', '-c', this.text('sh', name, places)], {
      env: { PATH: `${commandsOf(node)}:${process.env.PATH}` },
    });
  }
}

/** A directory with the commands of this node, which need no -c. */
function commandsOf(node: TestNode): string {
  const directory = path.join(node.dir, 'bin');
  mkdirSync(directory, { recursive: true });
  for (const command of ['vlmc', 'archipelago']) {
    const line = [process.execPath, path.join(bin, `${command}.js`), '-c', node.conf].map((word) => `'${word}'`);
    writeFileSync(path.join(directory, command), `#!/bin/sh\nexec ${line.join(' ')} "$@"\n`, { mode: 0o755 });
  }
  return directory;
}
