/** Whether a request may run: the whole of it is judged here, before anything of it is executed. No I/O, no state. */
import type { RequestHeader } from './codec.js';
import { Command, CommandFlag, WireError } from './constants.js';
import type { BlockDevice } from './device.js';

/** Why a request is refused: the error value and the text for structured replies. Shared objects: a refusal allocates nothing. */
export interface Refusal {
  readonly error: number;
  readonly text: string;
}

const refusal = (error: number, text: string): Refusal => ({ error, text });
const INVALID = WireError.EINVAL;

const UNKNOWN_COMMAND = refusal(INVALID, 'the command is unknown or was not offered');
const UNKNOWN_FLAG = refusal(INVALID, 'a command flag is unknown, was not offered, or does not belong to the command');
const READ_ONLY = refusal(WireError.EPERM, 'the export is read-only');
const PAST_END = refusal(INVALID, 'the request goes past the end of the export');
const NO_SPACE = refusal(WireError.ENOSPC, 'the write goes past the end of the export');
const UNALIGNED = refusal(INVALID, 'offset or length is no multiple of the minimum block size');
const TOO_BIG = refusal(INVALID, 'the request is longer than the maximum block size');
const TOO_BIG_DF = refusal(WireError.EOVERFLOW, 'the read is too long to be answered unfragmented');
const FLUSH_RANGE = refusal(INVALID, 'a flush takes neither offset nor length');
const NO_CONTEXT = refusal(INVALID, 'no meta context was negotiated');
const NO_LENGTH = refusal(INVALID, 'block status needs a length');
const RESIZE_LENGTH = refusal(INVALID, 'a resize takes the new size as its offset and no length');
const RESIZE_EMPTY = refusal(INVALID, 'an export cannot be resized to nothing');
const RESIZE_HUGE = refusal(WireError.ENOSPC, 'no export can be that long');
export const BAD_FILTER = refusal(INVALID, 'the payload names no meta context, an unknown one, or one twice');

/** What of the negotiation matters here. */
export interface Agreed {
  readonly structured: boolean;
  readonly extended: boolean;
  readonly contexts: readonly unknown[];
}

/**
 * Bytes of payload that follow a request's header (protocol document, "Request message"): those of a WRITE, and with extended headers
 * what the flag PAYLOAD_LEN says, whatever the command. A WRITE must have that flag then, but qemu's client up to (at least) 10.0 sends
 * its data without: to take them for anything else would make requests of them.
 */
export function payloadLength(request: RequestHeader, extended: boolean): number {
  const has = request.command === Command.WRITE || (extended && (request.flags & CommandFlag.PAYLOAD_LEN) !== 0);
  return has ? request.length : 0;
}

/** Flags each command knows, besides FUA, which any command may carry. */
const ownFlags: readonly number[] = [
  CommandFlag.DF, // READ
  0, // WRITE
  0, // DISC
  0, // FLUSH
  0, // TRIM
  0, // CACHE
  CommandFlag.NO_HOLE | CommandFlag.FAST_ZERO, // WRITE_ZEROES
  CommandFlag.REQ_ONE, // BLOCK_STATUS
  0, // RESIZE
];

/**
 * Judges a request (anything but DISC) against the export and what was negotiated.
 *
 * RESIZE belongs to an extension of the protocol document that was never published in full (only the numbers of the command and of its
 * transmission flag are fixed). Here it is: offset = the new size in bytes, a multiple of the minimum block size; length 0; FUA
 * as anywhere.
 * @param request a BLOCK_STATUS with a payload has the payload's effect length in place of its own
 * @param maxPayload longest read or write, in bytes
 * @returns null when it may run
 */
export function refuse(
  request: RequestHeader,
  device: BlockDevice,
  agreed: Agreed,
  maxPayload: number,
): Refusal | null {
  const { command, flags, offset, length } = request;
  const info = device.info;
  if (command >= ownFlags.length || command === Command.DISC) return UNKNOWN_COMMAND;
  let known = ownFlags[command];
  if (info.canFua) known |= CommandFlag.FUA;
  if (!agreed.structured) known &= ~CommandFlag.DF;
  if (agreed.extended) {
    const counted = command === Command.WRITE || (command === Command.BLOCK_STATUS && agreed.contexts.length > 0);
    if (counted) known |= CommandFlag.PAYLOAD_LEN;
  }
  if (!info.canFastZero) known &= ~CommandFlag.FAST_ZERO;
  if ((flags & ~known) !== 0) return UNKNOWN_FLAG;

  switch (command) {
    case Command.READ:
      if (length > maxPayload) return (flags & CommandFlag.DF) !== 0 ? TOO_BIG_DF : TOO_BIG;
      break;
    case Command.WRITE:
      if (info.readOnly) return READ_ONLY;
      if (length > maxPayload) return TOO_BIG;
      break;
    case Command.FLUSH:
      if (!info.canFlush) return UNKNOWN_COMMAND;
      return offset !== 0 || length !== 0 ? FLUSH_RANGE : null;
    case Command.TRIM:
      if (info.readOnly) return READ_ONLY;
      if (!info.canTrim) return UNKNOWN_COMMAND;
      break;
    case Command.WRITE_ZEROES:
      if (info.readOnly) return READ_ONLY;
      if (!info.canWriteZeroes) return UNKNOWN_COMMAND;
      break;
    case Command.CACHE:
      if (!info.canCache) return UNKNOWN_COMMAND;
      break;
    case Command.BLOCK_STATUS:
      if (agreed.contexts.length === 0) return NO_CONTEXT;
      if (length === 0) return NO_LENGTH;
      break;
    case Command.RESIZE:
      return refuseResize(request, device);
  }
  // Offsets above 2^53 are rounded, but no export is that long: they stay past its end.
  if (offset > device.size || length > device.size - offset) {
    return command === Command.WRITE || command === Command.WRITE_ZEROES ? NO_SPACE : PAST_END;
  }
  const { minimum } = info.blockSize;
  if (minimum > 1 && (offset % minimum !== 0 || length % minimum !== 0)) return UNALIGNED;
  return null;
}

function refuseResize({ offset, length }: RequestHeader, { info }: BlockDevice): Refusal | null {
  if (!info.canResize) return UNKNOWN_COMMAND;
  if (info.readOnly) return READ_ONLY;
  if (length !== 0) return RESIZE_LENGTH;
  if (offset === 0) return RESIZE_EMPTY;
  if (offset > Number.MAX_SAFE_INTEGER) return RESIZE_HUGE;
  return offset % info.blockSize.minimum === 0 ? null : UNALIGNED;
}
