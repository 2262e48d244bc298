import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import { afterEach, describe, expect, it } from 'vitest';
import { Segment } from '../../../src/xseg/index.js';
import { ABI_VERSION, H, HEADER_BYTES } from '../../../src/xseg/layout.js';
import { cleanUp, compiledXseg, createSegment, deadPid, freshName, joinSegment } from './help.js';

afterEach(cleanUp);

const refuses = (code: string, ...parts: string[]) =>
  expect.objectContaining({ code, message: expect.stringMatching(new RegExp(parts.join('.*'), 's')) });

/** Makes a segment and changes words of its header. */
function damaged(change: (header: Uint32Array) => void): string {
  const { name } = createSegment();
  const file = `/dev/shm/${name}`;
  const fd = fs.openSync(file, 'r+');
  const header = new Uint32Array(HEADER_BYTES / 4);
  fs.readSync(fd, new Uint8Array(header.buffer), 0, HEADER_BYTES, 0);
  change(header);
  fs.writeSync(fd, new Uint8Array(header.buffer), 0, HEADER_BYTES, 0);
  fs.closeSync(fd);
  return name;
}

const join = (name: string) => () => Segment.join(`posix:${name}:`);

describe('creating a segment', () => {
  it('makes a shared-memory object that another Segment joins with the same geometry', () => {
    const segment = createSegment({ ports: 32, dynamic: 16, mib: 8 });
    expect(fs.statSync(`/dev/shm/${segment.name}`).size).toBe(8 << 20);
    expect(fs.statSync(`/dev/shm/${segment.name}`).mode & 0o777).toBe(0o660);
    expect(joinSegment(segment).geometry).toEqual(segment.geometry);
  });

  it('takes its memory at once, so that nobody is killed for a page that is not there later', () => {
    const segment = createSegment({ mib: 8 });
    expect(fs.statSync(`/dev/shm/${segment.name}`).blocks * 512).toBe(8 << 20);
  });

  it('an existing one is not touched: EEXIST', () => {
    const segment = createSegment();
    segment.bind(3, { name: 'busy' });
    expect(() => Segment.create(`posix:${segment.name}:16:8:16:12`)).toThrow(
      refuses('EEXIST', segment.name, 'destroy'),
    );
    expect(joinSegment(segment).portOwner(3)?.name).toBe('busy');
  });

  it('one that is too small for its ports is refused, and the size that the message names suffices', () => {
    const name = freshName();
    let message = '';
    try {
      Segment.create(`posix:${name}:2048:1024:8:12`);
    } catch (error) {
      message = (error as Error).message;
    }
    const needed = Number(/set it to (\d+)/.exec(message)?.[1]);
    expect(needed).toBeGreaterThan(8);
    expect(() => Segment.create(`posix:${name}:2048:1024:${needed - 1}:12`)).toThrow(refuses('EINVAL', 'too small'));
    Segment.create(`posix:${name}:2048:1024:${needed}:12`).close();
  });

  it('more memory than /dev/shm has is refused and leaves nothing behind', () => {
    const space = fs.statfsSync('/dev/shm');
    const free = Math.floor((space.bavail * space.bsize) / (1 << 20));
    const name = freshName();
    const size = (free + 1000) * (1 << 20);
    expect(() => Segment.create({ type: 'posix', name, ports: 16, firstDynamic: 8, size, pageShift: 12 })).toThrow(
      refuses('ENOSPC', 'SEGMENT_SIZE'),
    );
    expect(fs.existsSync(`/dev/shm/${name}`)).toBe(false);
    expect(fs.existsSync(`/dev/shm/${name}.bells`)).toBe(false);
  });

  it('a file in the place of the doorbells of an earlier segment does not stop it', () => {
    const name = freshName();
    fs.writeFileSync(`/dev/shm/${name}.bells`, 'left over');
    const segment = createSegment({ name });
    expect(segment.bind(1).number).toBe(1);
  });
});

