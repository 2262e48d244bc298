/** What a server says in words, made fit for logs and terminals. */
import { MAX_STRING } from './constants.js';

/** UTF-8 to text; control characters, which could steer a terminal, become question marks. */
export function cleanText(bytes: Buffer): string {
  const text = bytes.subarray(0, MAX_STRING).toString('utf8');
  return text.replace(/\p{Cc}/gu, (character) => (character === '\n' || character === '\t' ? ' ' : '?')).trim();
}
