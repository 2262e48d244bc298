/**
 * Every setting of archipelago.conf: its key, what it may be, its default, what it does. The one source for reading a file
 * (load.ts), for its messages and for docs/configuration.md (document.ts).
 */
import * as v from './values.js';

/** One setting; `default` undefined: there is none, or load.ts works it out (then `shown` says how). */
export interface Setting<T = unknown, D extends T | undefined = T | undefined> {
  /** As the documentation writes it; files may use any case. */
  readonly key: string;
  readonly kind: v.Kind<T>;
  readonly default: D;
  /** The default in words. */
  readonly shown: string;
  readonly help: string;
}

/** The settings of a section, by the name the program gives them. */
export type Settings = Readonly<Record<string, Setting>>;

/** What reading a section yields. */
export type Values<S extends Settings> = {
  readonly [K in keyof S]: S[K] extends Setting<infer T, infer D> ? (undefined extends D ? T | undefined : T) : never;
};

function show(value: unknown): string {
  if (typeof value === 'boolean') return value ? 'True' : 'False';
  if (Array.isArray(value)) return value.join(' ');
  return value === '' ? 'nothing' : String(value);
}

/** A setting with a fixed default. */
const fixed = <T>(key: string, kind: v.Kind<T>, value: T, help: string, shown = show(value)): Setting<T, T> => ({
  key,
  kind,
  default: value,
  shown,
  help,
});

/** A setting whose default depends on others, or that has none. */
const derived = <T>(key: string, kind: v.Kind<T>, shown: string, help: string): Setting<T, undefined> => ({
  key,
  kind,
  default: undefined,
  shown,
  help,
});

export const MAX_SEGMENT_PORTS = 65520;
const port = v.integer(0, MAX_SEGMENT_PORTS - 1);

export const archipelago = {
  user: derived('USER', v.text('the name of an account'), 'whoever starts', 'Account that everything runs as.'),
  group: derived('GROUP', v.text('the name of a group'), "USER's, or the starter's", 'Group that everything runs as.'),
  umask: fixed('UMASK', v.umask, 0o007, 'Mode bits that new files, sockets and directories do not get.', '0o007'),
  runDir: fixed('RUN_DIR', v.path, '/run/archipelago', 'Directory of pidfiles, sockets and the registry of mappings.'),
  logDir: fixed('LOG_DIR', v.path, '/var/log/archipelago', 'Directory of log files.'),
  log: fixed(
    'LOG',
    v.oneOf('syslog', 'file', 'stderr'),
    'syslog',
    'Where messages go: syslog (facility LOCAL0), LOG_DIR/ROLE.log (SIGHUP reopens it), or standard error.',
  ),
  hostname: derived(
    'HOSTNAME',
    v.text('a name without blanks, slashes and colons'),
    "the system's host name",
    "This node's name in the locks of volumes. It must differ from every other node of the same store, and stay the same.",
  ),
  cache: fixed(
    'CACHE',
    v.oneOf('writeback', 'writethrough'),
    'writeback',
    'writeback: a write is durable after the next flush; writethrough: before its reply.',
  ),
  blktapEnabled: fixed('BLKTAP_ENABLED', v.boolean, false, 'Offer volumes through tapdisk (blktap) too.'),
  hangTimeout: fixed(
    'HANG_TIMEOUT',
    v.seconds(0, 86400),
    0,
    'Seconds without an answer after which the supervisor kills a role process that hangs, so that another takes over; 0: never.',
  ),
};

export const xseg = {
  name: fixed('SEGMENT_NAME', v.text('a name of letters, digits and . _ + -'), 'archipelago', 'Name of the segment.'),
  ports: fixed('SEGMENT_PORTS', v.integer(2, MAX_SEGMENT_PORTS), 2048, 'Ports of the segment, static and dynamic.'),
  dynPorts: fixed(
    'SEGMENT_DYNPORTS',
    v.integer(1, MAX_SEGMENT_PORTS - 1),
    1024,
    'First dynamic port. The original has the static ports of roles and tools below it.',
  ),
  sizeMiB: derived(
    'SEGMENT_SIZE',
    v.integer(4, 65536, 'MiB'),
    '256 + 64 for each of EXPECTED_VOLUMES',
    'Size of the segment in MiB: requests and their data live in it. No segment is larger than 4095.',
  ),
  expectedVolumes: fixed(
    'EXPECTED_VOLUMES',
    v.integer(0, 1000),
    4,
    'Volumes that are busy at the same time on this node; tells how large SEGMENT_SIZE should be.',
  ),
  vtoolStart: fixed(
    'VTOOL_START',
    port,
    1003,
    'First port kept free for the tools of the original; the tools of this version take dynamic ports.',
  ),
  vtoolEnd: fixed('VTOOL_END', port, 1022, 'Last such port.'),
};

