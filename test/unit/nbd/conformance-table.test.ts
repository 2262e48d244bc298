/** docs/nbd-protocol.md is made from the table, the table misses nothing, and it says what a running server does. */
import fs from 'node:fs';
import path from 'node:path';
import { describe, expect, test } from 'vitest';
import * as constants from '../../../src/nbd/constants.js';
import { behaviourSections } from '../../conformance/behaviours.js';
import { handshakeSections } from '../../conformance/handshake.js';
import { allConstants, type Row, render } from '../../conformance/row.js';
import { transmissionSections } from '../../conformance/transmission.js';
import { ask, CMD, enter, execute, greet, infoData, metaData, OPT, REP, TFLAG, verdict } from './proto.js';
import { RawPeer, serveMemory } from './support.js';

const sections = [...handshakeSections, ...transmissionSections, ...behaviourSections];
const rows: Row[] = sections.flatMap((section) => [...section.rows]);
const tests = path.join(import.meta.dirname, '..', '..');
const supported = (row: Row): boolean => !row.supported.startsWith('no');
const rowOf = (constant: string): Row => rows.find((row) => row.constant === constant)!;

test('the document is what the table makes', async () => {
  await expect(render(sections)).toMatchFileSnapshot(path.join(tests, '..', 'docs', 'nbd-protocol.md'));
});

test('every constant of the protocol has exactly one row', () => {
  const named = rows.map(({ constant }) => constant).filter((constant) => constant !== null);
  expect([...named].sort()).toEqual([...allConstants().keys()].sort());
});

test('every test that is named is there', () => {
  const missing = rows.filter(({ test: { file, title } }) => {
    const source = fs.readFileSync(path.join(tests, file), 'utf8');
    return !["'", '"', '`'].some((quote) => source.includes(`${quote}${title}${quote}`));
  });
  expect(missing.map(({ item, test: { file, title } }) => `${item}: ${file}: ${title}`)).toEqual([]);
});

test('what is not supported has a reason, and the version is one of ours', () => {
  const version = JSON.parse(fs.readFileSync(path.join(tests, '..', 'package.json'), 'utf8')).version as string;
  const [major, minor] = version.split('.').map(Number);
  for (const row of rows) {
    expect(row.supported).toMatch(/^yes$|^(yes|no|in part): \S/);
    const [since, part] = row.since.split('.').map(Number);
    // What is added now comes with the next minor version.
    expect(since === major && part <= minor + 1, row.item).toBe(true);
  }
});

describe('a running server', () => {
  const everything = {
    rotational: true,
    canResize: true,
    description: 'a disk',
    metaContexts: ['base:allocation'],
  };

  test('answers exactly the options of the table', async () => {
    const { path: socket } = await serveMemory();
    for (const [name, option] of Object.entries(constants.Option)) {
      if (option === OPT.EXPORT_NAME || option === OPT.STARTTLS) continue;
      const peer = await RawPeer.connect(socket);
      await greet(peer);
      const meta = option === OPT.LIST_META_CONTEXT || option === OPT.SET_META_CONTEXT;
      if (meta) expect(await verdict(peer, OPT.STRUCTURED_REPLY)).toBe(REP.ACK);
      const data = meta
        ? metaData('disk', [])
        : option === OPT.INFO || option === OPT.GO
          ? infoData('disk')
          : undefined;
      const known = (await verdict(peer, option, data)) === REP.ACK;
      expect(known, name).toBe(supported(rowOf(`Option.${name}`)));
    }
  });

  test('gives exactly the information of the table', async () => {
    const { path: socket } = await serveMemory({ info: everything });
    const peer = await RawPeer.connect(socket);
    await greet(peer);
    const answers = await ask(peer, OPT.INFO, infoData('disk', Object.values(constants.Info)));
    const given = answers.filter(({ type }) => type === REP.INFO).map(({ data }) => data.readUInt16BE());
    const listed = Object.entries(constants.Info).filter(([name]) => supported(rowOf(`Info.${name}`)));
    expect(given.sort()).toEqual(listed.map(([, info]) => info).sort());
  });

  test('offers exactly the flags of the table', async () => {
    const writable = await serveMemory({ info: everything });
    const readOnly = await serveMemory({ info: { ...everything, readOnly: true } });
    let flags = 0;
    for (const socket of [writable.path, readOnly.path]) {
      flags |= (await enter(await RawPeer.connect(socket), 'extended')).flags;
    }
    const listed = Object.entries(constants.TransmissionFlag).filter(([name]) =>
      supported(rowOf(`TransmissionFlag.${name}`)),
    );
    expect(flags).toBe(listed.reduce((sum, [, flag]) => sum | flag, 0));
    expect(flags & TFLAG.HAS_FLAGS).toBe(TFLAG.HAS_FLAGS);
  });

  test('carries out exactly the commands of the table', async () => {
    const { path: socket, disk } = await serveMemory({ info: everything });
    for (const [name, type] of Object.entries(constants.Command)) {
      const peer = await RawPeer.connect(socket);
      await enter(peer, 'structured');
      if (type === CMD.DISC) continue;
      const length = type === CMD.FLUSH || type === CMD.RESIZE ? 0 : 512;
      const offset = type === CMD.RESIZE ? disk.size : 0;
      const payload = type === CMD.WRITE ? Buffer.alloc(512) : undefined;
      const { error } = await execute(peer, 'structured', { type, offset, length }, payload);
      expect(error === 0, name).toBe(supported(rowOf(`Command.${name}`)));
    }
  });
});
