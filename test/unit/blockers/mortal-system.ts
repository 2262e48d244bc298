/**
 * The kernel's file system for a driver that can be killed in the middle of its work: what it has begun ends, nothing else begins, whoever
 * waits hears of an error, and its descriptors are closed, as those of a killed process are.
 */
import fs from 'node:fs';
import { kernel } from '../../../src/blockers/file/kernel.js';
import type { FileSystem } from '../../../src/blockers/file/system.js';
import { errnos, SystemError } from '../../../src/sys/errno.js';

export class Mortal {
  readonly system: FileSystem;
  readonly #descriptors = new Set<number>();
  #killed = false;
  #running = 0;

  constructor() {
    this.system = new Proxy(kernel, { get: (target, name) => this.#wrap(target, name) });
  }

  async kill(): Promise<void> {
    this.#killed = true;
    while (this.#running > 0) await new Promise((resolve) => setImmediate(resolve));
    for (const fd of this.#descriptors) fs.closeSync(fd);
    this.#descriptors.clear();
  }

  #wrap(target: FileSystem, name: string | symbol): unknown {
    const value: unknown = Reflect.get(target, name);
    if (name === 'changesNow' || name === 'marks') return this.#wrapAll(value as object);
    if (typeof value !== 'function') return value;
    return (...args: unknown[]) => {
      if (name === 'read' || name === 'write') return this.#transfer(target, name, args);
      if (this.#killed) return deadAnswer(name);
      const result: unknown = value.apply(target, args);
      return result instanceof Promise ? this.#watch(name, args, result) : result;
    };
  }

  #wrapAll(calls: object): object {
    return new Proxy(calls, {
      get: (target, name) => {
        const value: unknown = Reflect.get(target, name);
        if (typeof value !== 'function') return value;
        return (...args: unknown[]) => {
          if (this.#killed) throw killed();
          const result: unknown = value.apply(target, args);
          if (name === 'open') this.#descriptors.add(result as number);
          if (name === 'close') this.#descriptors.delete(args[0] as number);
          return result instanceof Promise ? this.#watch(name, args, result) : result;
        };
      },
    });
  }

  /** What ends after the kill has ended with an error, as far as anybody hears. */
  async #watch(name: string | symbol, args: unknown[], result: Promise<unknown>): Promise<unknown> {
    this.#running++;
    if (name === 'close') this.#descriptors.delete(args[0] as number);
    const outcome = await result.then(
      (value) => ({ value, error: null }),
      (error: unknown) => ({ value: null, error }),
    );
    this.#running--;
    if (name === 'open' && outcome.error === null) this.#descriptors.add(outcome.value as number);
    if (this.#killed) throw killed();
    if (outcome.error !== null) throw outcome.error;
    return outcome.value;
  }

  #transfer(target: FileSystem, name: 'read' | 'write', args: unknown[]): void {
    const done = args.pop() as (error: Error | null, n: number) => void;
    if (this.#killed) {
      done(killed(), 0);
      return;
    }
    this.#running++;
    const ended = (error: Error | null, n: number): void => {
      this.#running--;
      if (this.#killed) done(killed(), 0);
      else done(error, n);
    };
    (target[name] as (...all: unknown[]) => void)(...args, ended);
  }
}

const killed = (): SystemError => new SystemError(errnos.EIO, 'the process was killed');

function deadAnswer(name: string | symbol): unknown {
  if (name === 'pread' || name === 'preadCached' || name === 'pwrite') return -1;
  if (name === 'fdatasyncNow' || name === 'fallocateNow' || name === 'lend' || name === 'openCached') return -1;
  if (name === 'errno') return errnos.EIO;
  if (name === 'now' || name === 'links') return 0;
  return Promise.reject(killed());
}
