#!/usr/bin/env node
/** xseg: the segment of a node, for administrators. */
import { processIo } from './common/io.js';
import { leaveOnSignals } from './common/program.js';
import { xsegMain } from './xseg/main.js';
import type { ChainState } from './xseg/state.js';

let state: ChainState | null = null;
leaveOnSignals(() => state?.close());
process.exitCode = await xsegMain(process.argv.slice(2), processIo(), (started) => {
  state = started;
});
