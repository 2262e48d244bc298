/**
 * The short way between two roles of one process: a call instead of a request. It is only for what is done within the call, with nothing
 * to wait for; whatever else comes up, the server declines, and the asker sends a request, as if nothing had been.
 */

/** What is asked. One object of the asker's, used again and again: a server keeps nothing of it. */
export interface DirectRequest {
  readonly op: number;
  /** Bytes. */
  readonly offset: number;
  readonly size: number;
  /** Where the data is or goes: an address in this process. */
  readonly address: number;
  /** As Request.hint: what the server answered with the last time. It may leave another here, for the next time. */
  hint: number;
  /** As Request.deadline. */
  readonly deadline: number;
  /** Is `name` (bytes) the target's name? */
  isNamed(name: Uint8Array): boolean;
  /** The target's name; null: it is to be found by its hint or not at all. Makes a string: only for what the hint does not find. */
  targetName?(): string | null;
  /** Makes the data zeros from its byte `from` on. */
  clear(from: number): void;
  /** WRITE: the asker has something else to do meanwhile, if it is declined for another thread. */
  readonly meanwhile?: boolean;
  /** READ: the data may be lent instead of being put to the address. */
  readonly mayLend?: boolean;
  /** READ: all of the data is that of an open file from `offset` on. @param fd a descriptor of the asker's own from now on */
  lend?(fd: number, offset: number): void;
}

/**
 * Does it all within the call, or declines.
 * @returns true when it is done and needs no further answer; false when it is to be asked for by a request: that may do again what was done in part
 */
export type DirectServer = (request: DirectRequest) => boolean;
