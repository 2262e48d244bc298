/** Mail between owners of locks in files: what is in them, what else may be in them, how long they get. */
import fs from 'node:fs';
import path from 'node:path';
import { expect, it } from 'vitest';
import { MAIL_DIRECTORY } from '../../../src/blockers/file/mail.js';
import type { LockMail } from '../../../src/requests/locks.js';
import { fileDriver, listAll, temporaryDirectory } from './support.js';

const letter = (id: string): LockMail => ({ kind: 'want', name: 'web1', from: 'node1_1002', id });

async function pair(lockDir?: string) {
  const root = temporaryDirectory();
  const sender = await fileDriver(root, { uniqueStr: 'node1_1002', lockDir });
  const reader = await fileDriver(root, { uniqueStr: 'node2_1002', lockDir });
  const file = path.join(lockDir ?? root, MAIL_DIRECTORY, 'node2_1002');
  const received = async (): Promise<string[]> => (await reader.checkLocks([])).mail.map(({ id }) => id);
  return { root, sender, reader, file, received };
}

it('a letter is a line of JSON in a file of its addressee, beside the locks, and no object', async () => {
  const locks = temporaryDirectory();
  for (const lockDir of [undefined, locks]) {
    const { root, sender, file } = await pair(lockDir);
    await sender.sendMail('node2_1002', letter('1'));
    await sender.sendMail('node2_1002', letter('2'));
    expect(fs.readFileSync(file, 'utf8')).toBe(`${JSON.stringify(letter('1'))}\n${JSON.stringify(letter('2'))}\n`);
    expect(fs.statSync(file).mode & 0o777).toBe(0o660);
    expect(fs.statSync(path.dirname(file)).mode & 0o777).toBe(0o770);
    expect(await listAll(sender, 10)).toEqual([]);
    expect((await sender.listLocks(null, 10)).locks).toEqual([]);
    expect(fs.existsSync(path.join(root, MAIL_DIRECTORY))).toBe(lockDir === undefined);
  }
});

it('what is not a letter is skipped, what is half a letter is waited for', async () => {
  const { sender, file, received } = await pair();
  await sender.sendMail('node2_1002', letter('first'));
  const whole = `${JSON.stringify(letter('halves'))}\n`;
  fs.appendFileSync(
    file,
    `not json\n{"kind":"want"}\n[]\nnull\n7\n{"kind":"other","name":"a","from":"b","id":"c"}\n\0\0\0\n\n`,
  );
  fs.appendFileSync(file, whole.slice(0, 20));
  expect(await received()).toEqual(['first']);
  fs.appendFileSync(file, whole.slice(20));
  expect(await received()).toEqual(['halves']);
  // Two nodes wrote to the same place of a network file system's file: the next letter is whole again.
  fs.appendFileSync(file, `${whole.slice(0, 30)}${whole.slice(0, 12)}\n${whole}`);
  expect(await received()).toEqual(['halves']);
  expect(await received()).toEqual([]);
});

it('a file that was read gets short again; one that nobody reads does not grow for ever', async () => {
  const { sender, file, received } = await pair();
  const ids = Array.from({ length: 900 }, (_, i) => `${i}-${'x'.repeat(60)}`);
  for (const id of ids) await sender.sendMail('node2_1002', letter(id));
  expect(fs.statSync(file).size).toBeGreaterThan(64 << 10);
  const got: string[] = [];
  while (got.length < ids.length) {
    const some = await received();
    expect(some.length).toBeGreaterThan(0);
    got.push(...some);
  }
  expect(got).toEqual(ids);
  expect(fs.statSync(file).size).toBe(0);
  await sender.sendMail('node2_1002', letter('after'));
  expect(await received()).toEqual(['after']);
  fs.appendFileSync(file, Buffer.alloc(2 << 20, 10));
  await sender.sendMail('node2_1002', letter('last'));
  expect(fs.statSync(file).size).toBeLessThan(1000);
});

it('a file that was removed or emptied by hand is begun anew', async () => {
  const { sender, file, received } = await pair();
  await sender.sendMail('node2_1002', letter('1'));
  expect(await received()).toEqual(['1']);
  fs.rmSync(path.dirname(file), { recursive: true });
  expect(await received()).toEqual([]);
  await sender.sendMail('node2_1002', letter('2'));
  expect(await received()).toEqual(['2']);
  fs.truncateSync(file, 0);
  expect(await received()).toEqual([]);
  await sender.sendMail('node2_1002', letter('3'));
  expect(await received()).toEqual(['3']);
});

it('rubbish without an end does not stop the mail for long', async () => {
  const { sender, file, received } = await pair();
  await sender.sendMail('node2_1002', letter('1'));
  fs.appendFileSync(file, Buffer.alloc(100_000, 120));
  fs.appendFileSync(file, '\n');
  await sender.sendMail('node2_1002', letter('2'));
  const got: string[] = [];
  for (let calls = 0; calls < 10; calls++) got.push(...(await received()));
  expect(got).toEqual(['1', '2']);
});

it('many that send at once all arrive, each whole', async () => {
  const { sender, reader, received } = await pair();
  const ids = Array.from({ length: 100 }, (_, i) => `${i}`);
  await Promise.all(ids.map((id) => (Number(id) % 2 ? sender : reader).sendMail('node2_1002', letter(id))));
  const got = [...(await received()), ...(await received())];
  expect(got.sort()).toEqual(ids.sort());
  // Two checks at once share what there is.
  await sender.sendMail('node2_1002', letter('once'));
  expect((await Promise.all([received(), received()])).flat()).toEqual(['once']);
});
