import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { describe, expect, test } from 'vitest';
import { ConfigError, type FileBlockerSettings, findRole, loadConfig, parseConfig } from '../../../src/config/index.js';

const parse = (text: string) => parseConfig(text, 'a.conf');

describe('defaults', () => {
  const config = parseConfig(null, null);

  test('an empty file and no file mean the same', () => {
    expect({ ...parse(''), path: null }).toEqual(config);
  });

  test('are those of the original, plus the nbd role', () => {
    expect(config.roles.map((role) => [role.name, role.type, role.portnoStart, role.portnoEnd])).toEqual([
      ['blockerb', 'file_blocker', 1000, 1000],
      ['blockerm', 'file_blocker', 1002, 1002],
      ['mapperd', 'mapperd', 1001, 1001],
      ['vlmcd', 'vlmcd', 500, 999],
      ['nbd', 'nbd', 1023, 1023],
    ]);
    expect(config.xseg.spec).toBe('posix:archipelago:2048:1024:512:12');
    expect(config.warnings).toEqual([]);
  });

  test('the connections survive mapper and metadata blocker', () => {
    expect(config.placement).toEqual([
      ['blockerb', 'vlmcd', 'nbd'],
      ['blockerm', 'mapperd'],
    ]);
  });

  test('directories and lock names follow role and host', () => {
    const blocker = config.roles[1] as FileBlockerSettings;
    expect(blocker).toMatchObject({ archipDir: '/srv/archip/maps', uniqueStr: `${os.hostname()}_1002`, lockDir: null });
    expect(findRole(config, 'nbd')?.socket).toBe('/run/archipelago/nbd.sock');
  });

  test('nothing of it can be changed', () => {
    expect(Object.isFrozen(config) && Object.isFrozen(config.roles[0]) && Object.isFrozen(config.placement[0])).toBe(
      true,
    );
  });
});

describe('a file', () => {
  test('of the original is read as it is', () => {
    const config = parse(`
[ARCHIPELAGO]
BLKTAP_ENABLED = False
USER = root
GROUP = root
UMASK = 0o007
[XSEG]
SEGMENT_PORTS = 2048
SEGMENT_DYNPORTS = 1024
SEGMENT_SIZE = 2048
VTOOL_START=1003
VTOOL_END=1003
[PEERS]
ROLES=blockerb blockerm mapperd vlmcd
ORDER=blockerb blockerm mapperd vlmcd
[blockerb]
type=file_blocker
portno_start=1000
portno_end=1000
log_level=3
nr_ops=64
nr_threads=64
archip_dir=/srv/archip/blocks
fdcache=512
direct=True
[blockerm]
type=file_blocker
portno_start=1002
portno_end=1002
nr_ops=64
archip_dir=/srv/archip/maps
pithos_migrate=False
[mapperd]
type=mapperd
blockerb_port=1000
blockerm_port=1002
portno_start=1001
portno_end=1001
nr_ops=512
logfile=/tmp/m.log
[vlmcd]
type=vlmcd
blocker_port=1000
mapper_port=1001
portno_start=500
portno_end=599
nr_ops=256
threshold=500
`);
    expect(config.warnings).toEqual([]);
    expect(config.user).toEqual({ name: 'root', uid: 0 });
    expect(config.roles[0]).toMatchObject({ direct: true, nrThreads: 64, fdcache: 512, logLevel: 3 });
    expect(config.roles[2]).toMatchObject({ logfile: '/tmp/m.log', blockerbPort: 1000, blockermPort: 1002 });
    expect(findRole(config, 'vlmcd')).toMatchObject({ portnoEnd: 599, threshold: 500 });
    expect(config.placement).toEqual([
      ['blockerb', 'vlmcd'],
      ['blockerm', 'mapperd'],
    ]);
  });

  test('may take HOSTNAME and RUN_DIR elsewhere, and what follows from them follows', () => {
    const config = parse('[ARCHIPELAGO]\nhostname = n1\nrun_dir = /tmp/r/\nlog = FILE\ncache = writethrough\n');
    expect(config.roles[0]).toMatchObject({ uniqueStr: 'n1_1000' });
    expect(findRole(config, 'nbd')?.socket).toBe('/tmp/r/nbd.sock');
    expect([config.log, config.cache]).toEqual(['file', 'writethrough']);
  });

  test('may switch the sockets of nbd off', () => {
    expect(findRole(parse('[nbd]\nsocket =\nlisten =\n'), 'nbd')).toMatchObject({ socket: null, listen: [] });
  });

  test('may call roles anything when it says their type and port', () => {
    const config = parse('[PEERS]\nROLES = b2\n[b2]\ntype = file_blocker\nportno_start = 7\narchip_dir = /x\n');
    expect(config.roles).toMatchObject([{ name: 'b2', portnoStart: 7, portnoEnd: 7 }]);
  });

  test('ports of roles follow where others look for them', () => {
    const config = parse('[blockerb]\nportno_start = 30\n[mapperd]\nportno_start = 31\n');
    expect(findRole(config, 'vlmcd')).toMatchObject({ blockerPort: 30, mapperPort: 31 });
    expect(findRole(config, 'mapperd')).toMatchObject({ blockerbPort: 30, blockermPort: 1002 });
  });

  test('the port counts of XSEG come in either order', () => {
    expect(parse('[XSEG]\nSEGMENT_PORTS = 1024\nSEGMENT_DYNPORTS = 2048\n').xseg).toMatchObject({
      ports: 2048,
      dynPorts: 1024,
    });
  });

  test('a placement is put into start order', () => {
    const config = parse('[PEERS]\nPLACEMENT = nbd+vlmcd mapperd blockerm+blockerb\n');
    expect(config.placement).toEqual([['vlmcd', 'nbd'], ['mapperd'], ['blockerb', 'blockerm']]);
  });

  test('a role type without a driver is parsed all the same', () => {
    const config = parse('[blockerb]\ntype = rados_blocker\ncephx_id = archip\n[PEERS]\nROLES = poold blockerb\n');
    expect(config.roles[1]).toMatchObject({
      type: 'rados_blocker',
      pool: 'blocks',
      cephxId: 'archip',
      portnoStart: 1000,
    });
    expect(config.roles[0]).toMatchObject({
      type: 'poold',
      portnoEnd: 200,
      socketPath: '/run/archipelago/poold.socket',
    });
  });
});

