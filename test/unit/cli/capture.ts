/** Tools in the test's own process. */
import type { Io, Sink } from '../../../src/cli/common/io.js';

export interface Outcome {
  readonly status: number;
  readonly out: string;
  readonly err: string;
}

export interface RunOptions {
  readonly tty?: boolean;
  readonly stdin?: readonly Uint8Array[];
  readonly env?: Record<string, string>;
}

/** Runs a tool with streams that are kept. */
export async function capture(options: RunOptions, run: (io: Io) => Promise<number>): Promise<Outcome> {
  const out: Buffer[] = [];
  const err: Buffer[] = [];
  const sink = (into: Buffer[]): Sink => ({
    isTTY: options.tty === true,
    write: (chunk, done) => {
      into.push(Buffer.from(chunk as Uint8Array));
      done?.();
      return true;
    },
  });
  async function* stdin(): AsyncGenerator<Uint8Array> {
    yield* options.stdin ?? [];
  }
  const status = await run({ stdin: stdin(), stdout: sink(out), stderr: sink(err), env: options.env ?? {} });
  return { status, out: Buffer.concat(out).toString('latin1'), err: Buffer.concat(err).toString() };
}