export const peers = {
  roles: fixed(
    'ROLES',
    v.words('names of roles separated by blanks'),
    ['blockerb', 'blockerm', 'mapperd', 'vlmcd', 'nbd'],
    'The roles of this node in the order they start; they stop in reverse. Each has a section of its name.',
  ),
  placement: derived(
    'PLACEMENT',
    v.words('roles of one process joined by +, processes separated by blanks'),
    'the nbd and vlmcd roles and the blocker of vlmcd in one process, the rest in another',
    'Which roles share a process; every role once.',
  ),
  order: derived('ORDER', v.optionalText('any text'), 'nothing', 'Accepted for old files; ROLES gives the order.'),
};

export const ROLE_TYPES = ['file_blocker', 'rados_blocker', 'mapperd', 'vlmcd', 'nbd', 'poold'] as const;

/** Settings that every role has. */
export const role = {
  type: derived('type', v.oneOf(...ROLE_TYPES), "the role's, for the roles of the default ROLES", 'What the role is.'),
  portnoStart: derived('portno_start', port, 'see the table of ports', 'First port of the role, the one it serves.'),
  portnoEnd: derived('portno_end', port, 'portno_start (999 for vlmcd)', 'Last port of the role.'),
  nrOps: fixed(
    'nr_ops',
    v.powerOfTwo(1, 65536),
    256,
    'Requests that a blocker or the composer works on at the same time; more wait in its queue.',
  ),
  logfile: derived('logfile', v.path, 'LOG decides', 'Log file of this role alone; overrides LOG.'),
  logLevel: fixed(
    'log_level',
    v.integer(0, 3),
    2,
    '0 errors, 1 warnings, 2 information, 3 debugging. SIGUSR1 lowers, SIGUSR2 raises it while running.',
  ),
  umask: derived('umask', v.umask, 'UMASK', 'As UMASK. Roles that share a process must have the same.'),
  threshold: fixed('threshold', v.integer(0, 1_000_000_000), 1000, 'Accepted for old files; not used: nothing spins.'),
};

const lockName = derived(
  'unique_str',
  v.text('a name without blanks and slashes, at most 128 characters'),
  'HOSTNAME_portno_start',
  "Owner of this role's locks. It must differ from every other node's.",
);
const threads = fixed(
  'nr_threads',
  v.integer(1, 1024),
  8,
  'Threads for what would block: cold reads, durable writes. Roles of one process share them.',
);

export const fileBlocker = {
  nrThreads: threads,
  archipDir: derived(
    'archip_dir',
    v.path,
    '/srv/archip/blocks for blockerb, /srv/archip/maps for blockerm',
    'Directory of the objects. It must exist.',
  ),
  lockDir: derived('lock_dir', v.path, "beside the objects, as the original's", 'Directory of the lock files.'),
  prefix: fixed(
    'prefix',
    v.optionalText('any text'),
    '',
    'Accepted for old files; not used: it never was a part of paths.',
  ),
  fdcache: derived(
    'fdcache',
    v.integer(2, 1_000_000),
    '2 * nr_ops, or 2 * nr_threads if that is more',
    'Object files that are kept open; at least 2 * nr_threads.',
  ),
  direct: fixed('direct', v.boolean, false, 'Open objects with O_DIRECT: nothing is cached by the system.'),
  pithosMigrate: fixed('pithos_migrate', v.boolean, false, 'Look for an object under the old Pithos path too.'),
  partialCopies: fixed(
    'partial_copies',
    v.booleanOr('auto'),
    'auto',
    'Of blockerb: a block of a clone is copied by pieces of 4 KiB, each when it is written, and the rest is read from where it was (docs/architecture.md). ' +
      'auto: in stores that were new to version 1.5 or later. On ext4, XFS without reflink, btrfs and tmpfs; for stores that no older version, and not the original, uses as well, and that no node has over NFS. `archipelago complete` is the way back.',
  ),
  uniqueStr: lockName,
};

