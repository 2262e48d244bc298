/** What `archipelago` prints: the original's lines and columns, colours on a terminal only. */
import type { NodeStatus, Progress } from '../../peer/supervisor.js';

const COLUMN = 23;
const RED = 31;
const GREEN = 32;
const YELLOW = 33;

export interface Terminal {
  readonly write: (text: string) => void;
  readonly colours: boolean;
}

const paint = (terminal: Terminal, colour: number, text: string): string =>
  terminal.colours ? `\x1b[${colour}m${text}\x1b[0m` : text;

/** Three lines; `Stoping` is the original's word, which scripts may look for. */
export function banner(terminal: Terminal, action: 'start' | 'stop'): void {
  const line = '='.repeat(20);
  terminal.write(`${line}\n${action === 'start' ? 'Starting' : 'Stoping'} archipelago\n${line}\n`);
}

/** Prints the progress of a start or a stop as it happens. */
export function progressPrinter(terminal: Terminal): (event: Progress) => void {
  return (event) => {
    if (event.state === 'begins') {
      terminal.write(`${event.action === 'start' ? 'Starting' : 'Stopping'} ${event.role}`.padEnd(COLUMN));
      return;
    }
    const [colour, word] = {
      done: [GREEN, 'OK'] as const,
      failed: [RED, 'FAILED'] as const,
      'not running': [YELLOW, 'Not running'] as const,
      'runs already': [YELLOW, 'Already running'] as const,
    }[event.state];
    terminal.write(`${paint(terminal, colour, word.padEnd(COLUMN)).trimEnd()}\n`);
  };
}

/** One line per role, the last started first. */
export function printStatus(terminal: Terminal, status: NodeStatus, blktap: boolean | null): void {
  for (const role of status.roles.toReversed()) {
    const [colour, text] = {
      running: [GREEN, 'running'] as const,
      'not running': [RED, 'not running'] as const,
      silent: [YELLOW, 'Has valid pidfile but does not seem to be active'] as const,
      restarting: [YELLOW, `restarting: ${role.lastFailure ?? 'it died'}`] as const,
    }[role.state];
    terminal.write(`${role.name.padEnd(COLUMN)}${paint(terminal, colour, text)}\n`);
  }
  if (blktap === null) return;
  terminal.write(
    `${'blktap'.padEnd(COLUMN)}${blktap ? paint(terminal, GREEN, 'loaded') : paint(terminal, RED, 'not loaded')}\n`,
  );
}
