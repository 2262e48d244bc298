/**
 * Makes a few objects of a volume durable: a message for each, without a list of names to write and to read, and nothing that is allocated. What
 * most flushes are.
 */
import { Flag, Op } from '../requests/ops.js';
import type { ResolvedMap } from '../requests/resolved-map.js';
import { errnoOf, errnos, messageOf, SystemError } from '../sys/errno.js';
import type { Port, Request } from '../xseg/index.js';
import type { Done } from './rounds.js';
import type { Volume } from './volume.js';

/** More objects than this are listed in one message. */
const FEW = 8;

/** One flush under way. Pooled. */
interface Flight {
  volume: Volume | null;
  done: Done | null;
  pending: number;
  error: unknown;
}

export class ObjectFlushes {
  readonly #port: Port;
  readonly #blocker: number;
  readonly #records: Request[] = [];
  readonly #pool: Flight[] = [];
  readonly #onReply = (sub: Request): void => this.#answered(sub);

  constructor(port: Port, blockerPort: number) {
    this.#port = port;
    this.#blocker = blockerPort;
  }

  /**
   * Begins with the objects of all dirty blocks, which count as clean from now on; what fails is dirty again, by its name.
   * @param alone nothing else is under way
   * @returns false: it is not for this, or not now; nothing was done
   */
  begin(volume: Volume, alone: boolean, done: Done): boolean {
    const { map, dirtyBlocks, dirtyNames } = volume;
    if (map === null || dirtyNames.size > 0 || dirtyBlocks.size > FEW || !this.#prepare(volume, map)) return false;
    dirtyBlocks.clear();
    const flight = this.#pool.pop() ?? { volume: null, done: null, pending: 0, error: null };
    flight.volume = volume;
    flight.done = done;
    // Its own, until all are sent.
    flight.pending = 1;
    flight.error = null;
    const flags = alone && this.#records.length === 1 ? Flag.ALONE : 0;
    for (const sub of this.#records) {
      sub.flags = flags;
      this.#send(sub, flight);
    }
    this.#records.length = 0;
    this.#end(flight);
    return true;
  }

  /** Fills a record for each object; false: there are not enough. */
  #prepare(volume: Volume, map: ResolvedMap): boolean {
    const records = this.#records;
    for (const block of volume.dirtyBlocks) {
      if (!map.has(block)) continue;
      const sub = this.#port.getRequest();
      if (sub === null) {
        for (const taken of records.splice(0)) this.#port.putRequest(taken);
        return false;
      }
      sub.op = Op.FLUSH;
      sub.hint = volume.hint(block);
      sub.writeTarget(map, block);
      // A block that became zero meanwhile has none.
      if (sub.targetLength === 0) this.#port.putRequest(sub);
      else records.push(sub);
    }
    return true;
  }

  #send(sub: Request, flight: Flight): void {
    sub.onReply = this.#onReply;
    sub.context = flight;
    try {
      this.#port.submit(sub, this.#blocker);
      flight.pending++;
    } catch (error) {
      this.#failed(flight, sub, errnoOf(error), messageOf(error));
      this.#port.putRequest(sub);
    }
  }

  #answered(sub: Request): void {
    const flight = sub.context as Flight;
    if (!sub.served) this.#failed(flight, sub, sub.errno, sub.message);
    this.#port.putRequest(sub);
    this.#end(flight);
  }

  #failed(flight: Flight, { target }: Request, errno: number, message: string): void {
    const { volume } = flight;
    if (volume?.lost === null) volume.dirtyNames.add(target);
    flight.error ??= new SystemError(errno, message || `object ${target} could not be made durable`);
  }

  #end(flight: Flight): void {
    if (--flight.pending > 0) return;
    const { done, error } = flight;
    flight.volume = null;
    flight.done = null;
    flight.error = null;
    this.#pool.push(flight);
    done?.(error);
  }
}

/** The server's queue was full, or there was no record: the same as one list may go through. */
export const isShortage = (error: unknown): boolean => errnoOf(error) === errnos.EAGAIN;
