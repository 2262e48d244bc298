/** What becomes of operations when Ceph refuses the client: shown with a cluster that does as it is told. */
import { describe, expect, it } from 'vitest';
import type { ObjectIo } from '../../../src/blockers/driver.js';
import { Connection, type ConnectionOptions } from '../../../src/blockers/rados/connection.js';
import { RadosIo } from '../../../src/blockers/rados/io.js';
import type { Cluster, Done, Pool } from '../../../src/rados/types.js';
import { monotonicMs } from '../../../src/sys/clock.js';
import { errnos, SystemError } from '../../../src/sys/errno.js';

/** An operation that a pool was handed. */
interface Sent {
  readonly object: string;
  readonly kind: 'read' | 'write';
  readonly done: Done;
}

class FakePool {
  readonly sent: Sent[] = [];
  constructor(readonly client: number) {}
  read(object: string, _address: number, _length: number, _offset: number, done: Done): void {
    this.sent.push({ object, kind: 'read', done });
  }
  write(object: string, _address: number, _length: number, _offset: number, done: Done): void {
    this.sent.push({ object, kind: 'write', done });
  }
}

/** Clients are handed out one after the other; each attempt to get one waits until it is let go. */
class FakeCeph {
  readonly pools: FakePool[] = [];
  readonly closed: number[] = [];
  attempts = 0;
  /** Errors of the next attempts. */
  readonly failures: Error[] = [];
  /** Resolves attempts. */
  gate: Promise<void> = Promise.resolve();

  readonly connect = async (): Promise<Cluster> => {
    this.attempts++;
    await this.gate;
    const failure = this.failures.shift();
    if (failure) throw failure;
    const client = this.pools.length;
    const pool = new FakePool(client);
    this.pools.push(pool);
    const cluster = {
      instanceId: BigInt(client),
      inFlight: { count: 0, oldestSince: 0 },
      pool: async () => pool as unknown as Pool,
      close: async () => void this.closed.push(client),
    };
    return cluster as unknown as Cluster;
  };
}

function makeIo(name: string, more: Partial<ObjectIo> = {}): ObjectIo & { errno: number | null } {
  const io = {
    name,
    hint: 0,
    isNamed: () => false,
    offset: 0,
    length: 512,
    address: 0,
    bytes: Buffer.alloc(512),
    fua: false,
    noHole: false,
    uncached: false,
    deadline: 0,
    errno: null as number | null,
    complete(errno: number) {
      if (io.errno !== null) throw new Error(`${name} was completed twice`);
      io.errno = errno;
    },
    ...more,
  };
  return io;
}

async function opened(options: Partial<ConnectionOptions> = {}) {
  const ceph = new FakeCeph();
  const connection = new Connection({
    pool: 'blocks',
    namespace: '',
    conf: null,
    id: null,
    log: null,
    renewed: async () => {},
    connect: ceph.connect,
    ...options,
  });
  await connection.open();
  connection.begin();
  const io = new RadosIo(connection, () => {});
  return { ceph, connection, io };
}

/** A promise and what resolves it. */
function latch(): { promise: Promise<void>; open: () => void } {
  let open = (): void => {};
  const promise = new Promise<void>((resolve) => {
    open = resolve;
  });
  return { promise, open };
}

const REFUSED = -errnos.ESHUTDOWN;

