/** The handshake, spoken byte by byte over raw sockets. */
import { describe, expect, test } from 'vitest';
import { NbdHandshake } from '../../../src/nbd/client-handshake.js';
import { Info, Option, Reply, TransmissionFlag } from '../../../src/nbd/constants.js';
import type { BlockDevice, DeviceInfo, ExportProvider } from '../../../src/nbd/device.js';
import {
  decodeInfo,
  decodeMetaContext,
  decodeOptionReplyHeader,
  encodeClientFlags,
  encodeInfoRequest,
  encodeMetaRequest,
  encodeOption,
} from '../../../src/nbd/handshake-codec.js';
import { MemoryDisk, MemoryProvider } from '../../../src/nbd/memory-device.js';
import { errnos, SystemError } from '../../../src/sys/errno.js';
import { eventually, RawPeer, RecordingLog, SteeredProvider, serve, serveMemory, transports } from './support.js';

const GREETING = Buffer.from('4e42444d4147494349484156454f50540003', 'hex');

/** A peer that has exchanged flags. */
async function greeted(path: string, flags = 3): Promise<RawPeer> {
  const peer = await RawPeer.connect(path);
  expect(await peer.take(18)).toEqual(GREETING);
  peer.send(encodeClientFlags(flags));
  return peer;
}

interface Answer {
  type: number;
  data: Buffer;
}

/** Replies up to the last one. */
async function replies(peer: RawPeer, option: number): Promise<Answer[]> {
  const all: Answer[] = [];
  for (;;) {
    const header = decodeOptionReplyHeader(await peer.take(20));
    expect(header.option).toBe(option);
    all.push({ type: header.type, data: await peer.take(header.length) });
    if (header.type === Reply.ACK || header.type >= 2 ** 31) return all;
  }
}

async function ask(peer: RawPeer, option: number, data?: Uint8Array): Promise<Answer[]> {
  peer.send(encodeOption(option, data));
  return replies(peer, option);
}

const last = (answers: Answer[]): number => answers[answers.length - 1].type;
const stillThere = async (peer: RawPeer) => expect(last(await ask(peer, Option.LIST))).toBe(Reply.ACK);

