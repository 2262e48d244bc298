/** What negotiation agreed on, and the transmission flags that follow from it and from the device. */
import { TransmissionFlag } from './constants.js';
import type { BlockDevice, DeviceInfo } from './device.js';

/** A meta context that was chosen, and its id in this connection. */
export interface MetaContext {
  readonly id: number;
  readonly name: string;
}

/** A connection that may start transmission. */
export interface Session {
  readonly exportName: string;
  readonly device: BlockDevice;
  /** READ and BLOCK_STATUS are answered by structured replies. */
  readonly structured: boolean;
  /** Extended headers: requests and replies have 64-bit lengths, every reply is a chunk. Implies structured. */
  readonly extended: boolean;
  /** Negotiated meta contexts, in the order their chunks are sent. */
  readonly contexts: readonly MetaContext[];
  /** Staged bytes that negotiation left: [start, end) of the transport's stage. */
  readonly stageStart: number;
  readonly stageEnd: number;
}

/** How replies look: what of the negotiation the transmission flags depend on. */
export interface ReplyStyle {
  readonly structured: boolean;
  readonly extended: boolean;
}

/**
 * The flags an export has for a client. SEND_DF belongs to structured replies; a read-only export offers nothing that writes.
 * @param contexts choosing among meta contexts is offered: GO is to do so only when the client has chosen some of the export
 */
export function transmissionFlags(info: DeviceInfo, { structured, extended }: ReplyStyle, contexts: boolean): number {
  const writable = !info.readOnly;
  const F = TransmissionFlag;
  return (
    F.HAS_FLAGS |
    (info.readOnly ? F.READ_ONLY : 0) |
    (info.canFlush ? F.SEND_FLUSH : 0) |
    (info.canFua ? F.SEND_FUA : 0) |
    (info.rotational ? F.ROTATIONAL : 0) |
    (info.canTrim && writable ? F.SEND_TRIM : 0) |
    (info.canWriteZeroes && writable ? F.SEND_WRITE_ZEROES : 0) |
    (info.canWriteZeroes && info.canFastZero && writable ? F.SEND_FAST_ZERO : 0) |
    (structured ? F.SEND_DF : 0) |
    (info.multiConn ? F.CAN_MULTI_CONN : 0) |
    (info.canResize && writable ? F.SEND_RESIZE : 0) |
    (info.canCache ? F.SEND_CACHE : 0) |
    (extended && contexts ? F.BLOCK_STATUS_PAYLOAD : 0)
  );
}
