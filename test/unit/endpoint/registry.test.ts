import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { Registry } from '../../../src/endpoint/registry.js';

let directory: string;

beforeEach(() => {
  directory = fs.mkdtempSync(path.join(os.tmpdir(), 'registry-'));
});

afterEach(() => {
  fs.rmSync(directory, { recursive: true });
});

const mapping = (name: string) => ({
  name,
  readOnly: false,
  assumeV0: false,
  v0Size: -1,
  writeThrough: false,
  ownSocket: false,
  since: 1000,
});
const names = (registry: Registry): string[] => registry.all().map(({ id, name }) => `${id} ${name}`);

describe('the registry of mapped volumes', () => {
  it('remembers across restarts and gives the smallest free id', () => {
    const registry = Registry.load(directory);
    registry.add(mapping('first-volume'));
    registry.add(mapping('second-volume'));
    registry.add({ ...mapping('third-volume'), readOnly: true, assumeV0: true, v0Size: 5 });
    registry.remove('first-volume');
    registry.add(mapping('fourth-volume'));
    const again = Registry.load(directory);
    expect(names(again)).toEqual(['0 fourth-volume', '1 second-volume', '2 third-volume']);
    expect(again.get('third-volume')).toMatchObject({ readOnly: true, assumeV0: true, v0Size: 5, since: 1000 });
    expect(again.get('first-volume')).toBeUndefined();
  });

  it('reads files from before mappings had sockets and write-through', () => {
    const old = { id: 3, name: 'old-volume', readOnly: true, assumeV0: false, v0Size: -1, since: 5 };
    fs.writeFileSync(path.join(directory, 'mapped.json'), JSON.stringify([old]));
    expect(Registry.load(directory).all()).toEqual([{ ...old, writeThrough: false, ownSocket: false }]);
  });

  it('changes nothing in memory when the file cannot be written', () => {
    const registry = Registry.load(directory);
    registry.add(mapping('kept-volume'));
    // A directory in the place of the new file: also root cannot open it for writing.
    fs.mkdirSync(path.join(directory, 'mapped.json.new'));
    expect(() => registry.add(mapping('lost-volume'))).toThrow();
    expect(() => registry.remove('kept-volume')).toThrow();
    expect(names(registry)).toEqual(['0 kept-volume']);
    expect(names(Registry.load(directory))).toEqual(['0 kept-volume']);
    fs.rmdirSync(path.join(directory, 'mapped.json.new'));
    registry.remove('kept-volume');
    expect(names(Registry.load(directory))).toEqual([]);
  });

  it.each([
    ['no JSON', '{'],
    ['no list', '{"name": "x"}'],
    ['null', 'null'],
    ['an entry without a name', '[{"id": 1}]'],
    [
      'an entry that does not say whether it is read-only',
      '[{"id": 0, "name": "volume", "assumeV0": false, "v0Size": -1}]',
    ],
    [
      'an entry with a size in words',
      '[{"id": 0, "name": "volume", "readOnly": true, "assumeV0": true, "v0Size": "1G"}]',
    ],
    [
      'an entry that is write-through in words',
      '[{"id": 0, "name": "volume", "readOnly": true, "assumeV0": true, "v0Size": 1, "writeThrough": "yes"}]',
    ],
    ['an entry that is nothing', '[null]'],
  ])('refuses a file with %s, and names it', (_what, text) => {
    fs.writeFileSync(path.join(directory, 'mapped.json'), text);
    expect(() => Registry.load(directory)).toThrow(/mapped\.json is damaged .* map the volumes again/);
  });
});
