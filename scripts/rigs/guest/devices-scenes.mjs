// devices-scenes.mjs CONF: what devices must do, on the kernel of this machine and a node of CONF, which is started here. One line for each scene.
// With volumes behind it, another process that attaches those: devices-scenes.mjs CONF VOLUME...
// Starting a program takes seconds where every instruction is emulated: the tools run in this process.
import { execFile, execFileSync, spawn } from 'node:child_process';
import fs from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { Devices, ensureKeeper, keeperPid } from '/app/dist/devices/index.js';

const [, script, conf, ...others] = process.argv;
const RUN = '/run/archipelago';
const MiB = 1 << 20;
const say = (message) => console.log(`log: ${message}`);
const log = { debug() {}, info: say, warn: say, error: say };
const devices = new Devices({ runDir: RUN, segment: 'guest', endpoint: { path: `${RUN}/nbd.sock` }, log });

if (others.length > 0) {
  const attached = await Promise.all(others.map((volume) => devices.attach({ volume })));
  console.log(JSON.stringify(attached.map(({ path }) => path)));
  process.exit(0);
}

const { Session } = await import('/app/dist/cli/common/session.js');
const { runProgram } = await import('/app/dist/cli/common/program.js');
const { vlmcMain } = await import('/app/dist/cli/vlmc/program.js');
const { archipelagoProgram } = await import('/app/dist/cli/archipelago/program.js');

/** Runs a tool here. @returns what it printed, without the last newline */
const tool =
  (main) =>
  async (...words) => {
    const said = { out: '', err: '' };
    const sink = (key) => ({
      write(chunk, done) {
        said[key] += chunk;
        done?.();
        return true;
      },
    });
    const session = new Session('tool', { stdin: [], stdout: sink('out'), stderr: sink('err'), env: {} });
    const status = await main(['-c', conf, ...words], session);
    session.close();
    if (status !== 0) throw Object.assign(new Error(`${words.join(' ')}: ${said.err}${said.out}`), { code: status });
    return said.out.trimEnd();
  };
const vlmc = tool(vlmcMain);
const archipelago = tool((words, session) => runProgram(archipelagoProgram(session), words, session));

const sh = (command) =>
  execFileSync('/bin/sh', ['-c', command], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] }).trim();
/** A process that is emulated on a busy host may need longer than the minute that is waited for it: it is found then. */
const keeper = async () => {
  for (let i = 0; ; i++) {
    try {
      return await ensureKeeper({ runDir: RUN, logDir: '/var/log', configPath: conf });
    } catch (error) {
      if (i === 5 || !/nothing for a minute/.test(error.message)) throw error;
      console.log(`guest: ${error.message}`);
    }
  }
};
const pidOf = (role) => Number(fs.readFileSync(`${RUN}/${role}.pid`, 'utf8'));
const attribute = (path, name) => fs.readFileSync(`/sys/block/${path.slice('/dev/'.length)}/${name}`, 'utf8').trim();
const sizeOf = (path) => Number(attribute(path, 'size')) * 512;
const connected = () => fs.readdirSync('/sys/block').filter((name) => fs.existsSync(`/sys/block/${name}/pid`));
const holdOpen = (path) => {
  const fd = fs.openSync(path, 'r');
  const child = spawn('/bin/sleep', ['1000'], { stdio: [fd, 'ignore', 'ignore'] });
  fs.closeSync(fd);
  return child;
};

const equal = (found, wanted, what) => {
  if (JSON.stringify(found) === JSON.stringify(wanted)) return;
  throw new Error(`${what}: ${JSON.stringify(found)}, not ${JSON.stringify(wanted)}`);
};
const truth = (value, what) => {
  if (!value) throw new Error(what);
};
const refused = async (work, code, pattern) => {
  let outcome = 'it was not refused';
  try {
    await work();
  } catch (error) {
    outcome = `${error.code}: ${error.message}`;
    if (error.code === code && pattern.test(error.message)) return;
  }
  throw new Error(`${outcome}, not ${code} ${pattern}`);
};
const until = async (what, condition) => {
  const end = performance.now() + 300_000;
  while (!(await condition())) {
    if (performance.now() > end) throw new Error(`not within five minutes: ${what}`);
    await sleep(100);
  }
};
/** A machine that is emulated on a busy host may need longer than the command waits. */
const startNode = () =>
  until('the node runs', async () => {
    try {
      await archipelago('start');
      return true;
    } catch (error) {
      console.log(`guest: ${error.message.replace(/\n/g, ' | ')}`);
      return archipelago('status').then(
        () => true,
        () => false,
      );
    }
  });
