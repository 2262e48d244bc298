/** The TLS settings of an nbd role: from what its section says to NbdTlsSettings, with the checks that concern several settings. */
import { BlockList, isIP } from 'node:net';
import type { SectionReader } from './reader.js';
import * as schema from './schema.js';
import type { NbdTlsSettings } from './types.js';
import type { Address } from './values.js';

const loopback = new BlockList();
loopback.addSubnet('127.0.0.0', 8);
loopback.addAddress('::1', 'ipv6');

/** Whether only this machine reaches it. IPv4 addresses may be written as IPv6 ones (`::ffff:127.0.0.1`). */
export function isLoopback(host: string): boolean {
  const kind = isIP(host);
  return kind === 0 ? host === 'localhost' : loopback.check(host.replace(/%.*/, ''), kind === 6 ? 'ipv6' : 'ipv4');
}

/** @throws ConfigError */
export function readNbdTls(
  section: SectionReader,
  values: schema.Values<typeof schema.nbd>,
  listen: readonly Address[],
): NbdTlsSettings {
  const s = schema.nbd;
  const { tlsCert: cert, tlsKey: key, tlsCa: ca, tlsCrl: crl, tlsDirectory: directory, tlsPskFile: pskFile } = values;
  if (directory !== undefined && (cert ?? key ?? ca ?? crl) !== undefined) {
    throw section.error(
      s.tlsDirectory,
      'is given beside tls_cert, tls_key, tls_ca or tls_crl; use the one or the others',
    );
  }
  if ((cert === undefined) !== (key === undefined)) {
    const missing = cert === undefined ? s.tlsCert : s.tlsKey;
    throw section.error(missing, 'is needed: tls_cert and tls_key belong together');
  }
  const isUsed = values.tls !== 'off' || values.socketTls !== 'off';
  if (isUsed && cert === undefined && directory === undefined && pskFile === undefined) {
    throw section.error(s.tls, 'needs credentials: set tls_cert and tls_key, or tls_directory, or tls_psk_file');
  }
  if (values.tlsVerifyPeer === true && ca === undefined && directory === undefined && pskFile === undefined) {
    throw section.error(s.tlsVerifyPeer, 'needs something to verify clients by: set tls_ca or tls_psk_file');
  }
  const exposed = listen.find(({ host }) => !isLoopback(host));
  if (exposed !== undefined && values.tls !== 'required' && !values.insecureTcp) {
    const host = isIP(exposed.host) === 6 ? `[${exposed.host}]` : exposed.host;
    throw section.error(
      s.listen,
      `${host}:${exposed.port} is reached from other machines, so that it needs tls = required (and credentials); ` +
        'or say insecure_tcp = True if everybody on that network may read and write the exports in plaintext',
    );
  }
  return {
    tcp: values.tls,
    socket: values.socketTls,
    insecureTcp: values.insecureTcp,
    cert: cert ?? null,
    key: key ?? null,
    ca: ca ?? null,
    crl: crl ?? null,
    directory: directory ?? null,
    pskFile: pskFile ?? null,
    verifyPeer: values.tlsVerifyPeer ?? null,
    minVersion: values.tlsMinVersion === '1.3' ? 'TLSv1.3' : 'TLSv1.2',
    acl: values.tlsAcl ?? null,
  };
}
