/** The first command of the README: starts a node, prints URIs that work, stops on Ctrl-C, keeps its data. */
import { mkdtempSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { nbdinfo, qemuIo } from './harness/clients.js';
import { programs } from './harness/requirements.js';
import { ended, killGroup, start } from './harness/run.js';

const script = path.resolve(import.meta.dirname, '../../scripts/quickstart.sh');

describe.runIf(programs('qemu-io', 'nbdinfo'))('quickstart', () => {
  const directory = mkdtempSync(path.join(os.tmpdir(), 'archipelago-quick-'));
  afterAll(() => rmSync(directory, { recursive: true, force: true }));

  /** Starts it; resolves to what it printed once it is ready, and a function that presses Ctrl-C. */
  async function quickstart(): Promise<{ said: string; stop: () => Promise<{ code: number | null }> }> {
    const child = start(script, [], {
      env: { ARCHIPELAGO_QUICKSTART_DIR: directory },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    const over = ended(child);
    let said = '';
    const ready = new Promise<void>((resolve) => {
      for (const stream of [child.stdout, child.stderr]) {
        stream?.setEncoding('utf8').on('data', (text: string) => {
          said += text;
          if (said.includes('Ctrl-C stops the node')) resolve();
        });
      }
    });
    await Promise.race([
      ready,
      over.then(({ code }) => {
        throw new Error(`quickstart ended with ${code}:\n${said}`);
      }),
    ]);
    return {
      said,
      stop: () => {
        // A terminal sends it to every process of the foreground group.
        killGroup(child, 'SIGINT');
        return over;
      },
    };
  }

  it('serves a demo volume under the URIs it prints, and stops on Ctrl-C', async () => {
    const { said, stop } = await quickstart();
    const [unix] = /nbd\+unix:\/\/\/demo-volume\?socket=\S+/.exec(said) ?? [];
    const [tcp] = /nbd:\/\/127\.0\.0\.1:\d+\/demo-volume/.exec(said) ?? [];
    expect(said).toMatch(/qemu-system-x86_64 .*demo-volume/);
    expect(said).toMatch(/nbdcopy .*demo-volume/);
    expect((await nbdinfo(unix ?? ''))['export-size']).toBe(2 ** 30);
    await qemuIo(tcp ?? '', 'write -P 42 512M 4k', 'flush');
    expect((await stop()).code).toBe(0);
    await expect(nbdinfo(tcp ?? '')).rejects.toThrow();
  });

  it('has the data again the next time', async () => {
    const { said, stop } = await quickstart();
    const [unix] = /nbd\+unix:\/\/\/demo-volume\?socket=\S+/.exec(said) ?? [];
    await qemuIo(unix ?? '', 'read -P 42 512M 4k');
    expect((await stop()).code).toBe(0);
  });
});
