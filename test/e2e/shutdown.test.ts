/** A node that is stopped under load: each request is done and answered or has no answer, and what was answered is there when the node is back. */
import { beforeAll, describe, expect, it } from 'vitest';
import { connectNbd, type NbdClient } from '../../src/nbd/index.js';
import { useNode } from './harness/node.js';

const MiB = 1 << 20;
const BLOCK = 64 * 1024;

describe('stopping a node under load', () => {
  const rig = useNode();
  const connect = (): Promise<NbdClient> => connectNbd({ path: rig.node.socket }, { exportName: 'loaded-volume' });

  beforeAll(async () => {
    await rig.node.create('loaded-volume', 64 * MiB);
  });

  it('does a request and answers it, or does not answer, and keeps what it said was done', async () => {
    const clients = await Promise.all(Array.from({ length: 4 }, connect));
    /** The last value of a block that was answered, by its number. */
    const written = new Map<number, number>();
    let stopping: Promise<unknown> | null = null;
    let done = 0;
    const work = clients.map(async (nbd, at) => {
      for (let value = 1; ; value = (value % 250) + 1) {
        const outcomes = await Promise.allSettled(
          Array.from({ length: 16 }, async (_, i) => {
            const block = at * 16 + i;
            await nbd.write(block * BLOCK, Buffer.alloc(BLOCK, value));
            written.set(block, value);
            done++;
          }),
        );
        const failed = outcomes.filter((outcome) => outcome.status === 'rejected');
        for (const { reason } of failed) expect(stopping, String(reason)).not.toBeNull();
        if (failed.length > 0) return failed.map(({ reason }) => (reason as { errno: number }).errno);
        if (done > 500) stopping ??= rig.node.archipelago('stop', '-f');
      }
    });
    const errnos = (await Promise.all(work)).flat();
    await stopping;
    for (const nbd of clients) nbd.destroy();
    // The end of the connection, never an error that clients take for one of the disk.
    expect(new Set([...errnos, 104, 32]).size).toBe(2);

    await rig.node.archipelago('start');
    const reader = await connect();
    for (const [block, value] of written) {
      const bytes = await reader.read(block * BLOCK, BLOCK);
      // A write that was cut off may have been done after the last that was answered.
      const next = (value % 250) + 1;
      expect([value, next]).toContain(bytes[0]);
      expect(bytes.every((byte) => byte === bytes[0] || byte === value || byte === next)).toBe(true);
    }
    expect(written.size).toBe(64);
    await reader.disconnect();
  });
});
