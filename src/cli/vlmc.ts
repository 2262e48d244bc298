#!/usr/bin/env node
/** vlmc: the volumes of a node. */
import { runProgram, runTool } from './common/program.js';
import { vlmcProgram } from './vlmc/program.js';
import { expandTwoLetterOptions } from './vlmc/v0.js';

await runTool('vlmc', (argv, session) => runProgram(vlmcProgram(session), expandTwoLetterOptions(argv), session));
