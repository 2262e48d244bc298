/** All targets of the fuzzer. */
import { ClientTarget } from './client-target.js';
import type { Target } from './engine.js';
import { generate } from './generate.js';
import { mutate } from './mutate.js';
import { ParsersTarget } from './parsers-target.js';
import { ServerTarget, type ServerTargetOptions } from './server-target.js';

/** A target with an end. */
export interface OwnedTarget extends Target {
  close(): Promise<void>;
}

/** Handshake and transmission of the server. */
export function serverTarget(options: ServerTargetOptions = {}): OwnedTarget {
  const server = new ServerTarget(options);
  return { name: 'server', generate, mutate, run: (input) => server.run(input), close: () => server.close() };
}

export async function makeTargets(): Promise<OwnedTarget[]> {
  return [serverTarget(), await ClientTarget.make(), new ParsersTarget()];
}
