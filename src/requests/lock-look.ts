/**
 * A look at a lock that costs no message: for locks that a process of the node can see by itself, in less time than it takes to wake another. It only
 * ever says that nothing has happened to a lock; what has happened, and whether it was ever this node's, is the mapper's to say.
 */

/** A lock as it was at a moment. Each look makes its own. */
export interface LockSeal {
  /** Of which lock. */
  readonly name: string;
}

export interface LockLook {
  /**
   * The volume's lock as it is now, if it is this node's; null: nothing can be told of it in this way (for now).
   * @param name of the volume
   */
  seal(name: string): LockSeal | null;
  /** Nobody has taken, released, replaced or changed that lock since it was sealed: it was this node's all the time. At once. */
  holds(seal: LockSeal): boolean;
}
