/** The table of volumes for the boot on a real node, and waiting for one that is being started. Devices of the kernel: devices.test.ts. */
import { writeFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { nbdinfo } from './harness/clients.js';
import { useNode } from './harness/node.js';
import { programs } from './harness/requirements.js';
import { describeOutcome } from './harness/run.js';

describe.runIf(programs('nbdinfo'))('a table of volumes', () => {
  const rig = useNode({ settings: { nbd: { exports: 'mapped' } } });
  const table = (): string => path.join(rig.node.dir, 'maptab');
  const lines = (): string => `table-one\t${rig.node.uri('table-one')}\ntable-two\t${rig.node.uri('table-two')}\n`;

  it('is mapped with its options, what is missing told, and unmapped', async () => {
    const { node } = rig;
    await node.create('table-one', '4M');
    await node.create('table-two', '8M');
    writeFileSync(table(), '# VOLUME OPTIONS\ntable-one nbd,ro\ntable-gone nofail\ntable-two -\n');
    const mapped = await node.tryVlmc(['map', '--table', table()]);
    expect({ code: mapped.code, out: mapped.stdout }, describeOutcome(mapped)).toEqual({ code: 0, out: lines() });
    expect(mapped.stderr).toMatch(/^vlmc map failed: table-gone \(.*maptab:3\): .*table-gone/);
    expect(await nbdinfo(node.uri('table-one'))).toMatchObject({ is_read_only: true, 'export-size': 4 << 20 });
    expect(await nbdinfo(node.uri('table-two'))).toMatchObject({ is_read_only: false, 'export-size': 8 << 20 });
    expect(await node.vlmc('showmapped', '-l')).toMatch(
      /^ 0 +table-one +nbd\+unix:.* ro +healthy\n 1 +table-two .* rw +healthy\n$/m,
    );
    await node.vlmc('unmap', '--table', table());
    expect(await node.vlmc('showmapped')).toBe('No volumes mapped\n\n');
  });

  it('is waited for at boot, while the node is being started', async () => {
    const { node } = rig;
    await node.archipelago('stop');
    const mapping = node.tryVlmc(['map', '--table', table(), '--wait', '120']);
    await node.archipelago('start');
    const mapped = await mapping;
    expect({ code: mapped.code, out: mapped.stdout }, describeOutcome(mapped)).toEqual({ code: 0, out: lines() });
    // As at shutdown.
    await node.vlmc('unmap', '--table', table());
    await node.archipelago('stop');
    await node.archipelago('start');
    expect(await node.vlmc('showmapped')).toBe('No volumes mapped\n\n');
  });
});