const isHealthy = async (volume) => (await devices.find(volume))?.healthy === true;
const troubleOf = async (volume) => (await devices.find(volume))?.trouble ?? '';

/** Played when the kernel's command line says QUICK=1; else all are. */
const QUICK = [
  'attach',
  'attach again',
  'a file system',
  'a new size while it is mounted',
  'fio verifies what it wrote',
  'several connections',
  'the node killed under load',
  'several connections are all back',
  'read-only, and a size of sectors',
  'detach',
  'no error was seen',
];
let failed = 0;
const scene = async (name, play) => {
  if (process.env.QUICK === '1' && !QUICK.includes(name)) return;
  const begin = performance.now();
  try {
    const said = await play();
    console.log(`SCENE ${name}: ok${said ? ` (${said})` : ''} after ${Math.round(performance.now() - begin)} ms`);
  } catch (error) {
    failed++;
    console.log(`SCENE ${name}: FAIL ${error.stack.replace(/\n\s*/g, ' | ')}`);
  }
};

const SECTOR = 4096;
const SECTORS = 512;
const WRITERS = 8;
/** Writes before and after what happens to them. */
const ENOUGH = 200;
/** What a sector holds: its number and a count, again and again. */
const content = (sector, count) => {
  const bytes = Buffer.alloc(SECTOR);
  for (let at = 0; at < SECTOR; at += 16) {
    bytes.writeUInt32LE(sector, at);
    bytes.writeUInt32LE(count, at + 4);
    bytes.writeUInt32LE(at, at + 8);
  }
  return bytes;
};

/** Writes sectors durably while `what` goes on, then reads all of them past the page cache. Each writer has sectors of its own. */
const underLoad = async (path, what) => {
  const handle = await fs.promises.open(path, fs.constants.O_RDWR | fs.constants.O_DSYNC);
  const last = new Array(SECTORS).fill(0);
  let [writes, longest, over] = [0, 0, false];
  const writer = async (id) => {
    for (let turn = 0; !over; turn++) {
      const sector = id + WRITERS * (turn % (SECTORS / WRITERS));
      const begin = performance.now();
      await handle.write(content(sector, last[sector] + 1), 0, SECTOR, sector * SECTOR);
      last[sector]++;
      writes++;
      longest = Math.max(longest, performance.now() - begin);
    }
  };
  const working = Promise.all(Array.from({ length: WRITERS }, (_, id) => writer(id)));
  let failure = null;
  working.catch((error) => {
    failure = error;
  });
  try {
    await until('writing', () => writes > ENOUGH || failure !== null);
    await what();
    const before = writes;
    await until('writing on', () => writes > before + ENOUGH || failure !== null);
  } finally {
    over = true;
  }
  await working;
  await handle.sync();
  sh(`blockdev --flushbufs ${path}; echo 3 >/proc/sys/vm/drop_caches`);
  for (const [sector, count] of last.entries()) {
    if (count === 0) continue;
    const { buffer } = await handle.read(Buffer.alloc(SECTOR), 0, SECTOR, sector * SECTOR);
    truth(
      buffer.equals(content(sector, count)),
      `sector ${sector} is not what write ${count} left: ${buffer.readUInt32LE(4)}`,
    );
  }
  await handle.close();
  return `${writes} writes, the longest ${Math.round(longest)} ms`;
};

const first = 'first-volume';
const wide = 'wide-volume';
let device;
await startNode();
console.log(`guest: the node runs after ${Math.round(process.uptime())} s`);
await vlmc('create', first, '-s', '64M');
await vlmc('create', wide, '-s', '4M');

await scene('attach', async () => {
  device = await devices.attach({ volume: first });
  equal([device.path, device.size, device.readOnly], ['/dev/nbd0', 64 * MiB, false], 'the device');
  truth(/no keeper runs/.test(device.trouble), `trouble: ${device.trouble}`);
  equal(sizeOf(device.path), 64 * MiB, 'its size');
  equal(attribute(device.path, 'backend'), `archipelago:guest:${first}`, 'what the kernel knows it as');
  equal(
    [attribute(device.path, 'queue/logical_block_size'), attribute(device.path, 'queue/io_timeout')],
    ['512', '5000'],
    'its queue',
  );
  await keeper();
  await until('healthy', () => isHealthy(first));
});

await scene('attach again', async () => {
  const again = await devices.attach({ volume: first });
  equal([again.index, again.since], [device.index, device.since], 'the same');
  await refused(
    () => devices.attach({ volume: first, connections: 2 }),
    'EEXIST',
    /other options \(1 connection\); detach it first/,
  );
  await refused(() => devices.attach({ volume: first, readOnly: true }), 'EEXIST', /other options/);
  await refused(() => devices.attach({ volume: 'no-such-volume' }), 'ENOENT', /no export no-such-volume/);
  equal(connected(), ['nbd0'], 'connected devices');
});

