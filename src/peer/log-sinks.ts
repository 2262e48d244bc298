/** Where lines of the log end: syslog, a file that can be reopened, standard error. */
import fs from 'node:fs';
import path from 'node:path';
import type { Config } from '../config/types.js';
import { errnoOf, messageOf, SystemError } from '../sys/errno.js';
import * as libc from '../sys/libc.js';

/** Where the C library's syslog writes to. */
export const SYSLOG_SOCKET = '/dev/log';

/** Containers have no syslog; the C library would drop every line without a word. */
export function lacksSyslog(config: Config, socket = SYSLOG_SOCKET): boolean {
  return config.log === 'syslog' && !fs.existsSync(socket);
}

/** The log file of a role, or of `archipelago` (the processes themselves); null when it does not go to a file. */
export function logFileOf(config: Config, name: string, syslogSocket = SYSLOG_SOCKET): string | null {
  const own = config.roles.find((role) => role.name === name)?.logfile;
  if (own) return own;
  const toFile = config.log === 'file' || lacksSyslog(config, syslogSocket);
  return toFile ? path.join(config.logDir, `${name}.log`) : null;
}

/** One message, already text and one line. */
export interface LogLine {
  /** ms since the epoch. */
  readonly time: number;
  readonly level: 'error' | 'warn' | 'info' | 'debug';
  /** The role or part that says it. */
  readonly name: string;
  readonly text: string;
}

export interface LogSink {
  write(line: LogLine): void;
  /** Opens the file anew, after logrotate moved it. */
  reopen(): void;
}

const labels = { error: 'ERROR', warn: 'WARN ', info: 'INFO ', debug: 'DEBUG' } as const;

/** `2026-11-20T10:00:00.000Z INFO  mapperd[4711]: text`. */
export function formatLine(line: LogLine): string {
  return `${new Date(line.time).toISOString()} ${labels[line.level]} ${line.name}[${process.pid}]: ${line.text}\n`;
}

/** Appends to a file. Lines are written whole, so several processes may share it. */
export class FileSink implements LogSink {
  readonly #path: string;
  #fd: number;

  /** @throws SystemError naming the file */
  constructor(path: string) {
    this.#path = path;
    this.#fd = this.#open();
  }

  #open(): number {
    try {
      return fs.openSync(this.#path, 'a', 0o660);
    } catch (error) {
      throw new SystemError(errnoOf(error), `cannot open the log file: ${messageOf(error)}`, { cause: error });
    }
  }

  write(line: LogLine): void {
    try {
      fs.writeSync(this.#fd, formatLine(line));
    } catch {
      // A full disk must not stop the service; there is nobody left to tell.
    }
  }

  reopen(): void {
    const fd = this.#open();
    fs.closeSync(this.#fd);
    this.#fd = fd;
  }
}

/** Standard error of the process. */
export class StderrSink implements LogSink {
  write(line: LogLine): void {
    process.stderr.write(formatLine(line));
  }

  reopen(): void {}
}

const LOG_PID = 1;
const LOG_NDELAY = 8;
const LOG_LOCAL0 = 16 << 3;
const priorities = { error: 3, warn: 4, info: 6, debug: 7 } as const;

/** The C library's syslog, facility LOCAL0, ident `archipelago`. */
export class SyslogSink implements LogSink {
  static #opened = false;
  readonly #send: (priority: number, text: string) => void;

  /** @param send for tests: what is called instead of the C library's syslog */
  constructor(send?: (priority: number, text: string) => void) {
    this.#send = send ?? ((priority, text) => libc.syslog(priority, '%s', 'const char *', text));
    if (!send && !SyslogSink.#opened) {
      const ident = libc.allocateMemory(16);
      ident.bytes.write('archipelago', 'latin1');
      libc.openlog(ident.address, LOG_PID | LOG_NDELAY, LOG_LOCAL0);
      SyslogSink.#opened = true;
    }
  }

  write(line: LogLine): void {
    this.#send(LOG_LOCAL0 | priorities[line.level], `${line.name}: ${line.text}`);
  }

  reopen(): void {}
}
