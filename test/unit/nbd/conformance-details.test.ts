/** Sentences of the protocol document that are easily passed over, one test each. */
import { expect, onTestFinished, test } from 'vitest';
import type { ExportProvider } from '../../../src/nbd/device.js';
import { TlsRequiredError } from '../../../src/nbd/errors.js';
import { NbdServer } from '../../../src/nbd/server.js';
import { ask, CFLAG, CMD, E, enter, execute, greet, infoData, metaData, OPT, REP, TFLAG, verdict } from './proto.js';
import { RawPeer, serveMemory, temporaryDirectory } from './support.js';

const MiB = 1024 * 1024;

async function greeted(path: string, flags = 3): Promise<RawPeer> {
  const peer = await RawPeer.connect(path);
  await greet(peer, flags);
  return peer;
}

test('BLOCK_STATUS_PAYLOAD is offered by GO only to a client that has chosen contexts, or has just been told of it by INFO', async () => {
  const { path } = await serveMemory();
  const offered = async (queries: string[], before: readonly number[], of = 'disk'): Promise<number[]> => {
    const peer = await greeted(path);
    expect(await verdict(peer, OPT.EXTENDED_HEADERS)).toBe(REP.ACK);
    if (queries.length > 0) expect(await verdict(peer, OPT.SET_META_CONTEXT, metaData(of, queries))).toBe(REP.ACK);
    const flags: number[] = [];
    for (const type of [...before, OPT.GO]) {
      const [{ data }] = await ask(peer, type, type === OPT.LIST ? undefined : infoData('disk'));
      if (type !== OPT.LIST) flags.push(data.readUInt16BE(10) & TFLAG.BLOCK_STATUS_PAYLOAD);
    }
    return flags;
  };
  const flag = TFLAG.BLOCK_STATUS_PAYLOAD;
  expect(await offered([], [])).toEqual([0]);
  expect(await offered(['x-none:of'], [])).toEqual([0]);
  expect(await offered(['base:allocation'], [], '')).toEqual([0]);
  expect(await offered(['base:allocation'], [])).toEqual([flag]);
  // INFO tells what could be had, and GO must not tell anything else right after it.
  expect(await offered([], [OPT.INFO])).toEqual([flag, flag]);
  expect(await offered([], [OPT.INFO, OPT.LIST])).toEqual([flag, 0]);
});

test('an unknown option is UNSUP and ABORT is acknowledged, whatever the length of their data', async () => {
  const { path } = await serveMemory();
  const peer = await greeted(path);
  for (const length of [0, 1000, 65_536, 65_537, 3_000_000]) {
    expect(await verdict(peer, 99, Buffer.alloc(length))).toBe(REP.ERR_UNSUP);
    expect(await verdict(peer, OPT.STARTTLS, Buffer.alloc(length))).toBe(REP.ERR_UNSUP);
  }
  expect(await verdict(peer, OPT.LIST, Buffer.alloc(65_537))).toBe(REP.ERR_INVALID);
  expect(await verdict(peer, OPT.INFO, Buffer.alloc(65_537))).toBe(REP.ERR_TOO_BIG);
  expect(await verdict(peer, OPT.ABORT, Buffer.alloc(65_537))).toBe(REP.ACK);
  expect(await peer.closed()).toHaveLength(0);
});

test('a SET_META_CONTEXT that is too long takes back what was chosen, as any that fails', async () => {
  const { path } = await serveMemory();
  const peer = await greeted(path);
  expect(await verdict(peer, OPT.STRUCTURED_REPLY)).toBe(REP.ACK);
  expect(await verdict(peer, OPT.SET_META_CONTEXT, metaData('disk', ['base:allocation']))).toBe(REP.ACK);
  expect(await verdict(peer, OPT.SET_META_CONTEXT, Buffer.alloc(65_537))).toBe(REP.ERR_TOO_BIG);
  expect(await verdict(peer, OPT.GO, infoData('disk'))).toBe(REP.ACK);
  expect((await execute(peer, 'structured', { type: CMD.BLOCK_STATUS, length: 512 })).error).toBe(E.INVAL);
});

