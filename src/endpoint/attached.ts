/**
 * A small endpoint outside of the node's own processes: it has a dynamic port on the running node's segment and serves the connections it
 * is given. For one client at a time that comes over pipes or an inherited socket; the node's own endpoint is the fast one.
 */
import type { Logger } from 'pino';
import { findRole } from '../config/index.js';
import { isLoopback } from '../config/nbd-tls.js';
import type { Config, NbdSettings } from '../config/types.js';
import { type ListenOptions, NbdServer } from '../nbd/index.js';
import { Op, opName } from '../requests/ops.js';
import { errnos, SystemError } from '../sys/errno.js';
import type { Port } from '../xseg/index.js';
import { Authorisation } from './authorisation.js';
import { Exports } from './exports.js';
import { serverLimits } from './limits.js';
import { Registry } from './registry.js';
import { SingleExport } from './single-export.js';
import { followLimits, openLimitsBeside } from './throttle/open.js';
import { NO_LIMITS } from './throttle/rates.js';
import { isExposed, readCredentials, readRules } from './tls.js';
import { Volumes } from './volumes.js';

/** A dynamic port's share of the data heap, see Segment.bind. */
const HEAP_SHARE = 0.5;
/** Of that, for clients' data, where no endpoint of the configuration says more. */
const DATA_SHARE = 0.9;

export interface AttachedOptions {
  readonly config: Config;
  /** A port of one's own on the node's segment, named ATTACHED_ENDPOINT: the mapper asks it for its clients. */
  readonly port: Port;
  /** The default export; null: there is none. */
  readonly volume: string | null;
  /** Other volumes are exports too. */
  readonly all: boolean;
  readonly log: Logger;
}

export interface AttachedServer {
  readonly server: NbdServer;
  /**
   * How TCP clients are served: with the TLS and the access rules that the endpoint has for `listen`. Whoever comes over a pipe or a unix
   * socket comes by the leave of who made that.
   * @param host the server's end of it
   * @throws SystemError EINVAL when other machines reach it without TLS; what is wrong with the files
   */
  overTcp(host: string): ListenOptions;
}

/** @throws SystemError when the configuration lacks the roles it needs, or the registry of mappings is damaged */
export function attachedServer({ config, port, volume, all, log }: AttachedOptions): AttachedServer {
  const composer = findRole(config, 'vlmcd');
  const mapper = findRole(config, 'mapperd');
  if (!composer || !mapper) {
    throw new SystemError(
      errnos.EINVAL,
      'a node that serves volumes has roles of the types vlmcd and mapperd in ROLES',
    );
  }
  const [composerPort, mapperPort] = [composer.portnoStart, mapper.portnoStart];
  const endpoint = findRole(config, 'nbd');
  const volumes = new Volumes(port, composerPort, mapperPort);
  const registry = Registry.load(config.runDir);
  const { allowResize = false } = endpoint ?? {};
  const defaults = { limitsFile: `${config.runDir}/limits.json`, limits: NO_LIMITS };
  const volumeLimits = openLimitsBeside(endpoint ?? defaults, log);
  followLimits(volumeLimits, log);
  const exports = new Exports({
    port,
    composerPort,
    mapperPort,
    volumes,
    registry,
    limits: volumeLimits,
    offer: 'all',
    allowResize,
    log,
  });
  const { heapPages, pageShift } = port.segment.geometry;
  const heap = heapPages * HEAP_SHARE * 2 ** pageShift;
  const limits = endpoint ? serverLimits(endpoint, heap).limits : { totalInFlightBytes: Math.floor(heap * DATA_SHARE) };
  const server = new NbdServer(new SingleExport(exports, volume, all), {
    busyPollUs: endpoint?.busyPollUs,
    limits,
    log: {
      debug: (message) => log.debug(message),
      info: (message) => log.info(message),
      warn: (message) => log.warn(message),
      error: (message) => log.error(message),
    },
  });
  // Over the segment it serves nothing else; that it answers keeps its port awake and tells who looks that it lives.
  port.serve((request) => {
    if (request.op === Op.PING) request.succeed(0);
    else if (request.op === Op.CLIENTS) request.succeed(exports.users(request.target));
    else request.fail(errnos.EOPNOTSUPP, `this endpoint does not serve ${opName(request.op)}`);
  });
  const overTcp = (host: string): ListenOptions => {
    if (endpoint === undefined ? !isLoopback(host) : isExposed(host, endpoint.tls)) throw exposed(host);
    return endpoint === undefined ? {} : asEndpoint(endpoint);
  };
  const asEndpoint = ({ tls }: NbdSettings): ListenOptions => {
    const credentials = tls.tcp === 'off' ? null : readCredentials(tls, (message) => log.warn(message));
    if (credentials !== null) server.setTls(credentials);
    return { tls: tls.tcp, provider: new SingleExport(new Authorisation(exports, readRules(tls)), volume, all) };
  };
  return { server, overTcp };
}

function exposed(host: string): SystemError {
  return new SystemError(
    errnos.EINVAL,
    `clients come over TCP to ${host}, which other machines reach: the nbd role needs tls = required, or insecure_tcp = True`,
  );
}
