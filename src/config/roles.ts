/** The sections of the roles: from text to RoleSettings. */
import type { IniFile } from './ini.js';
import { readNbdTls } from './nbd-tls.js';
import { SectionReader } from './reader.js';
import * as schema from './schema.js';
import type { CommonRoleSettings, LogLevel, RoleSettings, RoleType } from './types.js';

/** What role sections take their defaults from. */
export interface RoleDefaults {
  readonly path: string;
  readonly hostname: string;
  readonly runDir: string;
  readonly umask: number;
}

/** A role and the section it came from, for checks that want to name a place. */
export interface ReadRole {
  readonly settings: RoleSettings;
  readonly section: SectionReader;
}

/** Reads the sections of `names`. @throws ConfigError */
export function readRoles(
  file: IniFile | null,
  names: readonly string[],
  defaults: RoleDefaults,
  warnings: string[],
): ReadRole[] {
  const heads = names.map((name) => readHead(file, name, defaults));
  return heads.map((head) => {
    const specific = schema.byType[head.type];
    warnings.push(...head.section.unknownKeys(schema.role, specific));
    return { section: head.section, settings: complete(head, heads, defaults) };
  });
}

interface Head {
  readonly section: SectionReader;
  readonly type: RoleType;
  readonly common: CommonRoleSettings;
}

function readHead(file: IniFile | null, name: string, defaults: RoleDefaults): Head {
  const section = new SectionReader(file, name, defaults.path);
  const values = section.read(schema.role);
  const known = schema.WELL_KNOWN[name];
  const type = values.type ?? known?.type;
  if (type === undefined) {
    throw section.error(schema.role.type, `is needed for the role ${name}: ${schema.role.type.kind.allowed}`);
  }
  // A well-known name keeps its ports when only how it stores things changes (file_blocker to rados_blocker).
  const ports = known && (known.type === type || type === 'rados_blocker') ? known : undefined;
  const portnoStart = values.portnoStart ?? ports?.first;
  if (portnoStart === undefined) {
    throw section.error(
      schema.role.portnoStart,
      `is needed for the role ${name}: ${schema.role.portnoStart.kind.allowed}`,
    );
  }
  const portnoEnd = values.portnoEnd ?? (portnoStart === ports?.first ? ports.last : portnoStart);
  if (portnoEnd < portnoStart) {
    throw section.error(schema.role.portnoEnd, `${portnoEnd} is below portno_start (${portnoStart})`);
  }
  const common = {
    name,
    portnoStart,
    portnoEnd,
    nrOps: values.nrOps,
    logfile: values.logfile ?? null,
    logLevel: values.logLevel as LogLevel,
    umask: values.umask ?? defaults.umask,
    threshold: values.threshold,
  };
  return { section, type, common };
}

