/** The table of volumes for the boot: what its lines say, what is wrong with them, and what mapping and unmapping them prints. */
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterAll, beforeEach, describe, expect, it } from 'vitest';
import { parseMaptab } from '../../../src/cli/vlmc/maptab.js';
import { Op } from '../../../src/requests/ops.js';
import { errnos, SystemError } from '../../../src/sys/errno.js';
import { FakeNode, type Seen } from './fake-node.js';

const plain = { endpoint: null, readOnly: false, writeThrough: false, connections: null, nofail: false };

describe('the table', () => {
  it('has a volume and its options on each line', () => {
    const text = [
      '# VOLUME   OPTIONS',
      '',
      'web-root    kernel,connections=4',
      '  web-data\tkernel,ro,nofail   # a remark',
      'mail-store  nbd,writethrough',
      'web#cache   -',
      'by-default',
      'whatever    auto,rw',
    ].join('\r\n');
    expect(parseMaptab(text, 't')).toEqual([
      { ...plain, volume: 'web-root', line: 3, endpoint: 'kernel', connections: 4 },
      { ...plain, volume: 'web-data', line: 4, endpoint: 'kernel', readOnly: true, nofail: true },
      { ...plain, volume: 'mail-store', line: 5, endpoint: 'nbd', writeThrough: true },
      { ...plain, volume: 'web#cache', line: 6 },
      { ...plain, volume: 'by-default', line: 7 },
      { ...plain, volume: 'whatever', line: 8, endpoint: 'auto' },
    ]);
    expect(parseMaptab('', 't')).toEqual([]);
  });

  it.each([
    ['short kernel', /^t:1: Name should have at least len 6$/],
    ['volume/1 -', /^t:1: Invalid volume name: "volume\/1"/],
    ['volume1 kernel ro', /^t:1: "ro" is one word too many; options are separated by commas alone$/],
    ['volume1 kernl', /^t:1: the option "kernl" is not known; there are kernel, nbd, auto, ro, .*, or - for none$/],
    ['volume1 connections', /^t:1: the option "connections" is not known/],
    ['volume1 connections=x', /^t:1: the option "connections=x" is not known/],
    ['volume1 connections=17', /^t:1: connections=17: a device has from 1 to 16 connections$/],
    ['volume1 connections=0', /^t:1: connections=0: a device has from 1 to 16 connections$/],
    ['volume1 kernel,nbd', /^t:1: kernel and nbd exclude each other$/],
    ['volume1 ro,rw', /^t:1: ro and rw exclude each other$/],
    ['volume1 nbd,connections=2', /^t:1: connections are those of a device: say kernel$/],
    ['volume1 kernel,', /^t:1: the option "" is not known/],
    ['volume1 -\n\nvolume1 ro', /^t:3: volume1 is there twice, first in line 1$/],
  ])('%j is refused with its line', (text, message) => {
    expect(() => parseMaptab(text, 't')).toThrow(message);
  });
});

