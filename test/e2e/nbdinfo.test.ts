/**
 * What libnbd's nbdinfo sees of a node: names, sizes, flags, read-only snapshots, and block status that tells holes and data
 * exactly as the map has them.
 */
import { beforeAll, describe, expect, it } from 'vitest';
import { nbdinfo, nbdlist, nbdmap, qemuIo, qemuRead } from './harness/clients.js';
import { useNode } from './harness/node.js';
import { programs } from './harness/requirements.js';
import { attempt } from './harness/run.js';
import { whateverTheStore } from './harness/stores.js';

const MiB = 1 << 20;
const BLOCK = 4 * MiB;
const HOLE = 3;
const DATA = 0;

describe.runIf(programs('nbdinfo', 'qemu-io'))('nbdinfo', () => {
  const rig = useNode();

  beforeAll(async () => {
    await rig.node.create('info-volume', 64 * MiB);
    await qemuIo(rig.node.uri('info-volume'), `write -P 7 ${BLOCK} ${BLOCK}`, `write -P 8 ${10 * BLOCK} ${2 * BLOCK}`);
    await rig.node.vlmc('snapshot', 'info-volume', 'info-snapshot');
  });

  it('reports a volume with its exact size and everything it can do', async () => {
    for (const uri of [rig.node.uri('info-volume'), rig.node.tcpUri('info-volume')]) {
      expect(await nbdinfo(uri)).toMatchObject({
        'export-name': 'info-volume',
        'export-size': 64 * MiB,
        is_read_only: false,
        is_rotational: false,
        can_cache: true,
        can_df: true,
        can_flush: true,
        can_fua: true,
        can_multi_conn: true,
        can_trim: true,
        can_zero: true,
        contexts: expect.arrayContaining([
          'base:allocation',
          'qemu:allocation-depth',
          'archipelago:object',
          'archipelago:diff:info-snapshot',
          'qemu:dirty-bitmap:info-snapshot',
        ]),
      });
    }
  });

  whateverTheStore(it)('reports a snapshot as a read-only export of the same size', async () => {
    expect(await nbdinfo(rig.node.uri('info-snapshot'))).toMatchObject({
      'export-size': 64 * MiB,
      is_read_only: true,
    });
  });

  whateverTheStore(it)('reports block sizes that any client can live with', async () => {
    const info = await nbdinfo(rig.node.uri('info-volume'));
    expect(info.block_size_minimum).toBe(1);
    expect(info.block_size_preferred).toBeGreaterThanOrEqual(4096);
    expect(info.block_size_maximum).toBeGreaterThanOrEqual(32 * MiB);
  });

  it('lists every volume and snapshot', async () => {
    const names = (await nbdlist(`nbd+unix:///?socket=${rig.node.socket}`)).map((e) => e['export-name']);
    expect(names.toSorted()).toEqual(['info-snapshot', 'info-volume']);
  });

  whateverTheStore(it)('refuses an unknown export with a message that names it', async () => {
    const outcome = await attempt('nbdinfo', [rig.node.uri('no-such-volume')]);
    expect(outcome.code).not.toBe(0);
    expect(outcome.stderr).toMatch(/no-such-volume/);
  });

  it('maps written blocks as data and the rest as holes that read as zeros', async () => {
    const expected = [
      { offset: 0, length: BLOCK, type: HOLE },
      { offset: BLOCK, length: BLOCK, type: DATA },
      { offset: 2 * BLOCK, length: 8 * BLOCK, type: HOLE },
      { offset: 10 * BLOCK, length: 2 * BLOCK, type: DATA },
      { offset: 12 * BLOCK, length: 4 * BLOCK, type: HOLE },
    ];
    expect(await nbdmap(rig.node.uri('info-volume'))).toEqual(expected);
    expect(await nbdmap(rig.node.uri('info-snapshot'))).toEqual(expected);
  });

  it('maps a trimmed block as a hole again, while its snapshot keeps the data', async () => {
    const uri = await rig.node.create('trim-volume', 16 * MiB);
    await qemuIo(uri, `write -P 9 0 ${3 * BLOCK}`);
    await rig.node.vlmc('snapshot', 'trim-volume', 'trim-snapshot');
    await qemuIo(uri, `discard ${BLOCK} ${BLOCK}`, `read -P 0 ${BLOCK} ${BLOCK}`);
    expect(await nbdmap(uri)).toEqual([
      { offset: 0, length: BLOCK, type: DATA },
      { offset: BLOCK, length: BLOCK, type: HOLE },
      { offset: 2 * BLOCK, length: BLOCK, type: DATA },
      { offset: 3 * BLOCK, length: BLOCK, type: HOLE },
    ]);
    await qemuRead(rig.node.uri('trim-snapshot'), `read -P 9 0 ${3 * BLOCK}`);
  });

  it('maps a volume of 16 TiB', async () => {
    const size = 16 * 2 ** 40;
    const uri = await rig.node.create('huge-volume', '16T');
    await qemuIo(uri, `write -P 3 ${size - BLOCK} ${BLOCK}`);
    expect(await nbdmap(uri)).toEqual([
      { offset: 0, length: size - BLOCK, type: HOLE },
      { offset: size - BLOCK, length: BLOCK, type: DATA },
    ]);
  });
});
