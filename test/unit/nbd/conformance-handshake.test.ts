/** What the protocol document asks of a server during the handshake: one test for each MUST and SHOULD, in its own words' order. */
import { describe, expect, test } from 'vitest';
import { MemoryDisk, MemoryProvider } from '../../../src/nbd/memory-device.js';
import {
  ask,
  counted,
  enter,
  greet,
  infoData,
  metaData,
  OPT,
  type OptionAnswer,
  option,
  REP,
  TFLAG,
  takeAnswers,
  u16,
  u32,
  verdict,
} from './proto.js';
import { RawPeer, serve, serveMemory, transports } from './support.js';

const MiB = 1024 * 1024;
const last = (answers: readonly OptionAnswer[]): OptionAnswer => answers.at(-1)!;
const infoOf = (answers: readonly OptionAnswer[], type: number): Buffer[] =>
  answers.filter((answer) => answer.type === REP.INFO && answer.data.readUInt16BE(0) === type).map(({ data }) => data);
const names = (answers: readonly OptionAnswer[]): string[] =>
  answers.filter(({ type }) => type === REP.META_CONTEXT).map(({ data }) => data.toString('utf8', 4));

async function greeted(path: string, flags = 3): Promise<RawPeer> {
  const peer = await RawPeer.connect(path);
  await greet(peer, flags);
  return peer;
}