describe('joining a segment', () => {
  it('that does not exist: ENOENT, and how to start the node', () => {
    expect(join(freshName())).toThrow(refuses('ENOENT', 'archipelago start'));
  });

  it('a foreign file is refused', () => {
    const name = freshName();
    fs.writeFileSync(`/dev/shm/${name}`, Buffer.alloc(1 << 20, 'not a segment '));
    expect(join(name)).toThrow(refuses('EPROTO', 'signature'));
  });

  it('an empty file, a short one and a directory are refused', () => {
    const empty = freshName();
    fs.writeFileSync(`/dev/shm/${empty}`, '');
    expect(join(empty)).toThrow(refuses('EPROTO', 'only 0 bytes'));
    const short = freshName();
    fs.writeFileSync(`/dev/shm/${short}`, Buffer.alloc(100));
    expect(join(short)).toThrow(refuses('EPROTO', 'only 100 bytes'));
    const directory = freshName();
    fs.mkdirSync(`/dev/shm/${directory}`);
    expect(join(directory)).toThrow(refuses('EPROTO', 'not a file'));
  });

  it('a FIFO in its place is refused and does not block', () => {
    const name = freshName();
    expect(spawnSync('mkfifo', [`/dev/shm/${name}`]).status).toBe(0);
    expect(join(name)).toThrow(expect.objectContaining({ code: 'EPROTO' }));
  });

  it('zeros, as after a crash of the system, are refused', () => {
    const name = freshName();
    fs.writeFileSync(`/dev/shm/${name}`, Buffer.alloc(1 << 20));
    expect(join(name)).toThrow(refuses('EPROTO', name));
  });

  it('one of another layout version is refused, naming both versions', () => {
    const name = damaged((h) => {
      h[H.ABI] = ABI_VERSION + 7;
    });
    expect(join(name)).toThrow(refuses('EPROTO', `version ${ABI_VERSION + 7}`, `version ${ABI_VERSION}`));
  });

  it('one with features of the future is refused', () => {
    const name = damaged((h) => {
      h[H.FEATURES] = 0x80;
    });
    expect(join(name)).toThrow(refuses('EPROTO', 'features'));
  });

  it('one whose maker died half-way is refused at once', () => {
    const dead = deadPid();
    const name = damaged((h) => {
      h[H.READY] = 0;
      h[H.CREATOR_PID] = dead;
    });
    expect(join(name)).toThrow(refuses('EPROTO', 'did not finish'));
  });

  it('one of another pid namespace is refused: its peers would all look dead', () => {
    const name = damaged((h) => {
      h[H.PID_NAMESPACE] ^= 1;
    });
    expect(join(name)).toThrow(refuses('EPROTO', 'pid namespace'));
  });

  it('one that was cut short is refused', () => {
    const { name } = createSegment();
    fs.truncateSync(`/dev/shm/${name}`, 8 << 20);
    expect(join(name)).toThrow(refuses('EPROTO', 'bytes but has'));
  });

  it.each([
    'PAGE_SHIFT',
    'PORTS',
    'FIRST_DYNAMIC',
    'SIZE_LOW',
    'SIZE_HIGH',
    'REQUESTS',
    'QUEUE_CAPACITY',
    'PORT_TABLE_PAGE',
    'QUEUES_PAGE',
    'REQUEST_TABLE_PAGE',
    'PAGE_TABLE_PAGE',
    'HEAP_PAGE',
    'HEAP_PAGES',
  ] as const)('a garbage %s in the header is refused', (field) => {
    for (const garbage of [0, 0xffffffff, 0x12345678]) {
      if (field === 'SIZE_HIGH' && garbage === 0) continue;
      const name = damaged((h) => {
        h[H[field]] = garbage;
      });
      expect(join(name)).toThrow(expect.objectContaining({ code: 'EPROTO' }));
    }
  });

  it('without permission: EACCES and who may', ({ skip }) => {
    if (process.getuid?.() !== 0) skip('needs root, to start a process of another account');
    const { name } = createSegment();
    const code = `import { Segment } from '${compiledXseg()}/index.js';
      process.setgroups([]);
      process.setgid(65534);
      process.setuid(65534);
      try { Segment.join('posix:${name}:'); } catch (e) { console.log(e.code, e.message); }
      try { Segment.destroy('posix:${name}:'); } catch (e) { console.log(e.code, e.message); }`;
    const child = spawnSync(process.execPath, ['--input-type=module', '-e', code], { encoding: 'utf8' });
    expect(child.stdout).toMatch(/^EACCES cannot join segment .*root\n(EACCES|EPERM) cannot destroy segment/);
    expect(fs.existsSync(`/dev/shm/${name}.bells`)).toBe(true);
  });
});

describe('destroying a segment', () => {
  it('removes its name and its doorbells; who is in it goes on', async () => {
    const segment = createSegment();
    const server = segment.bind(1);
    server.serve((request) => request.succeed(11));
    Segment.destroy(`posix:${segment.name}:`);
    expect(Segment.exists(`posix:${segment.name}:`)).toBe(false);
    expect(fs.existsSync(`/dev/shm/${segment.name}.bells`)).toBe(false);
    expect((await server.call(1, { op: 1 })).serviced).toBe(11);
  });

  it('that does not exist: ENOENT', () => {
    expect(() => Segment.destroy(`posix:${freshName()}:`)).toThrow(expect.objectContaining({ code: 'ENOENT' }));
  });

  it('one that cannot be joined can be removed', () => {
    const name = freshName();
    fs.writeFileSync(`/dev/shm/${name}`, 'garbage');
    Segment.destroy(`posix:${name}:`);
    expect(fs.existsSync(`/dev/shm/${name}`)).toBe(false);
  });
});
