/** What one connection holds of what is shared: requests without an answer, and bytes of the device's buffers. */
import type { BlockDevice, IoBuffer } from './device.js';
import type { Limits } from './limits.js';
import type { Piece } from './requests.js';

export class Holdings {
  /** Requests that were taken and are not answered. */
  requests = 0;
  /** Bytes of buffers. */
  bytes = 0;
  readonly #device: BlockDevice;
  readonly #limits: Limits;
  readonly #available: () => void;
  #awaiting = false;

  /** @param available called, from anywhere, when a refused allocation is worth another try */
  constructor(device: BlockDevice, limits: Limits, available: () => void) {
    this.#device = device;
    this.#limits = limits;
    this.#available = available;
  }

  /** As many requests are in flight as may be. */
  get full(): boolean {
    return this.requests >= this.#limits.inFlight;
  }

  /** A buffer, or null: the connection has its share, or the device has none now. */
  allocate(length: number): IoBuffer | null {
    // One piece is always granted: a limit below maxIo must not stop everything.
    if (this.bytes > 0 && this.bytes + length > this.#limits.inFlightBytes) return null;
    if (this.#awaiting) return null;
    const buffer = this.#device.allocate(length);
    if (buffer !== null) {
      this.bytes += length;
      return buffer;
    }
    this.#awaiting = true;
    this.#device.whenAvailable(() => {
      this.#awaiting = false;
      this.#available();
    });
    return null;
  }

  /** Gives the piece's buffer back, if it has one. */
  release(piece: Piece): void {
    if (piece.buffer === null) return;
    this.bytes -= piece.length;
    this.#device.release(piece.buffer);
    piece.buffer = null;
  }
}
