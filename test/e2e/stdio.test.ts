/** `archipelago nbd`: the running node for a client that starts its server itself, over pipes, one socket, or a socket handed over. */
import { existsSync } from 'node:fs';
import path from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { sha256 } from './harness/clients.js';
import { bin, useNode } from './harness/node.js';
import { programs } from './harness/requirements.js';
import { attempt, ended, killGroup, run, start } from './harness/run.js';

const MiB = 1 << 20;

describe.runIf(programs('nbdinfo', 'nbdsh', 'nbdcopy', 'socat'))('archipelago nbd', () => {
  const rig = useNode();

  /** The command's words. */
  const command = (...args: string[]): string[] => [
    process.execPath,
    path.join(bin, 'archipelago.js'),
    '-c',
    rig.node.conf,
    'nbd',
    ...args,
  ];
  /** A python list of them, for nbdsh. */
  const python = (...args: string[]): string => JSON.stringify(command(...args));
  // The system's own python has libnbd's module, whichever comes first in PATH.
  const nbdsh = (...lines: string[]) =>
    attempt('/usr/bin/python3', ['-m', 'nbd', '-n', ...lines.flatMap((line) => ['-c', line])]);
  const open = 'h = nbd.NBD()';

  beforeAll(async () => {
    await rig.node.create('stdio-volume', 32 * MiB);
    await rig.node.create('other-volume', 8 * MiB);
  });

  it('serves nbdinfo, which starts it over one socket', async () => {
    const { stdout } = await run('nbdinfo', ['--json', '--', '[', ...command('stdio-volume'), ']']);
    const [info] = (JSON.parse(stdout) as { exports: { 'export-size': number }[] }).exports;
    expect(info['export-size']).toBe(32 * MiB);
  });

  it('what a client wrote through it the node has', async () => {
    const done = await nbdsh(
      open,
      `h.connect_command(${python('stdio-volume')})`,
      'h.pwrite(bytearray(range(256)) * 4096, 5 << 20)',
      'h.flush()',
      'assert h.pread(512, 5 << 20) == bytearray(range(256)) * 2',
      'h.shutdown()',
    );
    expect(done).toMatchObject({ code: 0, stderr: '' });
    const copy = await nbdsh(
      open,
      `h.connect_uri(${JSON.stringify(rig.node.uri('stdio-volume'))})`,
      'assert h.pread(1 << 20, 5 << 20) == bytearray(range(256)) * 4096',
    );
    expect(copy).toMatchObject({ code: 0, stderr: '' });
  });

  it("serves libnbd's socket activation, until libnbd ends it", async () => {
    const done = await nbdsh(
      open,
      `h.connect_systemd_socket_activation(${python('stdio-volume')})`,
      'assert h.get_size() == 32 << 20',
      'assert h.pread(256, 5 << 20) == bytearray(range(256))',
      'h.shutdown()',
    );
    expect(done).toMatchObject({ code: 0, stderr: '' });
  });

  it('takes nothing from a client of the node when its own leaves, and gives the lock back when it is the last', async () => {
    const holder = async (): Promise<object | null> => {
      const { owner, since } =
        (await rig.node.vlmcJson<{ lock: { owner?: string; since?: number } | null }>('lock', 'stdio-volume', '--show'))
          .lock ?? {};
      return owner === undefined ? null : { owner, since };
    };
    const client = start('/usr/bin/python3', [
      ...['-m', 'nbd', '-n', '-c', open, '-c', `h.connect_uri(${JSON.stringify(rig.node.uri('stdio-volume'))})`],
      ...['-c', 'h.pread(512, 0)', '-c', 'print("there", flush=True)', '-c', 'import sys; sys.stdin.read()'],
      ...['-c', 'h.pwrite(bytearray(512), 0); h.flush(); h.shutdown()'],
    ]);
    let said = '';
    client.stdout?.on('data', (chunk) => {
      said += chunk;
    });
    await expect.poll(() => said).toContain('there');
    const lock = await holder();
    expect(lock).not.toBeNull();
    await run('nbdinfo', ['--', '[', ...command('stdio-volume'), ']']);
    const copied = await nbdsh(open, `h.connect_command(${python('stdio-volume')})`, 'h.pread(512, 0); h.shutdown()');
    expect(copied).toMatchObject({ code: 0, stderr: '' });
    // The same lock, and not one that was taken anew.
    expect(await holder()).toEqual(lock);
    client.stdin?.end();
    expect((await ended(client)).code).toBe(0);
    await expect.poll(holder).toBeNull();
    // Here `archipelago nbd` is the last to leave.
    const alone = await nbdsh(open, `h.connect_command(${python('stdio-volume')})`, 'h.pread(512, 0); h.shutdown()');
    expect(alone).toMatchObject({ code: 0, stderr: '' });
    await expect.poll(holder).toBeNull();
  });

  it('refuses another volume, unless it was told to serve all', async () => {
    const connect = (...args: string[]) =>
      nbdsh(open, 'h.set_export_name("other-volume")', `h.connect_command(${python(...args)})`, 'print(h.get_size())');
    expect((await connect('stdio-volume')).stderr).toContain("no export named 'other-volume'");
    expect(await connect('--all')).toMatchObject({ code: 0, stdout: `${8 * MiB}\n` });
    expect(await connect('--all', 'stdio-volume')).toMatchObject({ code: 0, stdout: `${8 * MiB}\n` });
  });

  it.each(['one socket', 'pipes'])('serves each client of socat EXEC, over %s', async (how) => {
    const socket = path.join(rig.node.dir, `socat-${how.length}.sock`);
    const quoted = command('stdio-volume').join(' ');
    const socat = start('socat', [`UNIX-LISTEN:${socket},fork`, `EXEC:${quoted}${how === 'pipes' ? ',pipes' : ''}`], {
      stdio: 'ignore',
    });
    const over = ended(socat);
    try {
      await expect.poll(() => existsSync(socket)).toBe(true);
      const whole = await sha256(rig.node.uri('stdio-volume'));
      expect(await sha256(`nbd+unix:///?socket=${socket}`)).toEqual(whole);
      expect(await sha256(`nbd+unix:///stdio-volume?socket=${socket}`)).toEqual(whole);
    } finally {
      killGroup(socat);
      await over;
    }
  });

  it('says what is wrong on standard error, nothing on standard output, and exits with 255, or 2 when the command line is wrong', async () => {
    const wrong = await attempt(command()[0], command().slice(1));
    expect(wrong).toMatchObject({ code: 2, stdout: '', stderr: expect.stringContaining('name a volume') });
    const idle = await attempt(command()[0], [...command('stdio-volume').slice(1), '--exit-idle', 'x']);
    expect(idle).toMatchObject({ code: 2, stdout: '', stderr: expect.stringContaining('number of seconds') });
    const child = start(process.execPath, command('stdio-volume').slice(1), { stdio: ['ignore', 'pipe', 'pipe'] });
    let said = '';
    child.stderr?.on('data', (chunk) => {
      said += chunk;
    });
    expect((await ended(child)).code).toBe(255);
    expect(said).toContain('standard input is neither a pipe nor a socket');
  });

  it('leaves nothing of itself in the segment, killed as it may be', async () => {
    const done = await nbdsh(open, `h.connect_command(${python('stdio-volume')})`, 'h.kill_subprocess(9)');
    expect(done).toMatchObject({ code: 0, stderr: '' });
    // The volume is not held by those who are gone.
    await run('nbdinfo', ['--', '[', ...command('stdio-volume'), ']']);
    await rig.node.vlmc('close', 'stdio-volume');
    await rig.node.vlmc('remove', 'other-volume');
  });
});
