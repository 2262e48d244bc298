/**
 * The transmission phase of one connection: moves requests from the intake into the device, their ends (endings.ts) to the replies,
 * holds the client back by its socket when something is missing, and knows when all is over.
 */

import { errnos, messageOf } from '../sys/errno.js';
import type { Counters } from './counters.js';
import { type BlockDevice, IoCommand } from './device.js';
import { Endings, type EndingsOwner } from './endings.js';
import { type Budgets, Holdings } from './holdings.js';
import { Intake, type IntakeContext, type IntakeOwner, Stop } from './intake.js';
import type { Poller } from './poller.js';
import { Replies } from './replies.js';
import { type Piece, type PieceOwner, type Request, RequestPool } from './requests.js';
import type { Session } from './session.js';
import type { Transport } from './transport.js';

/** What a server's connections share. */
export interface Shared extends IntakeContext {
  readonly poller: Poller;
  readonly budgets: Budgets;
  /** Asks for turn() once, in this turn of the event loop, after what else has completed in it. */
  schedule(transmission: Transmission): void;
}

/** After two requests at the same time a client is taken to send several for so many more. */
const COMPANY = 32;

/** Shorter writes are over sooner than another thread is awake. */
const LONG_WRITE = 128 << 10;

/** Writes of so many bytes are not held back until all that is there was received: about what a socket holds. */
const KICK_BYTES = 256 << 10;

export class Transmission implements PieceOwner, IntakeOwner, EndingsOwner {
  readonly #transport: Transport;
  readonly #device: BlockDevice;
  readonly #shared: Shared;
  readonly #finished: () => void;
  readonly #pool = new RequestPool(this);
  readonly #holdings: Holdings;
  readonly #intake: Intake;
  readonly #replies: Replies;
  readonly #endings: Endings;

  /** Pieces in the device. */
  #inDevice = 0;
  /** Of so many more requests it is taken that others of this client are on their way. */
  #company = 0;
  /** Bytes of the writes that were submitted since the device was last told to begin. */
  #heldBack = 0;
  /** Bytes of the writes in the device. */
  #writing = 0;
  #pumping = false;
  /** The intake waits for something; the transport is paused. */
  #stalled = false;
  #paused = true;
  /** No more requests are taken: DISC, end of stream, broken framing. */
  #ending = false;
  #refusing = false;
  #closed = false;
  #over = false;
  #scheduled = false;
  /** Something came back since the intake last looked, while pump() runs. */
  #woken = false;

  /** @param finished called once, when the connection is to be ended: nothing is in flight and all is sent, or it is gone */
  constructor(transport: Transport, session: Session, shared: Shared, finished: () => void) {
    this.#transport = transport;
    this.#device = session.device;
    this.#shared = shared;
    this.#finished = finished;
    const blocked = (): boolean => this.#replies.blocked;
    this.#holdings = new Holdings(session.device, shared.limits, shared.budgets, () => this.wake(), blocked);
    this.#intake = new Intake(transport, session, shared, this.#pool, this.#holdings, this);
    this.#replies = new Replies(transport, session, (piece) => this.#endings.retire(piece));
    const { counters } = this.#intake;
    this.#endings = new Endings(session, this.#pool, this.#holdings, this.#replies, shared.gather, counters, this);
  }

  get counters(): Counters {
    return this.#intake.counters;
  }

  /** Requests being served. */
  get inFlight(): number {
    return this.#holdings.requests;
  }

  get refusing(): boolean {
    return this.#refusing;
  }

  get statusFull(): boolean {
    return this.#endings.statusFull;
  }

  /** Takes what negotiation left in the stage, then reads on. */
  start(): void {
    this.#pump();
  }

  // What the transport tells

  readable(staged: number): void {
    this.#intake.staged(staged);
    this.#pump();
  }

  drained(): void {
    this.#replies.drained();
    this.#pump();
  }

