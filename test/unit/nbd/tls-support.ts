/** What the TLS tests share: certificates made by openssl for the test, and a client that speaks the handshake's bytes through node:tls. */
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import type { Duplex } from 'node:stream';
import tls from 'node:tls';
import { expect, onTestFinished } from 'vitest';
import { Option, Reply } from '../../../src/nbd/constants.js';
import {
  decodeInfo,
  decodeOptionReplyHeader,
  encodeClientFlags,
  encodeInfoRequest,
  encodeOption,
} from '../../../src/nbd/handshake-codec.js';

/** Whether certificates can be made. */
export const hasOpenssl = (() => {
  try {
    execFileSync('openssl', ['version'], { stdio: 'ignore' });
    return true;
  } catch {
    console.warn('openssl is not installed: the TLS tests are skipped (apt-get install openssl)');
    return false;
  }
})();

export interface KeyPair {
  readonly certFile: string;
  readonly keyFile: string;
  readonly cert: string;
  readonly key: string;
}

/** Authorities and certificates in a directory; remove() it at the end. */
export class Pki {
  readonly directory = fs.mkdtempSync(path.join(os.tmpdir(), 'nbd-pki-'));
  #count = 0;

  remove(): void {
    fs.rmSync(this.directory, { recursive: true, force: true });
  }

  /** An authority. */
  authority(subject: string): KeyPair {
    return this.#make(subject, []);
  }

  /** @param extra more of the extensions file, e.g. extendedKeyUsage = clientAuth */
  certificate(authority: KeyPair, subject: string, extra = '', args: readonly string[] = []): KeyPair {
    const extensions = path.join(this.directory, `${this.#count}.ext`);
    fs.writeFileSync(extensions, `subjectAltName = DNS:localhost,IP:127.0.0.1\n${extra}\n`);
    const request = path.join(this.directory, `${this.#count}.csr`);
    const { keyFile, certFile } = this.#files();
    this.#openssl('req', '-new', ...this.#newKey(keyFile), ...subjectOf(subject), '-out', request);
    const signer = ['-CA', authority.certFile, '-CAkey', authority.keyFile, '-CAcreateserial'];
    const days = args.includes('-days') ? [] : ['-days', '2'];
    this.#openssl(
      ...['x509', '-req', '-in', request, '-out', certFile, '-extfile', extensions],
      ...[...signer, ...days, ...args],
    );
    return read(certFile, keyFile);
  }

  #make(subject: string, args: string[]): KeyPair {
    const { keyFile, certFile } = this.#files();
    this.#openssl(
      ...['req', '-x509', ...this.#newKey(keyFile), ...subjectOf(subject), '-out', certFile, '-days', '2', ...args],
    );
    return read(certFile, keyFile);
  }

  #newKey(keyFile: string): string[] {
    return ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-keyout', keyFile];
  }

  #files(): { keyFile: string; certFile: string } {
    const base = path.join(this.directory, String(this.#count++));
    return { keyFile: `${base}-key.pem`, certFile: `${base}-cert.pem` };
  }

  #openssl(...args: string[]): void {
    execFileSync('openssl', args, { stdio: ['ignore', 'pipe', 'pipe'] });
  }
}

const subjectOf = (subject: string): string[] => ['-subj', subject, '-utf8', '-multivalue-rdn'];

const read = (certFile: string, keyFile: string): KeyPair => ({
  certFile,
  keyFile,
  cert: fs.readFileSync(certFile, 'utf8'),
  key: fs.readFileSync(keyFile, 'utf8'),
});

export interface Answer {
  readonly type: number;
  readonly data: Buffer;
}