export const radosBlocker = {
  nrThreads: fixed(
    'nr_threads',
    v.integer(1, 1024),
    8,
    'Threads for what librados does not do in the background: connecting, listing, asking the monitors. Roles of one process share them.',
  ),
  pool: derived(
    'pool',
    v.text('the name of a pool'),
    'blocks for blockerb, maps for blockerm',
    'RADOS pool of the objects. It must exist.',
  ),
  namespace: derived(
    'namespace',
    v.optionalText('the name of a namespace'),
    'the pool itself, as the original',
    'Namespace of the pool that the objects are in: several installations can share a pool.',
  ),
  conf: derived('conf', v.optionalPath, "librados' own search path", 'Path of ceph.conf.'),
  cephxId: derived('cephx_id', v.text('the name of a CephX user'), "librados' own", 'CephX user, without "client.".'),
  uniqueStr: lockName,
};

export const mapper = {
  blockerbPort: derived('blockerb_port', port, "blockerb's portno_start", 'Port of the blocker of blocks.'),
  blockermPort: derived('blockerm_port', port, "blockerm's portno_start", 'Port of the blocker of maps.'),
  lockWait: fixed(
    'lock_wait',
    v.seconds(0, 86400),
    30,
    'Seconds that a write waits for a volume that another node has locked, before it fails with EBUSY.',
  ),
};

export const composer = {
  blockerPort: derived('blocker_port', port, "blockerb's portno_start", 'Port of the blocker of blocks.'),
  mapperPort: derived('mapper_port', port, "mapperd's portno_start", 'Port of the mapper.'),
};

const MAX_RATE = 1e12;
/** A limit of every volume for which `vlmc limit` says nothing. */
const limit = (key: string, unit: string, help: string): Setting<number, number> =>
  fixed(key, v.integer(0, MAX_RATE, unit), 0, help);
const burst = (of: string): string =>
  `The same of a burst: so many a second for at most limit_burst_seconds, after a time of less than limit_${of}.`;

/** Limits of volumes: qemu's names, where it has one. */
const nbdLimits = {
  iops: limit(
    'limit_iops',
    'requests a second',
    'Requests a second of every volume, all its connections together; 0: no limit. Reads, writes, trims and write-zeroes count. ' +
      'vlmc limit sets another limit for single volumes.',
  ),
  iopsRead: limit('limit_iops_read', 'requests a second', 'The same of reads alone.'),
  iopsWrite: limit('limit_iops_write', 'requests a second', 'The same of writes, trims and write-zeroes.'),
  bps: limit('limit_bps', 'bytes a second', 'Bytes a second that are read and written of every volume; 0: no limit.'),
  bpsRead: limit('limit_bps_read', 'bytes a second', 'The same of reads alone.'),
  bpsWrite: limit('limit_bps_write', 'bytes a second', 'The same of writes alone.'),
  iopsMax: limit('limit_iops_max', 'requests a second', burst('iops')),
  iopsReadMax: limit('limit_iops_read_max', 'requests a second', burst('iops_read')),
  iopsWriteMax: limit('limit_iops_write_max', 'requests a second', burst('iops_write')),
  bpsMax: limit('limit_bps_max', 'bytes a second', burst('bps')),
  bpsReadMax: limit('limit_bps_read_max', 'bytes a second', burst('bps_read')),
  bpsWriteMax: limit('limit_bps_write_max', 'bytes a second', burst('bps_write')),
  burstSeconds: fixed('limit_burst_seconds', v.integer(1, 86_400, 'seconds'), 1, 'Seconds that a burst may last.'),
};

