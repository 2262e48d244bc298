import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { parseConfig } from '../../../src/config/index.js';
import { LeveledLogger, ProcessLog, renderRecord } from '../../../src/peer/log.js';
import { FileSink, formatLine, type LogLine, SyslogSink } from '../../../src/peer/log-sinks.js';

let dir: string;
beforeEach(() => {
  dir = fs.mkdtempSync(path.join(os.tmpdir(), 'log-'));
});
afterEach(() => fs.rmSync(dir, { recursive: true }));

const memory = () => {
  const lines: LogLine[] = [];
  return { lines, write: (line: LogLine) => void lines.push(line), reopen: () => undefined };
};
const config = (log: string) => parseConfig(`[ARCHIPELAGO]\nLOG=${log}\nLOG_DIR=${dir}\n[nbd]\nlog_level=1\n`, 'a');
const read = (name: string): string => fs.readFileSync(path.join(dir, name), 'utf8');

describe('a record', () => {
  test('becomes one line: text, then what belongs to it', () => {
    const line = renderRecord({ level: 30, time: 1, role: 'mapperd', msg: 'opened', volume: 'web 1', size: 5 });
    expect(line).toEqual({ time: 1, level: 'info', name: 'mapperd', text: 'opened volume=web 1 size=5' });
  });

  test('with an error has its message, and as an error its stack, still on one line', () => {
    const err = { message: 'disk full', stack: 'Error: disk full\n    at here\n    at there' };
    expect(renderRecord({ level: 40, time: 1, msg: 'write', err }).text).toBe('write disk full');
    expect(renderRecord({ level: 50, time: 1, msg: 'write', err }).text).toBe(
      'write Error: disk full | at here | at there',
    );
  });

  test('has no character that a terminal obeys', () => {
    expect(renderRecord({ level: 30, time: 1, msg: 'opened \x1b[2Jvol\r\u009b1m' }).text).toBe(
      'opened \\x1b[2Jvol\\x0d\\x9b1m',
    );
  });

  test('in a file has time, level, role and process', () => {
    const line: LogLine = { time: 0, level: 'warn', name: 'nbd', text: 'x' };
    expect(formatLine(line)).toBe(`1970-01-01T00:00:00.000Z WARN  nbd[${process.pid}]: x\n`);
  });
});

describe('levels', () => {
  test.each([
    [0, ['error']],
    [1, ['error', 'warn']],
    [2, ['error', 'warn', 'info']],
    [3, ['error', 'warn', 'info', 'debug']],
  ] as const)('%i lets through %j', (level, expected) => {
    const sink = memory();
    const { logger } = new LeveledLogger('x', level, sink);
    for (const name of ['error', 'warn', 'info', 'debug'] as const) logger[name]('m');
    expect(sink.lines.map((line) => line.level)).toEqual(expected);
  });

  test('shift takes the children along and stops at 0 and 3', () => {
    const sink = memory();
    const leveled = new LeveledLogger('x', 2, sink);
    const child = leveled.logger.child({ volume: 'v' });
    child.debug('no');
    leveled.shift(1);
    leveled.shift(1);
    child.debug('yes');
    expect(sink.lines.map(({ text }) => text)).toEqual(['yes volume=v']);
    for (let i = 0; i < 5; i++) leveled.shift(-1);
    expect(leveled.level).toBe(0);
    child.warn('no');
    child.error('still');
    expect(sink.lines.at(-1)?.text).toBe('still volume=v');
  });

  test('SIGUSR2 raises and SIGUSR1 lowers the level of a process, SIGHUP reopens its files', async () => {
    const log = new ProcessLog(config('file'));
    const logger = log.forRole(config('file').roles[4]);
    const remove = log.handleSignals(logger);
    try {
      process.kill(process.pid, 'SIGUSR2');
      await vi.waitFor(() => expect(logger.level).toBe('info'));
      process.kill(process.pid, 'SIGUSR1');
      await vi.waitFor(() => expect(logger.level).toBe('warn'));
      logger.warn('before');
      fs.renameSync(path.join(dir, 'nbd.log'), path.join(dir, 'nbd.log.1'));
      process.kill(process.pid, 'SIGHUP');
      await vi.waitFor(() => expect(fs.existsSync(path.join(dir, 'nbd.log'))).toBe(true));
      logger.warn('after');
      expect(read('nbd.log.1')).toMatch(/before\n$/);
      expect(read('nbd.log')).toMatch(/^\S+ WARN {2}nbd\[\d+\]: after\n$/);
    } finally {
      remove();
    }
  });
});

describe('where lines go', () => {
  test('a role has its own file, or the one its section names', () => {
    const text = `[ARCHIPELAGO]\nLOG=file\nLOG_DIR=${dir}\n[vlmcd]\nlogfile=${dir}/own.log\n`;
    const own = parseConfig(text, 'a');
    const log = new ProcessLog(own);
    for (const role of own.roles) log.forRole(role).error(`of ${role.name}`);
    log.forProcess('archipelago').info('of the process');
    expect(read('mapperd.log')).toMatch(/of mapperd\n$/);
    expect(read('own.log')).toMatch(/of vlmcd\n$/);
    expect(read('archipelago.log')).toMatch(/of the process\n$/);
    expect(fs.statSync(path.join(dir, 'own.log')).mode & 0o007).toBe(0);
  });

  test('without a syslog daemon to files, with a notice', () => {
    const log = new ProcessLog(config('syslog'), path.join(dir, 'no-such-socket'));
    expect(log.notice).toMatch(/^LOG = syslog, but there is no .*no-such-socket.*logging to files in/);
    log.forRole(config('syslog').roles[0]).info('kept');
    expect(read('blockerb.log')).toMatch(/kept\n$/);
  });

  test('syslog lines have facility LOCAL0, the priority of the level, and the role', () => {
    const sent: [number, string][] = [];
    const sink = new SyslogSink((priority, text) => sent.push([priority, text]));
    for (const level of ['error', 'warn', 'info', 'debug'] as const)
      sink.write({ time: 0, level, name: 'nbd', text: 'x' });
    const local0 = 16 * 8;
    expect(sent).toEqual([3, 4, 6, 7].map((severity) => [local0 + severity, 'nbd: x']));
  });

  test('a log file that cannot be opened is named', () => {
    expect(() => new FileSink(path.join(dir, 'none', 'a.log'))).toThrow(
      /cannot open the log file: ENOENT.*none\/a\.log/,
    );
  });
});
