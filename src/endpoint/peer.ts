/** The NBD endpoint as a role of a node: its listeners, its port, its start and its end. */
import type { NbdSettings } from '../config/types.js';
import { type ListenAddress, NbdServer, type PassedSocket } from '../nbd/index.js';
import type { RoleStarter } from '../peer/role.js';
import { Control } from './control.js';
import { Exports } from './exports.js';
import { serverLimits } from './limits.js';
import { type Mapping, Registry } from './registry.js';
import { VolumeSockets } from './sockets.js';
import { Volumes } from './volumes.js';

/** Most of the data heap holds clients' payloads; the rest is for maps and tools. */
const HEAP_SHARE = 0.8;

export const start: RoleStarter<NbdSettings> = async (context) => {
  const { segment, settings, config, ports, name, log, sockets: passed = [] } = context;
  const { heapPages, pageShift } = segment.geometry;
  const { limits, keepalive, warnings } = serverLimits(settings, heapPages * HEAP_SHARE * 2 ** pageShift);
  for (const warning of warnings) log.warn(warning);
  const registry = Registry.load(config.runDir);
  const port = segment.bind(ports.first, { name, heapShare: HEAP_SHARE });
  const volumes = new Volumes(port, settings.composerPort, settings.mapperPort);
  const { composerPort, mapperPort, allowResize, exports: offer } = settings;
  const exports = new Exports({ port, composerPort, mapperPort, volumes, registry, offer, allowResize, log });
  const server = new NbdServer(exports, {
    busyPollUs: settings.busyPollUs,
    limits,
    keepalive,
    log: {
      debug: (message) => log.debug(message),
      info: (message) => log.info(message),
      warn: (message) => log.warn(message),
      error: (message) => log.error(message),
    },
  });
  server.on('open', ({ peer, exportName }) => log.info(`${peer} opened ${exportName}`));
  server.on('close', ({ peer, exportName }) => log.info(`${peer} left ${exportName ?? 'during negotiation'}`));

  // What a predecessor that died left running must be over before a client's request overtakes it.
  await port.settled();
  const addresses: ListenAddress[] = [];
  const status = (): object => ({
    listening: addresses.map((address) => ('path' in address ? address.path : `${address.host}:${address.port}`)),
    connections: server.connections().length,
    mapped: registry.all().length,
  });
  const sockets = new VolumeSockets({ server, exports, runDir: config.runDir, log });
  const urisOf = ({ name: volume }: Pick<Mapping, 'name'>): string[] => {
    const own = sockets.listening(volume);
    const uris = addresses.map((address) => uriOf(address, volume));
    return own === null ? uris : [uriOf({ path: own }, ''), ...uris];
  };
  const control = new Control({ server, exports, registry, volumes, sockets, urisOf, status });
  try {
    for (const where of listeners(settings, passed)) addresses.push(await server.listen(where));
    await sockets.restore(registry.all().flatMap((mapping) => (mapping.ownSocket ? mapping.name : [])));
  } catch (error) {
    await server.close();
    port.close();
    throw error;
  }
  port.serve((request) => control.handle(request));
  return {
    stop: async (): Promise<void> => {
      await server.close({ graceful: true });
      port.close();
    },
    status,
  };
};

/**
 * Where to listen, unix sockets first. A socket that the node was given takes the place of what the configuration says for its kind: with
 * a unix socket of systemd there is no `socket`, with a TCP one no `listen`.
 */
function listeners(settings: NbdSettings, passed: readonly PassedSocket[]): (ListenAddress | PassedSocket)[] {
  const given = (family: PassedSocket['family']): PassedSocket[] => passed.filter((socket) => socket.family === family);
  const [unix, tcp] = [given('unix'), given('tcp')];
  const own = settings.socket === null ? [] : [{ path: settings.socket, mode: 0o660 }];
  return [...(unix.length > 0 ? unix : own), ...(tcp.length > 0 ? tcp : settings.listen)];
}

/** The export of a volume at an address, as NBD URIs are written (doc/uri.md of the protocol). */
function uriOf(address: ListenAddress, volume: string): string {
  const name = encodeURIComponent(volume);
  if ('path' in address) return `nbd+unix:///${name}?socket=${encodeURI(address.path)}`;
  const host = address.host.includes(':') ? `[${address.host}]` : address.host;
  return `nbd://${host}:${address.port}/${name}`;
}
