/**
 * Notices that a process does not answer: stopped, in an endless loop, swapped out. It is asked once a second; what it says does not matter.
 * Time counts only as this process sees it pass: a supervisor that was stopped itself, or a machine that slept, finds nobody guilty.
 */
import { performance } from 'node:perf_hooks';
import { errnoOf, errnos } from '../sys/errno.js';
import type { ControlClient } from './control.js';

export interface HangLimits {
  /** How often it is asked, in ms. */
  readonly tickMs: number;
  /** How long an answer may take before that is worth a word, in ms: a busy machine is no failure. */
  readonly noticeMs: number;
  /** How long before the process is given up, in ms; 0: never. */
  readonly giveUpMs: number;
}

/** Who is told; all times in ms. */
export interface HangEvents {
  /** It has not answered for the time of noticeMs. Once, until it answers. */
  silent(forMs: number): void;
  /** It answers again. */
  answers(afterMs: number): void;
  /** It has not answered for giveUpMs. The watch is over. */
  givenUp(afterMs: number): void;
}

export class HangWatch {
  readonly #client: Pick<ControlClient, 'call'>;
  readonly #limits: HangLimits;
  readonly #events: HangEvents;
  readonly #timer: NodeJS.Timeout;
  /** An answer is due. */
  #asked = false;
  #silentMs = 0;
  #told = false;
  #last = performance.now();

  constructor(client: Pick<ControlClient, 'call'>, limits: HangLimits, events: HangEvents) {
    this.#client = client;
    this.#limits = limits;
    this.#events = events;
    this.#timer = setInterval(() => this.#tick(), limits.tickMs).unref();
  }

  stop(): void {
    clearInterval(this.#timer);
  }

  #tick(): void {
    const { tickMs, noticeMs, giveUpMs } = this.#limits;
    const now = performance.now();
    const passed = Math.min(now - this.#last, 2 * tickMs);
    this.#last = now;
    if (!this.#asked) {
      this.#ask();
      return;
    }
    this.#silentMs += passed;
    if (!this.#told && this.#silentMs >= noticeMs) {
      this.#told = true;
      this.#events.silent(this.#silentMs);
    }
    if (giveUpMs > 0 && this.#silentMs >= giveUpMs) {
      this.stop();
      this.#events.givenUp(this.#silentMs);
    }
  }

  #ask(): void {
    this.#asked = true;
    this.#silentMs = 0;
    this.#client.call('ping').then(
      () => this.#answered(),
      // A refusal is an answer; that the process is gone is somebody else's business.
      (error: unknown) => (errnoOf(error) === errnos.ECONNRESET ? this.stop() : this.#answered()),
    );
  }

  #answered(): void {
    this.#asked = false;
    if (!this.#told) return;
    this.#told = false;
    this.#events.answers(this.#silentMs);
  }
}
