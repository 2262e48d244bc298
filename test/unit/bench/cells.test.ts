/** Which cells of the benchmark read what was written long before them. */
import { expect, it } from 'vitest';
import { readsData } from '../../../bench/cells.js';
import { fileCells, growthCells } from '../../../bench/file-cells.js';

it('cells that read a disk full of data find it in the page cache; others need none of it there', () => {
  const read = [...fileCells(1 << 30), ...growthCells].filter(readsData).map(({ id }) => id);
  const plain = ['r4k1', 'r4k32', 'r512k8', 'mix4k1', 'mix4k32', 'rconn4', 'cr4k1', 'cr4k32', 'cr512k8'];
  expect(read.filter((id) => !id.startsWith('g-'))).toEqual([...plain, 'nbdcopy-out', 'qemu-img-read']);
  expect(read.filter((id) => id.startsWith('g-'))).toEqual(
    growthCells.filter(({ title }) => title.includes('read')).map(({ id }) => id),
  );
});
