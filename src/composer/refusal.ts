/** Which requests for a volume are refused before anything of them is done. */
import { EXTENT_BYTES } from '../requests/extents.js';
import { Op, opName } from '../requests/ops.js';
import { errnos } from '../sys/errno.js';
import type { Request } from '../xseg/index.js';
import type { Volume } from './volume.js';

export interface Refusal {
  readonly errno: number;
  readonly message: string;
}

/** Checks a request against the volume before anything of it is done. */
export function refuse(volume: Volume, request: Request, write: boolean): Refusal | null {
  const { offset, size, op } = request;
  const { name } = volume.key;
  const lease = volume.lease!;
  if (offset + size > volume.size || offset < 0 || size < 0) {
    return {
      errno: op === Op.WRITE ? errnos.ENOSPC : errnos.EINVAL,
      message: `${opName(op)} at ${offset} of ${size} bytes is past the end of volume ${name} (${volume.size} bytes)`,
    };
  }
  if (write && lease.readOnly) {
    return {
      errno: errnos.EROFS,
      message: lease.readOnlyReason ?? `volume ${name} is read-only (a snapshot or image)`,
    };
  }
  if (op === Op.BLOCK_STATUS && (request.dataLength < EXTENT_BYTES || !request.hasValidData)) {
    return { errno: errnos.EINVAL, message: `BLOCK_STATUS with a data buffer of ${request.dataLength} bytes` };
  }
  if ((op === Op.READ || op === Op.WRITE) && (request.dataLength < size || !request.hasValidData) && size > 0) {
    return {
      errno: errnos.EINVAL,
      message: `${opName(op)} of ${size} bytes with a data buffer of ${request.dataLength}`,
    };
  }
  return null;
}
