/** attach, detach, open and close, and what they ask of the node, which is a stub that notes it. */
import { describe, expect, it } from 'vitest';
import { attach, close, detach, open } from '../../../../src/cli/ganeti/access.js';
import type { Context } from '../../../../src/cli/ganeti/call.js';
import { readCall } from '../../../../src/cli/ganeti/environment.js';
import type { Kernel } from '../../../../src/cli/ganeti/kernel.js';
import type { Node } from '../../../../src/cli/ganeti/node.js';
import { Flag, opName } from '../../../../src/requests/ops.js';
import { errnos, SystemError } from '../../../../src/sys/errno.js';
import { capture } from '../capture.js';

const DISK = '1a2b3c4d-0000-4000-8000-123456789abc.ext.disk0';
const UNIX = `nbd+unix:///${DISK}?socket=/run/nbd.sock`;

interface World {
  readonly env?: Record<string, string>;
  readonly uris?: readonly string[];
  readonly exists?: boolean;
  /** errno of an operation's refusals, one after the other. */
  readonly refusals?: Record<string, number[]>;
}

async function play(
  action: (context: Context) => Promise<void>,
  { env, uris = [UNIX], exists = true, refusals = {} }: World,
) {
  const asked: string[] = [];
  const ask = (op: number, target: string, more = ''): void => {
    asked.push(`${opName(op)} ${target}${more}`);
    const errno = refusals[opName(op)]?.shift();
    if (errno !== undefined) throw new SystemError(errno, `${opName(op)} refused`);
  };
  const node = {
    info: async () => (exists ? {} : null),
    json: async (_peer: string, op: number, target: string) => {
      ask(op, target);
      return { uris };
    },
    call: async (_peer: string, { op, target, flags = 0 }: { op: number; target: string; flags?: number }) =>
      ask(op, target, flags === 0 ? '' : ` flags ${flags}`),
  };
  const kernel = {
    attach: async () => {
      asked.push('device');
      return '/dev/nbd4';
    },
    detach: async () => {
      asked.push('no device');
    },
  };
  const call = readCall({ VOL_NAME: DISK, EXTP_ACCESS: 'userspace', ...env });
  const outcome = await capture({}, async (io) => {
    await action({ call, io, node: node as unknown as Node, kernel: async () => kernel as unknown as Kernel });
    return 0;
  });
  return { asked, out: outcome.out };
}

describe('attach', () => {
  const kvm = `kvm:nbd:unix:/run/nbd.sock:exportname=${DISK}\n`;

  it('prints no device in userspace access, and how qemu reaches the volume', async () => {
    expect(await play(attach, {})).toEqual({ asked: [`MAP ${DISK}`], out: `\n${kvm}` });
  });

  it('prints the device and that in kernelspace access', async () => {
    const { asked, out } = await play(attach, { env: { EXTP_ACCESS: 'kernelspace' } });
    expect([asked, out]).toEqual([['device', `MAP ${DISK}`], `/dev/nbd4\n${kvm}`]);
  });

  it('prints the device alone where qemu could not connect itself', async () => {
    const uris = [`nbds://10.0.0.1:10809/${DISK}`];
    expect((await play(attach, { env: { EXTP_ACCESS: 'kernelspace' }, uris })).out).toBe('/dev/nbd4\n');
  });

  it('fails where qemu cannot be told of the way', async () => {
    const tls = `nbds+unix:///${DISK}?socket=/run/nbd.sock`;
    await expect(play(attach, { uris: [tls] })).rejects.toThrow(
      `qemu cannot be told of TLS here, which ${tls} needs: set socket_tls = off`,
    );
    await expect(play(attach, { uris: [] })).rejects.toThrow('the endpoint listens nowhere: set socket in [nbd]');
  });

  it('fails where what Ganeti would write into the command line of qemu were parted there', async () => {
    const uris = [`nbd+unix:///${DISK}?socket=/run/a,readonly=on`];
    await expect(play(attach, { uris })).rejects.toThrow(
      `Ganeti cannot tell qemu of nbd:unix:/run/a,readonly=on:exportname=${DISK}, which has a comma: rename the volume, or the socket`,
    );
    expect((await play(attach, { env: { EXTP_ACCESS: 'kernelspace' }, uris })).out).toBe('/dev/nbd4\n');
  });

  it('does not offer what is not there', async () => {
    await expect(play(attach, { exists: false })).rejects.toThrow(
      `there is no volume ${DISK}; archipelago-ganeti list tells which there are`,
    );
  });
});

describe('detach', () => {
  const all = ['no device', `UNMAP ${DISK}`, `CLOSE ${DISK}`];

  it('takes the device away, then the export, then the lock', async () => {
    expect(await play(detach, {})).toEqual({ asked: all, out: '' });
  });

  it('is fine with what is not there', async () => {
    const refusals = { UNMAP: [errnos.ENOENT], CLOSE: [errnos.ENOENT] };
    expect((await play(detach, { refusals })).asked).toEqual(all);
  });

  it('waits for a guest that has just ended', async () => {
    const refusals = { UNMAP: [errnos.EBUSY, errnos.EBUSY] };
    expect((await play(detach, { refusals })).asked).toEqual([
      'no device',
      ...Array(3).fill(`UNMAP ${DISK}`),
      `CLOSE ${DISK}`,
    ]);
  });

  it('leaves the lock where the export could not be ended', async () => {
    await expect(play(detach, { refusals: { UNMAP: [errnos.EIO] } })).rejects.toThrow('UNMAP refused');
    await expect(play(detach, { refusals: { CLOSE: [errnos.EIO] } })).rejects.toThrow('CLOSE refused');
  });
});

describe('open and close', () => {
  it.each([
    ['True', ''],
    ['False', ` flags ${Flag.SHARED}`],
  ])('open with VOL_OPEN_EXCLUSIVE=%s', async (VOL_OPEN_EXCLUSIVE, flags) => {
    expect((await play(open, { env: { VOL_OPEN_EXCLUSIVE } })).asked).toEqual([`OPEN ${DISK}${flags}`]);
    await expect(play(open, { refusals: { OPEN: [errnos.EBUSY] } })).rejects.toThrow('OPEN refused');
  });

  it('close is fine with what is not there', async () => {
    expect((await play(close, { refusals: { CLOSE: [errnos.ENOENT] } })).asked).toEqual([`CLOSE ${DISK}`]);
    await expect(play(close, { refusals: { CLOSE: [errnos.EIO] } })).rejects.toThrow('CLOSE refused');
  });
});
