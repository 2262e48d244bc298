/** The NBD endpoint as a role of a node: its listeners, its port, its start and its end. */
import type { Logger } from 'pino';
import { BridgeServer } from '../bridge/server.js';
import { findRole } from '../config/index.js';
import type { NbdSettings } from '../config/types.js';
import { addressText, type ClientTls, NbdServer } from '../nbd/index.js';
import type { RoleContext, RoleStarter } from '../peer/role.js';
import { messageOf } from '../sys/errno.js';
import { Authorisation } from './authorisation.js';
import { Control } from './control.js';
import { Exports } from './exports.js';
import { serverLimits } from './limits.js';
import { type Listening, listeners, uriOf } from './listening.js';
import { type Mapping, Registry } from './registry.js';
import { VolumeSockets } from './sockets.js';
import { followLimits, openLimits } from './throttle/open.js';
import { readCredentials, readRules } from './tls.js';
import { Volumes } from './volumes.js';

/** Most of the data heap holds clients' payloads; the rest is for maps and tools. */
const HEAP_SHARE = 0.8;

export const start: RoleStarter<NbdSettings> = async (context) => {
  const { segment, settings, config, ports, name, log, sockets: passed = [] } = context;
  const { heapPages, pageShift } = segment.geometry;
  const { limits, keepalive, warnings } = serverLimits(settings, heapPages * HEAP_SHARE * 2 ** pageShift);
  for (const warning of warnings) log.warn(warning);
  const warn = (message: string): void => log.warn(message);
  let credentials = readCredentials(settings.tls, warn);
  const rules = readRules(settings.tls);
  const where = listeners(settings, passed);
  const registry = Registry.load(config.runDir);
  const volumeLimits = openLimits(settings, log);
  const port = segment.bind(ports.first, { name, heapShare: HEAP_SHARE });
  const volumes = new Volumes(port, settings.composerPort, settings.mapperPort);
  const { composerPort, mapperPort, allowResize, exports: offer } = settings;
  const exports = new Exports({
    port,
    composerPort,
    mapperPort,
    volumes,
    registry,
    limits: volumeLimits,
    offer,
    allowResize,
    log,
  });
  const authorisation = new Authorisation(exports, rules);
  const server = new NbdServer(authorisation, {
    tls: credentials ?? undefined,
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
  server.on('open', ({ peer, exportName, canonicalName, tls }) => {
    const means = canonicalName === exportName ? '' : `, which is ${canonicalName}`;
    log.info(`${peer}${whoIs(tls)} opened ${exportName}${means}`);
  });
  server.on('close', ({ peer, exportName }) => {
    // Who keeps devices asks for sizes every second.
    if (exportName === null) log.debug(`${peer} left during negotiation`);
    else log.info(`${peer} left ${exportName}`);
  });

  // What a predecessor that died left running must be over before a client's request overtakes it.
  await port.settled();
  const addresses: Listening[] = [];
  const status = (): object => ({
    listening: addresses.map(({ address }) => addressText(address)),
    connections: server.connections().length,
    connectionsInTls: server.connections().filter(({ tls }) => tls !== null).length,
    mapped: registry.all().length,
    limited: volumeLimits.count,
  });
  const sockets = new VolumeSockets({ server, exports, runDir: config.runDir, log });
  const urisOf = ({ name: volume }: Pick<Mapping, 'name'>): string[] => {
    const own = sockets.listening(volume);
    const uris = addresses.map((listening) => uriOf(listening, volume));
    return own === null ? uris : [uriOf({ address: { path: own }, tls: 'off' }, ''), ...uris];
  };
  const control = new Control({ server, exports, registry, limits: volumeLimits, volumes, sockets, urisOf, status });
  try {
    for (const { where: place, tls } of where) addresses.push({ address: await server.listen(place, { tls }), tls });
    await sockets.restore(registry.all().flatMap((mapping) => (mapping.ownSocket ? mapping.name : [])));
  } catch (error) {
    await server.close();
    port.close();
    throw error;
  }
  port.serve((request) => control.handle(request));
  const isFirst = findRole(config, 'nbd')?.name === name;
  const bridge = isFirst ? await openBridge(context) : null;
  // The first endpoint is the one that is told.
  const unfollow = isFirst ? null : followLimits(volumeLimits, log);
  // Certificates, keys and rules are looked at again together with the log files; what cannot be used leaves the old ones.
  const reload = (): void => {
    reloading(log, 'TLS credentials', () => {
      const renewed = readCredentials(settings.tls, warn, credentials);
      if (renewed === null) return false;
      server.setTls(renewed);
      credentials = renewed;
      return true;
    });
    reloading(log, 'access rules', () => {
      const renewed = readRules(settings.tls);
      authorisation.setRules(renewed);
      return renewed !== null;
    });
  };
  process.on('SIGHUP', reload);
  return {
    stop: async (): Promise<void> => {
      process.off('SIGHUP', reload);
      unfollow?.();
      await Promise.all([bridge?.close(), server.close({ graceful: true })]);
      port.close();
    },
    status,
  };
};

/** The node serves clients without it too: tools that find no bridge join the segment. */
async function openBridge({ config, segment, log }: RoleContext): Promise<BridgeServer | null> {
  try {
    return await BridgeServer.listen(config, segment);
  } catch (error) {
    log.warn(`there is no bridge for short commands: ${messageOf(error)}`);
    return null;
  }
}

/** What TLS told of a client, for the log: as rules of who may open what name it. */
function whoIs(tls: ClientTls | null): string {
  if (tls === null) return '';
  if (tls.subject !== null) return ` (${tls.protocol}, subject ${tls.subject})`;
  return tls.identity === null ? ` (${tls.protocol})` : ` (${tls.protocol}, identity ${tls.identity})`;
}

/** @param read false when there is nothing to read */
function reloading(log: Logger, what: string, read: () => boolean): void {
  try {
    if (read()) log.info(`${what} read again`);
  } catch (error) {
    log.error(`the ${what} stay as they were: ${messageOf(error)}`);
  }
}