export const nbd = {
  socket: derived('socket', v.optionalPath, 'RUN_DIR/nbd.sock', 'Path of the unix socket; nothing: no unix socket.'),
  listen: fixed(
    'listen',
    v.addresses,
    [{ host: '127.0.0.1', port: 10809 }],
    'TCP addresses, separated by commas, e.g. `127.0.0.1:10809, [::1]:10809`; `[::]:10809` is every address, IPv4 included. Nothing: no ' +
      'TCP. Anybody who reaches one can read and write the exports.',
    '127.0.0.1:10809',
  ),
  exports: fixed(
    'exports',
    v.oneOf('all', 'mapped'),
    'all',
    'Which volumes clients can open: every volume, or those of `vlmc map`.',
  ),
  allowResize: fixed(
    'allow_resize',
    v.boolean,
    false,
    'Clients may make a volume larger by the RESIZE command; never smaller.',
  ),
  busyPollUs: fixed(
    'busy_poll_us',
    v.integer(0, 10_000),
    200,
    'Microseconds that a quick client is waited for by asking its socket again and again before sleeping; 0: never. More speed at depth 1 for more CPU time.',
  ),
  maxConnections: fixed(
    'max_connections',
    v.integer(1, 10_000),
    256,
    'Connections at the same time. When there are as many, one that has been negotiating for more than a second makes room for the next.',
  ),
  handshakeTimeout: fixed('handshake_timeout', v.seconds(0.1, 3600), 10, 'Seconds a client may take to negotiate.'),
  handshakeOptions: fixed(
    'handshake_options',
    v.integer(4, 10_000),
    32,
    'Options that a client may send while it negotiates (8 more for each export that it had listed).',
  ),
  optionLength: fixed(
    'option_length',
    v.integer(8192, 16 << 20, 'bytes'),
    65536,
    'Bytes of one option that are kept; a longer one is refused.',
  ),
  idleTimeout: fixed(
    'idle_timeout',
    v.seconds(0, 30 * 86400),
    0,
    'Seconds without a request after which a client is disconnected; 0: never.',
  ),
  inFlight: fixed(
    'in_flight',
    v.integer(1, 65536),
    256,
    'Requests of one connection that wait for their answer; its next is read when one of them is answered.',
  ),
  inFlightMiB: fixed(
    'in_flight_mib',
    v.integer(1, 4095, 'MiB'),
    32,
    'Data of one connection on its way, in MiB: what it sent and is not stored, and what it asked for and has not taken.',
  ),
  totalInFlight: fixed(
    'total_in_flight',
    v.integer(1, 1_000_000),
    8192,
    'As in_flight, of all connections. Some requests are always granted to each, the rest is lent.',
  ),
  totalInFlightMiB: derived(
    'total_in_flight_mib',
    v.integer(1, 4095, 'MiB'),
    "the role's share of the segment",
    'As in_flight_mib, of all connections. 1 MiB is always granted to each, the rest is lent.',
  ),
  ...nbdLimits,
  limitsFile: derived(
    'limits_file',
    v.path,
    'RUN_DIR/limits.json',
    'File of the limits that vlmc limit sets. One outside of RUN_DIR, which is often emptied when the machine starts, lets them outlive that.',
  ),
  keepaliveTime: fixed(
    'keepalive_time',
    v.integer(0, 86400, 'seconds'),
    30,
    'Seconds of silence after which a TCP client is asked whether it is still there; 0: never.',
  ),
  keepaliveInterval: fixed(
    'keepalive_interval',
    v.integer(1, 3600, 'seconds'),
    10,
    'Seconds between two such questions.',
  ),
  keepaliveProbes: fixed(
    'keepalive_probes',
    v.integer(1, 127),
    6,
    'Questions without an answer after which the client is taken for gone.',
  ),
  mapEndpoint: fixed(
    'map_endpoint',
    v.oneOf('nbd', 'kernel', 'auto'),
    'nbd',
    'What `vlmc map` makes without --endpoint. nbd: an export for NBD clients; kernel: a device /dev/nbdN as well (needs root); auto: a device ' +
      'where that is possible. See devices.md.',
  ),
  deviceConnections: fixed(
    'device_connections',
    v.integer(1, 16),
    1,
    'Connections of a device of the kernel. With more than one the kernel sends a request that takes longer than 30 s again on another. See ' +
      'devices.md.',
  ),
  deviceTimeout: fixed(
    'device_timeout',
    v.integer(1, 30 * 86400, 'seconds'),
    86400,
    'Seconds that requests of a device wait for an endpoint that is away, before they fail.',
  ),
  tls: fixed(
    'tls',
    v.oneOf('off', 'selective', 'required'),
    'off',
    'TLS of `listen`. selective: clients may use it, and tls_acl may insist; required: nothing goes on without. See tls.md.',
  ),
  socketTls: fixed('socket_tls', v.oneOf('off', 'selective', 'required'), 'off', 'The same for `socket`.'),
  insecureTcp: fixed(
    'insecure_tcp',
    v.boolean,
    false,
    'Listen on addresses that other machines reach without `tls = required`: anybody there can read and change what is exchanged.',
  ),
  tlsCert: derived(
    'tls_cert',
    v.path,
    'nothing',
    "File of the server's certificate and those between it and its authority, PEM.",
  ),
  tlsKey: derived('tls_key', v.path, 'nothing', 'File of its private key, PEM, without a passphrase.'),
  tlsCa: derived('tls_ca', v.path, 'nothing', 'File of the authorities whose client certificates are accepted, PEM.'),
  tlsCrl: derived('tls_crl', v.path, 'nothing', 'File of revocation lists, PEM: one of each authority of tls_ca.'),
  tlsDirectory: derived(
    'tls_directory',
    v.path,
    'nothing',
    "Instead of these: a directory as qemu's and libnbd's, with server-cert.pem, server-key.pem, and if they are there ca-cert.pem and " +
      'ca-crl.pem.',
  ),
  tlsPskFile: derived(
    'tls_psk_file',
    v.path,
    'nothing',
    'File of pre-shared keys, a line `NAME:HEXADECIMAL` for each, as psktool writes it.',
  ),
  tlsVerifyPeer: derived(
    'tls_verify_peer',
    v.boolean,
    'True with authorities or pre-shared keys',
    'Clients must show a certificate of these authorities, or a pre-shared key.',
  ),
  tlsMinVersion: fixed('tls_min_version', v.oneOf('1.2', '1.3'), '1.2', 'The oldest version of TLS.'),
  tlsAcl: derived(
    'tls_acl',
    v.path,
    'nothing: all may open all',
    'File of rules that say who may open which exports. See tls.md.',
  ),
  composerPort: derived('vlmcd_port', port, "vlmcd's portno_start", 'Port of the composer.'),
  mapperPort: derived('mapper_port', port, "mapperd's portno_start", 'Port of the mapper.'),
};

