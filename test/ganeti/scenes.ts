/**
 * The ExtStorage provider under a real Ganeti 3.0: a cluster of two nodes whose instances are qemu guests that write, flush, read back and
 * compare without a pause while Ganeti is given commands. `npm run ganeti` runs all of it, the end-to-end tests its short form.
 */
import { readdirSync } from 'node:fs';
import path from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { Cluster } from './cluster.js';
import { LEAST, Life } from './life.js';
import { judgeExport, judgeImage } from './pattern.js';
import { clusterTools } from './requirements.js';

const alpha = 'alpha.gnt.test';
const beta = 'beta.gnt.test';
const MIB = 1 << 20;
const BOOT = ['virtio_pci', 'virtio_blk', 'virtio-rng'];

/** How much is run. */
export interface Scenes {
  /** Only what tells that the provider works with this Ganeti. */
  readonly short: boolean;
  /** How often a guest moves. */
  readonly moves: number;
}

/** The tests, each of which goes on where the one before it ended. */
export function describeCluster({ short, moves }: Scenes): void {
  /** Scenes that the short form does not have: nothing is missing there that they would need. */
  const longer = (name: string, play: () => Promise<void>): void => {
    if (!short) it(name, play);
  };
  describe.runIf(clusterTools())('a cluster of Ganeti', () => {
    let cluster: Cluster;
    let life: Life;

    beforeAll(async () => {
      cluster = await Cluster.start('ganeti', BOOT);
      life = new Life(cluster, alpha);
    }, 1_800_000);
    afterEach(async ({ task }) => {
      if (task.result?.state !== 'fail') return;
      console.error(`${life?.heard}\n${await life?.portrait()}\n${await cluster?.logs()}`);
    });
    afterAll(async () => {
      life?.close();
      await cluster?.stop();
    });

    const diskOf = (size: number): string => `0:size=${size}M,provider=archipelago,access=userspace`;
    /** Files of the exported disks of alpha, on node 2. */
    const exported = (): string[] => {
      const directory = cluster.path(2, `/var/lib/ganeti/export/${alpha}`);
      const files = readdirSync(directory).filter((entry) => entry !== 'config.ini');
      return files.map((file) => path.join(directory, file));
    };
    /** Adds an instance with one disk; `parameters` are more of the disk's. */
    const add = (instance: string, size: number, parameters: readonly string[] = [], ...more: string[]) => {
      const disk = [diskOf(size), ...parameters].join(',');
      const names = ['--no-name-check', '--no-ip-check', '--no-nics'];
      const what = ['-t', 'ext', '-n', 'node1.gnt.test', '--disk', disk, '-o', 'noop', ...names];
      return cluster.tryOn(1, 'gnt-instance', 'add', ...what, ...cluster.memory(), ...more, instance);
    };
    const added = async (...args: Parameters<typeof add>): Promise<void> => {
      const outcome = await add(...args);
      expect(outcome.code, outcome.stderr).toBe(0);
    };
    const check = async (...options: string[]): Promise<{ errors: number; findings: { kind: string }[] }> =>
      JSON.parse((await cluster.tryOn(1, 'vlmc', '--json', 'check', '--all', ...options)).stdout);
    /** The store has these volumes, and no lock, record or object besides. */
    const nothingBut = async (...names: string[]): Promise<void> => {
      expect((await cluster.volumes()).map((volume) => volume.name).sort()).toEqual(names.sort());
      expect((await check()).findings).toEqual([]);
      const maps = readdirSync(path.join(cluster.dir, 'shared/maps'), { recursive: true }).map(String);
      expect(maps.filter((file) => /_lock|\.archipelago-ganeti-/.test(file))).toEqual([]);
    };
    /** Volume of the only instance's disk. */
    const disk = async (): Promise<string> => {
      const all = await cluster.volumes();
      expect(all).toHaveLength(1);
      return all[0].name;
    };

    /** Moves an instance, which runs on until the other node has it, and hears all of what it says there. */
    const move = async (instance: string, to: 1 | 2): Promise<void> => {
      // Else it would come with pages lost, now and then.
      const arrival = life.listen(to).then((there) => there.sharesMemory());
      const [, shared] = await Promise.all([cluster.gnt('gnt-instance', 'migrate', '-f', instance), arrival]);
      expect(shared).toBe(true);
    };

    it('finds the provider on both nodes', async () => {
      const said = await cluster.gnt('gnt-storage', 'diagnose');
      expect(said.match(/status: valid.*parameters: origin, origin_size, reuse_data/g)).toHaveLength(2);
    });

    longer('is told what is wrong with a disk, and nothing of it stays', async () => {
      const outcome = await add(alpha, LEAST, ['orign=golden-image'], '--no-start');
      expect(outcome.code).not.toBe(0);
      expect(outcome.stderr).toContain('no such parameter: orign; there are origin, origin_size, reuse_data');
      const missing = await add(alpha, LEAST, ['origin=no-such-image'], '--no-start');
      expect(missing.code).not.toBe(0);
      expect(missing.stderr).toContain('no-such-image');
      await nothingBut();
    });

    longer('lists a volume that Ganeti forgot, and removes it', async () => {
      await added(beta, 16, [], '--no-start');
      const leaked = await disk();
      expect(await cluster.on(1, 'archipelago-ganeti', 'list', '--leaked')).not.toContain(leaked);
      await cluster.on(1, 'archipelago', 'stop', '-f');
      await cluster.gnt('gnt-instance', 'remove', '-f', '--ignore-failures', beta);
      await cluster.on(1, 'archipelago', 'start');
      expect(await disk()).toBe(leaked);
      const told = await cluster.on(1, 'archipelago-ganeti', 'list', '--leaked');
      expect(told).toContain(leaked);
      expect(told).toContain(beta);
      await cluster.on(1, 'archipelago-ganeti', 'remove', leaked);
      await nothingBut();
    });

    it('adds an instance whose disk is a volume', async () => {
      await added(alpha, LEAST);
      expect(await cluster.volumes()).toMatchObject([{ size: LEAST * MIB }]);
      await life.listen(1);
      expect(await life.round()).toMatchObject({ low: 0, high: 0, size: LEAST * MIB });
      expect(await cluster.holder(await disk())).toBe('node1.gnt.test_1002');
    });

    longer('grows a disk; the guest has the new size, and its data, after a hard reboot', async () => {
      await cluster.gnt('gnt-instance', 'grow-disk', alpha, '0', '32M');
      expect(await cluster.volumes()).toMatchObject([{ size: (LEAST + 32) * MIB }]);
      await life.round();
      life.close();
      await cluster.gnt('gnt-instance', 'reboot', '--type=hard', '--shutdown-timeout=1', alpha);
      await life.begins(1);
      expect((await life.round()).size).toBe((LEAST + 32) * MIB);
    });

    longer('exports a snapshot while the guest writes: one moment of the disk', async () => {
      await life.round();
      const before = life.flushed;
      await cluster.gnt('gnt-backup', 'export', '-n', 'node2.gnt.test', '--noshutdown', alpha);
      const files = exported();
      expect(files).toHaveLength(1);
      const found = judgeImage(files[0]);
      await life.round();
      expect(found.size).toBe((LEAST + 32) * MIB);
      expect(found.low).toBeGreaterThanOrEqual(before);
      expect(found.high - found.low).toBeLessThanOrEqual(1);
      expect(found.high).toBeLessThanOrEqual(life.flushed);
      // Its snapshot is gone.
      await disk();
    });

    longer('imports the export as another instance, which reads the same', async () => {
      const volume = await disk();
      const [from] = exported();
      const wanted = judgeImage(from);
      const source = ['--src-node=node2.gnt.test', `--src-dir=/var/lib/ganeti/export/${alpha}`];
      const parameters = ['-t', 'ext', '-n', 'node1.gnt.test', '--disk', diskOf(LEAST + 32)];
      const names = ['--no-name-check', '--no-ip-check', '--no-nics', ...cluster.memory()];
      await cluster.gnt('gnt-backup', 'import', ...source, ...parameters, ...names, beta);
      const [copy] = (await cluster.volumes()).map(({ name }) => name).filter((name) => name !== volume);
      expect(await judgeExport(cluster.uri(1, copy))).toEqual(wanted);
      await cluster.gnt('gnt-instance', 'remove', '-f', beta);
      expect(await disk()).toBe(volume);
    });

    longer('plugs a second disk into the running guest, and removes it', async () => {
      const volume = await disk();
      const node = await cluster.primary(alpha);
      const modify = ['gnt-instance', 'modify', '-f', '--hotplug', '--disk'];
      await cluster.gnt(...modify, `add:${diskOf(16).replace('0:', '')}`, alpha);
      const [second] = (await cluster.volumes()).filter(({ name }) => name !== volume);
      expect(second.size).toBe(16 * MIB);
      expect(await cluster.holder(second.name)).toBe(`node${node}.gnt.test_1002`);
      const { code, stdout, stderr } = await cluster.tryOn(1, ...modify, 'remove', alpha);
      expect(code, stderr).toBe(0);
      expect(await disk()).toBe(volume);
      await life.round();
      if (!/Could not hotplug/.test(stdout + stderr)) return;
      console.warn(
        'Ganeti waits 5 s for a guest to give a disk back, and then starts and moves it with that disk for ever: a new start',
      );
      life.close();
      await cluster.gnt('gnt-instance', 'reboot', '--type=hard', '--shutdown-timeout=1', alpha);
      await life.begins(node);
    });

    it(`moves a guest that writes, ${moves} time${moves > 1 ? 's' : ''}`, async () => {
      const volume = await disk();
      for (let moved = 0; moved < moves; moved++) {
        const to = moved % 2 === 0 ? 2 : 1;
        await life.round();
        const { flushed } = life;
        await move(alpha, to);
        expect(await cluster.instance(alpha, 'pnode')).toBe(`node${to}.gnt.test`);
        const round = await life.round();
        expect(round.round).toBeGreaterThan(flushed);
        // It is the same life.
        expect(round).toMatchObject({ low: life.low, high: life.high });
        expect(await cluster.holder(volume)).toBe(`node${to}.gnt.test_1002`);
      }
    });

    longer('fails a guest over: all that it flushed is there', async () => {
      const [from, to] =
        (await cluster.instance(alpha, 'pnode')) === 'node1.gnt.test' ? ([1, 2] as const) : ([2, 1] as const);
      await life.listen(from);
      await life.round();
      life.close();
      await cluster.gnt('gnt-instance', 'failover', '-f', '--shutdown-timeout=1', alpha);
      await life.begins(to);
      expect(await cluster.holder(await disk())).toBe(`node${to}.gnt.test_1002`);
    });

    longer('renames an instance: its volume stays, and both nodes read what the guest wrote', async () => {
      const volume = await disk();
      await life.ends();
      await cluster.gnt('gnt-instance', 'shutdown', '--timeout=1', alpha);
      expect(await cluster.holder(volume)).toBeNull();
      await cluster.gnt('gnt-instance', 'rename', '--no-ip-check', alpha, beta);
      expect(await disk()).toBe(volume);
      expect(await cluster.on(2, 'archipelago-ganeti', 'list')).toContain(beta);
      for (const node of [1, 2] as const) {
        const found = await judgeExport(cluster.uri(node, volume));
        expect(found).toMatchObject({ low: life.flushed, high: life.flushed });
      }
      await cluster.gnt('gnt-instance', 'startup', beta);
      life.instance = beta;
      await life.begins(await cluster.primary(beta));
    });

    longer('clones an image for a new instance', async () => {
      const image = 'golden-image-of-beta';
      const volume = await disk();
      await life.round();
      const before = life.flushed;
      await cluster.on(await cluster.primary(beta), 'vlmc', 'snapshot', volume, image);
      await added(alpha, LEAST + 32, [`origin=${image}`], '--no-start');
      const clone = (await cluster.volumes()).map(({ name }) => name).find((name) => name !== volume && name !== image);
      const found = await judgeExport(cluster.uri(1, `${clone}`));
      expect(found.low).toBeGreaterThanOrEqual(before);
      await cluster.gnt('gnt-instance', 'remove', '-f', alpha);
      await cluster.on(1, 'vlmc', 'remove', image);
      expect(await disk()).toBe(volume);
      await life.round();
    });

    longer('does not start the guest of a node that was cut off before its lock is broken', async () => {
      const volume = await disk();
      if ((await cluster.primary(beta)) === 1) await move(beta, 2);
      else await life.listen(2);
      await life.round();
      life.close();
      cluster.cut(2);
      await cluster.gnt('gnt-node', 'modify', '--offline=yes', 'node2.gnt.test');
      const failover = await cluster.tryOn(1, 'gnt-node', 'failover', '-f', '--ignore-consistency', 'node2.gnt.test');
      expect(failover.stdout + failover.stderr).toContain('node2.gnt.test_1002');
      expect(await cluster.holder(volume)).toBe('node2.gnt.test_1002');
      await cluster.on(1, 'vlmc', 'unlock', '-f', volume);
      await cluster.gnt('gnt-instance', 'startup', beta);
      await life.begins(1);
    });

    it('removes the instance, and no volume, lock or record of it is left', async () => {
      const instance = life.instance;
      life.close();
      await cluster.gnt('gnt-instance', 'remove', '-f', '--shutdown-timeout=1', instance);
      if (!short) {
        // What a volume shared with snapshots that are gone goes with neither: maps count no references.
        const { errors, findings } = await check();
        expect(errors).toBe(0);
        expect(new Set(findings.map(({ kind }) => kind))).toEqual(new Set(['orphan']));
        await check('--repair');
      }
      await nothingBut();
      expect(await cluster.on(1, 'archipelago-ganeti', 'list', '--leaked')).not.toContain('ext.disk');
    });
  });
}
