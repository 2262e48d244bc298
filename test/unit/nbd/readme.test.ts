/** The README's examples are those of examples/, and they run as somebody who has installed the package would run them. */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { createInterface } from 'node:readline';
import { beforeAll, describe, expect, onTestFinished, test } from 'vitest';
import * as library from '../../../src/nbd/index.js';
import { client, pattern } from './client-support.js';
import { temporaryDirectory } from './support.js';

const root = path.resolve(import.meta.dirname, '../../..');
const readme = fs.readFileSync(path.join(root, 'src/nbd/README.md'), 'utf8');

/** Code blocks of the README by the name of the file that the line before them has. */
const examples = new Map(
  [...readme.matchAll(/^`examples\/([a-z-]+\.mjs)`[^\n]*\n+```js\n([\s\S]*?)^```$/gm)].map(([, name, code]) => [
    name,
    code,
  ]),
);

test('the README quotes every example as it is', () => {
  const files = fs.readdirSync(path.join(root, 'examples')).filter((name) => name.startsWith('nbd-'));
  expect([...examples.keys()].sort()).toEqual(files.sort());
  for (const name of files) expect(examples.get(name)).toBe(fs.readFileSync(path.join(root, 'examples', name), 'utf8'));
  for (const name of ['nbd-server.mjs', 'nbd-client.mjs']) {
    expect(examples.get(name)?.trimEnd().split('\n').length).toBeLessThanOrEqual(21);
  }
});

test('the README names only what the library exports', () => {
  const imported = [...readme.matchAll(/import \{([^}]*)\} from 'archipelago\/nbd'/g)].flatMap(([, names]) =>
    names.split(',').map((name) => name.trim()),
  );
  expect(imported.length).toBeGreaterThan(5);
  expect(imported.filter((name) => name !== '' && !(name in library))).toEqual([]);
});

test('the README tells every limit, with its default', () => {
  const table = readme.slice(readme.indexOf('## Limits'), readme.indexOf('## Errors'));
  const told = new Map<string, string>();
  for (const [, names, defaults] of table.matchAll(/^\| (`[^|]*`) \| ([^|]*) \|/gm)) {
    const values = defaults.split(',');
    names.split(',').forEach((name, i) => {
      told.set(name.replaceAll('`', '').trim(), values[i].replace(/:.*/, '').replaceAll(' ', ''));
    });
  }
  const units = { KiB: 1024, MiB: 1024 * 1024 };
  const numbers = [...told].map(([name, value]) => {
    const [, digits, unit] = /^(\d+)(KiB|MiB)?$/.exec(value) ?? [];
    return [name, Number(digits) * (units[unit as keyof typeof units] ?? 1)];
  });
  expect(Object.fromEntries(numbers)).toEqual(library.DEFAULT_LIMITS);
});

describe('as a package', () => {
  /** A project that has the package among its own. */
  let project: string;

  beforeAll(() => {
    project = fs.mkdtempSync(path.join(fs.realpathSync('/tmp'), 'nbd-readme-'));
    const installed = path.join(project, 'node_modules/archipelago');
    fs.mkdirSync(installed, { recursive: true });
    fs.copyFileSync(path.join(root, 'package.json'), path.join(installed, 'package.json'));
    fs.symlinkSync(path.join(root, 'node_modules/koffi'), path.join(project, 'node_modules/koffi'));
    // The library alone: it must need nothing else of the sources.
    const config = path.join(project, 'tsconfig.json');
    const compilerOptions = {
      rootDir: path.join(root, 'src'),
      outDir: path.join(installed, 'dist'),
      typeRoots: [path.join(root, 'node_modules/@types')],
    };
    const own = {
      extends: path.join(root, 'tsconfig.json'),
      include: [],
      files: [path.join(root, 'src/nbd/index.ts')],
    };
    fs.writeFileSync(config, JSON.stringify({ ...own, compilerOptions }));
    execFileSync(path.join(root, 'node_modules/.bin/tsc'), ['-p', config], { stdio: 'pipe' });
    for (const [name, code] of examples) fs.writeFileSync(path.join(project, name), code);
    return () => fs.rmSync(project, { recursive: true, force: true });
  });

  function run(name: string, ...args: string[]): ChildProcess {
    const child = spawn(process.execPath, [path.join(project, name), ...args], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    onTestFinished(() => {
      child.kill('SIGKILL');
    });
    return child;
  }

  const over = (child: ChildProcess) => new Promise((resolve) => child.once('exit', resolve));

  /** All lines, and the exit status. */
  async function output(child: ChildProcess): Promise<{ lines: string[]; status: unknown }> {
    const status = over(child);
    const lines: string[] = [];
    for await (const line of createInterface({ input: child.stdout as NodeJS.ReadableStream })) lines.push(line);
    return { lines, status: await status };
  }

  async function firstLine(child: ChildProcess): Promise<string> {
    for await (const line of createInterface({ input: child.stdout as NodeJS.ReadableStream })) return line;
    throw new Error('it said nothing');
  }

  test('the client example shows what the server example serves', async () => {
    const server = run('nbd-server.mjs', '0');
    const uri = await firstLine(server);
    const { lines, status } = await output(run('nbd-client.mjs', uri));
    expect(lines).toEqual([
      `${2 ** 30} bytes, gone when the server stops`,
      'hello, disk',
      '0+65536 data',
      `65536+${2 ** 30 - 65536} hole`,
      expect.stringMatching(/^EINVAL: READ of 512 bytes at 1073741824: ./),
    ]);
    expect(status).toBe(0);
    const ended = over(server);
    server.kill('SIGTERM');
    expect(await ended).toBe(0);
  });

  test('the device example serves its file', async () => {
    const directory = temporaryDirectory();
    const [file, socket] = [path.join(directory, 'disk'), path.join(directory, 's')];
    const content = pattern(3 * 1024 * 1024, 4);
    fs.writeFileSync(file, content);
    const server = run('nbd-file-server.mjs', file, socket);
    const nbd = await client(await firstLine(server));
    expect([nbd.size, nbd.info.description, nbd.can.trim]).toEqual([content.length, file, false]);
    expect((await nbd.read(0, content.length)).equals(content)).toBe(true);
    const data = pattern(2 * 1024 * 1024, 8);
    await nbd.write(100_000, data, { fua: true });
    await nbd.flush();
    data.copy(content, 100_000);
    expect(fs.readFileSync(file).equals(content)).toBe(true);
    await expect(client({ path: socket }, { exportName: 'x' })).rejects.toMatchObject({ errno: 2 });
    const ended = over(server);
    server.kill('SIGTERM');
    expect(await ended).toBe(0);
    expect(await nbd.closed).toMatchObject({ name: 'DisconnectedError' });
  });
});
