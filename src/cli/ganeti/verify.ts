/** The action verify, for administrators and for the Ganeti of some day: can this machine serve disks with these parameters? */
import fs from 'node:fs';
import { Op } from '../../requests/ops.js';
import { errnos, SystemError } from '../../sys/errno.js';
import { print } from '../common/io.js';
import { type Context, originVersion } from './call.js';
import { refuseUnknown } from './environment.js';

/** @throws SystemError with the first thing that is not as it should be; prints what is */
export async function verify(context: Context): Promise<void> {
  const { call, node, io } = context;
  refuseUnknown(call);
  const { listening } = await node.json<{ listening: readonly string[] }>('endpoint', Op.STATUS, '', {});
  if (listening.length === 0) throw bad('the endpoint listens nowhere: set socket in [nbd]');
  await print(io, `the node runs and listens on ${listening.join(' and ')}\n`);
  if (call.access === 'kernelspace') {
    const where = ['/sys/module/nbd', '/sys/block/nbd0'].find((path) => fs.existsSync(path));
    if (where === undefined) throw bad('the kernel has no nbd: modprobe nbd, and name it in /etc/modules-load.d');
    await print(io, 'the kernel has nbd\n');
  }
  const { origin } = call;
  if (origin === null) return;
  const found = await node.info(origin, originVersion(call));
  if (found === null) throw bad(`origin: there is no snapshot or image ${origin}`);
  if (!found.readOnly) throw bad(`origin: ${origin} is no snapshot: vlmc snapshot ${origin} NAME makes one`);
  await print(io, `origin ${origin} has ${found.size} bytes\n`);
}

const bad = (message: string): SystemError => new SystemError(errnos.EINVAL, message);