describe('warnings', () => {
  test('an unknown key names the nearest known one', () => {
    expect(parse('[mapperd]\nlock_weit = 3\n').warnings).toEqual([
      'a.conf:2: [mapperd] lock_weit: no such setting, ignored; did you mean lock_wait?',
    ]);
    expect(parse('[XSEG]\nwhatever = 3\n').warnings).toEqual(['a.conf:2: [XSEG] whatever: no such setting, ignored']);
  });

  test('a key of another type of role is unknown here', () => {
    expect(parse('[vlmcd]\narchip_dir = /x\n').warnings).toHaveLength(1);
  });

  test('an unknown section, but not one of a role that is switched off', () => {
    expect(parse('[mapprd]\n[poold]\n[old]\ntype = vlmcd\n').warnings).toEqual([
      'a.conf:1: [mapprd]: neither ARCHIPELAGO, XSEG, PEERS nor a role of ROLES, ignored; did you mean [mapperd]?',
    ]);
  });

  test('a small segment names the value to set', () => {
    expect(parse('[XSEG]\nSEGMENT_SIZE = 8192\n')).toMatchObject({
      xseg: { sizeMiB: 4095 },
      warnings: ['a.conf:2: [XSEG] SEGMENT_SIZE: 8192 MiB is more than a segment can have; it has 4095'],
    });
    expect(parse('[XSEG]\nEXPECTED_VOLUMES = 1000\n')).toMatchObject({ xseg: { sizeMiB: 4095 }, warnings: [] });
    expect(parse('[XSEG]\nSEGMENT_SIZE = 256\nEXPECTED_VOLUMES = 10\n').warnings).toEqual([
      'a.conf:2: [XSEG] SEGMENT_SIZE: 256 MiB is little for 10 busy volumes (EXPECTED_VOLUMES); set SEGMENT_SIZE = 896',
    ]);
    expect(parse('[XSEG]\nEXPECTED_VOLUMES = 10\n').xseg.sizeMiB).toBe(896);
  });

  test('ports that a tool could be handed', () => {
    expect(parse('[nbd]\nportno_start = 1030\n').warnings[0]).toMatch(
      /^a\.conf:2: \[nbd\] portno_start: .*dynamic ports.*below SEGMENT_DYNPORTS \(1024\)$/,
    );
  });
});

