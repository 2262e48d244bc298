/** Notes of first writes in files: what a mapper finds that starts after another was killed. */
import fs from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { NoteFiles } from '../../../src/mapper/provisional/note-files.js';
import type { NotedBlock } from '../../../src/mapper/provisional/noted.js';
import { Notes, openNotes } from '../../../src/mapper/provisional/notes.js';
import { errnos, SystemError } from '../../../src/sys/errno.js';
import { temporaryDirectory } from './support.js';

const MAP = { id: '0123456789abcdef'.repeat(2), epoch: 2 ** 50 };
const log = { warn: () => {}, info: () => {} };

function load(directory: string, boot = 'a start'): { notes: Notes; found: Map<string, readonly NotedBlock[]> } {
  const notes = new Notes(new NoteFiles(directory), boot);
  const found = [...notes.load(log)].map(([volume, noted]) => {
    expect(noted.map).toEqual(MAP);
    return [volume, [...noted.blocks]] as const;
  });
  return { notes, found: new Map(found) };
}

const blocks = (...numbers: number[]): NotedBlock[] => numbers.map((block) => ({ block, epoch: block * 2 + 1 }));
const sorted = (found: readonly NotedBlock[] | undefined): NotedBlock[] =>
  [...(found ?? [])].sort((a, b) => a.block - b.block);

