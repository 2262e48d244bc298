/** Time as the mapper sees it, so that tests and simulations can have their own. */
import { monotonicMs } from '../sys/clock.js';

export interface Clock {
  /** ms that never go back and are the same in all processes of the machine. */
  now(): number;
  /** Calls after `ms`, and does not keep the process alive for that. @returns what calls it off */
  after(ms: number, call: () => void): () => void;
}

export const realClock: Clock = {
  now: monotonicMs,
  after: (ms, call) => {
    const timer = setTimeout(call, ms).unref();
    return () => clearTimeout(timer);
  },
};
