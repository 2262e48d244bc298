// devices-vlmc.mjs CONF: what vlmc and archipelago say of devices, on the kernel of this machine and the node of CONF. One line for each scene.
// The commands run in this process, by their own programs: starting Node takes seconds on an emulated machine.
import { execFile, execFileSync, spawn } from 'node:child_process';
import fs from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { archipelagoProgram } from '/app/dist/cli/archipelago/program.js';
import { runProgram } from '/app/dist/cli/common/program.js';
import { Session } from '/app/dist/cli/common/session.js';
import { vlmcMain } from '/app/dist/cli/vlmc/program.js';
import { keeperPid } from '/app/dist/devices/index.js';

const [, , conf] = process.argv;
const MiB = 1 << 20;
const sh = (command) =>
  execFileSync('/bin/sh', ['-c', command], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] }).trim();
const sizeOf = (path) => Number(sh(`blockdev --getsize64 ${path}`));
const connected = () => fs.readdirSync('/sys/block').filter((name) => fs.existsSync(`/sys/block/${name}/pid`));

/** Runs a command; tells its status and what it printed. */
async function command(name, main) {
  const said = { out: '', err: '' };
  const sink = (into) => ({
    write(chunk, done) {
      said[into] += Buffer.from(chunk).toString();
      done?.();
      return true;
    },
  });
  const io = { stdin: [], stdout: sink('out'), stderr: sink('err'), env: process.env };
  const status = await main(new Session(name, io));
  return [status, said.out, said.err];
}
const vlmc = (...words) => command('vlmc', (session) => vlmcMain(['-c', conf, ...words], session));
const archipelago = (...words) =>
  command('archipelago', (session) => runProgram(archipelagoProgram(session), ['-c', conf, ...words], session));

const equal = (found, wanted, what) => {
  if (JSON.stringify(found) !== JSON.stringify(wanted))
    throw new Error(`${what}: ${JSON.stringify(found)}, not ${JSON.stringify(wanted)}`);
};
const matches = (text, pattern, what) => {
  if (!pattern.test(text)) throw new Error(`${what}: ${JSON.stringify(text)}, not ${pattern}`);
};
/** A command that does what it should prints this, and no word beside. */
const prints = async (words, out) => equal(await vlmc(...words), [0, out, ''], `vlmc ${words.join(' ')}`);
const refuses = async (words, pattern) => {
  const [status, out, err] = await vlmc(...words);
  equal([status, out], [255, ''], `vlmc ${words.join(' ')}: ${err}`);
  matches(err, pattern, `vlmc ${words.join(' ')}`);
};

let failed = 0;
const scene = async (name, play) => {
  const begin = performance.now();
  try {
    await play();
    console.log(`SCENE vlmc ${name}: ok in ${Math.round(performance.now() - begin)} ms`);
  } catch (error) {
    failed++;
    console.log(`SCENE vlmc ${name}: FAIL ${error.stack.replace(/\n\s*/g, ' | ')}`);
  }
};

const NONE = 'No volumes mapped\n\n';
const HEAD = 'id\timage\t\tdevice\n';
const KERNEL = ['--endpoint', 'kernel'];

/** Starts the node, or finds it running; where all is emulated its processes may need longer than they are given, so more than once. */
const start = async () => {
  let said = '';
  for (let i = 0; i < 5; i++) {
    const [status, , err] = await archipelago('start');
    if (status === 0 || /Try stopping first/.test(err)) return;
    said += err;
  }
  throw new Error(`archipelago start: ${said}`);
};
await start();
console.log('guest: the node runs');

// The keeper as its unit runs it: it stays when there is no device, so that no scene waits for another.
const RUN = '/run/archipelago';
const keeper = spawn('/bin/archipelago', ['-c', conf, 'devices'], { stdio: 'ignore' });
const ended = new Promise((resolve) => keeper.once('exit', (code) => resolve(code)));

await scene('keeper', async () => {
  const end = performance.now() + 120_000;
  while (keeperPid(RUN) !== keeper.pid) {
    if (performance.now() > end) throw new Error('it is not there after two minutes');
    await sleep(50);
  }
});

