/** Files of pre-shared keys, as psktool of GnuTLS writes and qemu, libnbd and nbdkit read them: `NAME:HEXADECIMAL` in each line. */
import { errnos, SystemError } from '../sys/errno.js';

/** Bytes of a key that OpenSSL takes at most. */
const MAX_KEY = 256;
/** Bytes of an identity that OpenSSL takes at most. */
const MAX_IDENTITY = 128;
/** A key of fewer bytes can be guessed. */
const SHORT_KEY = 16;

/**
 * Keys by identity. Empty lines and lines that begin with `#` are left out.
 * @param file for messages
 * @param warn is told of short keys
 * @throws SystemError EINVAL naming file and line; never what the line says
 */
export function parsePskFile(text: string, file: string, warn: (message: string) => void): Map<string, Buffer> {
  const keys = new Map<string, Buffer>();
  for (const [index, line] of text.split(/\r?\n/).entries()) {
    if (line.trim() === '' || line.startsWith('#')) continue;
    const wrong = (problem: string): SystemError =>
      new SystemError(
        errnos.EINVAL,
        `${file}, line ${index + 1}: ${problem}; psktool -u NAME -p ${file} writes such lines`,
      );
    // Identities may hold colons, keys may not.
    const at = line.lastIndexOf(':');
    if (at < 0) throw wrong('a line must be NAME:HEXADECIMAL');
    const [identity, hex] = [line.slice(0, at), line.slice(at + 1).trim()];
    if (identity === '' || Buffer.byteLength(identity) > MAX_IDENTITY)
      throw wrong(`a name has 1 to ${MAX_IDENTITY} bytes`);
    if (!/^(?:[0-9a-f]{2})+$/i.test(hex) || hex.length > 2 * MAX_KEY) {
      throw wrong(`a key is an even number of hexadecimal digits, at most ${2 * MAX_KEY}`);
    }
    if (keys.has(identity)) throw wrong(`${identity} is there twice`);
    const key = Buffer.from(hex, 'hex');
    if (key.length < SHORT_KEY) warn(`${file}, line ${index + 1}: the key of ${identity} has only ${key.length} bytes`);
    keys.set(identity, key);
  }
  if (keys.size === 0)
    throw new SystemError(errnos.EINVAL, `${file} holds no pre-shared key; add one: psktool -u NAME -p ${file}`);
  return keys;
}