test('SELECTIVETLS: TLS_REQD is the answer to INFO and GO alone, and to nobody without fixed newstyle', async () => {
  const refuse = (): Promise<never> => Promise.reject(new TlsRequiredError('TLS first'));
  const provider: ExportProvider = { list: refuse, describe: refuse, open: refuse };
  const server = new NbdServer(provider, { tls: { psk: () => null } });
  onTestFinished(() => server.close());
  const path = `${temporaryDirectory()}/s`;
  await server.listen({ path }, { tls: 'selective' });
  const peer = await greeted(path);
  expect(await verdict(peer, OPT.STRUCTURED_REPLY)).toBe(REP.ACK);
  for (const [type, data, wanted] of [
    [OPT.LIST, undefined, REP.ERR_POLICY],
    [OPT.LIST_META_CONTEXT, metaData('disk', []), REP.ERR_POLICY],
    [OPT.SET_META_CONTEXT, metaData('disk', ['base:allocation']), REP.ERR_POLICY],
    [OPT.INFO, infoData('disk'), REP.ERR_TLS_REQD],
    [OPT.GO, infoData('disk'), REP.ERR_TLS_REQD],
  ] as const) {
    expect(await verdict(peer, type, data), `option ${type}`).toBe(wanted);
  }
  const old = await greeted(path, 2);
  for (const type of [OPT.INFO, OPT.GO]) expect(await verdict(old, type, infoData('disk'))).toBe(REP.ERR_POLICY);
});

test('FORCEDTLS: STARTTLS with too much data is INVALID, ABORT with it is acknowledged', async () => {
  const { server } = await serveMemory({}, { tls: { psk: () => null } });
  const path = `${temporaryDirectory()}/s`;
  await server.listen({ path }, { tls: 'required' });
  const peer = await greeted(path);
  expect(await verdict(peer, OPT.STARTTLS, Buffer.alloc(65_537))).toBe(REP.ERR_INVALID);
  expect(await verdict(peer, 99, Buffer.alloc(65_537))).toBe(REP.ERR_TLS_REQD);
  expect(await verdict(peer, OPT.ABORT, Buffer.alloc(65_537))).toBe(REP.ACK);
});

test('the maximum block size is a multiple of the minimum, whatever the limits are', async () => {
  const blockSize = { minimum: 4096, preferred: 4096, maximum: 64 * MiB };
  const { path } = await serveMemory({ info: { blockSize } }, { limits: { payload: 40_000_000 } });
  const answers = await ask(await greeted(path), OPT.INFO, infoData('disk', [3]));
  const sizes = answers.find(({ data }) => data.length === 14)?.data as Buffer;
  expect(sizes.readUInt32BE(10)).toBe(39_997_440);
});

test.each(['FLUSH', 'FUA'] as const)('%s on one connection is seen by all when it is answered', async (how) => {
  const { path } = await serveMemory();
  const [writer, ...readers] = await Promise.all(Array.from({ length: 4 }, () => RawPeer.connect(path)));
  const { flags } = await enter(writer, 'structured');
  expect(flags & TFLAG.CAN_MULTI_CONN).toBe(TFLAG.CAN_MULTI_CONN);
  for (const reader of readers) await enter(reader, 'structured');
  for (let i = 1; i <= 5; i++) {
    const fields = { type: CMD.WRITE, offset: 4096 * i, length: 512, flags: how === 'FUA' ? CFLAG.FUA : 0 };
    expect((await execute(writer, 'structured', fields, Buffer.alloc(512, i))).error).toBe(0);
    if (how === 'FLUSH') expect((await execute(writer, 'structured', { type: CMD.FLUSH })).error).toBe(0);
    for (const reader of readers) {
      const { data } = await execute(reader, 'structured', { type: CMD.READ, offset: 4096 * i, length: 512 });
      expect(data?.equals(Buffer.alloc(512, i))).toBe(true);
    }
  }
});
