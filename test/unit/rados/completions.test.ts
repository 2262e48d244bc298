import koffi from 'koffi';
import { afterEach, expect, it, vi } from 'vitest';
import { type CompletionCalls, Completions, PATIENT } from '../../../src/rados/completions.js';
import { errnos } from '../../../src/sys/errno.js';
import { turn } from './support.js';

const putw = koffi.load('libc.so.6').func('int putw(int word, uintptr_t stream)');

/** librados as far as completions go; it ends operations when the test says so, as its threads do. */
class Library implements CompletionCalls {
  /** Addresses of the next completions. */
  readonly addresses: number[] = [];
  readonly results = new Map<number, number>();
  readonly released: number[] = [];
  readonly cancelled: number[] = [];
  #last = 0x7f00_0000_0000;
  #stream = 0;

  create(_callback: number, stream: number): number {
    this.#stream = stream;
    this.#last += 64;
    return this.addresses.shift() ?? this.#last;
  }
  result(completion: number): number {
    return this.results.get(completion) ?? 0;
  }
  release(completion: number): void {
    this.released.push(completion);
  }
  cancel(_io: number, completion: number): void {
    this.cancelled.push(completion);
  }
  /** The operation with this completion ends. */
  end(completion: number, result: number): void {
    this.results.set(completion, result);
    putw(completion | 0, this.#stream);
  }
}

const made: Completions[] = [];

function completions(most?: number): { library: Library; all: Completions } {
  const library = new Library();
  const all = new Completions(library, most);
  made.push(all);
  return { library, all };
}

afterEach(() => {
  for (const all of made.splice(0)) all.close();
});

it('ends each operation with its own result, whatever their order', async () => {
  const { library, all } = completions();
  const results = [0, 0, 0, 0];
  const taken = [0, 1, 2, 3].map((i) => all.take(1, (result) => results.splice(i, 1, result)));
  for (const i of [2, 0, 3, 1]) library.end(taken[i], 100 + i);
  expect(results).toEqual([0, 0, 0, 0]);
  await expect.poll(() => results).toEqual([100, 101, 102, 103]);
  expect(library.released.sort()).toEqual([...taken].sort());
  expect(all.count).toBe(0);
});

it('never has two operations in flight whose completions have the same low 32 bits', async () => {
  const { library, all } = completions();
  const results: string[] = [];
  library.addresses.push(0x5555_0000_1000, 0x7fff_0000_1000, 0x7ffe_0000_1000, 0x7fff_0000_2000, 0x7ffe_0000_1000);
  const first = all.take(1, (result) => results.push(`first ${result}`));
  const second = all.take(1, (result) => results.push(`second ${result}`));
  expect([first, second]).toEqual([0x5555_0000_1000, 0x7fff_0000_2000]);
  expect(library.released).toEqual([0x7fff_0000_1000, 0x7ffe_0000_1000]);
  library.end(second, 2);
  library.end(first, 1);
  await expect.poll(() => results).toEqual(['second 2', 'first 1']);
  // Both have ended: the address may be used again.
  const third = all.take(1, (result) => results.push(`third ${result}`));
  expect(third).toBe(0x7ffe_0000_1000);
  library.end(third, 3);
  await expect.poll(() => results.length).toBe(3);
});

it('tells apart completions whose low 32 bits are the same one after the other', async () => {
  const { library, all } = completions();
  const results: number[] = [];
  for (const high of [1, 2, 3, 4]) {
    library.addresses.push(high * 2 ** 40 + 0x8000_0010);
    library.end(
      all.take(1, (result) => results.push(result)),
      high,
    );
    await expect.poll(() => results.length).toBe(high);
  }
  expect(results).toEqual([1, 2, 3, 4]);
});

it('holds back what is beyond its limit, and begins it in order', async () => {
  const { library, all } = completions(2);
  const begun: string[] = [];
  const results: string[] = [];
  const inFlight: number[] = [];
  for (const name of ['a', 'b', 'c', 'd', 'e']) {
    all.queue(
      1,
      (completion) => {
        begun.push(name);
        inFlight.push(completion);
        return 0;
      },
      (result) => results.push(`${name} ${result}`),
    );
  }
  expect(begun).toEqual(['a', 'b']);
  expect(all.count).toBe(5);
  expect(all.take(1, () => {})).toBe(0);
  library.end(inFlight[1], 7);
  await expect.poll(() => begun).toEqual(['a', 'b', 'c']);
  for (let i = 0; results.length < 5; i++) {
    const open = inFlight.filter((completion) => !library.released.includes(completion));
    for (const completion of open) library.end(completion, i);
    await turn();
    await expect.poll(() => open.every((completion) => library.released.includes(completion))).toBe(true);
  }
  expect(begun).toEqual(['a', 'b', 'c', 'd', 'e']);
  expect(results[0]).toBe('b 7');
  expect(all.count).toBe(0);
});

it('ends what librados refuses, after the call that began it, and frees its memory', async () => {
  const { library, all } = completions();
  const events: string[] = [];
  all.queue(
    1,
    () => -errnos.E2BIG,
    (result) => events.push(`ended ${result}`),
    () => events.push('freed'),
  );
  expect(events).toEqual([]);
  await turn();
  expect(events.sort()).toEqual([`ended ${-errnos.E2BIG}`, 'freed']);
  expect(library.released.length).toBe(1);
});

it('calls the other callbacks when one throws', async () => {
  const later = vi.spyOn(globalThis, 'queueMicrotask').mockImplementation(() => {});
  const { library, all } = completions();
  const results: number[] = [];
  const bad = all.take(1, () => {
    throw new Error('of the callback');
  });
  const good = all.take(1, (result) => results.push(result));
  library.end(bad, 0);
  library.end(good, 5);
  await expect.poll(() => results).toEqual([5]);
  expect(later).toHaveBeenCalledTimes(1);
  expect(later.mock.calls[0][0]).toThrow('of the callback');
  later.mockRestore();
});

it('cancels what waits at once, and asks librados to give up the rest', async () => {
  const { library, all } = completions(1);
  const events: string[] = [];
  let inFlight = 0;
  const begin = (name: string): void =>
    all.queue(
      1,
      (completion) => {
        inFlight = completion;
        return 0;
      },
      (result) => events.push(`${name} ${result}`),
      () => events.push(`${name} freed`),
    );
  begin('first');
  begin('second');
  all.cancel();
  expect(events.sort()).toEqual([`second ${-errnos.ECANCELED}`, 'second freed']);
  expect(library.cancelled).toEqual([inFlight]);
  expect(await all.idle(0)).toBe(false);
  library.end(inFlight, -errnos.ECANCELED);
  expect(await all.idle(20_000)).toBe(true);
  expect(events).toContain(`first ${-errnos.ECANCELED}`);
});

it('frees the memory of an abandoned operation when librados has ended it, and not before', async () => {
  const { library, all } = completions();
  const events: string[] = [];
  let inFlight = 0;
  all.queue(
    1,
    (completion) => {
      inFlight = completion;
      return 0;
    },
    (result) => events.push(`ended ${result}`),
    () => events.push('freed'),
  );
  all.abandon();
  expect(events).toEqual([`ended ${-errnos.ECANCELED}`]);
  library.end(inFlight, 5);
  await expect.poll(() => events).toEqual([`ended ${-errnos.ECANCELED}`, 'freed']);
});

it('knows since when the oldest operation waits for the cluster; one that waits for other clients does not count', async () => {
  const { library, all } = completions();
  expect(all.oldestSince).toBe(0);
  const inFlight: number[] = [];
  const begin = (completion: number): number => {
    inFlight.push(completion);
    return 0;
  };
  all.queue(1, begin, () => {}, null, PATIENT);
  expect(all.oldestSince).toBe(0);
  all.queue(1, begin, () => {}, null, 12);
  all.queue(1, begin, () => {}, null, 34);
  expect(all.oldestSince).toBe(12);
  library.end(inFlight[1], 0);
  await expect.poll(() => all.oldestSince).toBe(34);
  for (const completion of [inFlight[0], inFlight[2]]) library.end(completion, 0);
  expect(await all.idle(20_000)).toBe(true);
  expect(all.oldestSince).toBe(0);
});
