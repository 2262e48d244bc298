/** Servers that others wrote, for the client's tests. Each goes with its test; each is skipped, and says so, where it is not installed. */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { onTestFinished, test } from 'vitest';
import type { NbdClient } from '../../../src/nbd/client.js';
import { type ConnectOptions, connectNbd } from '../../../src/nbd/client-connect.js';
import type { NbdAddress } from '../../../src/nbd/client-socket.js';
import { eventually, temporaryDirectory } from './support.js';

const packages = { nbdkit: 'nbdkit', 'qemu-nbd': 'qemu-utils', 'qemu-img': 'qemu-utils' };
const missing = Object.keys(packages).filter((tool) => spawnSync(tool, ['--version']).error !== undefined);
for (const tool of missing) {
  const name = packages[tool as keyof typeof packages];
  console.warn(`SKIPPED: ${tool} is not installed, its tests do not run (apt-get install ${name})`);
}

export const withServer = (tool: keyof typeof packages) => test.skipIf(missing.includes(tool));

async function started(child: ChildProcess, file: string): Promise<void> {
  let output = '';
  child.stderr?.on('data', (text) => {
    output += text;
  });
  const gone = new Promise<never>((_, reject) => {
    child.once('exit', (code) => reject(new Error(`${child.spawnfile} ended with ${code}: ${output}`)));
  });
  gone.catch(() => {});
  onTestFinished(async () => {
    if (child.exitCode !== null || child.signalCode !== null) return;
    const over = new Promise((resolve) => child.once('exit', resolve));
    child.kill('SIGKILL');
    await over;
  });
  await Promise.race([eventually(() => fs.existsSync(file)).toBe(true), gone]);
}

/** nbdkit on a unix socket; resolves to its path. */
export async function nbdkit(...args: string[]): Promise<string> {
  const directory = temporaryDirectory();
  const [socket, pid] = [path.join(directory, 's'), path.join(directory, 'pid')];
  const child = spawn('nbdkit', ['-f', '-U', socket, '-P', pid, ...args], { stdio: ['ignore', 'ignore', 'pipe'] });
  // The file of its process id is written when it accepts connections.
  await started(child, pid);
  return socket;
}

/** qemu-nbd on a unix socket; resolves to its path. */
export async function qemuNbd(...args: string[]): Promise<string> {
  const directory = temporaryDirectory();
  const [socket, pid] = [path.join(directory, 's'), path.join(directory, 'pid')];
  const command = ['-k', socket, '--pid-file', pid, '-t', '-e', '8', ...args];
  const child = spawn('qemu-nbd', command, { stdio: ['ignore', 'ignore', 'pipe'] });
  await started(child, pid);
  return socket;
}

/** A client that goes with its test. */
export async function client(target: string | NbdAddress, options: ConnectOptions = {}): Promise<NbdClient> {
  const connected = await connectNbd(target, options);
  onTestFinished(() => connected.destroy());
  return connected;
}

/** Bytes that repeat nowhere near, the same for the same seed. */
export function pattern(length: number, seed = 1): Buffer {
  const bytes = Buffer.allocUnsafe(length);
  let x = seed;
  for (let i = 0; i < length; i++) {
    x = (Math.imul(x, 1103515245) + 12345) >>> 0;
    bytes[i] = x >>> 16;
  }
  return bytes;
}
