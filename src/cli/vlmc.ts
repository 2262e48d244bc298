#!/usr/bin/env node
/** vlmc: the volumes of a node. */
import { runTool } from './common/program.js';
import { vlmcMain } from './vlmc/program.js';

await runTool('vlmc', vlmcMain);