/** A client over any stream, byte by byte. */
export class Talker {
  readonly stream: Duplex;
  #chunks: Buffer[] = [];
  #length = 0;
  #over = false;
  #wake: () => void = () => {};
  readonly #take = (chunk: Buffer): void => {
    this.#chunks.push(chunk);
    this.#length += chunk.length;
    this.#wake();
  };

  constructor(stream: Duplex) {
    this.stream = stream;
    stream.on('data', this.#take);
    const over = (): void => {
      this.#over = true;
      this.#wake();
    };
    for (const event of ['end', 'close', 'error']) stream.on(event, over);
    onTestFinished(() => {
      stream.destroy();
    });
  }

  /** Connects to a unix socket or a port of 127.0.0.1 and answers the greeting. */
  static async greeted(target: string | number, flags = 3): Promise<Talker> {
    const options = typeof target === 'string' ? { path: target } : { host: '127.0.0.1', port: target };
    const talker = new Talker(net.connect({ ...options, allowHalfOpen: true }));
    expect((await talker.take(18)).readUInt16BE(16)).toBe(3);
    talker.stream.write(encodeClientFlags(flags));
    return talker;
  }

  /** Exactly `length` bytes. @throws Error when the server closes before */
  async take(length: number): Promise<Buffer> {
    while (this.#length < length) {
      if (this.#over) throw new Error(`the server closed after ${this.#length} of ${length} bytes`);
      await this.#more();
    }
    const all = Buffer.concat(this.#chunks);
    this.#chunks = [all.subarray(length)];
    this.#length -= length;
    return all.subarray(0, length);
  }

  /** Resolves when the server has closed, to what it said before. */
  async closed(): Promise<Buffer> {
    while (!this.#over) await this.#more();
    return Buffer.concat(this.#chunks);
  }

  #more(): Promise<void> {
    return new Promise((resolve) => {
      this.#wake = resolve;
    });
  }

  /** An option's replies up to the last one. */
  async ask(option: number, data?: Uint8Array): Promise<Answer[]> {
    this.stream.write(encodeOption(option, data));
    const all: Answer[] = [];
    for (;;) {
      const header = decodeOptionReplyHeader(await this.take(20));
      expect(header.option).toBe(option);
      all.push({ type: header.type, data: await this.take(header.length) });
      if (header.type === Reply.ACK || header.type >= 2 ** 31) return all;
    }
  }

  /** The type of the last reply. */
  async result(option: number, data?: Uint8Array): Promise<number> {
    return (await this.ask(option, data)).at(-1)?.type ?? -1;
  }

  /** Size and flags of an export. */
  async info(option: number, name: string): Promise<{ size: number; flags: number }> {
    for (const { data } of await this.ask(option, encodeInfoRequest(name, []))) {
      const info = data.length > 2 ? decodeInfo(data) : null;
      if (info?.info === 'export') return info;
    }
    throw new Error(`there is no export ${name}`);
  }

  /** STARTTLS and the TLS handshake. @throws what the handshake fails with */
  async startTls(options: tls.ConnectionOptions): Promise<Talker> {
    expect(await this.result(Option.STARTTLS)).toBe(Reply.ACK);
    return this.secure(options);
  }

  /** The TLS handshake alone. */
  async secure(options: tls.ConnectionOptions): Promise<Talker> {
    this.stream.off('data', this.#take);
    const socket = tls.connect({ socket: this.stream as net.Socket, servername: 'localhost', ...options });
    const talker = new Talker(socket);
    await new Promise<void>((resolve, reject) => {
      socket.once('secureConnect', resolve);
      socket.once('error', reject);
      socket.once('close', () => reject(new Error('closed during the TLS handshake')));
    });
    return talker;
  }

  get tls(): tls.TLSSocket {
    return this.stream as tls.TLSSocket;
  }

  /** A request of the transmission phase, without its payload's answer. */
  request(command: number, offset: number, length: number, payload: Uint8Array = Buffer.alloc(0)): void {
    const header = Buffer.alloc(28);
    header.writeUInt32BE(0x25609513, 0);
    header.writeUInt16BE(command, 6);
    header.writeBigUInt64BE(7n, 8);
    header.writeBigUInt64BE(BigInt(offset), 16);
    header.writeUInt32BE(length, 24);
    this.stream.write(header);
    if (payload.length > 0) this.stream.write(payload);
  }

  /** A simple reply without payload. @throws Error with the wire's error */
  async reply(): Promise<void> {
    const header = await this.take(16);
    expect(header.readUInt32BE(0)).toBe(0x67446698);
    expect(header.readUInt32BE(4)).toBe(0);
  }

  async write(offset: number, data: Uint8Array): Promise<void> {
    this.request(1, offset, data.length, data);
    await this.reply();
  }

  async read(offset: number, length: number): Promise<Buffer> {
    this.request(0, offset, length);
    await this.reply();
    return this.take(length);
  }
}
