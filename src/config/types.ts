/**
 * The configuration of a node as the rest of the program sees it: typed, complete (defaults applied) and frozen.
 * What the file may say, the defaults and the limits are in schema.ts; load.ts makes one of the other.
 */

/** 0 error, 1 warning, 2 info, 3 debug: the original's levels. */
export type LogLevel = 0 | 1 | 2 | 3;

/** What every role has. Ports are inclusive: a role binds `portnoStart` for the requests sent to it. */
export interface CommonRoleSettings {
  /** The role's name: a word of ROLES and the title of its section. */
  readonly name: string;
  readonly portnoStart: number;
  readonly portnoEnd: number;
  /** Requests that a blocker or the composer works on at the same time; a power of two. */
  readonly nrOps: number;
  /** Own log file of this role's process, or null: LOG decides. */
  readonly logfile: string | null;
  readonly logLevel: LogLevel;
  readonly umask: number;
  /** Accepted for old files; nothing spins on it. */
  readonly threshold: number;
}

export interface FileBlockerSettings extends CommonRoleSettings {
  readonly type: 'file_blocker';
  readonly nrThreads: number;
  /** Directory of the objects. */
  readonly archipDir: string;
  /** Flat directory of the lock files; null: beside the objects. */
  readonly lockDir: string | null;
  /** Accepted for old files; it never was a part of paths, and nothing uses it. */
  readonly prefix: string;
  /** Files kept open at the same time. */
  readonly fdcache: number;
  /** Open objects with O_DIRECT. */
  readonly direct: boolean;
  /** Look for objects under the old Pithos paths too. */
  readonly pithosMigrate: boolean;
  /** Copies that are made under a lock may be partial. */
  readonly partialCopies: boolean | 'auto';
  /** The owner string of this blocker's locks. */
  readonly uniqueStr: string;
}

export interface RadosBlockerSettings extends CommonRoleSettings {
  readonly type: 'rados_blocker';
  readonly nrThreads: number;
  readonly pool: string;
  /** Namespace in the pool; '' is the pool's own. */
  readonly namespace: string;
  /** Path of ceph.conf; null: librados' own search path. */
  readonly conf: string | null;
  /** CephX user, without `client.`; null: librados' default. */
  readonly cephxId: string | null;
  readonly uniqueStr: string;
}

export interface MapperSettings extends CommonRoleSettings {
  readonly type: 'mapperd';
  readonly blockerbPort: number;
  readonly blockermPort: number;
  /** How long a write waits for a volume's lock that another node holds, in seconds. */
  readonly lockWait: number;
}

export interface ComposerSettings extends CommonRoleSettings {
  readonly type: 'vlmcd';
  readonly blockerPort: number;
  readonly mapperPort: number;
}

/** What a volume is mapped as: an export for NBD clients, a device of the kernel, or a device where that is possible. */
export type MapEndpoint = 'nbd' | 'kernel' | 'auto';

/** What a listener does about TLS. */
export type NbdTlsMode = 'off' | 'selective' | 'required';

/** TLS of an endpoint. Files are paths, null: none. */
export interface NbdTlsSettings {
  /** Of the TCP addresses, and of the unix socket. */
  readonly tcp: NbdTlsMode;
  readonly socket: NbdTlsMode;
  /** TCP addresses that other machines reach may do without. */
  readonly insecureTcp: boolean;
  readonly cert: string | null;
  readonly key: string | null;
  readonly ca: string | null;
  readonly crl: string | null;
  /** Directory of cert, key, ca and crl under their well-known names. */
  readonly directory: string | null;
  readonly pskFile: string | null;
  /** null: when there is something to verify clients by. */
  readonly verifyPeer: boolean | null;
  readonly minVersion: 'TLSv1.2' | 'TLSv1.3';
  /** Rules of who may open what. */
  readonly acl: string | null;
}

/** How much a volume may be used, all its connections together. */
export interface VolumeLimitSettings {
  /** Requests a second, and bytes. */
  readonly iops: number;
  readonly iopsRead: number;
  readonly iopsWrite: number;
  readonly bps: number;
  readonly bpsRead: number;
  readonly bpsWrite: number;
  /** The same of a burst, which may last burstSeconds. */
  readonly iopsMax: number;
  readonly iopsReadMax: number;
  readonly iopsWriteMax: number;
  readonly bpsMax: number;
  readonly bpsReadMax: number;
  readonly bpsWriteMax: number;
  readonly burstSeconds: number;
}