export const pool = {
  socketPath: derived('socket_path', v.path, 'RUN_DIR/poold.socket', 'Path of its unix socket.'),
  pidfile: derived('pidfile', v.path, 'RUN_DIR/ROLE.pid', 'Accepted for old files; pidfiles are in RUN_DIR.'),
  loggingConf: derived('logging_conf', v.path, 'nothing', 'Accepted for old files; not used.'),
};

/** The settings that a type of role has besides those of every role. */
export const byType = {
  file_blocker: fileBlocker,
  rados_blocker: radosBlocker,
  mapperd: mapper,
  vlmcd: composer,
  nbd,
  poold: pool,
} as const;

/** Types and ports of the roles that need not say them. */
export const WELL_KNOWN: Readonly<
  Record<string, { type: (typeof ROLE_TYPES)[number]; first: number; last: number; dir?: string; pool?: string }>
> = {
  poold: { type: 'poold', first: 1, last: 200 },
  vlmcd: { type: 'vlmcd', first: 500, last: 999 },
  blockerb: { type: 'file_blocker', first: 1000, last: 1000, dir: '/srv/archip/blocks', pool: 'blocks' },
  mapperd: { type: 'mapperd', first: 1001, last: 1001 },
  blockerm: { type: 'file_blocker', first: 1002, last: 1002, dir: '/srv/archip/maps', pool: 'maps' },
  // Below the default SEGMENT_DYNPORTS: a tool must never be handed this port while the role is being restarted.
  nbd: { type: 'nbd', first: 1023, last: 1023 },
};