  /** The client sends no more: what is in flight is finished, half a request is dropped. */
  ended(): void {
    if (this.#ending) return;
    if (this.#inDevice > 0) this.#device.abandon?.();
    this.#stop();
    this.#pump();
  }

  /** The transport is closed: answers are dropped, the device may still be at work. */
  closed(): void {
    if (this.#closed) return;
    this.#closed = true;
    if (this.#inDevice > 0) this.#device.abandon?.();
    this.#stop();
    this.#replies.discard();
    this.#finishIfIdle();
  }

  /** The server goes down: what is in flight is finished and answered, what comes now is refused (intake.ts), then the connection ends. */
  shutDown(): void {
    this.#refusing = true;
    this.#intake.release();
    this.#pump();
  }

  /**
   * To be called now and then: while the socket is not read, for want of what those hold who wait in the device, nobody else tells that
   * the client is gone. The device may refuse what is read of it from then on, unless the client says goodbye behind it.
   */
  look(): void {
    if (!this.#paused || this.#ending || !this.#transport.hasLeft()) return;
    const saysGoodbye = this.#intake.willSayGoodbye;
    this.#leave(saysGoodbye, false);
    if (saysGoodbye && this.#transport.mustBeSilent()) this.#replies.mute();
    this.#intake.release();
  }

  #leave(saysGoodbye: boolean, isRead: boolean): void {
    if (saysGoodbye && this.#device.leave) this.#device.leave(isRead);
    else this.#device.abandon?.();
  }

  // What the poller asks

  /** Whether polling the socket makes sense now. */
  get pollable(): boolean {
    // What is at work on long writes wants the processor, and so does the client.
    return this.#transport.pollable && !this.#paused && !this.#ending && this.#writing < KICK_BYTES;
  }

  /** The device is at work for this client: the event loop is needed. */
  get waiting(): boolean {
    return this.#inDevice > 0;
  }

  /** Its client sends one request at a time: none of the last ones came together with another, or before the answer to one. */
  get single(): boolean {
    return this.#company === 0;
  }

  /** Receives without being told of readiness; true when something was there. */
  poll(): boolean {
    const count = this.#intake.receive();
    if (count < 0) this.ended();
    if (count <= 0) return false;
    this.#pump();
    return true;
  }

  // Moving

  /** Has turn() called later in this turn of the event loop, unless what goes on now will see to it. */
  wake(): void {
    if (this.#pumping) this.#woken = true;
    if (this.#pumping || this.#scheduled || this.#over) return;
    this.#scheduled = true;
    this.#shared.schedule(this);
  }

  /** What schedule() asked for. */
  turn(): void {
    this.#scheduled = false;
    this.#pump();
  }

  flush(): void {
    this.#replies.flush();
  }

  /**
   * Moves everything as far as it goes in one turn: parses what is staged, receives more, sends what is ready.
   * Completions inside it are picked up by it.
   */
  #pump(): void {
    if (this.#pumping || this.#closed) return;
    this.#pumping = true;
    let stop: Stop = Stop.END;
    try {
      stop = this.#move();
    } catch (error) {
      // A device that fails to allocate or release, or a mistake of ours, costs this client, not the others.
      this.misused(`the connection is dropped: ${messageOf(error)}`);
      this.#ending = true;
      this.#transport.destroy(error instanceof Error ? error : undefined);
      return;
    } finally {
      this.#pumping = false;
    }
    this.#stalled = stop === Stop.STALLED || stop === Stop.TURN;
    if (this.#finishIfIdle()) return;
    this.#holdBack();
    if (stop === Stop.TURN || (stop === Stop.STALLED && this.#woken)) this.wake();
  }

  /** Why the intake stopped. */
  #move(): Stop {
    let stop: Stop = Stop.END;
    this.#intake.startTurn();
    while (!this.#ending) {
      this.#woken = false;
      stop = this.#intake.run();
      if (stop === Stop.END) {
        // Answers to a client that said goodbye matter to nobody; to one whose server goes they do.
        if (this.#inDevice > 0 && !this.#refusing) this.#leave(this.#intake.saidGoodbye, true);
        this.#stop();
      } else if (stop === Stop.STALLED) {
        // Both may free what the intake waits for: a piece that ends is not always one that is answered.
        this.#device.kick?.();
        if (!this.#replies.flush() && !this.#woken) break;
      } else {
        // A payload is likely there already; of headers, libuv or the poller tells.
        if (stop === Stop.TURN || !this.#intake.eager) break;
        // The store works while the next payload is received, instead of after all of them.
        if (this.#heldBack >= KICK_BYTES) {
          this.#heldBack = 0;
          this.#device.kick?.();
        }
        const count = this.#intake.receive();
        if (count < 0) this.ended();
        if (count <= 0) break;
      }
    }
    this.#heldBack = 0;
    if (this.#inDevice > 0) this.#device.kick?.();
    if (this.#replies.flush()) this.#woken = true;
    return stop;
  }

  /** Pauses or resumes the socket as the intake needs it. */
  #holdBack(): void {
    const pause = this.#stalled || this.#ending;
    if (pause === this.#paused) return;
    this.#paused = pause;
    if (pause) this.#transport.pause();
    else this.#transport.resume();
  }

  /** More of a client is coming that streams long writes, and is all there is: those of several are received in turn in any case. */
  #streams({ length, request }: Piece): boolean {
    if (length < LONG_WRITE || (this.#company === 0 && request.unissued === 0)) return false;
    return this.#shared.poller.isAlone(this);
  }

  submit(piece: Piece): void {
    piece.request.outstanding++;
    const { requests } = this.#holdings;
    if (++this.#inDevice > 1 || requests > 1 || this.#intake.hasMore) this.#company = COMPANY;
    else if (this.#company > 0) this.#company--;
    piece.running = true;
    if (piece.command === IoCommand.WRITE) {
      this.#heldBack += piece.length;
      this.#writing += piece.length;
      piece.meanwhile = this.#streams(piece);
    } else if (piece.command === IoCommand.FLUSH) {
      piece.alone = this.#company === 0 && this.#shared.poller.isAlone(this);
    } else if (piece.command === IoCommand.BLOCK_STATUS) this.#endings.statusSubmitted(piece);
    try {
      this.#device.submit(piece);
    } catch (error) {
      this.misused(`the device threw instead of completing: ${messageOf(error)}`);
      if (piece.running) piece.complete(errnos.EIO);
    }
  }

  misused(message: string): void {
    this.#shared.log.error(`${this.#transport.peer}: ${message}`);
  }

  completed(piece: Piece, errno: number, text: string): void {
    this.#inDevice--;
    if (piece.command === IoCommand.WRITE) this.#writing -= piece.length;
    if (!this.#closed) this.wake();
    this.#endings.completed(piece, errno, text, this.#closed);
    if (this.#closed) this.#finishIfIdle();
  }

  answer(request: Request): void {
    this.#endings.answer(request);
  }

  /** A reply that had begun cannot be finished: only the end of the connection can tell. */
  broken(error: Error): void {
    this.#ending = true;
    this.#transport.destroy(error);
  }

  // The end

  #stop(): void {
    this.#ending = true;
    this.#intake.drop();
    this.#holdings.stop();
  }

  #finishIfIdle(): boolean {
    if (this.#over) return true;
    if (this.#inDevice > 0) return false;
    // A request that waits for memory is in flight; one that waits for the client's bytes is not.
    const refused = this.#refusing && !this.#stalled;
    if (!this.#closed && !((this.#ending || refused) && this.#replies.idle)) return false;
    this.#stop();
    this.#over = true;
    this.#holdings.leave();
    this.#finished();
    return true;
  }
}
