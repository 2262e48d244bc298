/**
 * Logging of a process: one pino logger per role, each with its level and its sink, the levels shifted together by signals.
 * Messages become one line of text: `text key=value …`.
 */
import { type Logger, pino } from 'pino';
import type { Config, LogLevel, RoleSettings } from '../config/types.js';
import {
  FileSink,
  type LogLine,
  type LogSink,
  lacksSyslog,
  logFileOf,
  StderrSink,
  SYSLOG_SOCKET,
  SyslogSink,
} from './log-sinks.js';

/** pino's level of each of the original's levels 0-3. */
const LEVELS = ['error', 'warn', 'info', 'debug'] as const;
const PINO_BASE = new Set(['level', 'time', 'msg', 'role', 'err']);

/** Turns a pino record into one line of text. */
export function renderRecord(record: Record<string, unknown>): LogLine {
  const number = typeof record.level === 'number' ? record.level : 30;
  const level = number >= 50 ? 'error' : number >= 40 ? 'warn' : number >= 30 ? 'info' : 'debug';
  const parts = [String(record.msg ?? '')];
  const err = record.err as { message?: unknown; stack?: unknown } | undefined;
  // The stack is for the one who mends the program; with an own message it is kept whole, on the same line.
  if (err) parts.push(String(level === 'error' ? (err.stack ?? err.message ?? err) : (err.message ?? err)));
  for (const [key, value] of Object.entries(record)) {
    if (!PINO_BASE.has(key)) parts.push(`${key}=${typeof value === 'string' ? value : JSON.stringify(value)}`);
  }
  const text = parts
    .filter(Boolean)
    .join(' ')
    .replace(/\s*\n\s*/g, ' | ')
    // Clients choose some of what is told, and terminals obey such characters.
    .replace(/\p{Cc}/gu, (character) => `\\x${character.charCodeAt(0).toString(16).padStart(2, '0')}`);
  return { time: Number(record.time), level, name: String(record.role ?? 'archipelago'), text };
}

/** A logger whose level can be shifted at run time, its children with it. */
export class LeveledLogger {
  readonly logger: Logger;
  #level: LogLevel;
  /** pino copies the level into a child at its birth, so they have to be told; weakly, since children come and go. */
  #children: WeakRef<Logger>[] = [];

  constructor(name: string, level: LogLevel, sink: LogSink) {
    this.#level = level;
    this.logger = pino(
      {
        level: LEVELS[level],
        base: { role: name },
        onChild: (child) => {
          this.#children = this.#children.filter((ref) => ref.deref() !== undefined);
          this.#children.push(new WeakRef(child));
        },
      },
      { write: (json: string) => sink.write(renderRecord(JSON.parse(json))) },
    );
  }

  get level(): LogLevel {
    return this.#level;
  }

  /** Raises (1) or lowers (-1) the level, within 0-3. */
  shift(by: 1 | -1): void {
    this.#level = Math.min(3, Math.max(0, this.#level + by)) as LogLevel;
    this.logger.level = LEVELS[this.#level];
    for (const ref of this.#children) {
      const child = ref.deref();
      if (child) child.level = LEVELS[this.#level];
    }
  }
}

/** The loggers of one process. */
export class ProcessLog {
  readonly #config: Config;
  readonly #sinks = new Map<string, LogSink>();
  readonly #loggers: LeveledLogger[] = [];
  readonly #syslogSocket: string;

  /** @param syslogSocket for tests: what must exist for syslog to be used */
  constructor(config: Config, syslogSocket = SYSLOG_SOCKET) {
    this.#config = config;
    this.#syslogSocket = syslogSocket;
  }

  /** A sentence when the log goes elsewhere than configured, else null. */
  get notice(): string | null {
    return lacksSyslog(this.#config, this.#syslogSocket)
      ? `LOG = syslog, but there is no ${this.#syslogSocket} (no syslog daemon): logging to files in ${this.#config.logDir}`
      : null;
  }

  /** The logger of a role. @throws SystemError when its file cannot be opened */
  forRole(settings: RoleSettings): Logger {
    return this.#add(settings.name, settings.logLevel, settings.logfile);
  }

  /** The logger of a process or of the supervisor. @throws SystemError when its file cannot be opened */
  forProcess(name: string, level: LogLevel = 2): Logger {
    return this.#add(name, level, null);
  }

  #add(name: string, level: LogLevel, file: string | null): Logger {
    const logger = new LeveledLogger(name, level, this.#sink(name, file));
    this.#loggers.push(logger);
    return logger.logger;
  }

  #sink(name: string, file: string | null): LogSink {
    const toFile = file ?? logFileOf(this.#config, name, this.#syslogSocket);
    const target = toFile ?? this.#config.log;
    let sink = this.#sinks.get(target);
    if (!sink) {
      sink = toFile !== null ? new FileSink(target) : target === 'syslog' ? new SyslogSink() : new StderrSink();
      this.#sinks.set(target, sink);
    }
    return sink;
  }

  /** Raises (1) or lowers (-1) the level of everything in this process, as SIGUSR2 and SIGUSR1 do. */
  shift(by: 1 | -1): void {
    for (const logger of this.#loggers) logger.shift(by);
  }

  /** Opens the log files anew. @throws SystemError when one cannot be; the old ones stay in use then */
  reopen(): void {
    for (const sink of this.#sinks.values()) sink.reopen();
  }

  /** Lets SIGUSR1, SIGUSR2 and SIGHUP do their work for this process. Returns what takes the handlers away. */
  handleSignals(log: Logger): () => void {
    const handlers: [NodeJS.Signals, () => void][] = [
      ['SIGUSR1', () => this.shift(-1)],
      ['SIGUSR2', () => this.shift(1)],
      [
        'SIGHUP',
        () => {
          try {
            this.reopen();
          } catch (err) {
            log.error({ err }, 'cannot reopen the log');
          }
        },
      ],
    ];
    for (const [signal, handler] of handlers) process.on(signal, handler);
    return () => {
      for (const [signal, handler] of handlers) process.off(signal, handler);
    };
  }
}