await scene('a file system', async () => {
  sh(
    `/bin/mke2fs -q -t ext4 -F ${device.path} && mount -t ext4 ${device.path} /mnt/fs && echo content >/mnt/fs/file && sync`,
  );
  const mounted = /^\/dev\/nbd0 \(first-volume\) is in use: it is mounted on \/mnt\/fs$/;
  await refused(() => devices.detach(first), 'EBUSY', mounted);
  await refused(() => devices.detach(first, { force: true }), 'EBUSY', mounted);
});

await scene('a new size while it is mounted', async () => {
  await vlmc('resize', first, '-s', '96M');
  await until('the new size', () => sizeOf(device.path) === 96 * MiB);
  equal((await devices.find(first)).size, 96 * MiB, 'the size told');
  sh(`umount /mnt/fs; echo 3 >/proc/sys/vm/drop_caches; mount -t ext4 -o ro ${device.path} /mnt/fs`);
  equal(sh('cat /mnt/fs/file; umount /mnt/fs'), 'content', 'the file');
});

await scene('fio verifies what it wrote', async () => {
  const verify = '--verify=crc32c --verify_fatal=1 --do_verify=1';
  const load =
    '--rw=randwrite --bsrange=512-256k --bs_unaligned=0 --size=48M --direct=1 --ioengine=libaio --iodepth=16';
  const said = sh(`/bin/fio --name=verified --filename=${device.path} ${load} ${verify} --output-format=json`);
  const [{ error, read, write }] = JSON.parse(said.slice(said.indexOf('{'))).jobs;
  equal([error, read.io_bytes], [0, write.io_bytes], 'errors, and bytes read of those written');
  return `${write.total_ios} writes`;
});

await scene('who else uses it', async () => {
  sh(`/bin/dmsetup create held --table '0 2048 linear ${device.path} 0' --noudevsync`);
  await refused(() => devices.detach(device.path), 'EBUSY', /held by device-mapper held \(dm-0\)/);
  sh('/bin/dmsetup remove --noudevsync held');
  sh(`losetup /dev/loop0 ${device.path}`);
  await refused(() => devices.detach(first, { force: true }), 'EBUSY', /held by \/dev\/loop0/);
  sh('losetup -d /dev/loop0');
  const reader = holdOpen(device.path);
  await refused(() => devices.detach(first), 'EBUSY', new RegExp(`open in process ${reader.pid} \\(sleep\\)`));
  reader.kill();
  await refused(() => devices.detach('/dev/nbd9'), 'ENOENT', /no device of this node/);
});

await scene('several connections', async () => {
  const { connections, healthy, path } = await devices.attach({ volume: wide, connections: 4 });
  equal([connections, healthy], [4, true], 'the device');
  sh(`echo kept | dd of=${path} conv=fsync 2>/dev/null`);
});

await scene('the node killed under load', () =>
  underLoad(device.path, async () => {
    const pid = pidOf('nbd');
    process.kill(pid, 'SIGKILL');
    await until('lost', async () => !(await isHealthy(wide)));
    for (const volume of [first, wide]) await until('healthy', () => isHealthy(volume));
    truth(pidOf('nbd') !== pid, 'another process');
  }),
);

await scene('the node stopped and started under load', () =>
  underLoad(device.path, async () => {
    await archipelago('stop', '-f');
    const lost = await troubleOf(first);
    truth(
      /^it has no connection to the node, its requests wait; the keeper \(process \d+\) connects it/.test(lost),
      lost,
    );
    await startNode();
    for (const volume of [first, wide]) await until('healthy', () => isHealthy(volume));
  }),
);

await scene('the same without a keeper', () =>
  underLoad(device.path, async () => {
    const old = keeperPid(RUN);
    process.kill(old, 'SIGKILL');
    await until('no keeper', async () => /^no keeper runs/.test(await troubleOf(first)));
    await archipelago('stop', '-f');
    truth(
      /^it has no connection to the node, its requests wait; nobody connects it again/.test(await troubleOf(first)),
      await troubleOf(first),
    );
    await startNode();
    truth((await keeper()) !== old, 'another keeper');
    for (const volume of [first, wide]) await until('healthy', () => isHealthy(volume));
  }),
);

