/** TLS credentials from the files that a URI names: libnbd's and qemu's layout. */
import fs from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { errnoOf, errnos, messageOf, SystemError } from '../sys/errno.js';
import type { PskCredentials, TlsClientOptions } from './client-tls.js';
import type { NbdUri } from './uri.js';

/**
 * What a URI says about TLS, its files read. `nbds:` requires TLS; `nbd:` is plaintext, or with TLS parameters takes TLS where the server
 * has it.
 * @throws SystemError naming the file
 */
export async function uriCredentials(uri: NbdUri): Promise<TlsClientOptions> {
  const asked = uri.tlsCertificates !== null || uri.tlsPskFile !== null;
  if (!uri.tls && !asked) return { mode: 'disable' };
  return {
    mode: uri.tls ? 'require' : 'allow',
    hostname: uri.tlsHostname ?? undefined,
    verifyPeer: uri.tlsVerifyPeer ?? true,
    ...(uri.tlsCertificates === null ? {} : await readCertificates(uri.tlsCertificates)),
    ...(uri.tlsPskFile === null ? {} : { psk: await readPsk(uri.tlsPskFile, uri.user) }),
  };
}

/**
 * `ca-cert.pem` of a directory, and `client-cert.pem` with `client-key.pem` where they are.
 * @throws SystemError
 */
export async function readCertificates(directory: string): Promise<Pick<TlsClientOptions, 'ca' | 'cert' | 'key'>> {
  const ca = await readFile(path.join(directory, 'ca-cert.pem'));
  const [cert, key] = await Promise.all(
    ['client-cert.pem', 'client-key.pem'].map((name) => readFile(path.join(directory, name), true)),
  );
  if ((cert === undefined) !== (key === undefined)) {
    throw new SystemError(
      errnos.EINVAL,
      `${directory} has only one of client-cert.pem and client-key.pem; both or none are needed`,
    );
  }
  return { ca, cert, key };
}

/**
 * The key of an identity in a file of lines `identity:hexadecimal key`.
 * @param identity null: the name of this process's user
 * @throws SystemError
 */
export async function readPsk(file: string, identity: string | null): Promise<PskCredentials> {
  const wanted = identity ?? os.userInfo().username;
  const text = ((await readFile(file)) as Buffer).toString('utf8');
  for (const line of text.split(/\r?\n/)) {
    const colon = line.lastIndexOf(':');
    if (colon < 0 || line.slice(0, colon) !== wanted) continue;
    const digits = line.slice(colon + 1).trim();
    if (!/^([0-9A-Fa-f]{2})+$/.test(digits)) {
      throw new SystemError(errnos.EINVAL, `${file}: the key of ${wanted} is not hexadecimal`);
    }
    return { identity: wanted, key: Buffer.from(digits, 'hex') };
  }
  throw new SystemError(
    errnos.ENOENT,
    `${file} has no key for ${wanted}; name another identity as nbds://identity@host`,
  );
}

async function readFile(file: string): Promise<Buffer>;
async function readFile(file: string, optional: true): Promise<Buffer | undefined>;
async function readFile(file: string, optional = false): Promise<Buffer | undefined> {
  try {
    return await fs.readFile(file);
  } catch (error) {
    if (optional && errnoOf(error) === errnos.ENOENT) return undefined;
    throw new SystemError(errnoOf(error), `cannot read TLS credentials: ${messageOf(error)}`, { cause: error });
  }
}
