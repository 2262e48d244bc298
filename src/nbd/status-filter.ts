/**
 * The payload of a BLOCK_STATUS with PAYLOAD_LEN (protocol document, "NBD_FLAG_BLOCK_STATUS_PAYLOAD"): 64 bits of effect length, then
 * the 32-bit ids of the meta contexts to answer. Collects it as it arrives, however it is cut, in memory as long as the longest list
 * that can be valid; a longer one is not collected at all.
 */
import { readU64 } from './codec.js';
import type { MetaContext } from './session.js';

const EFFECT_LENGTH = 8;
const ID = 4;

export class StatusFilter {
  readonly #contexts: ReadonlyMap<number, MetaContext>;
  readonly #bytes: Buffer;
  readonly #view: DataView;
  #wanted = 0;
  #have = 0;

  /** @param contexts those that were negotiated */
  constructor(contexts: readonly MetaContext[]) {
    this.#contexts = new Map(contexts.map((context) => [context.id, context]));
    this.#bytes = Buffer.alloc(EFFECT_LENGTH + ID * contexts.length);
    this.#view = new DataView(this.#bytes.buffer, this.#bytes.byteOffset, this.#bytes.length);
  }

  /** Whether a payload of that many bytes can be valid. */
  fits(length: number): boolean {
    return length > EFFECT_LENGTH && length % ID === 0 && length <= this.#bytes.length;
  }

  /** A payload of `length` bytes, which fit, is coming. */
  start(length: number): void {
    this.#wanted = length;
    this.#have = 0;
  }

  /** Bytes that are still to come. */
  get missing(): number {
    return this.#wanted - this.#have;
  }

  /** Takes bytes [at, at + count) of `source`, at most as many as are missing. */
  take(source: Buffer, at: number, count: number): void {
    source.copy(this.#bytes, this.#have, at, at + count);
    this.#have += count;
  }

  /** Of a complete payload, in bytes; inexact above 2^53. */
  get effectLength(): number {
    return readU64(this.#view, 0);
  }

  /** The contexts a complete payload names, as they were negotiated; null when one is unknown or named twice. */
  get selected(): MetaContext[] | null {
    const selected = new Set<MetaContext>();
    for (let at = EFFECT_LENGTH; at < this.#wanted; at += ID) {
      const context = this.#contexts.get(this.#view.getUint32(at));
      if (context === undefined || selected.has(context)) return null;
      selected.add(context);
    }
    return [...selected];
  }
}
