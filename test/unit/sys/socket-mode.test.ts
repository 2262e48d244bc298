/** Sockets with a mode: in force from the start, and no harm to whatever else the process makes at that moment. */
import fs from 'node:fs';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { listenWithMode } from '../../../src/sys/socket-mode.js';

let directory: string;
let listener: net.Server;
let mask: number;
beforeEach(() => {
  directory = fs.mkdtempSync(path.join(os.tmpdir(), 'mode-'));
  listener = net.createServer();
  mask = process.umask(0o007);
});
afterEach(() => {
  process.umask(mask);
  listener.close();
  fs.rmSync(directory, { recursive: true });
});

const at = (name: string): string => path.join(directory, name);
const modeOf = (name: string): number => fs.statSync(at(name)).mode & 0o777;

test.each([0o000, 0o007, 0o022, 0o077, 0o777])('the mode is kept under the umask %o', async (umask) => {
  process.umask(umask);
  await new Promise<void>((resolve, reject) => {
    listener.on('error', reject);
    listenWithMode(listener, { path: at('s') }, 0o660, resolve);
  });
  expect(process.umask(umask)).toBe(umask);
  process.umask(0);
  expect(modeOf('s')).toBe(0o660);
});

test.each([0o000, 0o002, 0o007, 0o022])(
  'while it is made, umask %o, others cannot connect, and directories can be entered',
  (umask) => {
    process.umask(umask);
    const listen = listener.listen.bind(listener);
    listener.listen = ((...args: Parameters<typeof listen>) => {
      fs.mkdirSync(at('made'), 0o777);
      fs.writeFileSync(at('file'), '', { mode: 0o666 });
      listen(...args);
      expect(modeOf('s') & 0o002).toBe(0);
      return listener;
    }) as typeof listen;
    listenWithMode(listener, { path: at('s') }, 0o660, () => {});
    expect(modeOf('made')).toBe(0o777 & ~umask & ~0o002);
    expect(modeOf('file')).toBe(0o666 & ~umask & ~0o002);
  },
);

test('a socket that has gone before it has its mode is an error, not the end of the process', async () => {
  const failed = new Promise<Error>((resolve) => {
    listener.on('error', resolve);
  });
  listenWithMode(listener, { path: at('s') }, 0o660, () => {});
  fs.rmSync(at('s'));
  expect(await failed).toMatchObject({ code: 'ENOENT' });
});