function complete(head: Head, all: readonly Head[], defaults: RoleDefaults): RoleSettings {
  const { section, common } = head;
  const firstPort = (name: string, type: RoleType): number =>
    (all.find((role) => role.common.name === name) ?? all.find((role) => role.type === type))?.common.portnoStart ??
    schema.WELL_KNOWN[name].first;
  const blockerb = (): number => firstPort('blockerb', 'file_blocker');
  const mapper = (): number => firstPort('mapperd', 'mapperd');
  const owner = (given: string | undefined): string => {
    const name = given ?? `${defaults.hostname}_${common.portnoStart}`;
    if (!/^[^\s/\0]{1,128}$/.test(name)) {
      const setting = schema.fileBlocker.uniqueStr;
      throw section.error(setting, `"${name}" is not allowed; it must be ${setting.kind.allowed}`);
    }
    return name;
  };
  const needed = <T>(setting: schema.Setting<unknown>, value: T | undefined): T => {
    if (value === undefined)
      throw section.error(setting, `is needed for the role ${common.name}: ${setting.kind.allowed}`);
    return value;
  };

  switch (head.type) {
    case 'file_blocker': {
      const s = schema.fileBlocker;
      const values = section.read(s);
      const fdcache = values.fdcache ?? 2 * Math.max(common.nrOps, values.nrThreads);
      if (fdcache < 2 * values.nrThreads) {
        throw section.error(
          s.fdcache,
          `${fdcache} is too small; it must be at least 2 * nr_threads (${2 * values.nrThreads})`,
        );
      }
      return {
        type: head.type,
        ...common,
        nrThreads: values.nrThreads,
        archipDir: needed(s.archipDir, values.archipDir ?? schema.WELL_KNOWN[common.name]?.dir),
        lockDir: values.lockDir ?? null,
        prefix: values.prefix,
        fdcache,
        direct: values.direct,
        pithosMigrate: values.pithosMigrate,
        // Maps are not copied.
        partialCopies: common.name === 'blockerm' && values.partialCopies === 'auto' ? false : values.partialCopies,
        uniqueStr: owner(values.uniqueStr),
      };
    }
    case 'rados_blocker': {
      const s = schema.radosBlocker;
      const values = section.read(s);
      return {
        type: head.type,
        ...common,
        nrThreads: values.nrThreads,
        pool: needed(s.pool, values.pool ?? schema.WELL_KNOWN[common.name]?.pool),
        namespace: values.namespace ?? '',
        conf: values.conf || null,
        cephxId: values.cephxId ?? null,
        uniqueStr: owner(values.uniqueStr),
      };
    }
    case 'mapperd': {
      const values = section.read(schema.mapper);
      return {
        type: head.type,
        ...common,
        blockerbPort: values.blockerbPort ?? blockerb(),
        blockermPort: values.blockermPort ?? firstPort('blockerm', 'file_blocker'),
        lockWait: values.lockWait,
      };
    }
    case 'vlmcd': {
      const values = section.read(schema.composer);
      return {
        type: head.type,
        ...common,
        blockerPort: values.blockerPort ?? blockerb(),
        mapperPort: values.mapperPort ?? mapper(),
      };
    }
    case 'nbd': {
      const values = section.read(schema.nbd);
      return {
        type: head.type,
        ...common,
        socket: (values.socket ?? `${defaults.runDir}/nbd.sock`) || null,
        listen: values.listen,
        exports: values.exports,
        allowResize: values.allowResize,
        busyPollUs: values.busyPollUs,
        maxConnections: values.maxConnections,
        handshakeTimeout: values.handshakeTimeout,
        handshakeOptions: values.handshakeOptions,
        optionLength: values.optionLength,
        idleTimeout: values.idleTimeout,
        inFlight: values.inFlight,
        inFlightMiB: values.inFlightMiB,
        totalInFlight: values.totalInFlight,
        totalInFlightMiB: values.totalInFlightMiB ?? null,
        limits: {
          iops: values.iops,
          iopsRead: values.iopsRead,
          iopsWrite: values.iopsWrite,
          bps: values.bps,
          bpsRead: values.bpsRead,
          bpsWrite: values.bpsWrite,
          iopsMax: values.iopsMax,
          iopsReadMax: values.iopsReadMax,
          iopsWriteMax: values.iopsWriteMax,
          bpsMax: values.bpsMax,
          bpsReadMax: values.bpsReadMax,
          bpsWriteMax: values.bpsWriteMax,
          burstSeconds: values.burstSeconds,
        },
        limitsFile: values.limitsFile ?? `${defaults.runDir}/limits.json`,
        keepaliveTime: values.keepaliveTime,
        keepaliveInterval: values.keepaliveInterval,
        keepaliveProbes: values.keepaliveProbes,
        mapEndpoint: values.mapEndpoint,
        deviceConnections: values.deviceConnections,
        deviceTimeout: values.deviceTimeout,
        tls: readNbdTls(section, values, values.listen),
        composerPort: values.composerPort ?? firstPort('vlmcd', 'vlmcd'),
        mapperPort: values.mapperPort ?? mapper(),
      };
    }
    case 'poold': {
      const values = section.read(schema.pool);
      return {
        type: head.type,
        ...common,
        socketPath: values.socketPath ?? `${defaults.runDir}/poold.socket`,
        pidfile: values.pidfile ?? `${defaults.runDir}/${common.name}.pid`,
        loggingConf: values.loggingConf ?? null,
      };
    }
  }
}