describe('errors name file, line, section, key and what is allowed', () => {
  test.each([
    [
      '[XSEG]\nSEGMENT_SIZE = big\n',
      'a.conf:2: [XSEG] SEGMENT_SIZE: "big" is not allowed; it must be a number of MiB from 4 to 65536',
    ],
    [
      '[XSEG]\nSEGMENT_SIZE =\n',
      'a.conf:2: [XSEG] SEGMENT_SIZE: has no value; it must be a number of MiB from 4 to 65536',
    ],
    [
      '[XSEG]\nSEGMENT_NAME = a/b\n',
      'a.conf:2: [XSEG] SEGMENT_NAME: "a/b" is not allowed; it must be a name of letters',
    ],
    ['[XSEG]\nSEGMENT_PORTS = 1024\n', 'a.conf:1: [XSEG] SEGMENT_DYNPORTS: equals SEGMENT_PORTS (1024)'],
    [
      '[XSEG]\nSEGMENT_PORTS = 1001\nSEGMENT_DYNPORTS = 900\n',
      'a.conf: [blockerm] portno_start: the ports of blockerm (1002-1002) are not all in the segment',
    ],
    ['[XSEG]\nVTOOL_END = 1002\n', 'a.conf:2: [XSEG] VTOOL_END: 1002 is below VTOOL_START (1003)'],
    [
      '[XSEG]\nVTOOL_START = 990\n',
      'a.conf:2: [XSEG] VTOOL_START: VTOOL_START-VTOOL_END (990-1022) overlap the ports of blockerb (1000-1000)',
    ],
    ['[ARCHIPELAGO]\nUMASK = 999\n', 'a.conf:2: [ARCHIPELAGO] UMASK: "999" is not allowed; it must be a mask'],
    [
      '[ARCHIPELAGO]\nLOG = tape\n',
      'a.conf:2: [ARCHIPELAGO] LOG: "tape" is not allowed; it must be syslog, file or stderr',
    ],
    ['[ARCHIPELAGO]\nUSER = no.such.one\n', 'a.conf:2: [ARCHIPELAGO] USER: there is no account "no.such.one"'],
    ['[ARCHIPELAGO]\nGROUP = no.such.one\n', 'a.conf:2: [ARCHIPELAGO] GROUP: there is no group "no.such.one"'],
    [
      '[ARCHIPELAGO]\nHOSTNAME = a b\n',
      'a.conf:2: [ARCHIPELAGO] HOSTNAME: "a b" is not allowed; it must be a name without blanks',
    ],
    [
      '[ARCHIPELAGO]\nRUN_DIR = var/run\n',
      'a.conf:2: [ARCHIPELAGO] RUN_DIR: "var/run" is not allowed; it must be an absolute path',
    ],
    [
      '[ARCHIPELAGO]\nBLKTAP_ENABLED = perhaps\n',
      'a.conf:2: [ARCHIPELAGO] BLKTAP_ENABLED: "perhaps" is not allowed; it must be True or False',
    ],
    ['[PEERS]\nROLES = mapperd mapperd\n', 'a.conf:2: [PEERS] ROLES: mapperd is there twice'],
    ['[PEERS]\nROLES = XSEG\n', 'a.conf:2: [PEERS] ROLES: "XSEG" cannot name a role'],
    ['[PEERS]\nROLES = supervisor\n', 'a.conf:2: [PEERS] ROLES: "supervisor" cannot name a role'],
    ['[PEERS]\nROLES = foo\n', 'a.conf: [foo] type: is needed for the role foo: file_blocker, rados_blocker'],
    ['[PEERS]\nROLES = foo\n[foo]\ntype = vlmcd\n', 'a.conf:3: [foo] portno_start: is needed for the role foo'],
    [
      '[PEERS]\nROLES = foo\n[foo]\ntype=file_blocker\nportno_start=3\n',
      'a.conf:3: [foo] archip_dir: is needed for the role foo: an absolute path',
    ],
    [
      '[PEERS]\nPLACEMENT = nbd+vlmcd\n',
      'a.conf:2: [PEERS] PLACEMENT: blockerb blockerm mapperd is missing; every role of ROLES must be there once',
    ],
    ['[PEERS]\nPLACEMENT = nbd+nbd\n', 'a.conf:2: [PEERS] PLACEMENT: nbd is there twice'],
    [
      '[PEERS]\nPLACEMENT = nbd+x\n',
      'a.conf:2: [PEERS] PLACEMENT: "x" is not one of ROLES (blockerb blockerm mapperd vlmcd nbd)',
    ],
    ['[mapperd]\ntype = mapper\n', 'a.conf:2: [mapperd] type: "mapper" is not allowed; it must be file_blocker'],
    [
      '[mapperd]\nnr_ops = 100\n',
      'a.conf:2: [mapperd] nr_ops: "100" is not allowed; it must be a power of two from 1 to 65536',
    ],
    [
      '[mapperd]\nlog_level = 4\n',
      'a.conf:2: [mapperd] log_level: "4" is not allowed; it must be a number from 0 to 3',
    ],
    ['[vlmcd]\nportno_end = 100\n', 'a.conf:2: [vlmcd] portno_end: 100 is below portno_start (500)'],
    [
      '[vlmcd]\nportno_end = 1000\n',
      'a.conf:1: [vlmcd] portno_start: the ports of vlmcd (500-1000) overlap the ports of blockerb (1000-1000)',
    ],
    [
      '[blockerb]\nfdcache = 8\n',
      'a.conf:2: [blockerb] fdcache: 8 is too small; it must be at least 2 * nr_threads (16)',
    ],
    ['[blockerb]\nunique_str = a/b\n', 'a.conf:2: [blockerb] unique_str: "a/b" is not allowed'],
    ['[blockerb]\numask = 0o022\n', 'a.conf: [vlmcd] umask: blockerb (0o22) and vlmcd (0o7) share a process'],
    ['[nbd]\nlisten = 10809\n', 'a.conf:2: [nbd] listen: "10809" is not allowed; it must be HOST:PORT'],
    ['[nbd]\nexports = some\n', 'a.conf:2: [nbd] exports: "some" is not allowed; it must be all or mapped'],
    ['[nbd]\ntls = maybe\n', 'a.conf:2: [nbd] tls: "maybe" is not allowed; it must be off, selective or required'],
    ['[nbd]\ntls = required\n', 'a.conf:2: [nbd] tls: needs credentials: set tls_cert and tls_key'],
    ['[nbd]\ntls_cert = /c\n', 'a.conf:1: [nbd] tls_key: is needed: tls_cert and tls_key belong together'],
    ['[nbd]\ntls_cert = /c\ntls_key = /k\ntls_directory = /d\n', '[nbd] tls_directory: is given beside tls_cert'],
    ['[nbd]\ntls_cert = /c\ntls_key = /k\ntls_verify_peer = yes\n', '[nbd] tls_verify_peer: needs something to verify'],
    ['[nbd]\nlisten = 127.0.0.1:1, [::]:10809\n', '[nbd] listen: [::]:10809 is reached from other machines'],
    [
      '[nbd]\nlisten = 10.0.0.1:1\ntls = selective\ntls_psk_file = /k\n',
      'so that it needs tls = required (and credentials); or say insecure_tcp = True',
    ],
  ])('%j', (text, message) => {
    let error: unknown;
    try {
      parse(text);
    } catch (thrown) {
      error = thrown;
    }
    expect(error).toBeInstanceOf(ConfigError);
    expect((error as ConfigError).message).toContain(message);
    expect((error as ConfigError).code).toBe('EINVAL');
  });
});

describe('loading', () => {
  test('a file that was asked for must be there', () => {
    expect(() => loadConfig('/nonexistent/x.conf')).toThrow(
      /^\/nonexistent\/x\.conf: cannot read the configuration: ENOENT/,
    );
  });

  test('reads the file', () => {
    const dir = fs.mkdtempSync(path.join(os.tmpdir(), 'config-'));
    const file = path.join(dir, 'a.conf');
    fs.writeFileSync(file, '[XSEG]\nSEGMENT_NAME = mine\n');
    expect(loadConfig(file)).toMatchObject({ path: file, xseg: { name: 'mine' } });
    fs.rmSync(dir, { recursive: true });
  });
});
