/** What the parts of one connection share. */
import type { BlockingCalls } from './blocking.js';
import type { Completions } from './completions.js';
import type { Library } from './library.js';

export interface Connection {
  readonly library: Library;
  /** librados' handle. */
  readonly handle: number;
  readonly completions: Completions;
  readonly blocking: BlockingCalls;
  /** Nothing new may begin. */
  closed: boolean;
}
