/** Unmapping: the device of the kernel first, where there is one, then the export. Devices are detached also while their node does not run. */
import fs from 'node:fs';
import type { Device } from '../../devices/types.js';
import { Op } from '../../requests/ops.js';
import { errnoOf, errnos, messageOf, SystemError } from '../../sys/errno.js';
import { CliError } from '../common/exit.js';
import { printWarning } from '../common/io.js';
import type { Session } from '../common/session.js';
import { type ShowMapped, showMappedOrWhy } from './mapped.js';
import { checkName } from './names.js';

export interface UnmapReply {
  readonly name: string;
  /** Path of the device that was detached; null: there was none. */
  readonly device: string | null;
}

/** @param what the path of a device, a URI, or the name of a volume @throws CliError, SystemError naming who uses it */
export async function unmapVolume(session: Session, what: string, force: boolean): Promise<UnmapReply> {
  const isPath = what.startsWith('/');
  const isUri = !isPath && what.includes('://');
  if (!isPath && !isUri) checkName(what);
  const devices = await (await session.devices()).list();
  const byPath = isPath ? findByPath(devices, what) : null;
  const asked = showMappedOrWhy(session);
  const shown = force ? await soon(asked) : await asked;
  const known = byPath?.volume ?? (isUri ? nameBehind(what, shown) : what);
  const device = byPath ?? devices.find(({ volume }) => volume === known) ?? null;
  if (device === null) {
    if (typeof shown === 'string') throw new CliError(shown, shown === SILENT ? errnos.ETIMEDOUT : errnos.ENOENT);
    const body = isUri ? { uri: what, force } : { name: what, force };
    const reply = await session.client.json<{ name?: string }>('endpoint', Op.UNMAP, isUri ? '' : what, body);
    return { name: reply.name ?? what, device: null };
  }
  const name = device.volume;
  if (!force && typeof shown !== 'string') refuseOtherClients(shown, device);
  const { trouble } = await (await session.devices()).detach(device.path, { force });
  if (trouble !== null) printWarning(session.io, `${device.path} (${name}): ${trouble}`);
  if (typeof shown === 'string') {
    printWarning(
      session.io,
      `${device.path} is detached, but ${shown}; ${name} stays mapped without a device: vlmc unmap ${name} once it runs`,
    );
  } else {
    await endMapping(session, name, force).catch((error: unknown) => {
      throw new SystemError(
        errnoOf(error),
        `${device.path} is detached, but ${name} stays mapped: ${messageOf(error)}`,
      );
    });
  }
  return { name, device: device.path };
}

/** ms that a node which hangs is waited for where a device is to go by force. */
const SOON_MS = 5000;
const SILENT = `the endpoint has not answered for ${SOON_MS / 1000} s`;

/** What the endpoint says, or that it says nothing. */
async function soon(asked: Promise<ShowMapped | string>): Promise<ShowMapped | string> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<string>((resolve) => {
    timer = setTimeout(() => resolve(SILENT), SOON_MS);
  });
  try {
    return await Promise.race([asked, late]);
  } finally {
    clearTimeout(timer);
    asked.catch(() => {});
  }
}

/** @throws CliError in the original's words when there is no such file */
function findByPath(devices: readonly Device[], given: string): Device {
  let real: string;
  try {
    real = fs.realpathSync(given);
  } catch {
    real = given;
  }
  const device = devices.find(({ path }) => path === given || path === real);
  if (device) return device;
  if (!fs.existsSync(given)) throw new CliError(`${given}: Device doesn't exist`, errnos.ENOENT);
  throw new CliError(`${given}: no volume is mapped there; vlmc showmapped lists what is`, errnos.ENOENT);
}

/** The volume of a mapping's URI; null: the endpoint is asked. @throws CliError when it cannot be */
function nameBehind(uri: string, shown: ShowMapped | string): string | null {
  if (typeof shown === 'string') throw new CliError(`${shown}; name the volume or its device, not a URI`);
  return shown.mapped.find(({ uris }) => uris.includes(uri))?.name ?? null;
}

/** Others than the device would be cut off, after the device is gone: they are looked at before. */
function refuseOtherClients({ mapped }: ShowMapped, { volume, path, connections }: Device): void {
  const clients = mapped.find(({ name }) => name === volume)?.clients ?? 0;
  const others = clients - connections;
  if (others <= 0) return;
  throw new CliError(
    `Volume ${volume} is in use by ${others} connection${others > 1 ? 's' : ''} besides ${path}; disconnect them or use -f`,
    errnos.EBUSY,
  );
}

/** How often, and every how many ms, the endpoint is asked again: it may see connections that the kernel has closed a moment longer. */
const LOOKS = 30;
const LOOK_MS = 100;

async function endMapping(session: Session, name: string, force: boolean): Promise<void> {
  for (let look = 1; ; look++) {
    try {
      await session.client.json('endpoint', Op.UNMAP, name, { name, force });
      return;
    } catch (error) {
      // A device whose volume nobody mapped, or another did unmap it.
      if (errnoOf(error) === errnos.ENOENT) return;
      if (errnoOf(error) !== errnos.EBUSY || look === LOOKS) throw error;
    }
    await new Promise((resolve) => setTimeout(resolve, LOOK_MS));
  }
}
