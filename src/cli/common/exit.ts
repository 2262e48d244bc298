/** How the commands end: exit statuses, and the error that means "say this sentence and exit 255". */
import { Op } from '../../requests/ops.js';
import { errnoOf, errnos, messageOf, SystemError } from '../../sys/errno.js';

/** Exit statuses, those of the original's tools. */
export const Exit = {
  OK: 0,
  /** An expected error: its message went to stderr. */
  FAILED: 255,
  /** The command line is wrong. */
  USAGE: 2,
} as const;

/** An error for the person at the terminal: the message is complete, the command exits with 255. */
export class CliError extends SystemError {
  constructor(message: string, errno: number = errnos.EINVAL, options?: ErrorOptions) {
    super(errno, message, options);
    this.name = 'CliError';
  }
}

const internal = new RegExp(`^(?:(?:${Object.keys(Op).join('|')}): )+`);

/** Puts the command's own first words before what a peer said, without the name of the request: `vlmc creation failed: volume web1 exists`. */
export function failed(what: string, error: unknown): CliError {
  if (error instanceof CliError) return error;
  return new CliError(`${what}: ${messageOf(error).replace(internal, '')}`, errnoOf(error), { cause: error });
}

/** Runs `work` and puts `what` before the message of its failure. */
export async function attempt<T>(what: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    throw failed(what, error);
  }
}
