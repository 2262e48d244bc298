/**
 * A client that has left, and of which not all was read: did it say goodbye? What comes before its DISC is to be done (NBD protocol, NBD_CMD_DISC:
 * the server must handle all outstanding requests); what a client sent whose connection broke off, it may have sent again by another one.
 */
import { readExtendedRequest, readRequest } from './codec.js';
import { Command, EXTENDED_REQUEST_LENGTH, REQUEST_LENGTH } from './constants.js';
import { payloadLength } from './validate.js';

/**
 * Whether whole requests, the last of them DISC, are in what is not read yet.
 * @param unread all that comes still
 * @param payload how many bytes of it belong to a request whose header was read
 * @param extended its requests have extended headers
 */
export function endsWithGoodbye(unread: Buffer, payload: number, extended: boolean): boolean {
  const view = new DataView(unread.buffer, unread.byteOffset, unread.length);
  const length = extended ? EXTENDED_REQUEST_LENGTH : REQUEST_LENGTH;
  const read = extended ? readExtendedRequest : readRequest;
  const request = {
    flags: 0,
    command: 0,
    cookieHigh: 0,
    cookieLow: 0,
    offset: 0,
    length: 0,
    offsetHigh: 0,
    offsetLow: 0,
  };
  for (let at = payload; at + length <= unread.length; at += length + payloadLength(request, extended)) {
    if (!read(view, at, request)) return false;
    if (request.command === Command.DISC) return true;
  }
  return false;
}