describe.each(transports)('over the %s transport', (transport) => {
  const memory = () => serveMemory({}, { transport });

  test('the greeting is fixed newstyle with NO_ZEROES and no other flag', async () => {
    const { path } = await memory();
    const peer = await RawPeer.connect(path);
    expect((await peer.take(18)).toString('hex')).toBe(`${'4e42444d41474943'}${'49484156454f5054'}0003`);
  });

  test.each([4, 8, 0x100, 0x80000000, 0xfffffffc])(
    'the unknown client flags %i close the connection',
    async (flags) => {
      const { path } = await memory();
      const peer = await greeted(path, flags);
      peer.send(option(OPT.LIST));
      expect(await peer.closed()).toHaveLength(0);
    },
  );

  test.each([0, 1])(
    'a client without NO_ZEROES (flags %i) gets 124 zeroes from EXPORT_NAME, none from GO',
    async (flags) => {
      const { path } = await memory();
      const old = await greeted(path, flags);
      old.send(option(OPT.EXPORT_NAME, Buffer.from('disk')));
      const reply = await old.take(134);
      expect(reply.readBigUInt64BE(0)).toBe(BigInt(16 * MiB));
      expect(reply.readUInt16BE(8) & TFLAG.HAS_FLAGS).toBe(TFLAG.HAS_FLAGS);
      expect(reply.subarray(10).equals(Buffer.alloc(124))).toBe(true);
      const modern = await greeted(path, flags);
      expect(await verdict(modern, OPT.GO, infoData('disk'))).toBe(REP.ACK);
      modern.send(Buffer.concat([u32(0x25609513), u16(0), u16(3), Buffer.alloc(20)]));
      expect((await modern.take(16)).toString('hex')).toBe(`67446698${'00'.repeat(12)}`);
    },
  );

  test('an empty name is the default export, for EXPORT_NAME, INFO and GO', async () => {
    const { path } = await memory();
    const old = await greeted(path);
    old.send(option(OPT.EXPORT_NAME));
    expect((await old.take(10)).readBigUInt64BE(0)).toBe(BigInt(16 * MiB));
    const peer = await greeted(path);
    expect(await verdict(peer, OPT.INFO, infoData(''))).toBe(REP.ACK);
    expect(await verdict(peer, OPT.GO, infoData(''))).toBe(REP.ACK);
  });

  test('EXPORT_NAME of an unknown export ends the session without a byte', async () => {
    const { path } = await memory();
    const peer = await greeted(path);
    peer.send(option(OPT.EXPORT_NAME, Buffer.from('nowhere')));
    expect(await peer.closed()).toHaveLength(0);
  });

  test.each([OPT.PEEK_EXPORT, 0, 12, 77, 0x7fffffff, 0xffffffff])(
    'option %i is unknown: UNSUP, its data is skipped, framing stays',
    async (type) => {
      const { path } = await memory();
      const peer = await greeted(path);
      for (const length of [0, 1, 4096, 100_000]) {
        const answers = await ask(peer, type, Buffer.alloc(length, 0x49));
        expect(answers).toHaveLength(1);
        expect(answers[0].option).toBe(type >>> 0);
        expect(answers[0].type).toBe(REP.ERR_UNSUP);
      }
      expect(await verdict(peer, OPT.GO, infoData('disk'))).toBe(REP.ACK);
    },
  );

  test('ABORT is acknowledged, with data too, and the server closes', async () => {
    const { path } = await memory();
    for (const data of [Buffer.alloc(0), Buffer.from('bye')]) {
      const peer = await greeted(path);
      const answers = await ask(peer, OPT.ABORT, data);
      expect(answers).toEqual([{ option: OPT.ABORT, type: REP.ACK, data: Buffer.alloc(0) }]);
      expect(await peer.closed()).toHaveLength(0);
    }
  });

  test('ABORT of a client that does not wait for the answer harms nobody', async () => {
    const { path } = await memory();
    for (let i = 0; i < 5; i++) {
      const peer = await greeted(path);
      peer.send(option(OPT.ABORT));
      peer.socket.destroy();
    }
    expect(await verdict(await greeted(path), OPT.LIST)).toBe(REP.ACK);
  });

  test('LIST has one SERVER reply for each export and an ACK; data makes it INVALID', async () => {
    const { path } = await memory();
    const peer = await greeted(path);
    const answers = await ask(peer, OPT.LIST);
    expect(answers.map(({ type }) => type)).toEqual([REP.SERVER, REP.SERVER, REP.ACK]);
    for (const { data } of answers.slice(0, -1)) {
      expect(data.readUInt32BE(0)).toBeLessThanOrEqual(data.length - 4);
    }
    expect(answers.slice(0, -1).map(({ data }) => data.toString('utf8', 4, 4 + data.readUInt32BE(0)))).toEqual([
      '',
      'disk',
    ]);
    expect(await verdict(peer, OPT.LIST, Buffer.from('x'))).toBe(REP.ERR_INVALID);
    expect(await verdict(peer, OPT.LIST)).toBe(REP.ACK);
  });

  test('INFO and GO bring exactly one INFO_EXPORT before the ACK, whatever was asked for', async () => {
    const { path } = await memory();
    for (const type of [OPT.INFO, OPT.GO]) {
      for (const infos of [[], [0], [1], [3], [0, 1, 2, 3], [3, 3], [9, 0xffff]]) {
        const answers = await ask(await greeted(path), type, infoData('disk', infos));
        expect(last(answers)).toEqual({ option: type, type: REP.ACK, data: Buffer.alloc(0) });
        const [data, ...more] = infoOf(answers, 0);
        expect(more).toEqual([]);
        expect(data).toHaveLength(12);
        expect(data.readBigUInt64BE(2)).toBe(BigInt(16 * MiB));
      }
    }
  });

  test('INFO requests that are unknown are ignored', async () => {
    const { path } = await memory();
    const answers = await ask(await greeted(path), OPT.INFO, infoData('disk', [4, 5, 1000, 0xffff]));
    expect(answers.slice(0, -1).every(({ data }) => data.readUInt16BE(0) <= 3)).toBe(true);
    expect(last(answers).type).toBe(REP.ACK);
  });

  test('INFO, then GO with the same parameters: the same information', async () => {
    const { path } = await memory();
    const peer = await greeted(path);
    const info = await ask(peer, OPT.INFO, infoData('disk', [0, 1, 2, 3]));
    const go = await ask(peer, OPT.GO, infoData('disk', [0, 1, 2, 3]));
    const sorted = (answers: OptionAnswer[]) =>
      answers.map(({ type, data }) => `${type} ${data.toString('hex')}`).sort();
    expect(sorted(go)).toEqual(sorted(info));
  });

  test('NAME, DESCRIPTION and BLOCK_SIZE come when asked for, as the document lays them out', async () => {
    const disk = new MemoryDisk({ size: MiB, info: { description: 'größe' } });
    const { path } = await serve(new MemoryProvider([['disk', disk]]), { transport });
    const answers = await ask(await greeted(path), OPT.INFO, infoData('disk', [1, 2, 3]));
    expect(infoOf(answers, 1).map((data) => data.toString('utf8', 2))).toEqual(['disk']);
    expect(infoOf(answers, 2).map((data) => data.toString('utf8', 2))).toEqual(['größe']);
    const [sizes] = infoOf(answers, 3);
    expect(sizes).toHaveLength(14);
    const [minimum, preferred, maximum] = [sizes.readUInt32BE(2), sizes.readUInt32BE(6), sizes.readUInt32BE(10)];
    expect(Math.log2(minimum) % 1).toBe(0);
    expect(minimum).toBeLessThanOrEqual(65536);
    expect(Math.log2(preferred) % 1).toBe(0);
    expect(preferred).toBeGreaterThanOrEqual(Math.max(minimum, 512));
    expect(maximum % minimum).toBe(0);
    expect(maximum).toBeGreaterThanOrEqual(2 ** 25);
  });

  test('an export that is unknown is UNKNOWN, without any INFO, with a text, and the handshake goes on', async () => {
    const { path } = await memory();
    const peer = await greeted(path);
    for (const type of [OPT.INFO, OPT.GO]) {
      const answers = await ask(peer, type, infoData('nowhere', [0, 1, 2, 3]));
      expect(answers.map((answer) => answer.type)).toEqual([REP.ERR_UNKNOWN]);
      expect(answers[0].data.length).toBeGreaterThan(0);
      expect(answers[0].data.length).toBeLessThanOrEqual(4096);
    }
    expect(await verdict(peer, OPT.GO, infoData('disk'))).toBe(REP.ACK);
  });

  test('the block size is never required of the client', async () => {
    const { path } = await serveMemory(
      { info: { blockSize: { minimum: 4096, preferred: 4096, maximum: 32 * MiB } } },
      { transport },
    );
    expect(await verdict(await greeted(path), OPT.GO, infoData('disk', []))).toBe(REP.ACK);
    const old = await greeted(path);
    old.send(option(OPT.EXPORT_NAME, Buffer.from('disk')));
    expect(await old.take(10)).toHaveLength(10);
  });

  test('malformed INFO and GO are INVALID and lose no framing', async () => {
    const { path } = await memory();
    const peer = await greeted(path);
    const whole = infoData('disk', [1, 3]);
    const malformed = [
      Buffer.alloc(0),
      Buffer.alloc(5),
      Buffer.concat([u32(0xffffffff), Buffer.from('disk'), u16(0)]),
      Buffer.concat([u32(5), Buffer.from('disk'), u16(0)]),
      Buffer.concat([counted('disk'), u16(2), u16(1)]),
      Buffer.concat([counted('disk'), u16(0), u16(1)]),
      ...Array.from({ length: whole.length - 1 }, (_, i) => whole.subarray(0, i)),
    ];
    // Every one of them is answered; a handshake has only so many options, so each has its own.
    for (const data of malformed) {
      for (const type of [OPT.INFO, OPT.GO]) {
        const one = await greeted(path);
        expect(await verdict(one, type, data), data.toString('hex')).toBe(REP.ERR_INVALID);
        expect(await verdict(one, OPT.INFO, infoData('disk'))).toBe(REP.ACK);
        one.socket.destroy();
      }
    }
    expect(await verdict(peer, OPT.GO, whole)).toBe(REP.ACK);
  });

  test('a string that is too long, holds a NUL or is not UTF-8 is refused, and enters nothing', async () => {
    const { path } = await memory();
    const bad = [
      Buffer.alloc(4097, 0x61),
      Buffer.from('di\0sk'),
      Buffer.from([0x64, 0xff]),
      Buffer.from([0xed, 0xa0, 0x80]),
    ];
    for (const name of bad) {
      const peer = await greeted(path);
      expect(await verdict(peer, OPT.INFO, infoData(name))).toBe(REP.ERR_INVALID);
      expect(await verdict(peer, OPT.GO, infoData(name))).toBe(REP.ERR_INVALID);
      peer.send(option(OPT.EXPORT_NAME, name));
      expect(await peer.closed()).toHaveLength(0);
    }
  });

  test('a string of 4096 bytes is taken', async () => {
    const long = 'ä'.repeat(2048);
    const provider = new MemoryProvider([[long, new MemoryDisk({ size: MiB })]]);
    const { path } = await serve(provider, { transport });
    const peer = await greeted(path);
    const [info] = infoOf(await ask(peer, OPT.INFO, infoData(long, [1])), 1);
    expect(info.toString('utf8', 2)).toBe(long);
    peer.send(option(OPT.EXPORT_NAME, Buffer.from(long)));
    expect((await peer.take(10)).readBigUInt64BE(0)).toBe(BigInt(MiB));
  });

  test('STRUCTURED_REPLY: data is INVALID, asking twice is answered', async () => {
    const { path } = await memory();
    const peer = await greeted(path);
    expect(await verdict(peer, OPT.STRUCTURED_REPLY, Buffer.from('x'))).toBe(REP.ERR_INVALID);
    expect(await verdict(peer, OPT.STRUCTURED_REPLY)).toBe(REP.ACK);
    expect([REP.ACK, REP.ERR_INVALID]).toContain(await verdict(peer, OPT.STRUCTURED_REPLY));
    expect(await verdict(peer, OPT.GO, infoData('disk'))).toBe(REP.ACK);
  });

  test('DF is offered exactly when chunks were agreed on', async () => {
    const { path } = await memory();
    expect((await enter(await RawPeer.connect(path), 'simple')).flags & TFLAG.SEND_DF).toBe(0);
    expect((await enter(await RawPeer.connect(path), 'structured')).flags & TFLAG.SEND_DF).toBe(TFLAG.SEND_DF);
  });

  test('flags tell what the export can do, and nothing more', async () => {
    const cannot = {
      canFlush: false,
      canFua: false,
      canTrim: false,
      canWriteZeroes: false,
      canCache: false,
      multiConn: false,
    };
    const disks: [string, MemoryDisk][] = [
      ['all', new MemoryDisk({ size: MiB })],
      ['bare', new MemoryDisk({ size: MiB, info: cannot })],
      ['ro', new MemoryDisk({ size: MiB, info: { readOnly: true } })],
      ['disc', new MemoryDisk({ size: MiB, info: { rotational: true, canFastZero: false } })],
    ];
    const { path } = await serve(new MemoryProvider(disks), { transport });
    const flagsOf = async (name: string) => (await enter(await RawPeer.connect(path), 'simple', name)).flags;
    const { HAS_FLAGS, READ_ONLY, SEND_FLUSH, SEND_FUA, SEND_TRIM, SEND_WRITE_ZEROES, SEND_FAST_ZERO } = TFLAG;
    const writes = SEND_TRIM | SEND_WRITE_ZEROES;
    const shared = HAS_FLAGS | SEND_FLUSH | SEND_FUA | TFLAG.SEND_CACHE | TFLAG.CAN_MULTI_CONN;
    expect(await flagsOf('all')).toBe(shared | writes | SEND_FAST_ZERO);
    expect(await flagsOf('bare')).toBe(HAS_FLAGS);
    expect(await flagsOf('ro')).toBe(shared | READ_ONLY);
    expect(await flagsOf('disc')).toBe(shared | writes | TFLAG.ROTATIONAL);
  });

  test('an option without its magic number ends the session', async () => {
    const { path } = await memory();
    const peer = await greeted(path);
    const bytes = option(OPT.LIST);
    bytes[7] ^= 1;
    peer.send(bytes);
    expect(await peer.closed()).toHaveLength(0);
  });

  test('options that arrive together are answered in order', async () => {
    const { path } = await memory();
    const peer = await greeted(path);
    peer.send(
      Buffer.concat([
        option(OPT.LIST),
        option(99, Buffer.from('data')),
        option(OPT.INFO, infoData('disk')),
        option(OPT.STRUCTURED_REPLY),
        option(OPT.GO, infoData('disk')),
      ]),
    );
    const finals: number[][] = [];
    for (let i = 0; i < 5; i++)
      finals.push(await takeAnswers(peer).then((answers) => [last(answers).option, last(answers).type]));
    expect(finals).toEqual([
      [OPT.LIST, REP.ACK],
      [99, REP.ERR_UNSUP],
      [OPT.INFO, REP.ACK],
      [OPT.STRUCTURED_REPLY, REP.ACK],
      [OPT.GO, REP.ACK],
    ]);
  });

  describe('meta contexts', () => {
    async function structured(path: string): Promise<RawPeer> {
      const peer = await greeted(path);
      expect(await verdict(peer, OPT.STRUCTURED_REPLY)).toBe(REP.ACK);
      return peer;
    }

    test('SET before structured replies is INVALID', async () => {
      const { path } = await memory();
      const peer = await greeted(path);
      expect(await verdict(peer, OPT.SET_META_CONTEXT, metaData('disk', ['base:allocation']))).toBe(REP.ERR_INVALID);
    });

    test('LIST without a query names all, with id zero', async () => {
      const { path } = await memory();
      const answers = await ask(await structured(path), OPT.LIST_META_CONTEXT, metaData('disk', []));
      expect(names(answers)).toEqual(['base:allocation']);
      expect(answers[0].data.readUInt32BE(0)).toBe(0);
      expect(last(answers).type).toBe(REP.ACK);
    });

    test('`base:` is a wildcard for LIST and nothing for SET', async () => {
      const { path } = await memory();
      const peer = await structured(path);
      expect(names(await ask(peer, OPT.LIST_META_CONTEXT, metaData('disk', ['base:'])))).toEqual(['base:allocation']);
      const set = await ask(peer, OPT.SET_META_CONTEXT, metaData('disk', ['base:']));
      expect(set.map(({ type }) => type)).toEqual([REP.ACK]);
    });

    test('unknown leaves and unknown namespaces are ignored', async () => {
      const { path } = await memory();
      const peer = await structured(path);
      const unknown = ['base:nothing', 'x-other:thing', 'qemu:', 'x-other:'];
      for (const type of [OPT.LIST_META_CONTEXT, OPT.SET_META_CONTEXT]) {
        expect((await ask(peer, type, metaData('disk', unknown))).map((answer) => answer.type)).toEqual([REP.ACK]);
        const some = await ask(peer, type, metaData('disk', [...unknown, 'base:allocation', 'base:allocation']));
        expect(names(some)).toEqual(['base:allocation']);
      }
    });

    test('SET without a query selects none, and takes back what was chosen', async () => {
      const { path } = await memory();
      const peer = await structured(path);
      expect(names(await ask(peer, OPT.SET_META_CONTEXT, metaData('disk', ['base:allocation'])))).toHaveLength(1);
      expect((await ask(peer, OPT.SET_META_CONTEXT, metaData('disk', []))).map(({ type }) => type)).toEqual([REP.ACK]);
      expect(await verdict(peer, OPT.GO, infoData('disk'))).toBe(REP.ACK);
      peer.send(Buffer.concat([u32(0x25609513), u16(0), u16(7), Buffer.alloc(16), u32(512)]));
      const reply = await peer.take(20);
      expect(reply.readUInt16BE(6)).toBe(0x8001);
      expect((await peer.take(reply.readUInt32BE(16))).readUInt32BE(0)).toBe(22);
    });

    test('each selected context has an id of its own', async () => {
      const metaContexts = ['base:allocation', 'x-a:one', 'x-a:two'];
      const { path } = await serveMemory({ info: { metaContexts } }, { transport });
      const answers = await ask(await structured(path), OPT.SET_META_CONTEXT, metaData('disk', metaContexts));
      expect(names(answers).sort()).toEqual(metaContexts);
      const ids = answers.slice(0, -1).map(({ data }) => data.readUInt32BE(0));
      expect(new Set(ids).size).toBe(3);
    });

    test('requests that are malformed are INVALID, wherever they are cut', async () => {
      const { path } = await memory();
      const whole = metaData('disk', ['base:allocation', 'base:']);
      for (const type of [OPT.LIST_META_CONTEXT, OPT.SET_META_CONTEXT]) {
        for (let cut = 0; cut < whole.length; cut += 3) {
          const peer = await structured(path);
          expect(await verdict(peer, type, whole.subarray(0, cut))).toBe(REP.ERR_INVALID);
          expect(await verdict(peer, type, Buffer.concat([whole, u16(0)]))).toBe(REP.ERR_INVALID);
          expect(await verdict(peer, type, whole)).toBe(REP.ACK);
          peer.socket.destroy();
        }
      }
    });

    test('an unknown export is UNKNOWN', async () => {
      const { path } = await memory();
      const peer = await structured(path);
      for (const type of [OPT.LIST_META_CONTEXT, OPT.SET_META_CONTEXT])
        expect(await verdict(peer, type, metaData('nowhere', ['base:allocation']))).toBe(REP.ERR_UNKNOWN);
    });
  });

  describe('without TLS', () => {
    test('STARTTLS is UNSUP or POLICY and the handshake goes on', async () => {
      const { path } = await memory();
      const peer = await greeted(path);
      expect([REP.ERR_UNSUP, REP.ERR_POLICY]).toContain(await verdict(peer, OPT.STARTTLS));
      expect(await verdict(peer, OPT.GO, infoData('disk'))).toBe(REP.ACK);
    });

    test('TLS_REQD is the answer to nothing', async () => {
      const { path } = await memory();
      for (let type = 0; type <= 12; type++) {
        if (type === OPT.EXPORT_NAME) continue;
        for (const data of [Buffer.alloc(0), infoData('disk'), infoData('nowhere'), metaData('disk', [])])
          expect(await verdict(await greeted(path), type, data)).not.toBe(REP.ERR_TLS_REQD);
      }
    });
  });
});
