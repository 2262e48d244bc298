/** A client process as the torture sees it: asked for work, killed, started again. */
import { type ChildProcess, fork } from 'node:child_process';
import path from 'node:path';
import { errnos } from '../../src/sys/errno.js';
import type { Asked, Outcome, Reopened, Work } from './protocol.js';

export class ActorProcess {
  readonly #child: ChildProcess;
  readonly #pending = new Map<number, (outcome: Outcome) => void>();
  #lastId = 0;
  #gone = false;
  #killed = false;
  /** Resolves when the process is gone and everything that it was asked has an outcome. */
  readonly gone: Promise<void>;

  /** @param onReopened told the name of a volume whose connections are there again */
  constructor(conf: string, socket: string, onReopened: (volume: string) => void) {
    this.#child = fork(path.join(import.meta.dirname, 'actor.js'), [conf, socket]);
    this.#child.on('message', (message: Outcome | Reopened) => {
      if ('reopened' in message) onReopened(message.reopened);
      else this.#settle(message);
    });
    this.gone = new Promise((resolve) => {
      this.#child.once('close', () => {
        this.#gone = true;
        for (const id of this.#pending.keys()) this.#settle(this.#end(id));
        resolve();
      });
    });
  }

  /** What becomes of a request that it does not answer any more. It may be killed; ending by itself is a mistake of somebody. */
  #end(id: number): Outcome {
    if (this.#killed) return { id, state: 'lost' };
    return { id, state: 'failed', errno: errnos.EPIPE, message: 'the client process ended by itself' };
  }

  #settle(outcome: Outcome): void {
    const resolve = this.#pending.get(outcome.id);
    this.#pending.delete(outcome.id);
    resolve?.(outcome);
  }

  /** What it was asked and has not answered, for the report of a hang. */
  get waiting(): number {
    return this.#pending.size;
  }

  ask(work: Work): Promise<Outcome> {
    const id = ++this.#lastId;
    if (this.#gone || !this.#child.connected) return Promise.resolve(this.#end(id));
    const asked: Asked = { ...work, id };
    return new Promise((resolve) => {
      this.#pending.set(id, resolve);
      // A process that ends meanwhile settles it.
      this.#child.send(asked, () => {});
    });
  }

  async kill(): Promise<void> {
    this.#killed = true;
    this.#child.kill('SIGKILL');
    await this.gone;
  }
}
