/** What a short program has to load: nothing native, and not much. */
import fs from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';

const SOURCES = path.resolve(import.meta.dirname, '../../../src');
/** Imports and re-exports of values; types are gone when it runs. */
const IMPORT = /^(?:import|export)\s+(?!type\b)[^;]*?from\s+'([^']+)'|^import\s+'([^']+)'/gm;

/** The files that a file loads with itself, and the packages. */
function loads(file: string): { files: string[]; packages: string[] } {
  const files = new Set<string>();
  const packages = new Set<string>();
  const visit = (name: string): void => {
    if (files.has(name)) return;
    files.add(name);
    for (const [statement, from, bare] of fs.readFileSync(name, 'utf8').matchAll(IMPORT)) {
      // Braces with nothing but types leave nothing either.
      const names = /\{([^}]*)\}/.exec(statement)?.[1];
      if (names?.split(',').every((word) => word.trim() === '' || word.trim().startsWith('type '))) continue;
      const target = from ?? bare;
      if (target.startsWith('.')) visit(path.resolve(path.dirname(name), target.replace(/\.js$/, '.ts')));
      else if (!target.startsWith('node:')) packages.add(target);
    }
  };
  visit(path.join(SOURCES, file));
  return { files: [...files].map((name) => path.relative(SOURCES, name)).sort(), packages: [...packages].sort() };
}

describe('what is loaded', () => {
  it('is found: the server does load the native library', () => {
    const { files, packages } = loads('bridge/server.ts');
    expect(files).toContain('bridge/connection.ts');
    expect(loads('xseg/index.ts').packages).toEqual(['koffi']);
    expect(packages).toEqual([]);
  });

  it('by the client of the bridge is no package and few files', () => {
    const { files, packages } = loads('bridge/client.ts');
    expect(packages).toEqual([]);
    expect(files.length).toBeLessThan(30);
    expect(files).toEqual(expect.arrayContaining(['config/load.ts', 'xseg/call.ts', 'xseg/layout.ts']));
  });

  it.each(['volumes', 'info', 'lock', 'map', 'mapinfo', 'check/check'])(
    'for the commands of vlmc/%s is nothing native',
    (module) => {
      expect(loads(`cli/vlmc/${module}.ts`).packages).toEqual(['commander']);
      expect(loads('cli/vlmc.ts').packages).toEqual(['commander']);
      expect(loads('cli/vlmc.ts').files.length).toBeLessThan(45);
    },
  );
});
