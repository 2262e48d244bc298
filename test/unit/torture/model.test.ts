/** The oracle of the torture finds what it must, and nothing else. */
import { describe, expect, test } from 'vitest';
import { makeContent, readContent, SECTOR } from '../../torture/content.js';
import { Disk, matchReading, oneMoment } from '../../torture/model.js';

const SIZE = 16;
const look = (disk: Disk, ...tags: number[]): void =>
  disk.read(
    disk.startReading(0, tags.length),
    tags.map((tag) => [tag, 1]),
  );

describe('content', () => {
  test('tells who wrote each sector', () => {
    const bytes = Buffer.concat([makeContent(7, 3, 2), Buffer.alloc(SECTOR), makeContent(9, 6, 1)]);
    expect(readContent(bytes, 3)).toEqual({
      runs: [
        [7, 2],
        [0, 1],
        [9, 1],
      ],
      damage: null,
    });
  });

  test('finds data of another place, torn sectors and rubbish behind zeros', () => {
    expect(readContent(makeContent(7, 3, 1), 4).damage?.what).toMatch(/for sector 3/);
    const torn = Buffer.concat([makeContent(7, 3, 1).subarray(0, 256), makeContent(8, 3, 1).subarray(256)]);
    expect(readContent(torn, 3).damage?.what).toMatch(/from byte 256 on/);
    const rubbish = Buffer.alloc(SECTOR);
    rubbish[SECTOR - 1] = 1;
    expect(readContent(rubbish, 0).damage?.what).toMatch(/zeros/);
  });
});

describe('a disk', () => {
  test('must hold what was acknowledged last', () => {
    const disk = new Disk('disk', SIZE);
    disk.answered(disk.begin(1, 'write', 0, 4));
    disk.answered(disk.begin(2, 'write', 2, 4));
    look(disk, 1, 1, 2, 2, 2, 2, 0);
    expect(() => look(disk, 1, 1, 1)).toThrow(/sector 2 holds the data of operation 1/);
    expect(() => look(disk, 0)).toThrow(/sector 0 holds zeros/);
  });

  test('may hold what has no answer, and then must go on holding it', () => {
    const disk = new Disk('disk', SIZE);
    disk.answered(disk.begin(1, 'write', 0, 2));
    const lost = disk.begin(2, 'write', 0, 2);
    look(disk, 1, 2);
    disk.over(lost);
    look(disk, 2, 1);
    expect(() => look(disk, 1, 1)).toThrow(/sector 0/);
    expect(() => look(disk, 2, 2)).toThrow(/sector 1/);
  });

  test('does not show a lost write over one that began after it was over', () => {
    const disk = new Disk('disk', SIZE);
    const lost = disk.begin(1, 'write', 0, 1);
    disk.over(lost);
    disk.answered(disk.begin(2, 'write', 0, 1));
    expect(() => look(disk, 1)).toThrow(/sector 0/);
    look(disk, 2);
  });

  test('holds either of two writes at the same time', () => {
    const disk = new Disk('disk', SIZE);
    const [one, two] = [disk.begin(1, 'write', 0, 1), disk.begin(2, 'write', 0, 1)];
    disk.answered(two);
    disk.answered(one);
    look(disk, 2);
    expect(() => look(disk, 1)).toThrow(/sector 0/);
  });

  test.each(['trim', 'zero', 'write'] as const)(
    'may hold a %s that ended while a read was under way, whatever that saw',
    (change) => {
      const disk = new Disk('disk', SIZE);
      const tag = change === 'write' ? 2 : 0;
      disk.answered(disk.begin(1, 'write', 0, 1));
      const [answered, lost] = [new Disk('answered', SIZE), disk];
      answered.answered(answered.begin(1, 'write', 0, 1));
      for (const each of [answered, lost]) {
        const op = each.begin(tag, change, 0, 1);
        // The store is read, then changed; the change is told of, then what was read.
        const reading = each.startReading(0, 1);
        if (each === answered) each.answered(op);
        else each.over(op);
        each.read(reading, [[1, 1]]);
        look(each, tag);
        // Seen by one who asked when all was over it is certain.
        expect(() => look(each, 1)).toThrow(/sector 0/);
      }
    },
  );

  test('reads as zeros where it was cut off and grew again, and has no third size', () => {
    const disk = new Disk('disk', SIZE);
    disk.answered(disk.begin(1, 'write', 0, SIZE));
    disk.beginResize(8);
    expect(() => disk.resized(9)).toThrow(/has 9 sectors/);
    disk.resized(8);
    disk.beginResize(SIZE);
    disk.resized(SIZE);
    look(disk, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0);
    expect(() => look(disk, 1, 1, 1, 1, 1, 1, 1, 1, 1)).toThrow(/sector 8/);
  });
});

describe('a snapshot', () => {
  test('is one moment: it lacks nothing that was acknowledged before what it shows began', () => {
    const disk = new Disk('disk', SIZE);
    const reading = disk.startReading(0, 2);
    disk.answered(disk.begin(1, 'write', 0, 1));
    disk.answered(disk.begin(2, 'write', 1, 1));
    const seen = (...tags: number[]) =>
      matchReading(
        'snapshot',
        reading,
        tags.map((tag) => [tag, 1]),
      );
    for (const moment of [seen(0, 0), seen(1, 0), seen(1, 2)]) oneMoment('snapshot', reading, moment);
    expect(() => oneMoment('snapshot', reading, seen(0, 2))).toThrow(/no single moment/);
    expect(() => seen(2, 0)).toThrow(/sector 0/);
  });
});