await scene('several connections are all back', async () => {
  const { path } = await devices.find(wide);
  equal(sh(`echo 3 >/proc/sys/vm/drop_caches; dd if=${path} bs=5 count=1 2>/dev/null`), 'kept', 'what was written');
  await devices.detach(wide);
});

await scene('read-only, and a size of sectors', async () => {
  await vlmc('create', 'small-volume', '-s', `${MiB + 512}B`);
  const { path, readOnly } = await devices.attach({ volume: 'small-volume', readOnly: true });
  equal([sizeOf(path), attribute(path, 'ro'), readOnly], [MiB + 512, '1', true], 'the device');
  equal(sh(`dd if=${path} bs=512 2>/dev/null | wc -c`), String(MiB + 512), 'bytes read');
  // Which kernels refuse already to open it, and which to write only, is their affair.
  let [error, fd] = [null, null];
  try {
    fd = fs.openSync(path, 'r+');
    fs.writeSync(fd, 'x');
  } catch (thrown) {
    error = thrown.code;
  }
  if (fd !== null) fs.closeSync(fd);
  truth(['EACCES', 'EPERM', 'EROFS'].includes(error), `writing: ${error}`);
  equal((await devices.detach(path)).trouble, null, 'detached');
});

await scene('detach', async () => {
  const was = await devices.detach(first);
  equal([was.path, was.trouble], [device.path, null], 'the device');
  equal([connected(), await devices.list()], [[], []], 'what is left');
  await until('the keeper has ended', () => keeperPid(RUN) === null);
  await refused(() => devices.detach(first), 'ENOENT', /no volume that has one/);
});

const many = Array.from({ length: 20 }, (_, i) => `many-volume-${i}`);
await scene('twenty at once, from two processes', async () => {
  for (const volume of many) await vlmc('create', volume, '-s', '1M');
  const other = promisify(execFile)(process.execPath, [script, conf, ...many.slice(10)]);
  const own = await Promise.all(many.slice(0, 10).map((volume) => devices.attach({ volume })));
  const { stdout } = await other;
  const paths = [...own.map(({ path }) => path), ...JSON.parse(stdout.trim().split('\n').at(-1))];
  equal([new Set(paths).size, connected().length], [20, 20], 'devices');
  for (const { volume, path } of await devices.list())
    equal(attribute(path, 'backend'), `archipelago:guest:${volume}`, path);
});

await scene('a table that is lost', async () => {
  fs.rmSync(`${RUN}/devices.json`);
  equal((await devices.list()).map(({ volume }) => volume).sort(), [...many].sort(), 'found again');
  const [some] = await devices.list();
  equal((await devices.detach(some.volume)).index, some.index, 'detached');
  equal((await devices.list()).length, 19, 'left');
});

await scene('a table that is damaged', async () => {
  const whole = await devices.list();
  fs.writeFileSync(`${RUN}/devices.json`, '{"devices": [{"index":');
  await keeper();
  await until('it is put aside', () => fs.existsSync(`${RUN}/devices.json.damaged`));
  await until('there is another', () => fs.existsSync(`${RUN}/devices.json`));
  const names = (some) => some.map(({ volume, path, size }) => [volume, path, size]);
  equal(names(await devices.list()), names(whole), 'found again');
});

await scene('a device that somebody else ended', async () => {
  const [{ path, volume }] = await devices.list();
  sh(`/bin/nbd-client -d ${path}`);
  await until('it is gone', async () => (await devices.find(volume)) === null);
  truth((await devices.attach({ volume })).index >= 0, 'attached again');
});

// What follows takes devices away from those who read them.
await scene('no error was seen', async () => {
  equal(sh('dmesg | grep -E "I/O error|Buffer I/O|Other side returned" || true'), '', 'the kernel says');
});

await scene('by force while it is open', async () => {
  const [{ path, volume }] = await devices.list();
  const reader = holdOpen(path);
  const { trouble } = await devices.detach(volume, { force: true });
  truth(/goes when nobody uses it any more; it is open in process/.test(trouble), trouble);
  await refused(() => devices.attach({ volume }), 'EBUSY', /detached by force/);
  reader.kill();
  await until('it is gone', async () => (await devices.find(volume)) === null);
});

await scene('detach while the node is away', async () => {
  for (const { volume } of (await devices.list()).slice(4)) equal((await devices.detach(volume)).trouble, null, volume);
  await archipelago('stop', '-f');
  for (const { path } of await devices.list()) {
    const { trouble } = await devices.detach(path);
    truth(/the node does not answer/.test(trouble), `${path}: ${trouble}`);
  }
  equal([connected(), await devices.list()], [[], []], 'what is left');
});

process.exit(failed === 0 ? 0 : 1);
