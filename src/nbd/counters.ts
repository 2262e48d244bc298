/** What a connection has done, for logs and status. */
export interface Counters {
  requests: number;
  reads: number;
  writes: number;
  /** Bytes. */
  read: number;
  written: number;
  errors: number;
}

export const noCounters = (): Counters => ({ requests: 0, reads: 0, writes: 0, read: 0, written: 0, errors: 0 });
