import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import type { Io } from '../../../src/cli/common/io.js';
import { Progress } from '../../../src/cli/common/progress.js';

describe('progress', () => {
  beforeEach(() => void vi.useFakeTimers({ now: 1_000_000 }));
  afterEach(() => void vi.useRealTimers());

  function terminal(isTTY: boolean): { io: Io; written: string[] } {
    const written: string[] = [];
    const sink = { isTTY, write: (text: string | Uint8Array) => written.push(String(text)) > 0 };
    return { io: { stdin: (async function* () {})(), stdout: sink, stderr: sink, env: {} }, written };
  }

  it('says nothing where no terminal is', async () => {
    const { io, written } = terminal(false);
    const progress = new Progress(io);
    progress.update('reading', 1, 2);
    const work = progress.during('removing', new Promise((resolve) => setTimeout(resolve, 5_000)));
    await vi.advanceTimersByTimeAsync(5_000);
    await work;
    progress.clear();
    expect(written).toEqual([]);
  });

  it('writes over its line, not too often, and removes it', () => {
    const { io, written } = terminal(true);
    const progress = new Progress(io);
    for (let done = 1; done <= 100; done++) {
      progress.update('reading', done, 200);
      vi.advanceTimersByTime(10);
    }
    progress.clear();
    progress.clear();
    expect(written[0]).toBe('\r\x1b[Kreading: 1 of 200 (0%)');
    expect(written.at(-1)).toBe('\r\x1b[K');
    expect(written).toHaveLength(11);
  });

  it('shows the rate of work that takes long, anew for each kind of work', () => {
    const { io, written } = terminal(true);
    const progress = new Progress(io);
    for (let done = 0; done <= 3000; done += 100) {
      progress.update('reading', done, 6000);
      vi.advanceTimersByTime(100);
    }
    expect(written.at(-1)).toBe('\r\x1b[Kreading: 3000 of 6000 (50%), 1000/s');
    progress.update('looking', 500);
    expect(written.at(-1)).toBe('\r\x1b[Klooking: 500');
  });

  it('counts the seconds of work that takes long, and shows nothing of work that does not', async () => {
    const { io, written } = terminal(true);
    const progress = new Progress(io);
    await progress.during('creating', Promise.resolve());
    expect(written).toEqual([]);
    const work = progress.during('removing', new Promise((resolve) => setTimeout(() => resolve('done'), 2_500)));
    await vi.advanceTimersByTimeAsync(2_500);
    expect(await work).toBe('done');
    expect(written).toEqual(['\r\x1b[Kremoving … 1 s', '\r\x1b[Kremoving … 2 s', '\r\x1b[K']);
    const failing = progress.during('removing', Promise.reject(new Error('no')));
    await expect(failing).rejects.toThrow('no');
    expect(vi.getTimerCount()).toBe(0);
  });
});
