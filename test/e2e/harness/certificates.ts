/**
 * Certificates and pre-shared keys for one test, made by GnuTLS's own tools: what clients are given is then nothing that this project
 * wrote. Directories have the names that qemu, libnbd and nbdkit look for.
 */
import { copyFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { run } from './run.js';

/** An authority, and the directory it keeps certificates in. */
export class Authority {
  readonly #directory: string;
  readonly #name: string;

  private constructor(directory: string, name: string) {
    this.#directory = directory;
    this.#name = name;
  }

  static async create(parent: string, name: string): Promise<Authority> {
    const directory = path.join(parent, name);
    mkdirSync(directory, { recursive: true });
    const authority = new Authority(directory, name);
    await authority.#key('ca-key.pem');
    const template = authority.#template('ca', ['ca', 'cert_signing_key', 'crl_signing_key']);
    const key = authority.#file('ca-key.pem');
    await run('certtool', certtool('--generate-self-signed', key, template, authority.certificate));
    return authority;
  }

  /** Its own certificate. */
  get certificate(): string {
    return this.#file('ca-cert.pem');
  }

  /** A directory with a server's certificate for localhost, and this authority's. `serial` tells certificates apart. */
  async server(directory: string, serial: number): Promise<string> {
    const uses = [
      'tls_www_server',
      'signing_key',
      'encryption_key',
      'dns_name = "localhost"',
      'ip_address = "127.0.0.1"',
      'ip_address = "::1"',
    ];
    await this.#issue(directory, 'server', 'localhost', [...uses, `serial = ${serial}`]);
    return directory;
  }

  /** A directory with a client's certificate and this authority's. */
  async client(directory: string, name: string): Promise<string> {
    await this.#issue(directory, 'client', name, ['tls_www_client', 'signing_key']);
    return directory;
  }

  /** A directory that knows this authority and has no certificate of its own. */
  nobody(directory: string): string {
    mkdirSync(directory, { recursive: true });
    copyFileSync(this.certificate, path.join(directory, 'ca-cert.pem'));
    return directory;
  }

  async #issue(directory: string, kind: 'server' | 'client', name: string, uses: readonly string[]): Promise<void> {
    this.nobody(directory);
    const key = path.join(directory, `${kind}-key.pem`);
    await run('certtool', ['--generate-privkey', '--key-type=ecdsa', '--curve=secp256r1', '--outfile', key]);
    const template = this.#template(name, uses);
    const made = certtool('--generate-certificate', key, template, path.join(directory, `${kind}-cert.pem`));
    const signer = ['--load-ca-certificate', this.certificate, '--load-ca-privkey', this.#file('ca-key.pem')];
    await run('certtool', [...made, ...signer]);
  }

  async #key(file: string): Promise<void> {
    const output = this.#file(file);
    await run('certtool', ['--generate-privkey', '--key-type=ecdsa', '--curve=secp256r1', '--outfile', output]);
  }

  #template(name: string, lines: readonly string[]): string {
    const file = this.#file(`${name}.template`);
    const subject = [`organization = "${this.#name}"`, `cn = "${name}"`, 'expiration_days = 30'];
    writeFileSync(file, `${[...subject, ...lines].join('\n')}\n`);
    return file;
  }

  #file(name: string): string {
    return path.join(this.#directory, name);
  }
}

function certtool(action: string, key: string, template: string, output: string): string[] {
  return [action, '--load-privkey', key, '--template', template, '--outfile', output];
}

/** Writes pre-shared keys of these identities to a file, as psktool does. */
export async function pskFile(file: string, ...identities: readonly string[]): Promise<string> {
  mkdirSync(path.dirname(file), { recursive: true });
  for (const identity of identities) await run('psktool', ['-u', identity, '-p', file]);
  return file;
}

/** One identity's line of a file of keys, in a file of its own. */
export function onlyIdentity(from: string, identity: string, to: string): string {
  const line = readFileSync(from, 'utf8')
    .split('\n')
    .find((entry) => entry.startsWith(`${identity}:`));
  if (line === undefined) throw new Error(`${identity} has no key in ${from}`);
  mkdirSync(path.dirname(to), { recursive: true });
  writeFileSync(to, `${line}\n`);
  return to;
}

/** A directory for credentials, outside of any node's. Call the result's `dispose` at the end. */
export function credentialsDirectory(): { readonly path: string; dispose(): void } {
  const directory = mkdtempSync(path.join(os.tmpdir(), 'archipelago-credentials-'));
  return { path: directory, dispose: () => rmSync(directory, { recursive: true, force: true }) };
}