describe('when Ceph refuses the client', () => {
  it('one new client is got, and all that was refused is sent again through it, and nothing else', async () => {
    const { ceph, connection, io } = await opened();
    const ios = [makeIo('a'), makeIo('b'), makeIo('c')];
    io.write(ios[0]);
    io.write(ios[1]);
    io.read(ios[2]);
    const [a, b, c] = ceph.pools[0].sent;
    a.done(0);
    b.done(REFUSED);
    c.done(REFUSED);
    const later = makeIo('later');
    io.write(later);
    await expect.poll(() => ceph.pools[1]?.sent.length).toBe(3);
    expect(ceph.attempts).toBe(2);
    expect(ceph.pools[0].sent).toHaveLength(3);
    expect(ceph.pools[1].sent.map(({ object, kind }) => `${kind} ${object}`)).toEqual([
      'write b',
      'read c',
      'write later',
    ]);
    for (const { done, kind } of ceph.pools[1].sent) done(kind === 'read' ? 512 : 0);
    expect([...ios, later].map(({ errno }) => errno)).toEqual([0, 0, 0, 0]);
    expect(connection.blocklisted).toBe(1);
    expect(ceph.closed).toEqual([0]);
  });

  it('a refusal of the old client that comes late does not cost the new one', async () => {
    const { ceph, connection, io } = await opened();
    const ios = [makeIo('a'), makeIo('b')];
    for (const one of ios) io.write(one);
    const [a, b] = ceph.pools[0].sent;
    a.done(REFUSED);
    await expect.poll(() => ceph.pools[1]?.sent.length).toBe(1);
    b.done(-errnos.ECANCELED);
    expect(ceph.pools[1].sent.map(({ object }) => object)).toEqual(['a', 'b']);
    expect(connection.blocklisted).toBe(1);
    expect(connection.ready).toBe(true);
  });

  it('ECANCELED of the client that is in use is an error', async () => {
    const { ceph, io } = await opened();
    const one = makeIo('a');
    io.write(one);
    ceph.pools[0].sent[0].done(-errnos.ECANCELED);
    expect(one.errno).toBe(errnos.ECANCELED);
  });

  it('nothing is sent before the new client has been made known', async () => {
    const { promise, open } = latch();
    const { ceph, io } = await opened({ renewed: () => promise });
    const one = makeIo('a');
    io.write(one);
    ceph.pools[0].sent[0].done(REFUSED);
    await expect.poll(() => ceph.pools.length).toBe(2);
    io.write(makeIo('b'));
    await new Promise(setImmediate);
    expect(ceph.pools[1].sent).toEqual([]);
    open();
    await expect.poll(() => ceph.pools[1].sent.length).toBe(2);
  });

  it('when making it known fails, another client is got', async () => {
    const outcomes = [() => Promise.reject(new SystemError(errnos.EIO, 'told to fail')), () => Promise.resolve()];
    const { ceph, io } = await opened({ renewed: () => (outcomes.shift() as () => Promise<void>)() });
    io.write(makeIo('a'));
    ceph.pools[0].sent[0].done(REFUSED);
    await expect.poll(() => ceph.pools[2]?.sent.length).toBe(1);
    expect(ceph.pools[1].sent).toEqual([]);
    expect(ceph.closed.sort()).toEqual([0, 1]);
  });

  it('what may not begin any more is not sent again: ETIME, also while no client can be got', async () => {
    const { ceph, io } = await opened();
    const { promise, open } = latch();
    ceph.gate = promise;
    ceph.failures.push(new SystemError(errnos.ETIMEDOUT, 'told to fail'));
    const late = makeIo('late', { deadline: monotonicMs() - 1 });
    const timeless = makeIo('timeless');
    const good = makeIo('good', { deadline: monotonicMs() + 600_000 });
    for (const one of [late, timeless, good]) io.write(one);
    for (const { done } of ceph.pools[0].sent) done(REFUSED);
    open();
    await expect.poll(() => late.errno).toBe(errnos.ETIME);
    await expect.poll(() => ceph.pools[1]?.sent.length).toBe(2);
    expect(ceph.pools[1].sent.map(({ object }) => object)).toEqual(['timeless', 'good']);
  });

  it('what may not begin any more ends with ETIME while an attempt to get a client takes long, and not after it', async () => {
    const { ceph, io } = await opened();
    const { promise, open } = latch();
    ceph.gate = promise;
    const ios = [makeIo('late', { deadline: monotonicMs() + 1 }), makeIo('timeless')];
    for (const one of ios) io.write(one);
    for (const { done } of ceph.pools[0].sent) done(REFUSED);
    await expect.poll(() => ios[0].errno, { timeout: 20_000 }).toBe(errnos.ETIME);
    expect(ios[1].errno).toBe(null);
    expect(ceph.pools).toHaveLength(1);
    open();
    await expect.poll(() => ceph.pools[1]?.sent.map(({ object }) => object)).toEqual(['timeless']);
  });

  it('what is done with promises is done again, from its beginning', async () => {
    const { ceph, connection } = await opened();
    const seen: number[] = [];
    const result = await connection.attempt(async (pool) => {
      const { client } = pool as unknown as FakePool;
      seen.push(client);
      if (client < 2) throw new SystemError(errnos.ESHUTDOWN, 'told to fail');
      return client;
    });
    expect(result).toBe(2);
    expect(seen).toEqual([0, 1, 2]);
    expect(connection.blocklisted).toBe(2);
    expect(ceph.attempts).toBe(3);
  });

  it('what waits ends with EBADF when the connection is closed, and a client that comes too late is closed', async () => {
    const { ceph, connection, io } = await opened();
    const { promise, open } = latch();
    ceph.gate = promise;
    const one = makeIo('a');
    io.write(one);
    ceph.pools[0].sent[0].done(REFUSED);
    const waiting = connection.attempt(async () => 'never');
    await connection.close(0);
    expect(one.errno).toBe(errnos.EBADF);
    await expect(waiting).rejects.toMatchObject({ code: 'EBADF' });
    open();
    await expect.poll(() => ceph.closed).toEqual([0, 1]);
    const after = makeIo('after');
    io.write(after);
    expect(after.errno).toBe(errnos.EBADF);
  });
});

describe('reads', () => {
  it('what the object has not is zeros, and a missing object ENOENT', async () => {
    const { ceph, io } = await opened();
    const short = makeIo('short', { bytes: Buffer.alloc(512, 0xa5) });
    const none = makeIo('none');
    io.read(short);
    io.read(none);
    ceph.pools[0].sent[0].done(100);
    ceph.pools[0].sent[1].done(-errnos.ENOENT);
    expect(short.errno).toBe(0);
    expect(short.bytes.equals(Buffer.concat([Buffer.alloc(100, 0xa5)], 512))).toBe(true);
    expect(none.errno).toBe(errnos.ENOENT);
  });
});
