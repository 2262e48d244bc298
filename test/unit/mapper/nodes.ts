/** Two nodes on one store, with a clock that only a test moves. */
import { setImmediate as turn } from 'node:timers/promises';
import type { Clock } from '../../../src/mapper/clock.js';
import type { LockRegistry } from '../../../src/mapper/locking/registry.js';
import { type NoteStore, openNotes } from '../../../src/mapper/provisional/notes.js';
import { memoryNode, memoryStores, type Node, type Stores } from './support.js';

/** How long the real file system may take, in ms of its own time. */
const REAL_MS = 5000;

interface Alarm {
  at: number;
  readonly call: () => void;
}

/** Time stands still but for `pass`. */
export class TestClock implements Clock {
  #now = 1000;
  readonly #alarms = new Set<Alarm>();

  now(): number {
    return this.#now;
  }

  after(ms: number, call: () => void): () => void {
    const alarm = { at: this.#now + Math.max(0, ms), call };
    this.#alarms.add(alarm);
    return () => this.#alarms.delete(alarm);
  }

  /** Lets that many ms pass, with everything that happens meanwhile. */
  async pass(ms: number): Promise<void> {
    const end = this.#now + ms;
    await settle();
    for (;;) {
      const due = [...this.#alarms].filter(({ at }) => at <= end).sort((a, b) => a.at - b.at)[0];
      if (!due) break;
      this.#now = Math.max(this.#now, due.at);
      this.#alarms.delete(due);
      due.call();
      await settle();
    }
    this.#now = end;
    await settle();
  }

  /** Lets time pass until the promise is settled, at most `limit` ms. @returns how long it took */
  async until(promise: Promise<unknown>, limit: number): Promise<number> {
    const from = this.#now;
    let settled = false;
    const done = (): void => {
      settled = true;
    };
    promise.then(done, done);
    await settle();
    while (!settled && this.#now - from < limit) await this.pass(10);
    if (!settled) throw new Error(`still waiting after ${limit} ms`);
    return this.#now - from;
  }
}

/** What is under way gets on as far as it can without time passing; what the real file system was asked for (a registry of locks) is waited for. */
export async function settle(): Promise<void> {
  const limit = performance.now() + REAL_MS;
  do {
    for (let i = 0; i < 20; i++) await turn();
  } while (usesFiles() && performance.now() < limit);
}

/** Calls of the file system are under way in this process. */
function usesFiles(): boolean {
  return process.getActiveResourcesInfo().some((type) => /^FSReq|^CloseReq$/.test(type));
}

export interface TwoNodes {
  readonly clock: TestClock;
  readonly stores: Stores;
  readonly a: Node;
  readonly b: Node;
}

export const A = 'node1_1002';
export const B = 'node2_1002';

export interface NodeOptions {
  readonly inherited?: number[];
  readonly lockWaitMs?: number;
  readonly registry?: LockRegistry;
  /** Where first writes are noted; without it they are durable before their answer. */
  readonly notes?: NoteStore;
  readonly isDurableOnAck?: boolean;
  /** Which start of the machine it is. */
  readonly boot?: string;
  /** Which mount the objects' file system is of. */
  readonly mount?: () => string | null;
  /** Called before the mapper starts to act. */
  readonly prepare?: (node: Node) => void;
}

/** A mapper that looks after its locks. */
export function startNode(stores: Stores, clock: TestClock, owner: string, options: NodeOptions = {}): Node {
  const {
    inherited = [],
    lockWaitMs = 30_000,
    registry,
    notes,
    isDurableOnAck = false,
    boot = 'this start',
    mount,
  } = options;
  const log = { warn: () => {}, info: () => {} };
  const node = memoryNode(stores, owner, inherited, {
    clock,
    lockWaitMs,
    isDurableOnAck,
    ...(registry ? { registry } : {}),
    ...(notes ? { notes: openNotes(notes, boot, log, mount) } : {}),
  });
  for (const client of [node.maps, node.blocks]) client.now = () => clock.now();
  options.prepare?.(node);
  node.mapper.start();
  return node;
}

export function twoNodes(): TwoNodes {
  const clock = new TestClock();
  const stores = memoryStores();
  return { clock, stores, a: startNode(stores, clock, A), b: startNode(stores, clock, B) };
}