export interface NbdSettings extends CommonRoleSettings {
  readonly type: 'nbd';
  readonly tls: NbdTlsSettings;
  /** Path of the unix socket, or null: none. */
  readonly socket: string | null;
  /** TCP addresses; none: no TCP. */
  readonly listen: readonly { readonly host: string; readonly port: number }[];
  /** Which volumes are exports: every one, or only those that `vlmc map` made one. */
  readonly exports: 'all' | 'mapped';
  /** Clients may make volumes larger. */
  readonly allowResize: boolean;
  /** How long a connection's socket is polled before the event loop waits for it, in microseconds; 0 = never. */
  readonly busyPollUs: number;
  readonly maxConnections: number;
  /** How long a client may take to negotiate, in seconds. */
  readonly handshakeTimeout: number;
  /** Options of one handshake, and bytes of one option. */
  readonly handshakeOptions: number;
  readonly optionLength: number;
  /** Seconds without a request after which a client is disconnected; 0 = never. */
  readonly idleTimeout: number;
  /** Requests without an answer, and MiB of their data: of one connection, and of all; null: what the segment gives. */
  readonly inFlight: number;
  readonly inFlightMiB: number;
  readonly totalInFlight: number;
  readonly totalInFlightMiB: number | null;
  /** Limits of volumes for which nothing else is set, a second; 0: none. */
  readonly limits: VolumeLimitSettings;
  /** Where the limits of single volumes are kept. */
  readonly limitsFile: string;
  /** TCP keepalive: seconds of silence before the first probe (0 = none are sent), seconds between probes, and their number. */
  readonly keepaliveTime: number;
  readonly keepaliveInterval: number;
  readonly keepaliveProbes: number;
  /** What `vlmc map` makes when it is not told: an export, a device of the kernel, or that where it can. */
  readonly mapEndpoint: MapEndpoint;
  /** Connections of a device of the kernel. */
  readonly deviceConnections: number;
  /** How long requests of a device wait for an endpoint that is away, in seconds. */
  readonly deviceTimeout: number;
  readonly composerPort: number;
  readonly mapperPort: number;
}

export interface PoolSettings extends CommonRoleSettings {
  readonly type: 'poold';
  readonly socketPath: string;
  readonly pidfile: string;
  /** Accepted for old files (a Python logging configuration); not read. */
  readonly loggingConf: string | null;
}

export type RoleSettings =
  | FileBlockerSettings
  | RadosBlockerSettings
  | MapperSettings
  | ComposerSettings
  | NbdSettings
  | PoolSettings;

export type RoleType = RoleSettings['type'];

export interface XsegSettings {
  readonly name: string;
  /** All ports, and how many of them are static: the rest, from `dynPorts` up, is for tools. */
  readonly ports: number;
  readonly dynPorts: number;
  readonly sizeMiB: number;
  /** Volumes that are busy at the same time, for the size. */
  readonly expectedVolumes: number;
  /** Ports that no role may take, inclusive: the original's tools use them. */
  readonly vtoolStart: number;
  readonly vtoolEnd: number;
  /** What a segment is created and joined by: `posix:<name>:<ports>:<dynports>:<MiB>:12`. */
  readonly spec: string;
}

export interface Config {
  /** The file it was read from; null when there is none and all is default. */
  readonly path: string | null;
  /** Who the roles run as; null: whoever starts them. */
  readonly user: { readonly name: string; readonly uid: number } | null;
  readonly group: { readonly name: string; readonly gid: number } | null;
  readonly umask: number;
  /** Pidfiles, sockets, the registry of mappings. */
  readonly runDir: string;
  readonly logDir: string;
  readonly log: 'syslog' | 'file' | 'stderr';
  /** This node's name in locks. */
  readonly hostname: string;
  readonly cache: 'writeback' | 'writethrough';
  readonly blktapEnabled: boolean;
  /** How long a role process may not answer its supervisor before it is killed, in seconds; 0: it never is. */
  readonly hangTimeout: number;
  readonly xseg: XsegSettings;
  /** In start order. */
  readonly roles: readonly RoleSettings[];
  /** Names of roles by process; every role once, each process in start order. */
  readonly placement: readonly (readonly string[])[];
  /** Sentences about settings that are accepted but questionable. */
  readonly warnings: readonly string[];
}