await scene('map', async () => {
  await prints(['showmapped'], NONE);
  await prints(['create', 'vlmc-volume', '-s', '32M'], '');
  await prints(['map', 'vlmc-volume', ...KERNEL], '/dev/nbd0\n');
  await prints(['map', 'vlmc-volume', ...KERNEL], '/dev/nbd0\n');
  equal(connected(), ['nbd0'], 'connected devices');
  await refuses(
    ['map', 'vlmc-volume', ...KERNEL, '--connections', '2'],
    /^vlmc map failed: volume vlmc-volume is \/dev\/nbd0 already, with other options \(1 connection\)/,
  );
  await refuses(
    ['map', 'vlmc-volume', ...KERNEL, '-ro'],
    /^vlmc map failed: Volume vlmc-volume already mapped with other options/,
  );
  await refuses(['map', 'no-such-volume', ...KERNEL], /^vlmc map failed: .*no-such-volume/);
  await prints(['showmapped'], `${HEAD}0\tvlmc-volume\t/dev/nbd0\n`);
});

await scene('showmapped', async () => {
  const [, json] = await vlmc('showmapped', '--json');
  const [{ id, volume, device, size, connections, clients, readOnly, healthy, trouble }] = JSON.parse(json).mapped;
  equal(
    { id, volume, device, size, connections, clients, readOnly, healthy, trouble },
    {
      id: 0,
      volume: 'vlmc-volume',
      device: '/dev/nbd0',
      size: 32 * MiB,
      connections: 1,
      clients: 1,
      readOnly: false,
      healthy: true,
      trouble: null,
    },
    'the row',
  );
  matches(
    (await vlmc('showmapped', '-l'))[1],
    /^ 0 +vlmc-volume +\/dev\/nbd0 +33554432 +32 MiB +1 .* rw +healthy$/m,
    'the long table',
  );
});

await scene('resize', async () => {
  await prints(['resize', 'vlmc-volume', '-s', '48M'], 'Resized vlmc-volume to 50331648 bytes (48 MiB)\n');
  equal(sizeOf('/dev/nbd0'), 48 * MiB, 'the size of the device');
});

