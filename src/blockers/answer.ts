/** Answers in a request's buffer. */
import { errnos, SystemError } from '../sys/errno.js';
import type { Request } from '../xseg/index.js';

/** The answer needs a longer buffer: `needed` goes into the reply. */
export class RangeTooSmall extends SystemError {
  readonly needed: number;
  constructor(needed: number, have: number) {
    super(errnos.ERANGE, `the answer is ${needed} bytes long, the request's buffer ${have}`);
    this.needed = needed;
  }
}

/** Puts an answer into the request's buffer; returns its length. @throws RangeTooSmall */
export function answer(request: Request, bytes: Uint8Array): number {
  if (request.dataLength < bytes.length) throw new RangeTooSmall(bytes.length, request.dataLength);
  request.data.set(bytes);
  return bytes.length;
}