describe.each(transports)('over the %s transport', (transport) => {
  test('EXPORT_NAME is answered with 124 zeroes unless the client left them out', async () => {
    const { path } = await serveMemory({ size: 4096 }, { transport });
    for (const flags of [0, 1, 2, 3]) {
      const peer = await greeted(path, flags);
      peer.send(encodeOption(Option.EXPORT_NAME, Buffer.from('disk')));
      const head = await peer.take(10);
      expect(head.readBigUInt64BE()).toBe(4096n);
      expect(head.readUInt16BE(8) & TransmissionFlag.HAS_FLAGS).toBe(1);
      if ((flags & 2) === 0) expect(await peer.take(124)).toEqual(Buffer.alloc(124));
      peer.send(
        Buffer.from('25609513 0000 0000 00000000000000ff 0000000000000000 00000001'.replaceAll(' ', ''), 'hex'),
      );
      expect(await peer.take(17)).toEqual(Buffer.from('674466980000000000000000000000ff00', 'hex'));
    }
  });

  test('EXPORT_NAME of an unknown export closes the connection', async () => {
    const { path } = await serveMemory({}, { transport });
    const peer = await greeted(path);
    peer.send(encodeOption(Option.EXPORT_NAME, Buffer.from('nobody')));
    expect(await peer.closed()).toHaveLength(0);
  });

  test('unknown client flags close the connection', async () => {
    const { path } = await serveMemory({}, { transport });
    for (const flags of [4, 7, 0x80000001]) {
      const peer = await greeted(path, flags);
      expect(await peer.closed()).toHaveLength(0);
    }
  });

  test('an option without its magic number closes the connection', async () => {
    const { path } = await serveMemory({}, { transport });
    const peer = await greeted(path);
    peer.send(Buffer.alloc(16, 0x41));
    expect(await peer.closed()).toHaveLength(0);
  });

  test('unknown options are UNSUP and their data is skipped, however much it is', async () => {
    const { path } = await serveMemory({}, { transport });
    const peer = await greeted(path);
    for (const option of [Option.PEEK_EXPORT, Option.STARTTLS, 12, 0x7fffffff, 0xffffffff]) {
      expect(last(await ask(peer, option, Buffer.alloc(1000, option)))).toBe(Reply.ERR_UNSUP);
    }
    expect(last(await ask(peer, 99, Buffer.alloc(3_000_000)))).toBe(Reply.ERR_UNSUP);
    expect(last(await ask(peer, Option.INFO, Buffer.alloc(3_000_000)))).toBe(Reply.ERR_TOO_BIG);
    await stillThere(peer);
  });

  test('ABORT is acknowledged and ends the connection, also with data', async () => {
    const { path } = await serveMemory({}, { transport });
    for (const data of [undefined, Buffer.from('why not')]) {
      const peer = await greeted(path);
      expect(await ask(peer, Option.ABORT, data)).toEqual([{ type: Reply.ACK, data: Buffer.alloc(0) }]);
      expect(await peer.closed()).toHaveLength(0);
    }
  });

  test('LIST names every export with its description; data makes it invalid', async () => {
    const disk = new MemoryDisk({ size: 512, info: { description: 'a disk' } });
    const { path } = await serve(
      new MemoryProvider([
        ['a', disk],
        ['ü', new MemoryDisk({ size: 512 })],
      ]),
      { transport },
    );
    const peer = await greeted(path);
    expect(last(await ask(peer, Option.LIST, Buffer.from([1])))).toBe(Reply.ERR_INVALID);
    const handshake = await NbdHandshake.connect({ path });
    expect(await handshake.list()).toEqual([
      { name: 'a', description: 'a disk' },
      { name: 'ü', description: '' },
    ]);
    await handshake.abort();
  });

  test('ten thousand exports are listed whole', async () => {
    const disk = new MemoryDisk({ size: 512 });
    const names = Array.from({ length: 10_000 }, (_, i) => `volume-with-a-rather-long-name-${i}`);
    const { path } = await serve(new MemoryProvider(names.map((name) => [name, disk])), { transport });
    const handshake = await NbdHandshake.connect({ path });
    expect((await handshake.list()).map(({ name }) => name)).toEqual(names);
    handshake.destroy();
  });

  test('INFO and then GO give the same answers; size and flags always, the rest when asked for', async () => {
    const { path } = await serveMemory({ size: 8192, info: { description: 'words' } }, { transport });
    const peer = await greeted(path);
    const bare = await ask(peer, Option.INFO, encodeInfoRequest('disk', []));
    expect(bare.map(({ type }) => type)).toEqual([Reply.INFO, Reply.ACK]);
    expect(decodeInfo(bare[0].data)).toMatchObject({ info: 'export', size: 8192 });
    const request = encodeInfoRequest('disk', [Info.BLOCK_SIZE, Info.NAME, Info.DESCRIPTION, 77, Info.NAME]);
    const info = await ask(peer, Option.INFO, request);
    expect(info.slice(0, -1).map(({ data }) => decodeInfo(data))).toEqual([
      decodeInfo(bare[0].data),
      { info: 'name', text: 'disk' },
      { info: 'description', text: 'words' },
      { info: 'blockSize', minimum: 1, preferred: 4096, maximum: 64 * 1024 * 1024 },
    ]);
    expect(await ask(peer, Option.GO, request)).toEqual(info);
  });

  test('INFO and GO of an unknown export say UNKNOWN with a text, and the handshake goes on', async () => {
    const { path } = await serveMemory({}, { transport });
    const peer = await greeted(path);
    for (const option of [Option.INFO, Option.GO]) {
      const [answer] = await ask(peer, option, encodeInfoRequest('nobody', []));
      expect(answer.type).toBe(Reply.ERR_UNKNOWN);
      expect(answer.data.toString()).toBe('there is no export "nobody"');
    }
    expect(last(await ask(peer, Option.GO, encodeInfoRequest('', [])))).toBe(Reply.ACK);
  });

  test('what the provider throws is POLICY with its text', async () => {
    const failing: ExportProvider = {
      list: () => Promise.reject(new SystemError(errnos.EACCES, 'listing is off')),
      describe: (): Promise<{ info: DeviceInfo; size: number }> =>
        Promise.reject(new SystemError(errnos.EBUSY, 'locked')),
      open: (): Promise<BlockDevice> => Promise.reject(new Error('broken')),
    };
    const { path } = await serve(failing, { transport });
    const peer = await greeted(path);
    const text = async (option: number, data?: Buffer) => {
      const [answer] = await ask(peer, option, data);
      expect(answer.type).toBe(Reply.ERR_POLICY);
      return answer.data.toString();
    };
    expect(await text(Option.LIST)).toBe('listing is off');
    expect(await text(Option.INFO, encodeInfoRequest('x', []))).toBe('locked');
    expect(await text(Option.GO, encodeInfoRequest('x', []))).toBe('broken');
  });

  test('malformed INFO and GO are INVALID and enter nothing', async () => {
    const provider = new SteeredProvider(new MemoryDisk({ size: 512 }));
    const { path } = await serve(provider, { transport });
    const peer = await greeted(path);
    const good = encodeInfoRequest('disk', [1]);
    for (const data of [
      Buffer.alloc(0),
      good.subarray(0, 5),
      Buffer.concat([good, Buffer.alloc(1)]),
      encodeInfoRequest('a\0b', []),
    ]) {
      expect(last(await ask(peer, Option.GO, data))).toBe(Reply.ERR_INVALID);
    }
    expect(provider.devices).toHaveLength(0);
  });

  test('no option but the last opens a device', async () => {
    const provider = new SteeredProvider(new MemoryDisk({ size: 512 }));
    const { path } = await serve(provider, { transport });
    const peer = await greeted(path);
    await ask(peer, Option.LIST);
    await ask(peer, Option.INFO, encodeInfoRequest('disk', []));
    await ask(peer, Option.STRUCTURED_REPLY);
    await ask(peer, Option.SET_META_CONTEXT, encodeMetaRequest('disk', ['base:allocation']));
    expect(provider.devices).toHaveLength(0);
    await ask(peer, Option.GO, encodeInfoRequest('disk', []));
    expect(provider.devices).toHaveLength(1);
    peer.socket.destroy();
    await eventually(() => provider.devices[0].closed).toBe(1);
  });

  test('DF is offered exactly with structured replies, which may be asked for twice', async () => {
    const { path } = await serveMemory({}, { transport });
    const peer = await greeted(path);
    const flags = async () => {
      const [answer] = await ask(peer, Option.INFO, encodeInfoRequest('', []));
      const info = decodeInfo(answer.data);
      return info.info === 'export' ? info.flags : 0;
    };
    expect((await flags()) & TransmissionFlag.SEND_DF).toBe(0);
    expect(last(await ask(peer, Option.STRUCTURED_REPLY, Buffer.from([1])))).toBe(Reply.ERR_INVALID);
    expect(last(await ask(peer, Option.STRUCTURED_REPLY))).toBe(Reply.ACK);
    expect(last(await ask(peer, Option.STRUCTURED_REPLY))).toBe(Reply.ACK);
    expect((await flags()) & TransmissionFlag.SEND_DF).not.toBe(0);
  });

  test('INFO and GO tell the canonical name where it is another one', async () => {
    const { path } = await serveMemory({ info: { name: 'disk@monday' } }, { transport });
    const peer = await greeted(path);
    for (const option of [Option.INFO, Option.GO]) {
      const answers = await ask(peer, option, encodeInfoRequest('disk', [Info.NAME]));
      expect(answers.slice(1, -1).map(({ data }) => decodeInfo(data))).toEqual([{ info: 'name', text: 'disk@monday' }]);
    }
  });

  describe('extended headers', () => {
    /** With a context chosen, as far as that can be. */
    const flagsOf = async (peer: RawPeer) => {
      await ask(peer, Option.SET_META_CONTEXT, encodeMetaRequest('disk', ['base:allocation']));
      const info = decodeInfo((await ask(peer, Option.INFO, encodeInfoRequest('disk', [])))[0].data);
      return info.info === 'export' ? info.flags : 0;
    };

    test('are had for the asking, once or twice, with or without structured replies before, and not with data', async () => {
      const { path } = await serveMemory({}, { transport });
      for (const before of [[], [Option.STRUCTURED_REPLY], [Option.EXTENDED_HEADERS]]) {
        const peer = await greeted(path);
        expect(last(await ask(peer, Option.EXTENDED_HEADERS, Buffer.alloc(1)))).toBe(Reply.ERR_INVALID);
        for (const option of before) expect(last(await ask(peer, option))).toBe(Reply.ACK);
        expect((await flagsOf(peer)) & TransmissionFlag.BLOCK_STATUS_PAYLOAD).toBe(
          before[0] === Option.EXTENDED_HEADERS ? TransmissionFlag.BLOCK_STATUS_PAYLOAD : 0,
        );
        expect(last(await ask(peer, Option.EXTENDED_HEADERS))).toBe(Reply.ACK);
        const dependent = TransmissionFlag.BLOCK_STATUS_PAYLOAD | TransmissionFlag.SEND_DF;
        expect((await flagsOf(peer)) & dependent).toBe(dependent);
      }
    });

    test('are not taken back by asking for structured replies, which says why', async () => {
      const { path } = await serveMemory({}, { transport });
      const peer = await greeted(path);
      await ask(peer, Option.EXTENDED_HEADERS);
      const [answer] = await ask(peer, Option.STRUCTURED_REPLY);
      expect(answer.type).toBe(Reply.ERR_EXT_HEADER_REQD);
      expect(answer.data.toString()).toContain('extended headers');
      expect(last(await ask(peer, Option.STRUCTURED_REPLY, Buffer.alloc(2)))).toBe(Reply.ERR_INVALID);
      expect((await flagsOf(peer)) & TransmissionFlag.BLOCK_STATUS_PAYLOAD).not.toBe(0);
    });

    test('open the meta contexts, and close EXPORT_NAME', async () => {
      const { path } = await serveMemory({}, { transport });
      const peer = await greeted(path);
      await ask(peer, Option.EXTENDED_HEADERS);
      const chosen = await ask(peer, Option.SET_META_CONTEXT, encodeMetaRequest('disk', ['base:allocation']));
      expect(chosen.map(({ type }) => type)).toEqual([Reply.META_CONTEXT, Reply.ACK]);
      peer.send(encodeOption(Option.EXPORT_NAME, Buffer.from('disk')));
      expect(await peer.closed()).toHaveLength(0);
    });
  });

  describe('meta contexts of a provider that has its own', () => {
    /** Offers `n:0`, `n:1` … without end. */
    class Numbers extends MemoryProvider {
      readonly queries: (string | null)[] = [];
      failing = false;
      async metaContexts(name: string, query: string | null, set: boolean): Promise<readonly string[]> {
        await this.describe(name);
        this.queries.push(query);
        if (this.failing) throw new SystemError(errnos.EIO, 'the store is gone');
        if (query === null || (query === 'n:' && !set)) return ['n:0', 'n:1'];
        if (query === 'n:many') return Array.from({ length: 65 }, (_, i) => `n:${i}`);
        return /^n:\d+$/.test(query) ? [query] : [];
      }
    }
    const start = async () => {
      const numbers = new Numbers([['disk', new MemoryDisk({ size: 4096 })]]);
      const { path } = await serve(numbers, { transport });
      const peer = await greeted(path);
      await ask(peer, Option.STRUCTURED_REPLY);
      const send = (option: number, ...queries: string[]) => ask(peer, option, encodeMetaRequest('disk', queries));
      return { numbers, peer, send };
    };
    const found = (answers: Answer[]) =>
      answers.slice(0, -1).map(({ data }) => {
        const { id, name } = decodeMetaContext(data);
        return [id, name];
      });

    test('each query is passed on; LIST has no ids, SET one for each context', async () => {
      const { numbers, send } = await start();
      expect(found(await send(Option.LIST_META_CONTEXT))).toEqual([
        [0, 'n:0'],
        [0, 'n:1'],
      ]);
      expect(found(await send(Option.LIST_META_CONTEXT, 'n:', 'n:1', 'x:'))).toEqual([
        [0, 'n:0'],
        [0, 'n:1'],
      ]);
      expect(found(await send(Option.SET_META_CONTEXT, 'n:77', 'n:', 'n:5', 'n:77'))).toEqual([
        [1, 'n:77'],
        [2, 'n:5'],
      ]);
      expect(numbers.queries).toEqual([null, 'n:', 'n:1', 'x:', 'n:77', 'n:', 'n:5', 'n:77']);
      expect(found(await send(Option.SET_META_CONTEXT))).toEqual([]);
    });

    test('an unknown export is UNKNOWN, whatever is asked', async () => {
      const { peer } = await start();
      for (const option of [Option.LIST_META_CONTEXT, Option.SET_META_CONTEXT]) {
        for (const queries of [[], ['n:1']]) {
          expect(last(await ask(peer, option, encodeMetaRequest('nobody', queries)))).toBe(Reply.ERR_UNKNOWN);
        }
      }
    });

    test('more than the limits allow is TOO_BIG, a failure is told, and neither leaves a choice', async () => {
      const { numbers, send, peer } = await start();
      const many = Array.from({ length: 257 }, (_, i) => `n:${i}`);
      expect(last(await send(Option.LIST_META_CONTEXT, ...many))).toBe(Reply.ERR_TOO_BIG);
      expect(numbers.queries).toEqual([]);
      expect(last(await send(Option.SET_META_CONTEXT, 'n:1'))).toBe(Reply.ACK);
      expect(last(await send(Option.SET_META_CONTEXT, 'n:many'))).toBe(Reply.ERR_TOO_BIG);
      expect(last(await send(Option.LIST_META_CONTEXT, 'n:many'))).toBe(Reply.ACK);
      numbers.failing = true;
      const [answer] = await send(Option.SET_META_CONTEXT, 'n:1');
      expect([answer.type, answer.data.toString()]).toEqual([Reply.ERR_POLICY, 'the store is gone']);
      await ask(peer, Option.GO, encodeInfoRequest('disk', []));
      // Block status of no context: an error chunk.
      peer.send(Buffer.from('25609513000000070000000000000001000000000000000000000100', 'hex'));
      expect((await peer.take(20)).readUInt16BE(6)).toBe(0x8001);
    });
  });

  test('a listener of its own: another provider, names read in another way; it can be given up alone', async () => {
    const { server, path } = await serveMemory({}, { transport });
    const own = new MemoryProvider([['only', new MemoryDisk({ size: 512 })]]);
    const address = { path: `${path}-own` };
    await server.listen(address, { provider: own, exportName: () => 'only' });
    for (const name of [Buffer.from('tapdisk_client\0'), Buffer.alloc(0)]) {
      const peer = await greeted(address.path);
      const request = Buffer.concat([Buffer.alloc(4), name, Buffer.alloc(2)]);
      request.writeUInt32BE(name.length, 0);
      expect(last(await ask(peer, Option.INFO, request))).toBe(Reply.ACK);
      peer.send(encodeOption(Option.EXPORT_NAME, name));
      expect((await peer.take(10)).readBigUInt64BE()).toBe(512n);
    }
    const elsewhere = await greeted(path);
    expect(last(await ask(elsewhere, Option.INFO, encodeInfoRequest('only', [])))).toBe(Reply.ERR_UNKNOWN);
    expect(server.unlisten(address)).toBe(true);
    expect(server.unlisten(address)).toBe(false);
    await expect(RawPeer.connect(address.path)).rejects.toThrow();
    await stillThere(elsewhere);
  });

  test('a client that takes no answers is dropped at the deadline, also when it has said goodbye', async () => {
    const disk = new MemoryDisk({ size: 512 });
    const long = 'x'.repeat(4000);
    const names = Array.from({ length: 3000 }, (_, i): [string, MemoryDisk] => [`${i}-${long}`, disk]);
    const { path, server } = await serve(new MemoryProvider(names), { transport, limits: { handshakeMs: 100 } });
    for (const more of [Buffer.alloc(0), encodeOption(Option.ABORT)]) {
      const peer = await greeted(path);
      peer.socket.pause();
      peer.send(Buffer.concat([encodeOption(Option.LIST), more]));
      await eventually(() => server.connections()).toHaveLength(1);
      await eventually(() => server.connections()).toEqual([]);
      peer.socket.destroy();
    }
  });

  describe('meta contexts', () => {
    const contexts = ['base:allocation', 'test:one', 'test:two'];
    const start = async (): Promise<RawPeer> => {
      const { path } = await serveMemory({ info: { metaContexts: contexts } }, { transport });
      const peer = await greeted(path);
      expect(last(await ask(peer, Option.LIST_META_CONTEXT, encodeMetaRequest('disk', [])))).toBe(Reply.ERR_INVALID);
      await ask(peer, Option.STRUCTURED_REPLY);
      return peer;
    };
    const names = (answers: Answer[]) => {
      expect(last(answers)).toBe(Reply.ACK);
      return answers.slice(0, -1).map(({ data }) => decodeMetaContext(data).name);
    };

    test('LIST tells all, a namespace, or one', async () => {
      const peer = await start();
      const list = async (...queries: string[]) =>
        names(await ask(peer, Option.LIST_META_CONTEXT, encodeMetaRequest('disk', queries)));
      expect(await list()).toEqual(contexts);
      expect(await list('test:')).toEqual(['test:one', 'test:two']);
      expect(await list('test:two', 'base:')).toEqual(['base:allocation', 'test:two']);
      expect(await list('nobody:', 'base:alloc')).toEqual([]);
    });

    test('SET knows no wildcards and gives each context an id of its own', async () => {
      const peer = await start();
      const set = (...queries: string[]) => ask(peer, Option.SET_META_CONTEXT, encodeMetaRequest('disk', queries));
      expect(names(await set('test:', 'base:'))).toEqual([]);
      expect(names(await set())).toEqual([]);
      const answers = await set('test:two', 'base:allocation', 'no:such');
      expect(names(answers)).toEqual(['base:allocation', 'test:two']);
      expect(new Set(answers.slice(0, -1).map(({ data }) => decodeMetaContext(data).id)).size).toBe(2);
    });

    test('an unknown export is UNKNOWN, malformed data INVALID', async () => {
      const peer = await start();
      expect(last(await ask(peer, Option.SET_META_CONTEXT, encodeMetaRequest('nobody', [])))).toBe(Reply.ERR_UNKNOWN);
      expect(last(await ask(peer, Option.SET_META_CONTEXT, Buffer.alloc(3)))).toBe(Reply.ERR_INVALID);
      await stillThere(peer);
    });

    test('a choice is bound to its export, and a failed SET clears it', async () => {
      const { path } = await serveMemory({}, { transport });
      const chosen = async (exportName: string, thenFail: boolean) => {
        const handshake = await NbdHandshake.connect({ path });
        await handshake.structuredReply();
        await handshake.setMetaContexts('disk', ['base:allocation']);
        const contexts = [...(await handshake.setMetaContexts('disk', ['base:allocation']))];
        if (thenFail) await handshake.option(Option.SET_META_CONTEXT, Buffer.alloc(3));
        const nbd = await handshake.go(exportName);
        try {
          // The client believes in its contexts; the server answers only where they still hold.
          (nbd as unknown as { contexts: unknown }).contexts = contexts;
          return await nbd.blockStatus(0, 512).then(
            () => true,
            () => false,
          );
        } finally {
          nbd.destroy();
        }
      };
      expect(await chosen('disk', false)).toBe(true);
      expect(await chosen('', false)).toBe(false);
      expect(await chosen('disk', true)).toBe(false);
    });
  });

  test('a client that sends options without end is dropped', async () => {
    const { path } = await serveMemory({}, { transport });
    const peer = await greeted(path);
    for (let i = 0; i < 32; i++) await ask(peer, Option.STRUCTURED_REPLY);
    peer.send(encodeOption(Option.STRUCTURED_REPLY));
    expect(await peer.closed()).toHaveLength(0);
  });

  test('a client that asked for the list may ask for each export of it', async () => {
    const disks = Array.from({ length: 40 }, (_, i): [string, MemoryDisk] => [
      `disk-${i}`,
      new MemoryDisk({ size: 512 }),
    ]);
    const { path } = await serve(new MemoryProvider(disks), { transport });
    const handshake = await NbdHandshake.connect({ path });
    await handshake.structuredReply();
    const listed = await handshake.list();
    expect(listed).toHaveLength(40);
    for (const { name } of listed) {
      expect(await handshake.listMetaContexts(name)).toEqual(['base:allocation']);
      expect((await handshake.info(name)).size).toBe(512);
    }
    await handshake.abort();
  });

  test('asking for the list again and again gives no more options', async () => {
    const { path } = await serveMemory({}, { transport });
    const peer = await greeted(path);
    for (let i = 0; i < 32 + 2 * 8; i++) await ask(peer, Option.LIST);
    peer.send(encodeOption(Option.LIST));
    expect(await peer.closed()).toHaveLength(0);
  });

  test('option data beyond every limit closes the connection at once', async () => {
    const { path } = await serveMemory({}, { transport });
    const peer = await greeted(path);
    const header = encodeOption(99);
    header.writeUInt32BE(0xffffffff, 12);
    peer.send(header);
    expect(await peer.closed()).toHaveLength(0);
  });

  test('a client that does not finish the handshake in time is dropped, whatever it has sent', async () => {
    const log = new RecordingLog();
    const { path, server } = await serveMemory({}, { transport, log, limits: { handshakeMs: 50 } });
    const silent = await RawPeer.connect(path);
    const half = await greeted(path);
    half.send(encodeOption(Option.GO, encodeInfoRequest('disk', [])).subarray(0, 20));
    expect(await silent.closed()).toEqual(GREETING);
    await half.closed();
    await eventually(() => server.connections()).toEqual([]);
    expect(log.lines.filter((line) => line.includes('handshake was not done'))).toHaveLength(2);
  });

  test('a client that vanishes while its export is opened leaves no open device', async () => {
    let open: () => void = () => {};
    const provider = new SteeredProvider(new MemoryDisk({ size: 512 }));
    const gate = new Promise<void>((resolve) => {
      open = resolve;
    });
    const slow: ExportProvider = {
      list: () => provider.list(),
      describe: () => provider.describe(),
      open: async () => {
        await gate;
        return provider.open();
      },
    };
    const { path, server } = await serve(slow, { transport });
    const peer = await greeted(path);
    peer.send(encodeOption(Option.GO, encodeInfoRequest('disk', [])));
    peer.socket.destroy();
    open();
    await eventually(() => provider.devices.map(({ closed }) => closed)).toEqual([1]);
    await eventually(() => server.connections()).toEqual([]);
  });
});
