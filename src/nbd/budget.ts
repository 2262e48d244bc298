/**
 * What all connections of a server share, counted in bytes or in requests. Each connection has a part that is always its own, so that it
 * gets on whatever the others hold; the rest is lent, and who waits for some of it is served in the order of asking. A client that
 * keeps what it was lent for ever (it stops reading, say) costs the others that much and no more.
 */

export class Budget {
  readonly #total: number;
  readonly #granted: number;
  /** Kept for connections that are still to come. */
  readonly #reserve: number;
  readonly #waiting: Share[] = [];
  #members = 0;
  #lent = 0;

  /**
   * @param total for all connections together
   * @param granted what each has in any case
   * @param connections how many there may be; half the total is kept at most for those that are not there yet
   */
  constructor(total: number, granted: number, connections: number) {
    this.#total = total;
    this.#granted = granted;
    this.#reserve = Math.min(Math.floor(total / 2), granted * connections);
  }

  /** What is lent now. */
  get lent(): number {
    return this.#lent;
  }

  /** Connections that wait for a loan. */
  get waiting(): number {
    return this.#waiting.length;
  }

  get granted(): number {
    return this.#granted;
  }

  /**
   * A new connection's share.
   * @param available called when what reserve() refused has been set aside; it must not reserve or take within the call
   */
  join(available: () => void): Share {
    this.#members++;
    return new Share(this, available);
  }

  get #free(): number {
    return this.#total - Math.max(this.#reserve, this.#granted * this.#members) - this.#lent;
  }

  /** Lends, unless others were first. The first that waits may ask again, for less than before: it does not wait any more then. */
  lend(amount: number, share: Share): boolean {
    const [first] = this.#waiting;
    if ((first !== undefined && first !== share) || amount > this.#free) return false;
    this.#lent += amount;
    if (first === share) {
      this.#waiting.shift();
      this.#serve();
    }
    return true;
  }

  queue(share: Share): void {
    this.#waiting.push(share);
  }

  unqueue(share: Share): void {
    const i = this.#waiting.indexOf(share);
    if (i < 0) return;
    this.#waiting.splice(i, 1);
    if (i === 0) this.#serve();
  }

  giveBack(amount: number): void {
    this.#lent -= amount;
    if (this.#waiting.length > 0) this.#serve();
  }

  left(): void {
    this.#members--;
    this.#serve();
  }

  #serve(): void {
    for (;;) {
      const first = this.#waiting[0];
      if (first === undefined || first.wanted > this.#free) return;
      this.#waiting.shift();
      this.#lent += first.wanted;
      first.lent();
    }
  }
}

/** One connection's part of a budget. */
export class Share {
  readonly #budget: Budget;
  readonly #available: () => void;
  readonly #granted: number;
  #held = 0;
  /** Lent and not taken yet. */
  #credit = 0;
  /** The loan it waits for, 0: none. */
  #wanted = 0;

  constructor(budget: Budget, available: () => void) {
    this.#budget = budget;
    this.#available = available;
    this.#granted = budget.granted;
  }

  get held(): number {
    return this.#held;
  }

  get wanted(): number {
    return this.#wanted;
  }

  /** Whether take(amount) may follow now. If not, `available` is called when it may; asking again meanwhile does no harm. */
  reserve(amount: number): boolean {
    const missing = this.#loan(amount) - this.#credit;
    if (missing <= 0) {
      this.#cancel();
      return true;
    }
    const waits = this.#wanted > 0;
    if (this.#budget.lend(missing, this)) {
      this.#wanted = 0;
      this.#credit += missing;
      return true;
    }
    this.#wanted = missing;
    if (!waits) this.#budget.queue(this);
    return false;
  }

  /** Takes what reserve() has just said there is, or what must not wait. */
  take(amount: number): void {
    this.#cancel();
    const rest = this.#credit - this.#loan(amount);
    this.#credit = 0;
    this.#held += amount;
    if (rest !== 0) this.#budget.giveBack(rest);
  }

  give(amount: number): void {
    const before = Math.max(0, this.#held - this.#granted);
    this.#held -= amount;
    const back = before - Math.max(0, this.#held - this.#granted);
    if (back > 0) this.#budget.giveBack(back);
  }

  /** The connection is over, or takes nothing more: what was set aside for it goes to others. */
  stop(): void {
    this.#cancel();
    const credit = this.#credit;
    this.#credit = 0;
    if (credit > 0) this.#budget.giveBack(credit);
  }

  /** The connection is over and everything is given. */
  leave(): void {
    this.stop();
    this.give(this.#held);
    this.#budget.left();
  }

  /** The budget's word that `wanted` is set aside. */
  lent(): void {
    this.#credit += this.#wanted;
    this.#wanted = 0;
    this.#available();
  }

  /** How much of `amount` more would be a loan. */
  #loan(amount: number): number {
    return Math.max(0, this.#held + amount - this.#granted) - Math.max(0, this.#held - this.#granted);
  }

  #cancel(): void {
    if (this.#wanted === 0) return;
    this.#wanted = 0;
    this.#budget.unqueue(this);
  }
}
