/** From a configuration file to a Config: reads every section, applies defaults, checks what settings say together. */
import fs from 'node:fs';
import os from 'node:os';
import { errnoOf, errnos, messageOf } from '../sys/errno.js';
import { MAX_SIZE_MIB } from '../xseg/layout.js';
import { findGroup, findUser } from './accounts.js';
import { ConfigError, formatPlace } from './errors.js';
import { type IniFile, parseIni } from './ini.js';
import { defaultPlacement, parsePlacement } from './placement.js';
import { nearest, SectionReader } from './reader.js';
import { type ReadRole, readRoles } from './roles.js';
import * as schema from './schema.js';
import type { Config, RoleSettings, RoleType, XsegSettings } from './types.js';

/** Sections of the node, and names that the supervisor's own files in RUN_DIR and LOG_DIR have. */
const RESERVED = new Set(['ARCHIPELAGO', 'XSEG', 'PEERS', 'archipelago', 'supervisor']);

export const DEFAULT_CONFIG_PATH = '/etc/archipelago/archipelago.conf';

/**
 * Loads the configuration.
 * @param path the file that must exist; null: the default file, or nothing but defaults when there is none
 * @throws ConfigError naming file, line, section, key and what is allowed
 */
export function loadConfig(path: string | null = null): Config {
  const file = path ?? DEFAULT_CONFIG_PATH;
  let text: string | null = null;
  try {
    text = fs.readFileSync(file, 'utf8');
  } catch (error) {
    if (path !== null || errnoOf(error) !== errnos.ENOENT) {
      throw new ConfigError({ file }, `cannot read the configuration: ${messageOf(error)}`, { cause: error });
    }
  }
  return parseConfig(text, text === null ? null : file);
}

/**
 * Parses the text of a configuration file.
 * @param text null: no file, all defaults
 * @param path of the file, for messages; null: none
 * @throws ConfigError
 */
export function parseConfig(text: string | null, path: string | null): Config {
  const where = path ?? '(defaults)';
  const file = text === null ? null : parseIni(text, where);
  const warnings = [...(file?.warnings ?? [])];
  const section = (name: string): SectionReader => new SectionReader(file, name, where);

  const general = section('ARCHIPELAGO');
  const node = general.read(schema.archipelago);
  warnings.push(...general.unknownKeys(schema.archipelago));
  const hostname = node.hostname ?? os.hostname();
  if (!/^[^\s/:\0]{1,100}$/.test(hostname)) {
    const setting = schema.archipelago.hostname;
    throw general.error(setting, `"${hostname}" is not allowed; it must be ${setting.kind.allowed}`);
  }
  const user = node.user === undefined ? null : findUser(node.user);
  if (node.user !== undefined && !user)
    throw general.error(schema.archipelago.user, `there is no account "${node.user}"`);
  const group = node.group === undefined ? null : findGroup(node.group);
  if (node.group !== undefined && !group)
    throw general.error(schema.archipelago.group, `there is no group "${node.group}"`);

  const peers = section('PEERS');
  const { roles: names, placement } = peers.read(schema.peers);
  warnings.push(...peers.unknownKeys(schema.peers));
  for (const [index, name] of names.entries()) {
    if (!/^[\w.-]{1,64}$/.test(name) || RESERVED.has(name)) {
      throw peers.error(
        schema.peers.roles,
        `"${name}" cannot name a role; use letters, digits, _ . and -, and none of ${[...RESERVED].join(' ')}`,
      );
    }
    if (names.indexOf(name) !== index) throw peers.error(schema.peers.roles, `${name} is there twice`);
  }
  const roles = readRoles(file, names, { path: where, hostname, runDir: node.runDir, umask: node.umask }, warnings);
  const settings = roles.map((role) => role.settings);
  const xseg = readSegment(section('XSEG'), warnings);
  checkPorts(roles, xseg, section('XSEG'), warnings);

  let groups: string[][];
  try {
    groups = placement ? parsePlacement(placement, names) : defaultPlacement(settings);
  } catch (error) {
    throw peers.error(schema.peers.placement, messageOf(error));
  }
  checkShared(groups, roles);
  warnings.push(...unknownSections(file, names));

  return deepFreeze({
    path,
    user: user && { name: user.name, uid: user.uid },
    group: group ?? (user && (findGroup(String(user.gid)) ?? { name: String(user.gid), gid: user.gid })),
    umask: node.umask,
    runDir: node.runDir,
    logDir: node.logDir,
    log: node.log,
    hostname,
    cache: node.cache,
    blktapEnabled: node.blktapEnabled,
    hangTimeout: node.hangTimeout,
    xseg,
    roles: settings,
    placement: groups,
    warnings,
  });
}

/** The role of a type: the first in start order, or undefined. */
export function findRole<T extends RoleType>(config: Config, type: T): Extract<RoleSettings, { type: T }> | undefined {
  return config.roles.find((role): role is Extract<RoleSettings, { type: T }> => role.type === type);
}

/** The rule of thumb of the original's administrator guide, in MiB; no segment is larger than MAX_SIZE_MIB. */
export function recommendedSegmentSize(volumes: number): number {
  return Math.min(256 + 128 * 0.5 * volumes, MAX_SIZE_MIB);
}

