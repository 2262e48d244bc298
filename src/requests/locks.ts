/** What is said about locks between peers and between nodes. */
import type { LockInfo } from './json.js';

/** What nodes tell each other about a lock. */
export interface LockMail {
  /**
   * want: who sends it has the volume open shared and waits for the lock. broken: it took the lock away and waits until nothing of the
   * old holder can reach the store. gone: the answer to that. A message may come twice, late, or never: it is repeated until what it
   * asks for has happened, and nothing is done on its word alone (the lock itself is looked at).
   */
  readonly kind: 'want' | 'broken' | 'gone';
  /** The lock's target. */
  readonly name: string;
  /** Owner string of the sender: where an answer goes. */
  readonly from: string;
  /** Ties `gone` to `broken`. */
  readonly id: string;
}

/** The answer to a check of locks. */
export interface LockCheck {
  /** Locks that the owner does not hold, and who does. */
  readonly lost: readonly { readonly name: string; readonly holder: LockInfo | null }[];
  /** Messages for the owner that came since the last call. */
  readonly mail: readonly LockMail[];
}

export interface LockPage {
  readonly locks: readonly (Readonly<LockInfo> & { readonly name: string })[];
  /** Pass to the next call; null at the end. */
  readonly cursor: string | null;
}

/** Something to look at, told by the store itself. */
export interface LockNews {
  /** Locks that may have changed hands. */
  readonly changed: readonly string[];
  /** There is mail: the next check brings it. */
  readonly mail: boolean;
}

/** What was done to make a store refuse a node. */
export interface Fenced {
  /** Clients of that node that the store refuses from now on, as it names them. */
  readonly clients: readonly string[];
}

/** What became of making one store refuse a node. */
export interface StoreFenced extends Fenced {
  readonly store: 'maps' | 'blocks';
  /** Why it goes on serving the node; null: it does not. */
  readonly failed: string | null;
  /** The store is one that can refuse a node. */
  readonly able: boolean;
}
