/** The endpoint's TLS credentials and access rules: read from the files of the configuration, with errors that say what to do. */
import crypto from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';
import { isLoopback } from '../config/nbd-tls.js';
import type { NbdTlsSettings } from '../config/types.js';
import { TlsAcceptor, type TlsOptions } from '../nbd/index.js';
import { errnoName, errnoOf, errnos, messageOf, SystemError } from '../sys/errno.js';
import { AccessRules } from './access-rules.js';
import { parsePskFile } from './psk-file.js';

/** Names in tls_directory, as qemu and libnbd have them. */
const IN_DIRECTORY = { cert: 'server-cert.pem', key: 'server-key.pem', ca: 'ca-cert.pem', crl: 'ca-crl.pem' } as const;
/** A certificate that ends within this time is worth a warning, in ms. */
const SOON = 14 * 24 * 3600 * 1000;

type Files = Pick<NbdTlsSettings, 'cert' | 'key' | 'ca' | 'crl'>;

/**
 * Reads everything that clients are authenticated by.
 * @param warn is told what is usable and still wrong: keys that others can read, certificates out of their time
 * @param before what is in use now: a file that has gone from tls_directory must not open the door
 * @returns null when no listener has TLS
 * @throws SystemError naming the file and the way out
 */
export function readCredentials(
  settings: NbdTlsSettings,
  warn: (message: string) => void,
  before: TlsOptions | null = null,
): TlsOptions | null {
  if (settings.tcp === 'off' && settings.socket === 'off') return null;
  const files = filesOf(settings);
  for (const what of ['ca', 'crl'] as const) {
    if (files[what] === null && before?.[what] !== undefined) {
      throw unusable(
        `${settings.directory} has no ${IN_DIRECTORY[what]} any more; put it back, or restart the node without it`,
      );
    }
  }
  const own = files.cert === null || files.key === null ? {} : readPair(files.cert, files.key, warn);
  const options: TlsOptions = {
    ...own,
    ca: files.ca === null ? undefined : readAuthorities(files.ca, warn),
    crl: files.crl === null ? undefined : readFile(files.crl, 'the revocation lists'),
    psk: settings.pskFile === null ? undefined : readKeys(settings.pskFile, warn),
    verifyPeer: settings.verifyPeer ?? undefined,
    minVersion: settings.minVersion,
  };
  if (settings.verifyPeer === null && options.ca === undefined && options.psk === undefined) {
    warn(
      'clients in TLS are not asked who they are: whoever reaches the endpoint comes in. Set tls_ca (or tls_psk_file), ' +
        'or tls_verify_peer = False if that is meant',
    );
  }
  // What only OpenSSL knows.
  new TlsAcceptor(options);
  return options;
}

/** Whether an address is one that TLS is insisted on for, and it is not required there. */
export function isExposed(host: string, settings: Pick<NbdTlsSettings, 'tcp' | 'insecureTcp'>): boolean {
  return settings.tcp !== 'required' && !settings.insecureTcp && !isLoopback(host);
}

/** The access rules; null: none. @throws SystemError naming the file and the line */
export function readRules(settings: NbdTlsSettings): AccessRules | null {
  if (settings.acl === null) return null;
  return AccessRules.parse(readFile(settings.acl, 'the access rules (tls_acl)'), settings.acl);
}

function filesOf(settings: NbdTlsSettings): Files {
  const { directory } = settings;
  if (directory === null) return settings;
  const inside = (name: string): string => path.join(directory, name);
  // A link that leads nowhere is there, and an error when it is read.
  const isThere = (file: string): boolean => fs.lstatSync(file, { throwIfNoEntry: false }) !== undefined;
  const optional = (name: string): string | null => (isThere(inside(name)) ? inside(name) : null);
  return {
    cert: inside(IN_DIRECTORY.cert),
    key: inside(IN_DIRECTORY.key),
    ca: optional(IN_DIRECTORY.ca),
    crl: optional(IN_DIRECTORY.crl),
  };
}

function readPair(certFile: string, keyFile: string, warn: (message: string) => void): { cert: string; key: string } {
  const cert = readFile(certFile, 'the TLS certificate');
  const key = readSecret(keyFile, 'the TLS key', warn);
  const parsed = parseCertificate(cert, certFile, 'certificate');
  warnOfTime(parsed, certFile, warn);
  let privateKey: crypto.KeyObject;
  try {
    privateKey = crypto.createPrivateKey(key);
  } catch (error) {
    const locked = key.includes('ENCRYPTED');
    throw unusable(
      locked
        ? `the TLS key ${keyFile} has a passphrase; write one without: openssl pkey -in ${keyFile} -out NEW`
        : `${keyFile} holds no private key in PEM form: ${messageOf(error)}`,
      error,
    );
  }
  if (!parsed.checkPrivateKey(privateKey)) {
    throw unusable(
      `the TLS key ${keyFile} does not belong to the certificate ${certFile} (its first, which is the server's)`,
    );
  }
  return { cert, key };
}

function readAuthorities(file: string, warn: (message: string) => void): string {
  const text = readFile(file, "the clients' authorities");
  const blocks = text.match(/-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g);
  if (blocks === null)
    throw unusable(`${file} holds no certificate in PEM form; it must be that of the clients' authority`);
  for (const block of blocks) warnOfTime(parseCertificate(block, file, "authority's certificate"), file, warn);
  return text;
}

function readKeys(file: string, warn: (message: string) => void): NonNullable<TlsOptions['psk']> {
  const keys = parsePskFile(readSecret(file, 'the pre-shared keys', warn), file, warn);
  return (identity) => keys.get(identity) ?? null;
}

function parseCertificate(text: string, file: string, what: string): crypto.X509Certificate {
  try {
    return new crypto.X509Certificate(text);
  } catch (error) {
    throw unusable(`${file} holds no ${what} in PEM form: ${messageOf(error)}`, error);
  }
}

function warnOfTime(certificate: crypto.X509Certificate, file: string, warn: (message: string) => void): void {
  const [from, to] = [certificate.validFrom, certificate.validTo].map((text) => Date.parse(text));
  const now = Date.now();
  if (now < from) warn(`${file}: the certificate is not valid before ${certificate.validFrom}; clients will refuse it`);
  else if (now > to)
    warn(`${file}: the certificate expired on ${certificate.validTo}; put a new one there and send SIGHUP`);
  else if (to - now < SOON)
    warn(`${file}: the certificate expires on ${certificate.validTo}; put a new one there and send SIGHUP`);
}

function readFile(file: string, what: string): string {
  try {
    return fs.readFileSync(file, 'utf8');
  } catch (error) {
    const errno = errnoOf(error);
    const hint = errno === errnos.EACCES ? '; the account that the node runs as (USER) must be able to read it' : '';
    throw new SystemError(errno, `cannot read ${what} ${file}: ${errnoName(errno)}${hint}`, { cause: error });
  }
}

/** As readFile, for what nobody else may know. */
function readSecret(file: string, what: string, warn: (message: string) => void): string {
  const text = readFile(file, what);
  if ((fs.statSync(file).mode & 0o007) !== 0) warn(`${file} (${what}) is open to every account: chmod o= ${file}`);
  return text;
}

const unusable = (message: string, cause?: unknown): SystemError => new SystemError(errnos.EINVAL, message, { cause });