describe('map --table and unmap --table', () => {
  const node = new FakeNode();
  const dir = fs.mkdtempSync(path.join(os.tmpdir(), 'maptab-test-'));
  const file = path.join(dir, 'maptab');
  const write = (...lines: string[]): void => fs.writeFileSync(file, `${lines.join('\n')}\n`);
  const uri = (name: string): string => `nbd+unix:///${name}?socket=/s`;
  const bodyOf = ({ data, size }: Seen): unknown => JSON.parse(data.toString('utf8', 0, size));

  beforeEach(() => {
    node.reset();
    const missing = ({ target }: Seen): void => {
      if (target.startsWith('missing')) throw new SystemError(errnos.ENOENT, `there is no volume ${target}`);
    };
    node.on('endpoint', Op.MAP, (seen) => {
      missing(seen);
      return { name: seen.target, uris: [uri(seen.target)] };
    });
    node.on('endpoint', Op.UNMAP, (seen) => {
      missing(seen);
      return { name: seen.target };
    });
    node.on('endpoint', Op.PING, () => undefined);
  });
  afterAll(() => {
    node.close();
    fs.rmSync(dir, { recursive: true, force: true });
  });

  it('maps each line with its options, in order, and prints volume and device', async () => {
    write('volume2 kernel,connections=4', 'volume1 ro,writethrough', 'volume3 kernel,ro');
    expect(await node.vlmc('map', '--table', file, '--wait', '5')).toEqual({
      status: 0,
      out: `volume2\t/dev/nbd0\nvolume1\t${uri('volume1')}\nvolume3\t/dev/nbd1\n`,
      err: '',
    });
    expect(node.asked('endpoint', Op.MAP).map(bodyOf)).toMatchObject([
      { name: 'volume2', readOnly: false, writeThrough: false },
      { name: 'volume1', readOnly: true, writeThrough: true },
      { name: 'volume3', readOnly: true },
    ]);
    expect(node.devices.asked).toEqual([
      ['attach', { volume: 'volume2', readOnly: false, connections: 4 }],
      ['keep'],
      ['attach', { volume: 'volume3', readOnly: true, connections: 1 }],
      ['keep'],
    ]);
  });

  it('unmaps the last line first, and passes over what is not mapped', async () => {
    write('volume1 kernel', 'missing1 -', 'volume2 kernel');
    node.devices.add('volume1');
    node.devices.add('volume2');
    expect(await node.vlmc('unmap', `--table=${file}`)).toEqual({ status: 0, out: '', err: '' });
    expect(node.devices.asked).toEqual([
      ['detach', '/dev/nbd1', { force: false }],
      ['detach', '/dev/nbd0', { force: false }],
    ]);
    expect(node.asked('endpoint', Op.UNMAP).map(({ target }) => target)).toEqual(['volume2', 'missing1', 'volume1']);
  });

  it('goes on after a line that fails, and ends with 255 unless that line says nofail', async () => {
    write('missing1 nofail', 'volume1 -');
    expect(await node.vlmc('map', '--table', file)).toEqual({
      status: 0,
      out: `volume1\t${uri('volume1')}\n`,
      err: `vlmc map failed: missing1 (${file}:1): there is no volume missing1\n`,
    });
    write('missing1 -', 'volume1 -');
    const { status, out, err } = await node.vlmc('map', '--table', file);
    expect({ status, out }).toEqual({ status: 255, out: `volume1\t${uri('volume1')}\n` });
    expect(err).toBe(`vlmc map failed: missing1 (${file}:1): there is no volume missing1\n`);
    const json = await node.vlmc('map', '--table', file, '--json');
    expect(json.status).toBe(255);
    expect(JSON.parse(json.out)).toEqual({
      mapped: [{ volume: 'volume1', device: null, uris: [uri('volume1')] }],
      failed: [{ volume: 'missing1', error: 'there is no volume missing1', nofail: false }],
    });
  });

  it('unmapping tells what stays in use, whatever its line says', async () => {
    write('volume1 kernel,nofail', 'volume2 kernel');
    node.devices.add('volume1');
    node.devices.add('volume2');
    node.devices.refuse('detach', errnos.EBUSY, '/dev/nbd0 (volume1) is in use: it is mounted on /mnt', 'volume1');
    const { status, err } = await node.vlmc('unmap', '--table', file);
    expect({ status, err }).toEqual({
      status: 255,
      err: `vlmc unmap failed: volume1 (${file}:1): /dev/nbd0 (volume1) is in use: it is mounted on /mnt\n`,
    });
    expect(node.devices.devices.map(({ volume }) => volume)).toEqual(['volume1']);
    expect(JSON.parse((await node.vlmc('unmap', '--table', file, '--json')).out)).toMatchObject({
      unmapped: ['volume2'],
      failed: [{ volume: 'volume1' }],
    });
  });

  it('unmapping by force tells of a node that hangs, and does not take its volumes for unmapped', async () => {
    write('volume1 -');
    node.on('endpoint', Op.SHOWMAPPED, () => new Promise(() => {}));
    const { status, err } = await node.vlmc('unmap', '-f', '--table', file);
    expect({ status, err }).toEqual({
      status: 255,
      err: `vlmc unmap failed: volume1 (${file}:1): the endpoint has not answered for 5 s\n`,
    });
  });

  it('a table with a mistake maps nothing of it, and one that is not there says what it is', async () => {
    write('volume1 -', 'volume2 ro,rw');
    expect(await node.vlmc('map', '--table', file)).toEqual({
      status: 255,
      out: '',
      err: `${file}:2: ro and rw exclude each other\n`,
    });
    fs.rmSync(file);
    expect(await node.vlmc('unmap', '--table', file)).toEqual({
      status: 255,
      out: '',
      err: `cannot read the table: there is no ${file}: write a line "VOLUME OPTIONS" for each volume\n`,
    });
    expect(node.seen).toEqual([]);
  });

  it('has nothing to unmap where no node runs, and no device is left', async () => {
    const stopped = new FakeNode();
    stopped.stop();
    try {
      write('volume1 kernel', 'volume2 -');
      expect(await stopped.vlmc('unmap', '--table', file)).toEqual({ status: 0, out: '', err: '' });
      stopped.devices.add('volume1');
      const { status, err } = await stopped.vlmc('unmap', '--table', file);
      expect(status).toBe(0);
      expect(err).toMatch(/^\/dev\/nbd0 is detached, but the node is not running/);
      const mapped = await stopped.vlmc('map', '--table', file, '--wait', '0.3');
      expect(mapped).toMatchObject({ status: 255, out: '' });
      expect(mapped.err).toMatch(/^waited 0\.3 s: the node is not running: .*\n$/);
    } finally {
      stopped.close();
    }
  });
});