function readSegment(section: SectionReader, warnings: string[]): XsegSettings {
  const s = schema.xseg;
  const values = section.read(s);
  warnings.push(...section.unknownKeys(s));
  if (!/^[\w.+-]{1,200}$/.test(values.name) || /^\.+$/.test(values.name)) {
    throw section.error(s.name, `"${values.name}" is not allowed; it must be ${s.name.kind.allowed}`);
  }
  // The two counts come in either order in the wild: the larger is the total.
  const ports = Math.max(values.ports, values.dynPorts);
  const dynPorts = Math.min(values.ports, values.dynPorts);
  if (ports === dynPorts) {
    throw section.error(
      s.dynPorts,
      `equals SEGMENT_PORTS (${ports}): there would be no dynamic ports; it must be smaller`,
    );
  }
  if (values.vtoolEnd < values.vtoolStart) {
    throw section.error(s.vtoolEnd, `${values.vtoolEnd} is below VTOOL_START (${values.vtoolStart})`);
  }
  const recommended = recommendedSegmentSize(values.expectedVolumes);
  const wanted = values.sizeMiB ?? recommended;
  const sizeMiB = Math.min(wanted, MAX_SIZE_MIB);
  if (wanted > sizeMiB) {
    warnings.push(
      `${formatPlace(section.place(s.sizeMiB))}: ${wanted} MiB is more than a segment can have; it has ${sizeMiB}`,
    );
  }
  if (sizeMiB < recommended) {
    warnings.push(
      `${formatPlace(section.place(s.sizeMiB))}: ${sizeMiB} MiB is little for ${values.expectedVolumes} busy volumes ` +
        `(EXPECTED_VOLUMES); set SEGMENT_SIZE = ${recommended}`,
    );
  }
  const { name, vtoolStart, vtoolEnd, expectedVolumes } = values;
  const spec = `posix:${name}:${ports}:${dynPorts}:${sizeMiB}:12`;
  return { name, ports, dynPorts, sizeMiB, expectedVolumes, vtoolStart, vtoolEnd, spec };
}

/** Every port range is inside the segment and touches no other. */
function checkPorts(roles: readonly ReadRole[], xseg: XsegSettings, segment: SectionReader, warnings: string[]): void {
  const ranges = roles.map(({ section, settings }) => ({
    what: `the ports of ${settings.name} (${settings.portnoStart}-${settings.portnoEnd})`,
    first: settings.portnoStart,
    last: settings.portnoEnd,
    error: (problem: string) => section.error(schema.role.portnoStart, problem),
  }));
  ranges.push({
    what: `VTOOL_START-VTOOL_END (${xseg.vtoolStart}-${xseg.vtoolEnd})`,
    first: xseg.vtoolStart,
    last: xseg.vtoolEnd,
    error: (problem: string) => segment.error(schema.xseg.vtoolStart, problem),
  });
  for (const [index, range] of ranges.entries()) {
    if (range.last >= xseg.ports) {
      throw range.error(`${range.what} are not all in the segment; they must be below SEGMENT_PORTS (${xseg.ports})`);
    }
    const other = ranges.slice(0, index).find((o) => o.first <= range.last && range.first <= o.last);
    if (other) throw range.error(`${range.what} overlap ${other.what}`);
    if (range.last >= xseg.dynPorts) {
      const { message } = range.error(`${range.what} reach into the dynamic ports, which any tool may be given;`);
      warnings.push(`${message} they should be below SEGMENT_DYNPORTS (${xseg.dynPorts})`);
    }
  }
}

/** Roles of one process cannot differ in what a process has once. */
function checkShared(groups: readonly string[][], roles: readonly ReadRole[]): void {
  for (const group of groups) {
    const members = group.map((name) => roles.find((role) => role.settings.name === name) as ReadRole);
    const [first, ...rest] = members;
    const odd = rest.find((role) => role.settings.umask !== first.settings.umask);
    if (!odd) continue;
    const [a, b] = [first.settings, odd.settings].map((role) => `${role.name} (0o${role.umask.toString(8)})`);
    throw odd.section.error(
      schema.role.umask,
      `${a} and ${b} share a process (PLACEMENT) and must have the same umask`,
    );
  }
}

function unknownSections(file: IniFile | null, roles: readonly string[]): string[] {
  const known = ['ARCHIPELAGO', 'XSEG', 'PEERS', ...roles];
  return (
    [...(file?.sections.values() ?? [])]
      // A role that is switched off by taking it out of ROLES keeps its section.
      .filter(({ name, entries }) => !known.includes(name) && !(name in schema.WELL_KNOWN) && !entries.has('type'))
      .map(({ name, line }) => {
        const near = nearest(name, known);
        const place = formatPlace({ file: file?.path ?? '', line, section: name });
        return `${place}: neither ARCHIPELAGO, XSEG, PEERS nor a role of ROLES, ignored${near ? `; did you mean [${near}]?` : ''}`;
      })
  );
}

function deepFreeze<T>(value: T): T {
  if (typeof value === 'object' && value !== null) {
    Object.freeze(value);
    Object.values(value).forEach(deepFreeze);
  }
  return value;
}