describe('notes', () => {
  it('are found again, without those that were dropped, whatever the volumes are called', () => {
    const directory = path.join(temporaryDirectory(), 'provisional');
    const names = ['web', ' spaces at both ends ', 'ä'.repeat(110), 'x'.repeat(239)];
    const { notes, found } = load(directory);
    expect(found.size).toBe(0);
    for (const name of names) {
      notes.add(name, MAP, blocks(1, 2, 3));
      notes.add(name, MAP, blocks(2 ** 40, 4));
      notes.drop(name, [2, 4, 77]);
      notes.add(name, MAP, blocks(9));
    }
    const again = load(directory);
    expect([...again.found.keys()].sort()).toEqual([...names].sort());
    for (const name of names) expect(sorted(again.found.get(name))).toEqual(blocks(1, 3, 9, 2 ** 40));
    again.notes.drop(names[0], [1, 3, 9, 2 ** 40]);
    again.notes.add(names[1], MAP, blocks(5));
    for (const name of names.slice(2)) again.notes.remove(name);
    const last = load(directory);
    expect([...last.found.keys()]).toEqual([names[1]]);
    expect(sorted(last.found.get(names[1]))).toEqual(blocks(1, 3, 5, 9, 2 ** 40));
    expect(fs.readdirSync(directory).length).toBe(1);
  });

  it('say which blocks are zero, beside those that were made, until that is dropped', () => {
    const directory = temporaryDirectory();
    const found = (): unknown => {
      const noted = new Notes(new NoteFiles(directory), 'a start').load(log).get('web');
      return noted && { blocks: sorted(noted.blocks), zeroed: sorted(noted.zeroed) };
    };
    const { notes } = load(directory);
    notes.addZeroed('web', MAP, [{ block: 3, epoch: 0 }]);
    expect(found()).toEqual({ blocks: [], zeroed: [{ block: 3, epoch: 0 }] });
    notes.add('web', MAP, blocks(1, 2));
    notes.addZeroed('web', MAP, blocks(4, 5));
    notes.drop('web', [2, 4]);
    expect(found()).toEqual({ blocks: blocks(1), zeroed: [{ block: 3, epoch: 0 }, ...blocks(5)] });
    notes.drop('web', [1, 3, 5]);
    expect(found()).toBeUndefined();
  });

  it('say of which blocks the disk did not take what was written, whatever is noted of these since, until that is absolved', () => {
    const directory = temporaryDirectory();
    const found = (): unknown => {
      const noted = new Notes(new NoteFiles(directory), 'a start').load(log).get('web');
      return noted && { blocks: sorted(noted.blocks), zeroed: sorted(noted.zeroed), spoiled: sorted(noted.spoiled) };
    };
    const { notes } = load(directory);
    notes.add('web', MAP, blocks(1, 2, 3));
    notes.spoil('web', blocks(2, 3, 77));
    expect(found()).toEqual({ blocks: blocks(1), zeroed: [], spoiled: blocks(2, 3) });
    notes.drop('web', [1, 2]);
    expect(found()).toEqual({ blocks: [], zeroed: [], spoiled: blocks(2, 3) });
    notes.add('web', MAP, blocks(2, 4, 5));
    expect(found()).toEqual({ blocks: blocks(2, 4, 5), zeroed: [], spoiled: blocks(2, 3) });
    notes.spoil('web', blocks(2));
    notes.add('web', MAP, blocks(2, 6));
    expect(found()).toEqual({ blocks: blocks(2, 4, 5, 6), zeroed: [], spoiled: blocks(2, 3) });
    notes.absolve('web', [2, 4]);
    expect(found()).toEqual({ blocks: blocks(2, 4, 5, 6), zeroed: [], spoiled: blocks(3) });
    const again = new Notes(new NoteFiles(directory), 'a start');
    again.load(log);
    again.drop('web', [2, 4, 5, 6]);
    expect(found()).toEqual({ blocks: [], zeroed: [], spoiled: blocks(3) });
    again.absolve('web', [3]);
    expect(found()).toBeUndefined();
  });

  it('of an earlier start of the machine are removed', () => {
    const directory = temporaryDirectory();
    load(directory).notes.add('web', MAP, blocks(1));
    expect(load(directory, 'another start').found.size).toBe(0);
    expect(fs.readdirSync(directory)).toEqual([]);
    expect(load(directory).found.size).toBe(0);
  });

  it('of an earlier mount of the objects are owed, and nothing is noted beside them until then; where either is not known they count', () => {
    const directory = temporaryDirectory();
    let mount: string | null = null;
    const warnings: string[] = [];
    const open = (): { notes: Notes; found: readonly NotedBlock[] | undefined } => {
      const notes = new Notes(new NoteFiles(directory), 'a start', () => mount);
      const found = notes.load({ warn: (message) => warnings.push(message), info: () => {} }).get('web')?.blocks;
      return { notes, found };
    };
    open().notes.add('web', MAP, blocks(1));
    mount = '1a';
    const { notes, found } = open();
    expect(found).toEqual(blocks(1));
    expect(() => notes.add('web', MAP, blocks(2))).toThrow('another map, mount');
    notes.drop('web', [1]);
    notes.add('web', MAP, blocks(2));
    notes.become('web', { ...MAP, epoch: MAP.epoch + 1 });
    expect(open().found).toEqual(blocks(2));
    mount = null;
    expect(open().found).toEqual(blocks(2));
    expect(warnings).toEqual([]);
    expect(() => notes.isElsewhere('web')).toThrow('not mounted as it was');
    mount = '1b';
    expect(notes.isElsewhere('web')).toBe(true);
    expect(() => notes.add('web', MAP, blocks(3))).toThrow('another map, mount');
    const next = { ...MAP, epoch: MAP.epoch + 1 };
    for (const warned of [1, 1]) {
      const owing = new Notes(new NoteFiles(directory), 'a start', () => mount);
      const left = owing.load({ warn: (message) => warnings.push(message), info: () => {} }).get('web');
      expect(left).toEqual({ map: next, blocks: [], zeroed: [], spoiled: blocks(2) });
      expect(warnings.length).toBe(warned);
      expect(warnings.join()).toContain('mounted anew');
      expect(owing.isElsewhere('web')).toBe(false);
      owing.add('web', next, blocks(3));
      owing.drop('web', [3]);
    }
    mount = '1c';
    expect(() => notes.add('web', next, blocks(3), '1b')).toThrow('while they were made');
  });

  it('of a version that knew no mounts count', () => {
    const directory = temporaryDirectory();
    load(directory).notes.add('web', MAP, blocks(1, 2));
    const [file] = fs.readdirSync(directory).map((name) => path.join(directory, name));
    const bytes = fs.readFileSync(file);
    bytes.write(`a start\n${MAP.epoch}\n${MAP.id}\n`.padEnd(128), 512);
    fs.writeFileSync(file, bytes);
    const found = new Notes(new NoteFiles(directory), 'a start', () => '1a').load(log).get('web');
    expect(found).toEqual({ map: MAP, blocks: blocks(1, 2), zeroed: [], spoiled: [] });
  });

  it('say under which tenure of the lock they were made, and nothing is noted beside them under another', () => {
    const directory = temporaryDirectory();
    // The longest that there may be.
    const map = { ...MAP, epoch: 2 ** 53 - 1, lock: '0123456789abcdef' };
    const boot = 'b'.repeat(36);
    const mount = `${'f'.repeat(16)}@12`;
    const open = (): Notes => new Notes(new NoteFiles(directory), boot, () => mount);
    open().add('web', map, blocks(1));
    const notes = open();
    expect(notes.load(log).get('web')).toEqual({ map, blocks: blocks(1), zeroed: [], spoiled: [] });
    for (const lock of ['fedcba9876543210', undefined])
      expect(() => notes.add('web', { ...map, lock }, blocks(2))).toThrow('tenure of the lock');
    notes.become('web', { id: MAP.id, epoch: 7 });
    expect(open().load(log).get('web')?.map).toEqual({ ...map, epoch: 7 });
    notes.drop('web', [1]);
    notes.add('web', { ...map, lock: 'fedcba9876543210' }, blocks(2));
    expect(open().load(log).get('web')?.map.lock).toBe('fedcba9876543210');
  });

  it('are all found beside what is no note', () => {
    const directory = temporaryDirectory();
    load(directory).notes.add('web', MAP, blocks(1));
    fs.mkdirSync(path.join(directory, 'a directory'));
    expect(load(directory).found.get('web')).toEqual(blocks(1));
  });

  it('that end anywhere have the records that are whole, and go on after them', () => {
    const directory = temporaryDirectory();
    load(directory).notes.add('web', MAP, blocks(1, 2, 3));
    const [file] = fs.readdirSync(directory).map((name) => path.join(directory, name));
    const whole = fs.readFileSync(file);
    for (let length = 0; length <= whole.length; length++) {
      fs.writeFileSync(file, whole.subarray(0, length));
      const { notes, found } = load(directory);
      const left = sorted(found.get('web'));
      expect(left).toEqual(blocks(1, 2, 3).slice(0, left.length));
      notes.add('web', MAP, blocks(8));
      expect(sorted(load(directory).found.get('web'))).toEqual([...left, ...blocks(8)]);
    }
    expect(sorted(load(directory).found.get('web'))).toEqual(blocks(1, 2, 3, 8));
  });

  it('that cannot be written whole leave nothing of what failed', () => {
    const directory = temporaryDirectory();
    const files = new NoteFiles(directory);
    const notes = new Notes(files, 'a start');
    notes.load(log);
    notes.add('web', MAP, blocks(1));
    const write = files.write.bind(files);
    let failing = true;
    files.write = (volume, bytes, at) => {
      if (!failing) return write(volume, bytes, at);
      failing = false;
      write(volume, bytes.subarray(0, 16), at);
      throw new Error('no space is left');
    };
    expect(() => notes.add('web', MAP, blocks(2, 3))).toThrow('no space');
    expect(load(directory).found.get('web')).toEqual(blocks(1));
    notes.add('web', MAP, blocks(4));
    expect(sorted(load(directory).found.get('web'))).toEqual(blocks(1, 4));
  });

  it('are all there still when there is no space for one more', () => {
    const directory = temporaryDirectory();
    const files = new NoteFiles(directory);
    const notes = new Notes(files, 'a start');
    notes.load(log);
    const write = files.write.bind(files);
    files.write = (volume, bytes, at) => {
      if (at + bytes.length > 4096) throw new SystemError(errnos.ENOSPC, 'no space is left');
      write(volume, bytes, at);
    };
    let count = 0;
    for (;;) {
      try {
        notes.add('web', MAP, blocks(count + 1));
      } catch {
        break;
      }
      count++;
    }
    expect(count).toBeGreaterThan(200);
    const all = blocks(...Array.from({ length: count }, (_, i) => i + 1));
    expect(sorted(load(directory).found.get('web'))).toEqual(all);
    notes.drop('web', [1]);
    notes.add('web', MAP, blocks(1000));
    expect(sorted(load(directory).found.get('web'))).toEqual([...all.slice(1), ...blocks(1000)]);
  });

  it('say of which map they are: of another nothing is noted beside it, and its note begins anew', () => {
    const directory = temporaryDirectory();
    const heads = (): unknown => new Notes(new NoteFiles(directory), 'a start').load(log).get('web');
    const notes = new Notes(new NoteFiles(directory), 'a start');
    notes.load(log);
    notes.add('web', MAP, blocks(1));
    const other = { id: '', epoch: 1 };
    const later = { ...MAP, epoch: MAP.epoch + 1 };
    expect(() => notes.add('web', other, blocks(2))).toThrow('another map');
    expect(() => notes.add('web', later, blocks(2))).toThrow('another map');
    expect(heads()).toEqual({ map: MAP, blocks: blocks(1), zeroed: [], spoiled: [] });
    notes.become('web', later);
    notes.become('elsewhere', later);
    notes.add('web', later, blocks(2));
    expect(heads()).toEqual({ map: later, blocks: blocks(1, 2), zeroed: [], spoiled: [] });
    notes.drop('web', [1, 2]);
    notes.add('web', other, blocks(3));
    expect(heads()).toEqual({ map: other, blocks: blocks(3), zeroed: [], spoiled: [] });
  });

  it('that cannot be read keep the mapper from starting: what they tell of was acknowledged', () => {
    const store = new NoteFiles(temporaryDirectory());
    store.load = () => {
      throw new SystemError(errnos.EACCES, 'permission denied');
    };
    expect(() => openNotes(store, 'a start', log)).toThrow('make RUN_DIR/provisional readable');
  });
});
