/** What `archipelago` prints: the original's lines and columns, colours on a terminal only. */
import type { NodeStatus, Progress } from '../../peer/node-status.js';
import { type Io, paint } from '../common/io.js';

const COLUMN = 23;

/** Three lines; `Stoping` is the original's word, which scripts may look for. */
export function banner(io: Io, action: 'start' | 'stop'): void {
  const line = '='.repeat(20);
  io.stdout.write(`${line}\n${action === 'start' ? 'Starting' : 'Stoping'} archipelago\n${line}\n`);
}

/** Prints the progress of a start or a stop as it happens. */
export function progressPrinter(io: Io): (event: Progress) => void {
  return (event) => {
    if (event.state === 'begins') {
      io.stdout.write(`${event.action === 'start' ? 'Starting' : 'Stopping'} ${event.role}`.padEnd(COLUMN));
      return;
    }
    const [colour, word] = {
      done: ['green', 'OK'] as const,
      failed: ['red', 'FAILED'] as const,
      'not running': ['yellow', 'Not running'] as const,
      'runs already': ['yellow', 'Already running'] as const,
    }[event.state];
    io.stdout.write(`${paint(io, io.stdout, colour, word.padEnd(COLUMN)).trimEnd()}\n`);
  };
}

/** What a store says is the matter with it (`store.trouble` of a blocker's status); null: nothing, or no store. */
function troubleOf(status: object | null): string | null {
  const { store } = (status ?? {}) as { store?: { trouble?: unknown } };
  return typeof store?.trouble === 'string' ? store.trouble : null;
}

/** One line per role, the last started first. */
export function printStatus(io: Io, status: NodeStatus, blktap: boolean | null): void {
  for (const role of status.roles.toReversed()) {
    const [colour, text] = {
      running: ['green', 'running'] as const,
      'not running': ['red', 'not running'] as const,
      silent: ['yellow', 'Has valid pidfile but does not seem to be active'] as const,
      restarting: ['yellow', `restarting: ${role.lastFailure ?? 'it died'}`] as const,
    }[role.state];
    const trouble = role.state === 'running' ? troubleOf(role.status) : null;
    const line = paint(
      io,
      io.stdout,
      trouble === null ? colour : 'yellow',
      trouble === null ? text : `${text}; ${trouble}`,
    );
    io.stdout.write(`${role.name.padEnd(COLUMN)}${line}\n`);
  }
  if (blktap === null) return;
  io.stdout.write(
    `${'blktap'.padEnd(COLUMN)}${blktap ? paint(io, io.stdout, 'green', 'loaded') : paint(io, io.stdout, 'red', 'not loaded')}\n`,
  );
}