await scene('refusals', async () => {
  sh('/bin/mke2fs -q -t ext4 -F /dev/nbd0 && mount -t ext4 /dev/nbd0 /mnt/fs && echo words >/mnt/fs/file');
  for (const words of [['vlmc-volume'], ['/dev/nbd0', '-f']]) {
    await refuses(
      ['unmap', ...words],
      /^vlmc unmap failed: \/dev\/nbd0 \(vlmc-volume\) is in use: it is mounted on \/mnt\/fs\n$/,
    );
  }
  await refuses(['remove', 'vlmc-volume'], /^Volume vlmc-volume mapped on device \/dev\/nbd0\n$/);
  await refuses(
    ['rename', 'vlmc-volume', 'other-volume'],
    /^Cannot rename a mapped resource: vlmc-volume is mapped on device \/dev\/nbd0\n$/,
  );
  await refuses(['unmap', '/dev/nbd77'], /^\/dev\/nbd77: Device doesn't exist\n$/);
  await refuses(['unmap', '/dev/loop0'], /^\/dev\/loop0: no volume is mapped there; vlmc showmapped lists what is\n$/);
  for (const words of [['stop'], ['restart', 'nbd']]) {
    const [status, , err] = await archipelago(...words);
    equal(status, 255, `archipelago ${words.join(' ')}`);
    matches(
      err,
      /^Cannot stop: volumes are mapped or have clients \(vlmc-volume on \/dev\/nbd0\); unmap them first, or use -f/,
      'stop',
    );
  }
  sh('umount /mnt/fs');
});

await scene('unmap', async () => {
  await prints(['unmap', 'vlmc-volume'], '');
  equal(connected(), [], 'connected devices');
  await prints(['showmapped'], NONE);
  await refuses(['unmap', 'vlmc-volume'], /^vlmc unmap failed: Volume vlmc-volume is not mapped\n$/);
});

await scene('a snapshot, several connections, and its own socket', async () => {
  await prints(['snapshot', 'vlmc-volume', 'vlmc-snapshot'], 'Snapshot name: vlmc-snapshot\n');
  await prints(['map', 'vlmc-snapshot', ...KERNEL], '/dev/nbd0\n');
  await prints(['map', 'vlmc-snapshot', ...KERNEL], '/dev/nbd0\n');
  sh('mount -t ext4 -o ro,noload /dev/nbd0 /mnt/fs && grep -q words /mnt/fs/file && umount /mnt/fs');
  await prints(['map', 'vlmc-volume', '--connections', '2', '--socket'], '/dev/nbd1\n');
  const [, rows] = await vlmc('showmapped', '--json');
  const { connections, clients } = JSON.parse(rows).mapped.find(({ device }) => device === '/dev/nbd1');
  equal([connections, clients], [2, 2], 'connections');
  await prints(['unmap', '/dev/nbd1'], '');
  await prints(['unmap', '/dev/nbd0'], '');
});

await scene('a table', async () => {
  await prints(['create', 'vlmc-second', '-s', '8M'], '');
  fs.writeFileSync('/tmp/maptab', 'vlmc-volume kernel\nmissing-volume nofail\nvlmc-second kernel,ro # the last\n');
  const [status, out, err] = await vlmc('map', '--table', '/tmp/maptab', '--wait', '10');
  equal([status, out], [0, 'vlmc-volume\t/dev/nbd0\nvlmc-second\t/dev/nbd1\n'], err);
  matches(err, /^vlmc map failed: missing-volume \(\/tmp\/maptab:2\): .*missing-volume[^\n]*\n$/, 'standard error');
  equal(sh('blockdev --getro /dev/nbd1'), '1', 'read-only');
  await prints(['unmap', '--table', '/tmp/maptab'], '');
  equal(connected(), [], 'connected devices');
});

await scene('twenty at once', async () => {
  const volumes = Array.from({ length: 20 }, (_, i) => `vlmc-many-${i}`);
  for (const volume of volumes) await prints(['create', volume, '-s', '1M'], '');
  const maps = volumes.map((volume) =>
    promisify(execFile)('/bin/vlmc', ['-c', conf, 'map', volume, ...KERNEL, '--wait', '300']),
  );
  const paths = (await Promise.all(maps)).map(({ stdout, stderr }) => `${stdout.trim()}${stderr}`);
  equal(connected().length, 20, 'connected devices');
  for (const [i, path] of paths.entries())
    equal(sh(`cat /sys/block/${path.slice('/dev/'.length)}/backend`), `archipelago:guest:${volumes[i]}`, path);
  for (const volume of volumes) await prints(['unmap', volume], '');
  equal(connected(), [], 'connected devices');
});

await scene('a node that does not run', async () => {
  await prints(['map', 'vlmc-volume', ...KERNEL], '/dev/nbd0\n');
  sh(
    'dd if=/dev/urandom of=/tmp/random bs=64k count=1 2>/dev/null; dd if=/tmp/random of=/dev/nbd0 bs=64k conv=fsync 2>/dev/null',
  );
  equal((await archipelago('stop', '-f'))[0], 0, 'archipelago stop -f');
  const [status, out, err] = await vlmc('showmapped');
  equal([status, out], [0, `${HEAD}-\tvlmc-volume\t/dev/nbd0\n`], 'showmapped');
  matches(err, /^only devices are shown: .*archipelago start\n$/, 'standard error');
  const [gone, nothing, warning] = await vlmc('unmap', 'vlmc-volume');
  equal([gone, nothing], [0, ''], 'unmap');
  matches(
    warning,
    /^\/dev\/nbd0 \(vlmc-volume\): the node does not answer, .*\n\/dev\/nbd0 is detached, but .*; vlmc-volume stays mapped without a device: vlmc unmap vlmc-volume once it runs\n$/,
    'standard error',
  );
  equal(connected(), [], 'connected devices');
  await refuses(['showmapped'], /the node is not running/);
  await start();
  await prints(['unmap', 'vlmc-volume'], '');
  await prints(['map', 'vlmc-volume', ...KERNEL], '/dev/nbd0\n');
  sh('dd if=/dev/nbd0 bs=64k count=1 2>/dev/null | cmp - /tmp/random');
  await prints(['unmap', 'vlmc-volume'], '');
});

await scene('keeper stopped', async () => {
  equal(keeperPid(RUN), keeper.pid, 'the keeper');
  keeper.kill();
  equal(await ended, 0, 'its exit status');
  equal(keeperPid(RUN), null, 'its pidfile');
});

process.exit(failed === 0 ? 0 : 1);
