import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type ClusterOptions, connect, live, loadLibrary, RadosError } from '../../../src/rados/index.js';
import { hasCeph, useCeph } from '../../support/ceph.js';
import { cleanUpAfterEach, connected } from './support.js';

it('says which package is missing when librados is', () => {
  expect(() => loadLibrary('librados-of-nobody.so.2')).toThrow(RadosError);
  expect(() => loadLibrary('librados-of-nobody.so.2')).toThrow(/librados-of-nobody.*apt-get install librados2/);
  // A library that is there but is not librados: too old, for one.
  expect(() => loadLibrary('libc.so.6')).toThrow(/version 16 or newer/);
});

describe.runIf(hasCeph())('connecting', () => {
  const ceph = useCeph();
  cleanUpAfterEach();
  let directory = '';

  beforeAll(() => {
    directory = fs.mkdtempSync(path.join(os.tmpdir(), 'archipelago-rados-'));
  });
  afterAll(() => fs.rmSync(directory, { recursive: true, force: true }));

  /** A file of this content; returns its path. */
  function file(name: string, content: string): string {
    const made = path.join(directory, name);
    fs.writeFileSync(made, content);
    return made;
  }

  /** The cluster's configuration with another value of one setting. */
  const changed = (name: string, setting: string, value: string): string =>
    file(
      name,
      fs.readFileSync(ceph.conf, 'utf8').replace(new RegExp(`^${setting} = .*$`, 'm'), `${setting} = ${value}`),
    );

  /** The error of an attempt; nothing native is left of it. */
  async function failure(options: ClusterOptions): Promise<RadosError> {
    const before = { ...live };
    const error: unknown = await connect(options).then(
      () => null,
      (reason: unknown) => reason,
    );
    expect(error).toBeInstanceOf(RadosError);
    expect(live).toEqual(before);
    return error as RadosError;
  }

  it('tells who it is and which cluster it has reached', async () => {
    const cluster = await connected({ conf: ceph.conf, id: ceph.user });
    expect(cluster.fsid).toBe((await ceph.ceph('fsid')).trim());
    expect(cluster.instanceId).toBeGreaterThan(0n);
    expect(cluster.addresses).toEqual([expect.stringMatching(/^127\.0\.0\.1:0\/\d+$/)]);
    expect(cluster.inFlight).toEqual({ count: 0, oldestSince: 0 });
  });

  it('has several connections in a process, each a client of its own', async () => {
    const clusters = await Promise.all([1, 2, 3].map(() => connected({ conf: ceph.conf, id: ceph.user })));
    expect(new Set(clusters.map((cluster) => cluster.instanceId)).size).toBe(3);
    expect(new Set(clusters.map((cluster) => cluster.addresses[0])).size).toBe(3);
  });

  it('names a configuration that is missing, and one that is not well-formed', async () => {
    const missing = await failure({ conf: path.join(directory, 'none'), id: null });
    expect(missing.code).toBe('ENOENT');
    expect(missing.message).toContain(path.join(directory, 'none'));
    const bad = await failure({ conf: file('bad', '[global\n'), id: null });
    expect([bad.code, bad.message]).toEqual(['EINVAL', expect.stringMatching(/\/bad: EINVAL: it is not well-formed/)]);
    const empty = await failure({ conf: file('empty', '[global]\n'), id: null });
    expect(empty.message).toMatch(/\/empty names no monitors \(mon_host\)/);
  });

  it('gives up on monitors that do not answer, and names them', async () => {
    const conf = changed('down', 'mon host', '[v2:127.0.0.1:1/0]');
    const error = await failure({ conf, id: null, settings: { client_mount_timeout: '1' } });
    expect(error.code).toBe('ETIMEDOUT');
    expect(error.message).toContain(`no monitor of [v2:127.0.0.1:1/0] (mon_host of ${conf}) has let it in within 1 s`);
  });

  it('names the user and the keyring when there is no key, or a wrong one', async () => {
    const none = await failure({ conf: changed('no-key', 'keyring', path.join(directory, 'ring')), id: 'somebody' });
    expect(none.code).toBe('ENOENT');
    expect(none.message).toMatch(/client\.somebody: ENOENT: there is no key for it in .*\/ring;/);
    const ring = file('wrong-ring', '[client.admin]\n\tkey = AQBXYcxnAAAAABAAp0LXMPmYpUQ1FbxNJYGpFw==\n');
    const wrong = await failure({ conf: changed('wrong-key', 'keyring', ring), id: null });
    expect(wrong.code).toBe('EACCES');
    expect(wrong.message).toContain(`client.admin: EACCES: there is no key for it in ${ring} that the cluster takes`);
  });

  it('refuses settings that librados does not know or take', async () => {
    const unknown = await failure({ conf: ceph.conf, id: null, settings: { nonsense: '1' } });
    expect(unknown.message).toMatch(/cannot set nonsense to 1 .* does not know/);
    const bad = await failure({ conf: ceph.conf, id: null, settings: { client_mount_timeout: 'soon' } });
    expect(bad.message).toMatch(/cannot set client_mount_timeout to soon .* does not take this value/);
  });

  it('says how to make a pool that is missing', async () => {
    const cluster = await connected({ conf: ceph.conf, id: ceph.user });
    const before = { ...live };
    await expect(cluster.pool('nowhere')).rejects.toMatchObject({
      code: 'ENOENT',
      message: expect.stringContaining('ceph osd pool create nowhere'),
    });
    expect(live).toEqual(before);
  });

  it("runs the monitors' commands, and passes on what they say", async () => {
    const cluster = await connected({ conf: ceph.conf, id: null });
    const pools = JSON.parse((await cluster.monitorCommand({ prefix: 'osd pool ls', format: 'json' })).toString());
    expect(pools).toEqual(expect.arrayContaining(['maps', 'blocks']));
    await expect(cluster.monitorCommand({ prefix: 'osd make coffee' })).rejects.toMatchObject({
      code: 'EINVAL',
      message: expect.stringMatching(/"osd make coffee".*client\.admin: EINVAL: command not known/),
    });
    await cluster.waitForLatestMap();
    const limited = await connected({ conf: ceph.conf, id: ceph.user });
    await expect(limited.monitorCommand({ prefix: 'osd pool delete', pool: 'maps' })).rejects.toMatchObject({
      code: 'EACCES',
    });
  });
});
