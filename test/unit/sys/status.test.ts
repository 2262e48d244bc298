/** What a look at a file within the call says, beside what Node says of it. */
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { expect, it, onTestFinished } from 'vitest';
import { Status, StatusWord } from '../../../src/sys/status.js';

it('says what Node says of files, directories, devices and what links lead to', () => {
  const directory = fs.mkdtempSync(path.join(os.tmpdir(), 'archipelago-status-'));
  onTestFinished(() => fs.rmSync(directory, { recursive: true }));
  const [file, link] = ['file', 'link'].map((name) => path.join(directory, name));
  fs.writeFileSync(file, 'x');
  fs.linkSync(file, `${file}-too`);
  fs.symlinkSync(file, link);
  const status = new Status();
  for (const each of [file, directory, link, '/dev/null', '/proc/self', '/sys/fs']) {
    const { ino, nlink, dev, ctimeNs } = fs.statSync(each, { bigint: true });
    expect([each, status.look(each), status.inode]).toEqual([each, true, ino]);
    const { words } = status;
    const word = (at: number): bigint => BigInt(words[at]);
    expect(word(StatusWord.LINKS)).toBe(nlink);
    expect(word(StatusWord.CTIME) * 1_000_000_000n + word(StatusWord.CTIME_NS)).toBe(ctimeNs);
    // As the kernel's new_encode_dev has them.
    const [major, minor] = [word(StatusWord.DEVICE_MAJOR), word(StatusWord.DEVICE_MINOR)];
    expect((minor & 0xffn) | (major << 8n) | ((minor & ~0xffn) << 12n)).toBe(dev);
  }
});

it('says that there is nothing', () => {
  const status = new Status();
  expect([status.look('/nowhere'), status.look('/dev/null/nowhere')]).toEqual([false, false]);
});
