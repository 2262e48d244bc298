/** The modelled disk: what a cut may take, and what it must leave. */
import { describe, expect, it } from 'vitest';
import { Disk } from '../../sim/disk.js';
import { FileInode } from '../../sim/inode.js';

/** Content of a file after each of many cuts; null: there is none. */
function outcomes(disk: Disk, file: string, tear = false): Set<string | null> {
  const found = new Set<string | null>();
  for (let seed = 0; seed < 400; seed++) {
    const after = disk.cut(seed, tear);
    if (!after.exists(file)) {
      found.add(null);
      continue;
    }
    const inode = after.find(file) as FileInode;
    const bytes = Buffer.alloc(inode.size);
    inode.read(bytes, 0);
    found.add([...new Set(bytes.toString('latin1'))].join('') + (inode.size === 0 ? 'empty' : ''));
  }
  return found;
}

const page = (letter: string): Buffer => Buffer.alloc(4096, letter);

function withFile(letter: string): { disk: Disk; file: FileInode } {
  const disk = new Disk();
  disk.install('/f', page(letter));
  return { disk, file: disk.find('/f') as FileInode };
}

describe('what is not synced', () => {
  it('of a page is any of its versions', () => {
    const { disk, file } = withFile('a');
    disk.write(file, page('b'), 0);
    disk.write(file, page('c'), 0);
    expect(outcomes(disk, '/f')).toEqual(new Set(['a', 'b', 'c']));
    file.sync(disk.seq);
    expect(outcomes(disk, '/f')).toEqual(new Set(['c']));
  });

  it('is what came after the sync began', () => {
    const { disk, file } = withFile('a');
    disk.write(file, page('b'), 0);
    const begun = disk.seq;
    disk.write(file, page('c'), 0);
    file.sync(begun);
    expect(outcomes(disk, '/f')).toEqual(new Set(['b', 'c']));
  });

  it('of a mark is each that the file had since; an fdatasync does not sync it', () => {
    const { disk, file } = withFile('a');
    const marks = (): Set<string | undefined> =>
      new Set(
        Array.from({ length: 100 }, (_, seed) => (disk.cut(seed, false).find('/f') as FileInode).mark?.toString()),
      );
    disk.mark(file, Buffer.from('first'));
    disk.mark(file, Buffer.from('second'));
    file.sync(disk.seq);
    expect(marks()).toEqual(new Set([undefined, 'first', 'second']));
    file.sync(disk.seq, true);
    expect(marks()).toEqual(new Set(['second']));
    disk.mark(file, null);
    expect(marks()).toEqual(new Set(['second', undefined]));
  });

  it('tears between sectors, where sectors are small', () => {
    const { disk, file } = withFile('a');
    disk.write(file, page('b'), 0);
    expect(outcomes(disk, '/f', true)).toContain('ab');
    expect(outcomes(disk, '/f', false)).toEqual(new Set(['a', 'b']));
  });

  it('of a new file is its content, although its name is there, and its name, although its content was synced', () => {
    const disk = new Disk();
    const file = disk.create('/f');
    disk.write(file, page('a'), 0);
    expect(outcomes(disk, '/f').has('empty')).toBe(true);
    file.sync(disk.seq);
    expect(outcomes(disk, '/f')).toEqual(new Set(['a', null]));
    disk.syncDirectory(disk.root, disk.seq);
    expect(outcomes(disk, '/f')).toEqual(new Set(['a']));
  });

  it('of a directory takes all that is below it', () => {
    const disk = new Disk();
    disk.mkdir('/d');
    const file = disk.create('/d/f');
    disk.write(file, page('a'), 0);
    file.sync(disk.seq);
    const directory = disk.find('/d');
    if (directory.directory) disk.syncDirectory(directory, disk.seq);
    const there = new Set(Array.from({ length: 100 }, (_, seed) => disk.cut(seed, false).paths().length));
    expect(there).toEqual(new Set([0, 1]));
  });

  it('of a shrunk and regrown file never shows what was cut off, once the new length is there', () => {
    const { disk, file } = withFile('a');
    disk.truncate(file, 0);
    disk.truncate(file, 4096);
    const found = outcomes(disk, '/f');
    expect(found).toEqual(new Set(['a', 'empty', '\0']));
  });
});

describe('names', () => {
  it('a rename is there as a whole or not at all, and replaces what was there', () => {
    const { disk } = withFile('a');
    disk.install('/g', page('b'));
    disk.rename('/g', '/f');
    for (let seed = 0; seed < 100; seed++) {
      const after = disk.cut(seed, false);
      const renamed = !after.exists('/g');
      const bytes = Buffer.alloc(1);
      (after.find('/f') as FileInode).read(bytes, 0);
      expect(bytes.toString()).toBe(renamed ? 'b' : 'a');
    }
  });

  it('changes of one name stay in their order; those of others do not wait for them', () => {
    const { disk } = withFile('a');
    disk.unlink('/f');
    disk.create('/f');
    disk.create('/g');
    const found = new Set<string>();
    for (let seed = 0; seed < 400; seed++) {
      const after = disk.cut(seed, false);
      found.add(after.paths().join(' '));
    }
    expect(found).toEqual(new Set(['/f 4096', '', '/f 0', '/f 4096 /g 0', '/g 0', '/f 0 /g 0']));
  });

  it('a file stays as long as one of its names does', () => {
    const { disk } = withFile('a');
    disk.link('/f', '/g');
    disk.syncDirectory(disk.root, disk.seq);
    disk.unlink('/f');
    disk.syncDirectory(disk.root, disk.seq);
    expect(outcomes(disk, '/g')).toEqual(new Set(['a']));
    expect(disk.find('/g')).toBeInstanceOf(FileInode);
  });
});
