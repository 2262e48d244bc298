/** Mapping a volume: an export of the endpoint, and on it a device of the kernel where one is asked for. */
import type { Device, EndpointAddress } from '../../devices/types.js';
import { Op } from '../../requests/ops.js';
import { errnoOf, errnos, messageOf } from '../../sys/errno.js';
import { CliError } from '../common/exit.js';
import { printWarning } from '../common/io.js';
import type { Session } from '../common/session.js';
import type { MapRequest } from './map-options.js';
import { showMapped } from './mapped.js';

export interface MapReply {
  readonly name: string;
  readonly uris: readonly string[];
  readonly device: Device | null;
}

/**
 * Maps a volume; what is mapped already, with the same options, stays as it is.
 * @throws CliError, SystemError; then the volume is mapped no more than it was before
 */
export async function mapVolume(session: Session, request: MapRequest): Promise<MapReply> {
  const { name, endpoint, readOnly, assumeV0, v0Size, writeThrough, ownSocket } = request;
  const body = { name, readOnly, assumeV0, v0Size, writeThrough, ownSocket };
  const exporting = async (): Promise<readonly string[]> => {
    const { uris } = await session.client.json<{ uris: readonly string[] }>('endpoint', Op.MAP, name, body);
    if (uris.length === 0) throw new CliError('the endpoint listens nowhere: set socket or listen in [nbd]');
    return uris;
  };
  if (endpoint === 'nbd') return { name, uris: await exporting(), device: null };
  const before = (await showMapped(session)).mapped.some((mapping) => mapping.name === name);
  const uris = await exporting();
  try {
    return { name, uris, device: await attach(session, request, uris) };
  } catch (error) {
    if (endpoint === 'auto' && isNotPossibleHere(error)) {
      printWarning(session.io, `${name} is an export and no device: ${messageOf(error)}`);
      return { name, uris, device: null };
    }
    if (!before) await takeBack(session, name);
    throw error;
  }
}

async function attach(session: Session, request: MapRequest, uris: readonly string[]): Promise<Device> {
  const { name: volume, readOnly, connections } = request;
  const devices = await session.devices(endpointOf(uris));
  const device = await devices.attach({ volume, readOnly, connections });
  try {
    await devices.ensureKeeper();
  } catch (error) {
    // The device serves all the same.
    printWarning(
      session.io,
      `${device.path} will not be connected again after a restart of the node: ${messageOf(error)}`,
    );
  }
  return device;
}

/** No right, no module (ENOENT), no interface of the kernel: nothing that another volume would not meet. */
function isNotPossibleHere(error: unknown): boolean {
  return [errnos.ENOENT, errnos.EPERM, errnos.EACCES, errnos.EOPNOTSUPP, errnos.ENODEV, errnos.ENOSYS].includes(
    errnoOf(error),
  );
}

/** Ends a mapping that was made for a device which did not come about; not one that clients use meanwhile. */
async function takeBack(session: Session, name: string): Promise<void> {
  await session.client.json('endpoint', Op.UNMAP, name, { name, force: false }).catch(() => {});
}

const NBD_PORT = 10809;

/**
 * Where the kernel connects, of the URIs of a mapping: without TLS, by a unix socket rather than TCP. The volume's name is the export's on all of
 * them, its own socket included. @throws CliError
 */
export function endpointOf(uris: readonly string[]): EndpointAddress {
  const plain = uris.filter((uri) => uri.startsWith('nbd+unix:') || uri.startsWith('nbd:'));
  const uri = plain.find((candidate) => candidate.startsWith('nbd+unix:')) ?? plain[0];
  if (uri === undefined) {
    throw new CliError(
      'the endpoint wants TLS, which a device of the kernel does not speak here; map it with --socket (a unix socket of its own, without TLS)',
      errnos.EOPNOTSUPP,
    );
  }
  // As uriOf of the endpoint writes it: the path is all of the rest, whatever is in it.
  const socket = uri.indexOf('?socket=');
  if (socket >= 0) return { path: decodeURIComponent(uri.slice(socket + '?socket='.length)) };
  const { hostname, port } = new URL(uri);
  return { host: hostname.replace(/^\[|\]$/g, ''), port: port === '' ? NBD_PORT : Number(port) };
}
